//! What can be wrong with a description of codes.

use qstore_checkpoint::Error;
use qstore_container::FormatError;

/// Why a description cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// An array cannot be had.
    Fetch(Error),
    /// Something of it does not fit its arrays or the matrix.
    Misfit(FormatError),
}

impl From<FormatError> for OpenError {
    fn from(error: FormatError) -> Self {
        Self::Misfit(error)
    }
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        Self::Fetch(error)
    }
}

impl OpenError {
    /// What does not fit, with the name of what it is part of.
    pub(super) fn named(self, name: &str) -> Self {
        match self {
            Self::Misfit(error) => Self::Misfit(FormatError::new(format!("{name}.{error}"))),
            fetch @ Self::Fetch(_) => fetch,
        }
    }

    /// As an error of the library, `explain` making one of what does not fit.
    pub(crate) fn explain(self, explain: impl FnOnce(FormatError) -> Error) -> Error {
        match self {
            Self::Fetch(error) => error,
            Self::Misfit(error) => explain(error),
        }
    }
}
