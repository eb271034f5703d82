//! Files of a folder that are left out.

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Result};

/// Patterns of paths, as `.gitignore` has them: one without a slash is of a name anywhere, one with a slash of a path from the folder on. What matches takes
/// all below it along.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exclude(Vec<(String, Pattern)>);

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Exclude {
    /// # Errors
    /// A pattern that is none.
    pub(crate) fn new(patterns: &[String]) -> Result<Self> {
        let parse = |text: &String| {
            let bare = text.trim_end_matches('/');
            let bare = bare.strip_prefix("./").unwrap_or(bare);
            let bad = |why: &str| Error::usage(format!("{text:?} is no pattern of files: {why}"));
            if bare.is_empty() {
                return Err(bad("it is empty"));
            }
            let pattern = Pattern::new(bare.trim_start_matches('/')).map_err(|e| bad(e.msg))?;
            Ok((text.clone(), pattern))
        };
        patterns.iter().map(parse).collect::<Result<_>>().map(Self)
    }

    /// The index of the pattern that leaves out the file or folder at `path`, of which no folder above is left out.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        self.0.iter().position(|(text, pattern)| {
            let anywhere = !text.trim_end_matches('/').trim_start_matches("./").contains('/');
            pattern.matches_with(if anywhere { name } else { path }, OPTIONS)
        })
    }

    /// The patterns as they were given.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(text, _)| text.as_str())
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
            ("[ab].txt", "b.txt", true),
        ] {
            assert_eq!(found(pattern, path), want, "{pattern} {path}");
        }
        for bad in ["", "/", "[", "a**b"] {
            assert!(Exclude::new(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }
}
