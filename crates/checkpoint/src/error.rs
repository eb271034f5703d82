//! The library's errors: few kinds, named for what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request makes no sense here: a target that exists, options that contradict each other. Nothing was changed.
    #[error("{0}")]
    Usage(String),
    /// There is no such folder, or no store in it. Nothing was changed.
    #[error("{}: {what}", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// What is not there.
        what: String,
    },
    /// The store has no variant, or the variant no tensor or file, of that name. Nothing was changed.
    #[error("{what}")]
    UnknownName {
        /// What is not there, and what is.
        what: String,
        /// The name that is unknown.
        subject: Box<Subject>,
    },
    /// A checkpoint that cannot be stored as it is. Nothing was stored.
    #[error("{}: {what}", path.display())]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
        /// What of it.
        subject: Box<Subject>,
    },
    /// A store, or a file restored from it, that is not what was written.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What of it.
        subject: Box<Subject>,
    },
    /// Another process is changing the store. Try again later.
    #[error("{}: another qstore is writing to this folder; try again when it is done", .0.display())]
    Busy(PathBuf),
    /// The store is another one than when it was opened: what is asked for is not there any more. Open it again.
    #[error("{}: the store was changed since it was opened; open it again", .0.display())]
    Changed(PathBuf),
    /// [`Progress`](crate::Progress) said to stop. Nothing was changed.
    #[error("interrupted; everything is as it was before")]
    Stopped,
    /// The library has a bug: what it has made itself does not fit. Nothing was changed.
    #[error("{0}; this is a bug of qstore, please report it")]
    Internal(String),
    /// The operating system refused something.
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

/// What an error is about, as far as that is known. The error's text says it as well; this is for programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Subject {
    /// A variant of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// One of the variant's original files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A tensor of the variant, or of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// A chunk of the tensor or file, as `docs/format.md` counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
}

/// A result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the request was wrong, rather than the work: the same request cannot succeed on the same store.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Missing { .. } | Self::UnknownName { .. })
    }

    /// What it is about, where that is more than a path.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        match self {
            Self::UnknownName { subject, .. }
            | Self::Input { subject, .. }
            | Self::Damaged { subject, .. } => Some(subject),
            _ => None,
        }
    }

    /// The same, about what `fill` says.
    #[must_use]
    pub fn about(mut self, fill: impl FnOnce(&mut Subject)) -> Self {
        if let Self::UnknownName { subject, .. }
        | Self::Input { subject, .. }
        | Self::Damaged { subject, .. } = &mut self
        {
            fill(subject);
        }
        self
    }

    /// A name that is not there.
    pub fn unknown(what: impl Into<String>) -> Self {
        Self::UnknownName { what: what.into(), subject: Box::default() }
    }

    /// A request that makes no sense here.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// A bug of the library.
    pub fn internal(text: impl Into<String>) -> Self {
        Self::Internal(text.into())
    }

    /// Something that is not in the folder `path`.
    pub fn missing(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Missing { path: path.into(), what: what.into() }
    }

    /// What keeps the checkpoint, or the file of it, at `path` from being read or stored.
    pub fn input(path: impl Into<PathBuf>, what: impl ToString) -> Self {
        Self::Input { path: path.into(), what: what.to_string(), subject: Box::default() }
    }

    /// What is wrong with the store, or a file of it, at `path`.
    pub fn damaged(path: impl Into<PathBuf>, what: impl ToString) -> Self {
        Self::Damaged { path: path.into(), what: what.to_string(), subject: Box::default() }
    }
}

/// Names the file and the operation of an I/O error.
pub trait IoContext<T> {
    /// `what` could not be done to the file or folder `path`.
    ///
    /// # Errors
    /// The error, if there is one.
    fn at(self, path: &Path, what: &'static str) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, path: &Path, what: &'static str) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.to_owned(), what, source })
    }
}
