//! Telling the caller how far a long operation has come.

use crate::error::Error;

/// What [`Progress`] says to end the operation, which undoes what it has done and returns [`Error::Stopped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

impl From<Stop> for Error {
    fn from(_: Stop) -> Self {
        Self::Stopped
    }
}

/// Receives progress; all methods may be called from several threads.
pub trait Progress: Sync {
    /// A stage begins that will advance by `total` bytes.
    ///
    /// # Errors
    /// [`Stop`] to end the operation.
    fn begin(&self, stage: &str, total: u64) -> Result<(), Stop>;
    /// `bytes` more are done. Called once for every chunk or so: some thousand times a second at most.
    ///
    /// # Errors
    /// [`Stop`] to end the operation.
    fn advance(&self, bytes: u64) -> Result<(), Stop>;
    /// Something that the user should know and that is no error.
    ///
    /// # Errors
    /// [`Stop`] to end the operation.
    fn warn(&self, text: &str) -> Result<(), Stop>;
    /// Something that the user should know of what is being stored, and that inspecting the store will say as well.
    ///
    /// # Errors
    /// [`Stop`] to end the operation.
    fn remark(&self, text: &str) -> Result<(), Stop> {
        self.warn(text)
    }
}

/// Ignores all progress; warnings included, so use it only where they are reported in another way or cannot occur.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) -> Result<(), Stop> {
        Ok(())
    }

    fn advance(&self, _: u64) -> Result<(), Stop> {
        Ok(())
    }

    fn warn(&self, _: &str) -> Result<(), Stop> {
        Ok(())
    }
}
