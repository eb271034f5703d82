//! One open shard file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qstore_container::{ArrayKey, ChunkRecord, Encoding, LayerFile, ShardHeader, ShardPlan, StoredArray};

use crate::error::{Error, IoContext as _, Result};
use crate::file::{read_range, read_safetensors_header};

/// A shard whose header and plan have been read and checked.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) plan: ShardPlan,
    records: Vec<ChunkRecord>,
    /// For each array of the plan the index of its first record.
    first_record: Vec<usize>,
    header: ShardHeader,
}

impl Shard {
    /// Opens the shard that the manifest lists as `entry` in `folder`, and counts what it reads.
    pub(crate) fn open(folder: &Path, entry: &LayerFile, bytes_read: &Arc<AtomicU64>) -> Result<Self> {
        let path = folder.join(entry.name.as_str());
        let damaged = |what: &dyn ToString| Error::damaged(&path, what.to_string());
        std::fs::symlink_metadata(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => damaged(&"this layer file is missing; fetch or restore it"),
            _ => Error::Io { path: path.clone(), what: "cannot open", source: e },
        })?;
        if !super::variant::is_within(folder, &path) {
            return Err(damaged(&"it is no regular file inside the store"));
        }
        let file = File::open(&path).at(&path, "cannot open")?;
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
        bytes_read.fetch_add(header_bytes + (plan.len() + chunks.len()) as u64, Ordering::Relaxed);
        let (plan, records) = header.contents(&plan, &chunks).map_err(|e| damaged(&e))?;
        let mut first_record = Vec::with_capacity(plan.arrays.len());
        let mut next = 0;
        for array in &plan.arrays {
            first_record.push(next);
            let count = array.record_count().map_err(|e| damaged(&e))?;
            // `contents` has found that many records.
            next += usize::try_from(count).unwrap_or(usize::MAX);
        }
        Ok(Self { path, file, plan, records, first_record, header })
    }

    /// The records of the plan's array `index`.
    pub(crate) fn records(&self, index: usize) -> &[ChunkRecord] {
        let end = self.first_record.get(index + 1).copied().unwrap_or(self.records.len());
        &self.records[self.first_record[index]..end]
    }

    /// Array `index` of the plan, and the bytes of its stream.
    pub(crate) fn array(&self, index: usize) -> (&StoredArray, u64) {
        let array = &self.plan.arrays[index];
        let stream = self.header.stream(&array.key);
        (array, stream.map_or(0, |range| range.end - range.start))
    }

    /// The first byte of an array's stream.
    pub(crate) fn stream_start(&self, key: &ArrayKey) -> Option<u64> {
        self.header.stream(key).map(|range| range.start)
    }
}

/// Whether the layer file `name` in `folder`, which no manifest need list, is of a variant that is kept as it is; false where that cannot be told.
pub(crate) fn is_of_kept_variant(folder: &Path, name: &str) -> bool {
    let path = folder.join(name);
    let plan = || {
        if !super::variant::is_within(folder, &path) {
            return None;
        }
        let file = File::open(&path).ok()?;
        let bytes = file.metadata().ok()?.len();
        let header = read_safetensors_header(&file, &path, bytes, |what| Error::damaged(&path, what)).ok()?;
        let range = ShardHeader::parse(header, bytes).ok()?.plan_range().ok()?;
        ShardPlan::parse(&read_range(&file, &path, range.start, range.end - range.start).ok()?).ok()
    };
    let kept = |plan: ShardPlan| plan.arrays.iter().any(|a| matches!(a.encoding, Encoding::Verbatim { .. }));
    plan().is_some_and(kept)
}
