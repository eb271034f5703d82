//! What is asked of a measuring process and what it answers: a job in JSON on its standard input, an outcome in JSON on
//! its standard output. The Python peers speak the same.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;

/// What a process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Task {
    /// Say which version of which package there is.
    Describe,
    /// Store the variants, all of them, in the folder `stored`, and sync what was written.
    Save,
    /// Bring every tensor of the variants into memory, from the folder `stored`.
    Load,
}

/// One measurement, made in a process of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The name of the peer.
    pub(crate) peer: String,
    pub(crate) task: Task,
    /// From few bytes to many.
    pub(crate) variants: Vec<Checkpoint>,
    /// The folder that holds what the peer stored.
    pub(crate) stored: PathBuf,
    pub(crate) threads: usize,
    /// Bytes of memory that the library may work in.
    pub(crate) memory: u64,
    /// How fast stored bytes may be read.
    pub(crate) bytes_per_second: Option<u64>,
    /// Bytes of memory to use and give back before the work.
    pub(crate) settle_bytes: u64,
}

impl Job {
    /// The folder that a peer which keeps variants apart stores one in.
    pub(crate) fn folder(&self, variant: &Checkpoint) -> PathBuf {
        self.stored.join(&variant.name)
    }
}

/// What came of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The work alone: neither the start of the process nor the comparison.
    pub(crate) seconds: f64,
    /// Stored bytes that a load read.
    pub(crate) bytes_read: u64,
    /// When the work was done, before the comparison.
    pub(crate) peak_rss_bytes: Option<u64>,
    /// The first difference between what was loaded and the source.
    pub(crate) different: Option<String>,
}
