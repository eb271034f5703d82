//! Files of a folder that are left out.

use glob::{MatchOptions, Pattern};
use qstore_container::limits::{MAX_NOTE_TEXT, MAX_NOTES};

use crate::error::{Error, Result};

/// Patterns of paths, as `.gitignore` has them: one without a slash is of a name anywhere, one with a slash of a path
/// from the folder on. What matches takes all below it along.
#[derive(Debug, Clone, Default)]
pub struct Exclude(Vec<Excluded>);

#[derive(Debug, Clone)]
struct Excluded {
    /// As it was given.
    text: String,
    pattern: Pattern,
    /// Whether it is of a name, and not of a path.
    is_name: bool,
}

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Exclude {
    /// Reads patterns.
    ///
    /// # Errors
    /// A pattern that is none, or more of them than a manifest may have.
    pub fn new(patterns: &[String]) -> Result<Self> {
        let parse = |text: &String| {
            let bad = |why: &str| Error::usage(format!("{text:?} is not a valid pattern: {why}"));
            let bare = text.trim_end_matches('/');
            let path = bare.strip_prefix("./").or_else(|| bare.strip_prefix('/'));
            let is_name = path.is_none() && !bare.contains('/');
            let bare = path.unwrap_or(bare);
            if bare.is_empty() || text.len() > MAX_NOTE_TEXT {
                return Err(bad("it is empty or too long"));
            }
            let pattern = Pattern::new(bare).map_err(|e| bad(e.msg))?;
            Ok(Excluded { text: text.clone(), pattern, is_name })
        };
        if patterns.len() > MAX_NOTES {
            return Err(Error::usage(format!("at most {MAX_NOTES} patterns can be left out")));
        }
        patterns.iter().map(parse).collect::<Result<_>>().map(Self)
    }

    /// The index of the pattern that leaves out the file or folder at `path`, of which no folder above is left out.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let matches =
            |one: &Excluded| one.pattern.matches_with(if one.is_name { name } else { path }, OPTIONS);
        self.0.iter().position(matches)
    }

    /// The patterns as they were given.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|one| one.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let found =
            |pattern: &str, path: &str| Exclude::new(&[pattern.to_owned()]).unwrap().find(path).is_some();
        for (pattern, path, want) in [
            (".git", ".git", true),
            (".git", "sub/.git", true),
            (".git", ".gitattributes", false),
            (".git/", ".git", true),
            ("*.bin", "pytorch_model.bin", true),
            ("*.bin", "a/b/x.bin", true),
            ("*.bin", "x.binary", false),
            ("original/*", "original/x", true),
            ("original/*", "other/original/x", false),
            ("original/*", "original/a/b", false),
            ("original/**", "original/a/b", true),
            ("/x", "x", true),
            ("/x", "a/x", false),
            ("./x", "x", true),
            ("./x", "sub/x", false),
            ("[ab].txt", "b.txt", true),
        ] {
            assert_eq!(found(pattern, path), want, "{pattern} {path}");
        }
        for bad in ["", "/", "[", "a**b"] {
            assert!(Exclude::new(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }
}
