//! One array of a source, for readers that outlive a borrow of it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use qstore_checkpoint::{Error, Result, Source, SourceArray};
use qstore_container::{ArrayKey, CodeLayout};

use crate::decode::ArrayBytes;
use crate::fetch::{Fetched, Needs};
use crate::storage::Storage;

/// An array with its source.
#[derive(Debug)]
pub(crate) struct SharedArray {
    source: Arc<Source>,
    array: SourceArray,
}

impl SharedArray {
    /// The array of that key.
    pub(crate) fn find(source: &Arc<Source>, key: &ArrayKey) -> Result<Self> {
        let array = source.find(key);
        let array = array.ok_or_else(|| Error::input(source.path(), format!("{key}: there is none")))?;
        Ok(Self { source: source.clone(), array: array.clone() })
    }
}

impl ArrayBytes for SharedArray {
    fn needs(&self, _: Range<u64>, _: &mut Needs) -> Result<()> {
        Ok(())
    }

    fn decode(&self, _: &Fetched, offset: u64, out: &mut [u8]) -> Result<()> {
        let within = offset.checked_add(out.len() as u64).is_some_and(|end| end <= self.array.bytes);
        if !within {
            return Err(self.wrong("it has fewer bytes than are asked for"));
        }
        self.source.read(&self.array, offset, out)
    }

    fn coded(&self) -> Option<(&CodeLayout, u64)> {
        None
    }

    fn needs_coded(&self, _: Range<u64>, _: Range<u64>, _: &mut Needs) -> Result<()> {
        Err(self.wrong("it is not coded"))
    }

    fn decode_coded(&self, _: &Fetched, _: Range<u64>, _: Range<u64>, _: &mut [u8]) -> Result<()> {
        Err(self.wrong("it is not coded"))
    }

    fn piece_end(&self, _: u64) -> u64 {
        u64::MAX
    }

    fn storage(&self) -> Option<&dyn Storage> {
        None
    }

    fn path(&self) -> &Path {
        self.source.path()
    }

    fn wrong(&self, what: &str) -> Error {
        Error::input(self.source.path_of(&self.array), format!("{}: {what}", self.array.key))
    }
}
