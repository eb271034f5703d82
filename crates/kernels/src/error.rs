//! What can go wrong in a coder.

/// A chunk that cannot be decoded: it was not written by `encode` with the same parameters, or it is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The chunk ends before what it announces.
    Truncated,
    /// A value that no encoder writes; the text names it.
    Corrupt(&'static str),
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => write!(f, "the chunk ends too early"),
            Self::Corrupt(what) => write!(f, "the chunk is damaged: {what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Input that a coder cannot represent. The caller stores the chunk in another form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// The chunk has more rows, columns or elements than its fields can count, or slices of unequal length were passed.
    Shape,
    /// So many elements are exceptions that the chunk would be larger than its input.
    Incompressible,
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shape => write!(f, "the chunk's shape does not fit its data"),
            Self::Incompressible => write!(f, "the chunk would not shrink"),
        }
    }
}

impl std::error::Error for EncodeError {}
