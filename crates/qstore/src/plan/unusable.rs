//! Why something of a variant below cannot be used.

use qstore_checkpoint::{Error, Result};

use crate::quant::OpenError;

/// Why something cannot be used to store a matrix given it.
pub(crate) enum Unusable {
    /// What is against it. The matrix is then stored without it, which is said.
    Because(String),
    /// It cannot be read, which ends all.
    Failed(Error),
}

impl Unusable {
    pub(super) fn because(what: impl ToString) -> Self {
        Self::Because(what.to_string())
    }

    /// What was found, or nothing if it is unusable.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn skip<T>(found: Result<T, Self>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Self::Because(_)) => Ok(None),
            Err(Self::Failed(error)) => Err(error),
        }
    }
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<OpenError> for Unusable {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Misfit(error) => Self::because(error),
            OpenError::Fetch(error) => Self::Failed(error),
        }
    }
}
