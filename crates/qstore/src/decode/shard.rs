//! One open shard file.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qstore_container::{
    ArrayKey, ChunkRecord, Encoding, LayerFile, ShardContents, ShardHeader, ShardPlan, StoredArray,
};

use crate::error::{Error, IoContext as _, Result};
use crate::file::{read_range, read_safetensors_header};

/// A shard whose header and plan have been read and checked.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) plan: ShardPlan,
    /// Bytes of the file that are of no array: header, plan and list of chunks.
    pub(crate) overhead: u64,
    records: Vec<ChunkRecord>,
    /// For each array of the plan the index of its first record.
    first_record: Vec<usize>,
    /// For each array of the plan where its stream lies, if it has one.
    streams: Vec<Option<Range<u64>>>,
    /// Where each bundle is in the plan.
    bundles: HashMap<ArrayKey, usize>,
}

impl Shard {
    /// Opens the shard that the manifest lists as `entry` in `folder`, and counts what it reads.
    pub(crate) fn open(folder: &Path, entry: &LayerFile, bytes_read: &Arc<AtomicU64>) -> Result<Self> {
        let path = folder.join(entry.name.as_str());
        let damaged = |what: &dyn ToString| Error::damaged(&path, what.to_string());
        let there = || std::fs::symlink_metadata(&path).map_err(|source| unopened(&path, source));
        there()?;
        if !super::variant::is_within(folder, &path) {
            // Unless it was deleted just now.
            there()?;
            return Err(damaged(&"it is no regular file inside the store"));
        }
        let file = File::open(&path).map_err(|source| unopened(&path, source))?;
        let bytes = file.metadata().at(&path, "cannot read")?.len();
        if bytes != entry.bytes {
            let what = format!(
                "it has {bytes} bytes where the manifest says {}; it is cut short or another file",
                entry.bytes
            );
            return Err(damaged(&what));
        }
        let header = read_safetensors_header(&file, &path, bytes, |what| damaged(&what))?;
        let header_bytes = header.len() as u64 + 8;
        let header = ShardHeader::parse(header, bytes).map_err(|e| damaged(&e))?;
        if header.id != entry.id {
            return Err(damaged(&"it is damaged, or is not the file that the manifest names"));
        }
        let section = |range: Result<std::ops::Range<u64>, _>| {
            let range = range.map_err(|e: qstore_container::FormatError| damaged(&e))?;
            read_range(&file, &path, range.start, range.end - range.start)
        };
        let (plan, chunks) = (section(header.plan_range())?, section(header.chunks_range())?);
        let overhead = header_bytes + (plan.len() + chunks.len()) as u64;
        bytes_read.fetch_add(overhead, Ordering::Relaxed);
        let ShardContents { plan, records, streams } =
            header.contents(&plan, &chunks).map_err(|e| damaged(&e))?;
        let mut first_record = Vec::with_capacity(plan.arrays.len());
        let mut next = 0;
        for array in &plan.arrays {
            first_record.push(next);
            let count = array.record_count().map_err(|e| damaged(&e))?;
            // `contents` has found that many records.
            next += usize::try_from(count).unwrap_or(usize::MAX);
        }
        let is_bundle = |(_, array): &(usize, &StoredArray)| matches!(array.key, ArrayKey::Bundle(_));
        let bundles = plan.arrays.iter().enumerate().filter(is_bundle);
        let bundles = bundles.map(|(index, array)| (array.key.clone(), index)).collect();
        Ok(Self { path, file, plan, overhead, records, first_record, streams, bundles })
    }

    /// The records of the plan's array `index`.
    pub(crate) fn records(&self, index: usize) -> &[ChunkRecord] {
        let end = self.first_record.get(index + 1).copied().unwrap_or(self.records.len());
        &self.records[self.first_record[index]..end]
    }

    /// Array `index` of the plan, and the bytes of its stream; for a slice its share of the bundle's, for one that is kept as it is its bytes in that file.
    pub(crate) fn array(&self, index: usize) -> (&StoredArray, u64) {
        let array = &self.plan.arrays[index];
        if matches!(array.encoding, Encoding::Verbatim { .. }) {
            return (array, array.bytes().unwrap_or(0));
        }
        if let Encoding::Parts { parts } = &array.encoding {
            // They come right before it.
            let own = index.saturating_sub(parts.len())..index;
            return (array, own.map(|part| self.stream_bytes(part)).sum());
        }
        let Some((bundle, offset)) = self.slice(index) else { return (array, self.stream_bytes(index)) };
        // Rounded so that the shares of all slices add up to the bundle.
        let (whole, stored) = (self.plan.arrays[bundle].bytes().unwrap_or(0), self.stream_bytes(bundle));
        let share = |bytes: u64| bytes.saturating_mul(stored).checked_div(whole).unwrap_or(0);
        (array, share(offset.saturating_add(array.bytes().unwrap_or(0))) - share(offset))
    }

    fn stream_bytes(&self, index: usize) -> u64 {
        self.stream(index).map_or(0, |range| range.end - range.start)
    }

    /// Where the stream of array `index` lies.
    pub(crate) fn stream(&self, index: usize) -> Option<&Range<u64>> {
        self.streams.get(index)?.as_ref()
    }

    /// For a slice the index of its bundle, and its first byte there.
    pub(crate) fn slice(&self, index: usize) -> Option<(usize, u64)> {
        match &self.plan.arrays[index].encoding {
            Encoding::Slice { of, offset } => Some((*self.bundles.get(of)?, *offset)),
            _ => None,
        }
    }
}

/// Why the layer file at `path` cannot be opened.
fn unopened(path: &Path, source: std::io::Error) -> Error {
    let what = match source.kind() {
        std::io::ErrorKind::NotFound => "this layer file is missing; fetch or restore it",
        _ => "cannot open",
    };
    Error::Io { path: path.to_owned(), what, source }
}
