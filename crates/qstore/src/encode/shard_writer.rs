//! Writing one shard file: streams as they come, the header last.

use std::fs::{self, File};
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use qstore_container::{
    ArrayKey, ChunkRecord, Given, Hash128, LayerFile, ShardLayout, ShardPlan, StoredArray,
};
use qstore_container::{OriginalFile, RelativePath, VariantName, write_chunks};

use crate::error::{Error, IoContext as _, Result};

/// A shard that is being written under a temporary name.
#[derive(Debug)]
pub(super) struct ShardWriter {
    path: PathBuf,
    file: BufWriter<File>,
    reserved: u64,
    layout: ShardLayout,
    records: Vec<ChunkRecord>,
    arrays: Vec<StoredArray>,
}

impl ShardWriter {
    /// A shard for at most `keys`, whose bytes are at most `bytes`; array `first` of the variant is its first.
    pub(super) fn create<'a>(
        folder: &Path,
        first: usize,
        keys: impl Iterator<Item = &'a ArrayKey>,
        bytes: u64,
    ) -> Result<Self> {
        let path = folder.join(format!("arrays-from-{first}.tmp"));
        let reserved = ShardLayout::reserve(keys, bytes);
        let mut file = File::create(&path).at(&path, "cannot create")?;
        file.seek(SeekFrom::Start(reserved)).at(&path, "cannot write")?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            path,
            reserved,
            layout: ShardLayout::default(),
            records: Vec::new(),
            arrays: Vec::new(),
        })
    }

    /// Appends to the current array's stream.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).at(&self.path, "cannot write")
    }

    /// Ends the current array, whose stream has `bytes` bytes.
    pub(super) fn end_array(&mut self, array: StoredArray, records: Vec<ChunkRecord>, bytes: u64) {
        if array.encoding.has_stream() {
            self.layout.push(&array.key, bytes);
        }
        self.arrays.push(array);
        self.records.extend(records);
    }

    /// Writes the list of chunks, the plan and the header, and gives the file its name: `VARIANT-ID.safetensors`. `files` and
    /// `empty_folders` are empty in all shards but the last.
    pub(super) fn finish(
        &mut self,
        variant: &VariantName,
        contents: &[Given],
        files: Vec<OriginalFile>,
        empty_folders: Vec<RelativePath>,
    ) -> Result<(LayerFile, Vec<Given>)> {
        let needed = |given: &&Given| {
            let mut needs = self.arrays.iter().flat_map(|a| a.encoding.needs());
            needs.any(|need| need.variant == given.variant)
        };
        let given: Vec<Given> = contents.iter().filter(needed).cloned().collect();
        let arrays = std::mem::take(&mut self.arrays);
        let plan = ShardPlan { variant: variant.clone(), given: given.clone(), arrays, files, empty_folders };
        let failed = |e: qstore_container::FormatError| Error::input(&self.path, e);
        let (plan, chunks) = (plan.write().map_err(failed)?, write_chunks(&self.records));
        let header = self.layout.finish(&chunks, &plan, self.reserved).map_err(failed)?;
        let id = Hash128::of(header.get(8..).unwrap_or_default());

        let mut write = || {
            self.file.write_all(&chunks)?;
            self.file.write_all(&plan)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header)?;
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            Ok(self.file.get_ref().metadata()?.len())
        };
        let bytes = write().at(&self.path, "cannot write")?;
        let id_text = id.to_string();
        let name: RelativePath = format!("{variant}-{}.safetensors", &id_text[..12])
            .parse()
            .map_err(|e| Error::input(&self.path, e))?;
        let named = self.path.with_file_name(name.as_str());
        fs::rename(&self.path, &named).at(&named, "cannot rename")?;
        Ok((LayerFile { name, bytes, id }, given))
    }
}
