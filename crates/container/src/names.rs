//! Names that may become paths, checked where they enter.

use std::fmt;
use std::str::FromStr;

use crate::FormatError;
use crate::hash::serde_as_text;
use crate::limits::{MAX_PATH, MAX_VARIANT_NAME};

/// A variant's name: 1 to 64 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit. It is part of file names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariantName(String);

impl VariantName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VariantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for VariantName {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first && rest && text.len() <= MAX_VARIANT_NAME && text != crate::Manifest::FILE_NAME {
            return Ok(Self(text.to_owned()));
        }
        Err(FormatError::new(format!(
            "{text:?} cannot name a variant: use 1 to {MAX_VARIANT_NAME} letters, digits, '.', '_' or '-', the first a letter or digit"
        )))
    }
}

/// A path below some folder: components joined by `/`, none empty, `.` or `..`, no backslash, no NUL, nothing absolute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelativePath(String);

impl RelativePath {
    /// The path as text, components joined by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Whether it has a single component.
    #[must_use]
    pub fn is_file_name(&self) -> bool {
        !self.0.contains('/')
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for RelativePath {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        // A colon after a first letter is a drive on Windows, where a store may be unpacked as well.
        let drive = text.as_bytes().get(1) == Some(&b':');
        let plain = text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if plain && !drive && !text.contains(['\\', '\0']) && text.len() <= MAX_PATH {
            return Ok(Self(text.to_owned()));
        }
        Err(FormatError::new(format!("{text:?} is not a path inside the folder")))
    }
}

/// What an array is: a tensor of the variant, a file of it that is not safetensors, a bundle of small tensors, or a
/// part of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ArrayKey {
    /// A tensor, by its name; where another file of the variant has one of that name, by `FILE:NAME`.
    Tensor(String),
    /// A file, by its path.
    File(RelativePath),
    /// Small tensors one after another, by their number in the variant.
    Bundle(u32),
    /// A matrix of a tensor, by its number in the variant.
    Part(u32),
}

impl ArrayKey {
    /// The tensor's name, if it is a tensor.
    #[must_use]
    pub fn tensor(&self) -> Option<&str> {
        match self {
            Self::Tensor(name) => Some(name),
            Self::File(_) | Self::Bundle(_) | Self::Part(_) => None,
        }
    }
}

impl fmt::Display for ArrayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(name) => write!(f, "tensor:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Bundle(number) => write!(f, "bundle:{number}"),
            Self::Part(number) => write!(f, "part:{number}"),
        }
    }
}

impl FromStr for ArrayKey {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text.split_once(':') {
            Some(("tensor", name)) => Ok(Self::Tensor(name.to_owned())),
            Some(("file", path)) => Ok(Self::File(path.parse()?)),
            Some((kind @ ("bundle" | "part"), number)) => {
                // One text for each number.
                let parsed = number.parse().ok().filter(|parsed: &u32| parsed.to_string() == number);
                let parsed = parsed.ok_or_else(|| FormatError::new(format!("{text:?} is no {kind}")))?;
                Ok(if kind == "part" { Self::Part(parsed) } else { Self::Bundle(parsed) })
            }
            _ => Err(FormatError::new(format!("{text:?} names neither a tensor nor a file"))),
        }
    }
}

serde_as_text!(VariantName, RelativePath, ArrayKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for good in ["a", "a/b.c", ".gitignore", "1_Pooling/config.json", "weights v2.bin", "ü/模型"] {
            assert_eq!(good.parse::<RelativePath>().unwrap().as_str(), good);
        }
        for bad in ["", "/", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "C:x", "a\0b"] {
            assert!(bad.parse::<RelativePath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_have_one_text() {
        for good in ["tensor:", "tensor:bundle:0", "file:a/b", "bundle:0", "bundle:4294967295", "part:7"] {
            assert_eq!(good.parse::<ArrayKey>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "x",
            "file:",
            "bundle:",
            "bundle:00",
            "bundle:+1",
            "bundle:-1",
            "bundle:4294967296",
            "part:07",
        ] {
            assert!(bad.parse::<ArrayKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn variant_names_are_tame() {
        for good in ["bf16", "int8", "gptq-4bit.g128", "A"] {
            assert!(good.parse::<VariantName>().is_ok());
        }
        for bad in ["", ".", "-x", "a b", "a/b", "ü", "qstore.json", &"x".repeat(65)] {
            assert!(bad.parse::<VariantName>().is_err(), "{bad:?}");
        }
    }
}
