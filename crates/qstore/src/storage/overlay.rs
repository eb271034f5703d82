//! A store that is about to change: its new files in one folder, all others where they are.

use std::io::ErrorKind;
use std::path::Path;

use qstore_checkpoint::{Error, Result};

use super::{Folder, Storage};

/// Files of one folder, and of another what the first has not. Names of shards follow from their content, so no file
/// has another one's name.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) new: Folder,
    pub(crate) old: Folder,
}

impl Overlay {
    fn either<T>(&self, mut read: impl FnMut(&Folder) -> Result<T>) -> Result<T> {
        match read(&self.new) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => read(&self.old),
            result => result,
        }
    }
}

impl Storage for Overlay {
    fn location(&self) -> &Path {
        self.old.location()
    }

    fn read_all(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        self.either(|folder| folder.read_all(name, most))
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        self.either(|folder| folder.read(name, offset, out))
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        self.either(|folder| folder.size(name))
    }
}
