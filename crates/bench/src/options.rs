//! What is to be measured, and how.

use std::ffi::OsString;
use std::path::PathBuf;

use qstore::VariantSpec;
use serde::Serialize;

/// Where a load finds what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// In the system's page cache.
    Warm,
    /// Not in the page cache: it was told to forget the files.
    Dropped,
}

impl Cache {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Dropped => "dropped",
        }
    }
}

/// A run of the benchmark.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folders, which are only read. `verbatim` has no meaning here.
    pub variants: Vec<VariantSpec>,
    /// Names of peers; the usual ones if empty.
    pub peers: Vec<String>,
    /// How often everything is measured.
    pub repeats: u32,
    /// Speeds in MiB a second at which loads are measured too, apart from as fast as they can.
    pub bandwidths: Vec<u32>,
    /// What the page cache holds at loads.
    pub caches: Vec<Cache>,
    /// The folder in which a temporary folder is made for all that the peers store.
    pub scratch: PathBuf,
    /// The Python interpreter for the peers that are Python packages.
    pub python: PathBuf,
    /// The program, and its arguments, that calls [`serve`](crate::serve) with its standard input and output.
    pub worker: Vec<OsString>,
    /// Threads of each peer; 0 for one a core.
    pub threads: usize,
    /// Bytes of memory that the library may work in when it stores.
    pub memory: u64,
}

/// Receives word of how far the benchmark has come.
pub trait Progress {
    /// It begins, and will take that many steps.
    fn begin(&self, steps: u64);
    /// The next step begins.
    fn step(&self, what: &str);
    /// Something that the user should know and that is no error.
    fn warn(&self, text: &str);
}
