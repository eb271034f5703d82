//! One shard whose tail has been read and checked.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use qstore_checkpoint::{Error, IoContext as _, Result, zeroed};
use qstore_container::{ArrayKey, ChunkRecord, Encoding, ShardContents, ShardFile, ShardPlan, StoredArray};

use crate::storage::Storage;

/// A shard: its plan, its tables and where its chunks lie.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Its name in the store.
    pub(crate) name: Arc<str>,
    /// What errors call it.
    pub(crate) path: PathBuf,
    contents: ShardContents,
    file: ShardFile,
    /// Where each bundle is in the plan.
    bundles: HashMap<ArrayKey, usize>,
}

impl Shard {
    /// Reads the tail of the shard that the manifest lists as `file`.
    pub(crate) fn open(storage: &dyn Storage, file: &ShardFile) -> Result<Self> {
        let name = file.name.as_str();
        let path = storage.location().join(name);
        let damaged = |what: &dyn ToString| {
            // Its name says whose it is.
            let variant = name.rsplit_once('-').map(|(variant, _)| variant.to_owned());
            Error::damaged(&path, what.to_string()).about(|subject| subject.variant = variant)
        };
        let other_size = |bytes: &str| {
            damaged(&format!(
                "it has {bytes} bytes where the manifest says {}; it is cut short or another file",
                file.bytes
            ))
        };
        if let Some(bytes) = storage.size(name)?.filter(|bytes| *bytes != file.bytes) {
            return Err(other_size(&bytes.to_string()));
        }
        let range = file.tail_range();
        let mut tail = zeroed(range.end - range.start).at(&path, "cannot hold its tail")?;
        storage.read(name, range.start, &mut tail).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                other_size("fewer")
            }
            other => other,
        })?;
        let contents = ShardContents::parse(file, &tail).map_err(|e| damaged(&e))?;
        let arrays = contents.plan.arrays.iter().enumerate();
        let bundles = arrays.filter(|(_, array)| matches!(array.key, ArrayKey::Bundle(_)));
        let bundles = bundles.map(|(index, array)| (array.key.clone(), index)).collect();
        Ok(Self { name: name.into(), path, contents, file: file.clone(), bundles })
    }

    pub(crate) fn plan(&self) -> &ShardPlan {
        &self.contents.plan
    }

    /// Bytes of the file that are of no array: header, plan and list of chunks.
    pub(crate) fn overhead(&self) -> u64 {
        self.contents.header_bytes.saturating_add(self.file.tail.chunks).saturating_add(self.file.tail.plan)
    }

    /// What the file begins with: the length field and the safetensors header.
    pub(crate) fn header(&self) -> Result<Vec<u8>> {
        self.contents.header(&self.file.tail).map_err(|e| Error::damaged(&self.path, e))
    }

    /// The tables of the plan's array `index`; empty if it has none.
    pub(crate) fn tables(&self, index: usize) -> &[u8] {
        self.contents.tables.get(index).map_or(&[], |tables| tables)
    }

    /// The records of the chunks of the plan's array `index`, those of data.
    pub(crate) fn records(&self, index: usize) -> &[ChunkRecord] {
        let (records, firsts) = (&self.contents.records, &self.contents.first_records);
        let end = firsts.get(index + 1).copied().unwrap_or(records.len());
        let head = usize::from(self.contents.plan.arrays[index].has_head());
        &records[firsts[index] + head..end]
    }

    /// Array `index` of the plan, and what it takes in the file: its tables and its stream; of a slice its share of the
    /// bundle's, of what is stored by parts theirs, of one that is kept as it is its bytes in that file.
    pub(crate) fn array(&self, index: usize) -> (&StoredArray, u64) {
        let array = &self.contents.plan.arrays[index];
        let stored = match &array.encoding {
            Encoding::Verbatim { .. } => array.bytes().unwrap_or(0),
            // They come right before it.
            Encoding::Parts { parts } => {
                (index.saturating_sub(parts.len())..index).map(|part| self.stored_bytes(part)).sum()
            }
            Encoding::Slice { .. } => {
                let Some((bundle, offset)) = self.slice(index) else { return (array, 0) };
                // Rounded so that the shares of all slices add up to the bundle.
                let whole = self.contents.plan.arrays[bundle].bytes().unwrap_or(0);
                let stored = self.stored_bytes(bundle);
                let share = |bytes: u64| bytes.saturating_mul(stored).checked_div(whole).unwrap_or(0);
                share(offset.saturating_add(array.bytes().unwrap_or(0))) - share(offset)
            }
            _ => self.stored_bytes(index),
        };
        (array, stored)
    }

    fn stored_bytes(&self, index: usize) -> u64 {
        self.stream(index).map_or(0, |range| range.end - range.start) + self.tables(index).len() as u64
    }

    /// Where the stream of array `index` lies.
    pub(crate) fn stream(&self, index: usize) -> Option<&Range<u64>> {
        self.contents.streams.get(index)?.as_ref()
    }

    /// For a slice the index of its bundle, and its first byte there.
    pub(crate) fn slice(&self, index: usize) -> Option<(usize, u64)> {
        match &self.contents.plan.arrays[index].encoding {
            Encoding::Slice { of, offset } => Some((*self.bundles.get(of)?, *offset)),
            _ => None,
        }
    }
}
