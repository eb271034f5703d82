//! Why a command did not end well, and the exit status that says so.

use std::io;
use std::path::PathBuf;

/// Exit status of a command that was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// What stopped a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command makes no sense as it was given.
    #[error("{0}")]
    Usage(String),
    /// The library refused or failed.
    #[error(transparent)]
    Library(#[from] qstore::Error),
    /// A measurement failed.
    #[error(transparent)]
    Bench(#[from] qstore_bench::Error),
    /// A check found something wrong; the details have been printed.
    #[error("{0}")]
    Check(String),
    /// The command itself could not read or write a file.
    #[error("{}: {what}: {source}", path.display())]
    File { path: PathBuf, what: &'static str, source: io::Error },
    /// Standard output does not take what there is to say.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// 2 for wrong use, as clap has it, 130 for an interrupt, as shells have it, and 1 for everything else.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Library(qstore::Error::Stopped) => INTERRUPTED,
            Self::Library(error) if error.is_usage() => 2,
            Self::Bench(error) if error.is_usage() => 2,
            _ => 1,
        }
    }
}
