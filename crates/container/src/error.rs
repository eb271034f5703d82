//! The one error of this crate.

/// Bytes that are not what `docs/format.md` describes. The text says what is wrong; the caller knows which file it was
/// in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

impl FormatError {
    /// With a text that completes "FILE: ".
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
