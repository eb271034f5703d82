//! Telling the caller how far a long operation has come.

use crate::error::Result;

/// Receives progress; all methods may be called from several threads.
pub trait Progress: Sync {
    /// A stage begins that will advance by `total` bytes.
    fn begin(&self, stage: &str, total: u64);
    /// `bytes` more are done. Called once for every chunk or so: some thousand times a second at most.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) to end the operation, which undoes what it has done so far and returns that error.
    fn advance(&self, bytes: u64) -> Result<()>;
    /// Something that the user should know and that is no error.
    fn warn(&self, text: &str);
}

/// Ignores all progress; warnings included, so use it only where they are reported in another way or cannot occur.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) -> Result<()> {
        Ok(())
    }
    fn warn(&self, _: &str) {}
}
