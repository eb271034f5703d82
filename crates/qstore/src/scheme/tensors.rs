//! A variant's tensors by name.

use std::collections::HashMap;

use super::ArrayInfo;
use crate::shard_name::ShardSet;

/// A variant's tensors by name. A folder may hold two sets of weights with the same names.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    pub(crate) all: &'a [ArrayInfo],
    by_name: HashMap<&'a str, Vec<&'a ArrayInfo>>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(all: &'a [ArrayInfo]) -> Self {
        let mut by_name: HashMap<&str, Vec<&ArrayInfo>> = HashMap::with_capacity(all.len());
        for array in all {
            by_name.entry(&array.name).or_default().push(array);
        }
        Self { all, by_name }
    }

    /// The tensor of that name that belongs to `of`: in its file, else in another shard of it, else in its folder, else the only one.
    pub(super) fn beside(&self, of: &ArrayInfo, name: &str) -> Option<&'a ArrayInfo> {
        let named = self.by_name.get(name)?;
        if let [only] = named[..] {
            return Some(only);
        }
        let find = |is_near: &dyn Fn(&ArrayInfo) -> bool| named.iter().find(|other| is_near(other)).copied();
        find(&|other| other.file == of.file)
            .or_else(|| find(&|other| set_of(&other.file) == set_of(&of.file)))
            .or_else(|| find(&|other| other.folder() == of.folder()))
    }
}

/// The set of weights that a file is of: alone, or as a shard.
fn set_of(file: &str) -> Result<ShardSet<'_>, &str> {
    ShardSet::of(file).map(|(set, _)| set).ok_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_container::{ArrayKey, Dtype};

    #[test]
    fn each_set_of_weights_keeps_to_itself() {
        let files = [
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "unet/a.safetensors",
            "unet/b.safetensors",
        ];
        let tensor = |file: &str, name: &str| {
            let key = ArrayKey::Tensor(format!("{file}:{name}"));
            ArrayInfo::new(&key, &file.into(), Dtype::U8, &[]).unwrap()
        };
        let all = [
            tensor(files[0], "x.weight"),
            tensor(files[0], "x.SCB"),
            tensor(files[1], "x.weight"),
            tensor(files[2], "x.SCB"),
            tensor(files[3], "x.weight"),
            tensor(files[4], "x.SCB"),
            tensor(files[4], "only"),
        ];
        let tensors = Tensors::new(&all);
        for (codes, scales) in [(0, 1), (2, 3), (4, 5)] {
            assert_eq!(tensors.beside(&all[codes], "x.SCB"), Some(&all[scales]));
        }
        assert_eq!(tensors.beside(&all[0], "only"), Some(&all[6]));
        assert_eq!(tensors.beside(&all[0], "none"), None);
        assert_eq!(all[6].name, "only");
        assert_eq!(all[5].folder(), "unet");
    }
}
