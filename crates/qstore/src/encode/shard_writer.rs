//! Writing one shard file: streams as they come, the header last.

use std::path::Path;

use qstore_checkpoint::{Error, FileWriter, IoContext as _, Result, Syncs, create_new, rename};
use qstore_container::limits::MAX_TAIL_BYTES;
use qstore_container::{
    ArrayKey, ChunkRecord, Given, Hash128, ShardFile, ShardLayout, ShardPlan, StoredArray,
};
use qstore_container::{OriginalFile, RelativePath, Tail, VariantName, write_chunks};

/// A shard that is being written under a temporary name.
#[derive(Debug)]
pub(super) struct ShardWriter<'a> {
    file: FileWriter<'a>,
    reserved: u64,
    layout: ShardLayout,
    tables: Vec<u8>,
    records: Vec<ChunkRecord>,
    arrays: Vec<StoredArray>,
}

impl<'a> ShardWriter<'a> {
    /// A shard for at most `keys`, whose bytes are at most `bytes`; array `first` of the variant is its first.
    pub(super) fn create<'k>(
        folder: &Path,
        syncs: &'a Syncs,
        first: usize,
        keys: impl Iterator<Item = &'k ArrayKey>,
        bytes: u64,
    ) -> Result<Self> {
        let path = folder.join(format!("arrays-from-{first}.tmp"));
        let reserved = ShardLayout::reserve(keys, bytes);
        let file = create_new(&path).at(&path, "cannot create")?;
        let mut file = FileWriter::new(path, file, syncs);
        file.seek(reserved)?;
        Ok(Self {
            file,
            reserved,
            layout: ShardLayout::default(),
            tables: Vec::new(),
            records: Vec::new(),
            arrays: Vec::new(),
        })
    }

    /// Appends to the current array's stream.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes)
    }

    /// Adds the tables of the current array.
    pub(super) fn add_tables(&mut self, tables: &[u8]) {
        self.tables.extend_from_slice(tables);
    }

    /// Ends the current array, whose stream has `bytes` bytes.
    pub(super) fn end_array(&mut self, array: StoredArray, records: Vec<ChunkRecord>, bytes: u64) {
        if array.encoding.has_stream() {
            self.layout.push(&array.key, bytes);
        }
        self.arrays.push(array);
        self.records.extend(records);
    }

    /// Writes the tail and the header, and gives the file its name: `VARIANT-ID.safetensors`. It is synced by when the
    /// variant is committed. `files` and `empty_folders` are empty in all shards but the last.
    pub(super) fn finish(
        mut self,
        variant: &VariantName,
        contents: &[Given],
        files: Vec<OriginalFile>,
        empty_folders: Vec<RelativePath>,
    ) -> Result<(ShardFile, Vec<Given>)> {
        let needed = |given: &&Given| {
            let mut needs = self.arrays.iter().flat_map(|a| a.encoding.needs());
            needs.any(|need| need.variant == given.variant)
        };
        let given: Vec<Given> = contents.iter().filter(needed).cloned().collect();
        let arrays = std::mem::take(&mut self.arrays);
        let plan = ShardPlan { variant: variant.clone(), given: given.clone(), arrays, files, empty_folders };
        let path = self.file.path().to_owned();
        let failed = |e: qstore_container::FormatError| Error::input(&path, e);
        let (plan, chunks) = (plan.write().map_err(failed)?, write_chunks(&self.records));
        let tail =
            Tail { tables: self.tables.len() as u64, chunks: chunks.len() as u64, plan: plan.len() as u64 };
        if tail.bytes() > MAX_TAIL_BYTES {
            return Err(Error::input(
                &path,
                "its tables and plan are larger than a reader accepts; use smaller shards",
            ));
        }
        let header = self.layout.finish(&tail, self.reserved).map_err(failed)?;
        let sections = [std::mem::take(&mut self.tables), chunks, plan].concat();
        let id = Hash128::of(&sections);

        self.file.write(&sections)?;
        self.file.seek(0)?;
        self.file.write(&header)?;
        let bytes = self.file.finish()?;
        let id_text = id.to_string();
        let name: RelativePath = format!("{variant}-{}.safetensors", &id_text[..12])
            .parse()
            .map_err(|e| Error::input(&path, e))?;
        let named = path.with_file_name(name.as_str());
        rename(&path, &named).at(&named, "cannot rename")?;
        Ok((ShardFile { name, bytes, tail, id }, given))
    }
}
