//! What can go wrong with a measurement.

use std::io;
use std::path::{Path, PathBuf};

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense. Nothing was measured.
    #[error("{0}")]
    Usage(String),
    /// A peer failed, or gave back something else than it was given.
    #[error("{0}")]
    Peer(String),
    /// The figures are there, but the report cannot be made.
    #[error("the report cannot be made: {0}")]
    Report(String),
    /// The library refused or failed.
    #[error(transparent)]
    Library(#[from] qstore::Error),
    /// A file could not be read or written.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the request was wrong, rather than the work.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Usage(_) => true,
            Self::Library(error) => error.is_usage(),
            _ => false,
        }
    }
}

/// Names the file and the deed of an I/O error.
pub(crate) trait IoContext<T> {
    fn at(self, path: &Path, what: &'static str) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, path: &Path, what: &'static str) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.to_owned(), what, source })
    }
}
