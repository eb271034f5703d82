//! How operations use the machine, and what they write.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::pipeline::{CHUNK_MEMORY, Window};

/// How an operation uses the machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads; 0 for one a core.
    pub threads: usize,
    /// Bytes of memory for what is read, decoded or coded and not yet handed on, about.
    pub memory: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 0, memory: 1 << 30 }
    }
}

/// The same for an operation that writes tensors, and how large its files are.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Worker threads; 0 for one a core.
    pub threads: usize,
    /// Bytes of memory for what is read or coded and not yet written, about.
    pub memory: u64,
    /// Most bytes of a shard, except where a single tensor is larger.
    pub shard_size: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Options::default().into()
    }
}

impl From<Options> for WriteOptions {
    fn from(Options { threads, memory }: Options) -> Self {
        Self { threads, memory, shard_size: 5_000_000_000 }
    }
}

impl WriteOptions {
    /// How it uses the machine.
    #[must_use]
    pub fn machine(&self) -> Options {
        Options { threads: self.threads, memory: self.memory }
    }
}

impl Options {
    /// The threads.
    ///
    /// # Errors
    /// The system has not so many to give.
    pub fn pool(&self) -> Result<ThreadPool> {
        let built = ThreadPoolBuilder::new().num_threads(self.threads).build();
        built.map_err(|e| Error::usage(format!("cannot start {} threads: {e}", self.threads)))
    }

    /// Threads for work that `most` can share.
    #[must_use]
    pub fn threads_for(&self, most: usize) -> usize {
        let all = if self.threads == 0 {
            std::thread::available_parallelism().map_or(1, usize::from)
        } else {
            self.threads
        };
        all.min(most)
    }

    /// Chunks in flight: enough to keep every worker busy while results wait for their turn, within the memory allowed.
    #[must_use]
    pub fn window(&self, pool: &ThreadPool) -> Window {
        let most = usize::try_from(self.memory / CHUNK_MEMORY).unwrap_or(usize::MAX).max(2);
        Window { jobs: (pool.current_num_threads() * 4).min(most), bytes: self.memory }
    }
}
