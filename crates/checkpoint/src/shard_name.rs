//! Names of the files of one set of weights: `model-00001-of-00003.safetensors`.

/// What such a name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardSet<'a> {
    /// All before the number, folders included.
    pub stem: &'a str,
    /// How many files there are.
    pub total: u32,
    /// All after the total, without the dot.
    pub extension: &'a str,
}

impl<'a> ShardSet<'a> {
    /// The set that the file at `path` is of, and its number in it.
    pub fn of(path: &'a str) -> Option<(Self, u32)> {
        let (start, end) = path.rsplit_once("-of-")?;
        let (stem, number) = start.rsplit_once('-')?;
        let (total, extension) = end.split_once('.')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
        if !digits(number) || !digits(total) || extension.contains(['.', '/']) {
            return None;
        }
        Some((Self { stem, total: total.parse().ok()?, extension }, number.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards() {
        let set = |stem, total| ShardSet { stem, total, extension: "safetensors" };
        assert_eq!(ShardSet::of("a/model-00002-of-00010.safetensors"), Some((set("a/model", 10), 2)));
        for other in [
            "model.safetensors",
            "m-1-of-2.safetensors",
            "m-00001-of-00002.x.part",
            "m-00001-of-00002",
            "-of-",
        ] {
            assert_eq!(ShardSet::of(other), None, "{other}");
        }
    }
}
