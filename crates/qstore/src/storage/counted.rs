//! A storage that counts what is read of another.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qstore_checkpoint::Result;

use super::{Hints, Storage};

/// Counts the bytes that are read.
#[derive(Debug)]
pub(crate) struct Counted {
    of: Arc<dyn Storage>,
    bytes: AtomicU64,
}

impl Counted {
    pub(crate) fn new(of: Arc<dyn Storage>) -> Self {
        Self { of, bytes: AtomicU64::new(0) }
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Storage for Counted {
    fn location(&self) -> &Path {
        self.of.location()
    }

    fn read_all(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let bytes = self.of.read_all(name, most)?;
        self.count(bytes.len());
        Ok(bytes)
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        self.of.read(name, offset, out)?;
        self.count(out.len());
        Ok(())
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        self.of.size(name)
    }

    fn hints(&self) -> Hints {
        self.of.hints()
    }
}
