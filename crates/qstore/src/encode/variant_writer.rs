//! Writing a variant: its shards, and the kept files of a verbatim variant.

use std::ops::Range;
use std::slice;
use std::sync::Arc;

use qstore_checkpoint::{
    Error, FileWriter, IoContext as _, Result, Source, SourceArray, SourceContent, create_dir_all, create_new,
};
use qstore_container::{
    ArrayKey, ChunkForm, ChunkRecord, ChunkShape, Encoding, FileContent, Given, Hash128, OriginalFile, Part,
    RelativePath, Sha256Hex, ShardFile, StoredArray, VariantEntry, VariantName,
};
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_128;

use super::jobs::Member;
use super::shard_writer::ShardWriter;
use super::slab::CodedPart;
use super::spare::Spare;
use super::{CodedBundle, Done, Stored, Target};
use crate::formats::format_of;
use crate::ingest::checkpoint_of;
use crate::plan::{Action, PlannedArray, most_bundles};
use crate::variant::content_hash;

/// Takes the results of all jobs in order.
pub(super) struct VariantWriter<'a> {
    source: &'a Source,
    name: &'a VariantName,
    target: &'a Target<'a>,
    /// For each array whether it is bundled.
    small: &'a [bool],
    /// For each array how many parts it may have.
    most_parts: &'a [usize],
    /// The arrays of the shards that are yet to begin.
    next_shards: slice::Iter<'a, Range<usize>>,
    shard: ShardWriter<'a>,
    ended: Ended,
    file: Option<OpenFile<'a>>,
    array: Option<OpenArray>,
    /// Of the bytes so far of an array that is stored by parts.
    parts_hasher: Option<XxHash3_128>,
    files: Vec<OriginalFile>,
}

/// The shards that have ended.
struct Ended {
    /// The variants below, as they are.
    contents: Vec<Given>,
    /// Those of them that the shards need.
    given: Vec<Given>,
    shards: Vec<ShardFile>,
}

impl Ended {
    fn add(
        &mut self,
        shard: ShardWriter,
        name: &VariantName,
        files: Vec<OriginalFile>,
        empty_folders: Vec<RelativePath>,
    ) -> Result<()> {
        let (file, given) = shard.finish(name, &self.contents, files, empty_folders)?;
        self.shards.push(file);
        for given in given {
            if !self.given.contains(&given) {
                self.given.push(given);
            }
        }
        Ok(())
    }
}

/// The original file whose bytes are passing by.
struct OpenFile<'a> {
    index: usize,
    hasher: Sha256,
    bytes: u64,
    kept: Option<FileWriter<'a>>,
}

/// The array whose chunks are passing by.
struct OpenArray {
    plan: Arc<PlannedArray>,
    /// Of all of its bytes, where that is known.
    hash: Option<Hash128>,
    hasher: XxHash3_128,
    records: Vec<ChunkRecord>,
    stream_bytes: u64,
}

impl<'a> VariantWriter<'a> {
    pub(super) fn new(
        source: &'a Source,
        name: &'a VariantName,
        target: &'a Target<'a>,
        shards: &'a [Range<usize>],
        (small, most_parts): (&'a [bool], &'a [usize]),
    ) -> Result<Self> {
        let contents = target
            .below
            .iter()
            .map(|lower| Given { variant: lower.name().clone(), content: lower.entry().content });
        let mut next_shards = shards.iter();
        let first = next_shards.next().cloned().unwrap_or(0..0);
        Ok(Self {
            source,
            name,
            target,
            small,
            most_parts,
            next_shards,
            shard: new_shard(source, target, (small, most_parts), first)?,
            ended: Ended { contents: contents.collect(), given: Vec::new(), shards: Vec::new() },
            file: None,
            array: None,
            parts_hasher: None,
            files: Vec::new(),
        })
    }

    /// Takes what comes next. The memory of chunks that are written is for others.
    pub(super) fn take(&mut self, done: Done, spare: &Spare) -> Result<()> {
        match done {
            Done::File(index) => {
                self.end_file()?;
                self.begin_file(index)
            }
            Done::Shard => {
                self.end_array()?;
                let Some(next) = self.next_shards.next() else { return Ok(()) };
                let next = new_shard(self.source, self.target, (self.small, self.most_parts), next.clone())?;
                let ended = std::mem::replace(&mut self.shard, next);
                self.ended.add(ended, self.name, Vec::new(), Vec::new())
            }
            Done::Small(run) => {
                self.end_array()?;
                self.pass(&run.raw)?;
                run.members.into_iter().for_each(|member| self.add_small(member));
                Ok(())
            }
            Done::Bundle(bundle) => {
                self.end_array()?;
                self.write_bundle(*bundle)
            }
            Done::Array(plan) => {
                self.end_array()?;
                self.begin_array(plan)
            }
            Done::Slab { raw, parts } => {
                self.end_array()?;
                self.pass(&raw)?;
                self.parts_hasher.get_or_insert_default().write(&raw);
                parts.into_iter().try_for_each(|part| self.write_part(part))?;
                spare.give(raw);
                Ok(())
            }
            Done::Parts { index, parts } => {
                self.end_parts(index, parts);
                Ok(())
            }
            Done::Whole { plan, raw, stored } => {
                self.take(Done::Array(plan), spare)?;
                self.take(Done::Chunk { raw, stored }, spare)
            }
            Done::Chunk { raw, stored } => {
                self.pass(&raw)?;
                if let Some(array) = &mut self.array {
                    array.hasher.write(&raw);
                }
                match stored {
                    Stored::Raw => self.store(ChunkForm::Raw, &raw),
                    Stored::Coded(coded) => self.store(ChunkForm::Coded, &coded),
                    Stored::Transposed(chunks) => {
                        chunks.iter().try_for_each(|(form, bytes)| self.store(*form, bytes))
                    }
                }?;
                spare.give(raw);
                Ok(())
            }
        }
    }

    fn begin_file(&mut self, index: usize) -> Result<()> {
        let file = &self.source.files[index];
        let kept = if self.target.verbatim {
            let path = self.target.folder.join(self.name.as_str()).join(file.path.as_str());
            let parent = path.parent().unwrap_or(self.target.folder);
            create_dir_all(parent).at(parent, "cannot create")?;
            let handle = create_new(&path).at(&path, "cannot create")?;
            Some(FileWriter::new(path, handle, self.target.syncs))
        } else {
            None
        };
        self.file = Some(OpenFile { index, hasher: Sha256::new(), bytes: 0, kept });
        if let SourceContent::Safetensors { header, .. } = &file.content {
            self.pass(&(header.len() as u64).to_le_bytes())?;
            self.pass(header.as_bytes())?;
        }
        Ok(())
    }

    /// The next bytes of the original file.
    fn pass(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.hasher.update(bytes);
        file.bytes += bytes.len() as u64;
        match &mut file.kept {
            Some(kept) => kept.write(bytes),
            None => Ok(()),
        }
    }

    fn end_file(&mut self) -> Result<()> {
        self.end_array()?;
        let Some(file) = self.file.take() else { return Ok(()) };
        let source = &self.source.files[file.index];
        if file.bytes != source.bytes {
            let what = format!("{}: it changed while it was being stored", source.path);
            return Err(Error::input(self.source.path(), what));
        }
        self.source.check_unchanged(source)?;
        if let Some(kept) = file.kept {
            kept.finish()?;
        }
        let content = match &source.content {
            SourceContent::Opaque(_) => FileContent::Opaque,
            SourceContent::Safetensors { header, arrays } => FileContent::Safetensors {
                header: header.clone(),
                tensors: arrays
                    .iter()
                    .filter_map(|&a| self.source.arrays[a].key.tensor())
                    .map(str::to_owned)
                    .collect(),
            },
        };
        self.files.push(OriginalFile {
            path: source.path.clone(),
            bytes: source.bytes,
            sha256: Sha256Hex(file.hasher.finalize().into()),
            content,
        });
        Ok(())
    }

    fn begin_array(&mut self, plan: Arc<PlannedArray>) -> Result<()> {
        let (hasher, records) = (XxHash3_128::new(), Vec::new());
        let mut array = OpenArray { plan, hash: None, hasher, records, stream_bytes: 0 };
        let head = match &array.plan.action {
            Action::Code(coding) => coding.codec.head(),
            _ => None,
        };
        if let Some(head) = head {
            array.records.push(self.record(ChunkForm::Head, &head)?);
            self.shard.add_tables(&head);
        }
        self.array = Some(array);
        Ok(())
    }

    fn record(&self, form: ChunkForm, bytes: &[u8]) -> Result<ChunkRecord> {
        ChunkRecord::of(form, bytes).map_err(|e| Error::input(self.source.path(), e))
    }

    /// The next chunk of the array.
    fn store(&mut self, form: ChunkForm, bytes: &[u8]) -> Result<()> {
        let record = self.record(form, bytes)?;
        let Some(array) = &mut self.array else { return Ok(()) };
        match array.plan.action {
            Action::Refer { .. } => {}
            Action::Keep => array.records.push(record),
            Action::Code(_) => {
                array.records.push(record);
                array.stream_bytes += bytes.len() as u64;
                self.shard.write(bytes)?;
            }
        }
        Ok(())
    }

    fn end_array(&mut self) -> Result<()> {
        let Some(array) = self.array.take() else { return Ok(()) };
        let source = &array.plan.array;
        let mantissa = match &array.plan.action {
            Action::Code(coding) => coding.codec.mantissa(),
            _ => None,
        };
        let encoding = match &array.plan.action {
            Action::Refer { to, view, .. } => Encoding::Reference { to: to.clone(), view: view.clone() },
            Action::Keep => Encoding::Verbatim {
                file: self.source.files[source.file].path.clone(),
                offset: source.offset,
            },
            Action::Code(coding) => coding.encoding.clone(),
        };
        let stored = StoredArray {
            key: source.key.clone(),
            dtype: source.dtype,
            shape: source.shape.clone(),
            hash: Some(array.hash.unwrap_or_else(|| Hash128(array.hasher.finish_128()))),
            chunk: array.plan.chunk,
            mantissa,
            encoding,
        };
        self.shard.end_array(stored, array.records, array.stream_bytes);
        Ok(())
    }

    fn write_part(&mut self, part: CodedPart) -> Result<()> {
        self.begin_array(part.plan)?;
        if let Some(array) = &mut self.array {
            array.hash = Some(part.hash);
        }
        part.chunks.iter().try_for_each(|(form, bytes)| self.store(*form, bytes))?;
        self.end_array()
    }

    /// Ends an array whose parts have been written.
    fn end_parts(&mut self, index: usize, parts: Vec<Part>) {
        let SourceArray { key, dtype, shape, .. } = &self.source.arrays[index];
        let hash = self.parts_hasher.take().unwrap_or_default().finish_128();
        let stored = StoredArray {
            key: key.clone(),
            dtype: *dtype,
            shape: shape.clone(),
            hash: Some(Hash128(hash)),
            chunk: ChunkShape::NONE,
            mantissa: None,
            encoding: Encoding::Parts { parts },
        };
        self.shard.end_array(stored, Vec::new(), 0);
    }

    fn add_small(&mut self, member: Member) {
        let Member { index, encoding, hash, chunk } = member;
        let SourceArray { key, dtype, shape, .. } = &self.source.arrays[index];
        let (key, shape) = (key.clone(), shape.clone());
        self.shard.end_array(
            StoredArray { key, dtype: *dtype, shape, hash, chunk, mantissa: None, encoding },
            Vec::new(),
            0,
        );
    }

    fn write_bundle(&mut self, bundle: CodedBundle) -> Result<()> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        if let Some(head) = bundle.head {
            records.push(self.record(ChunkForm::Head, &head)?);
            self.shard.add_tables(&head);
        }
        if let Some((form, stored)) = bundle.chunk {
            records.push(self.record(form, &stored)?);
            bytes += stored.len() as u64;
            self.shard.write(&stored)?;
        }
        self.shard.end_array(bundle.array, records, bytes);
        Ok(())
    }

    /// Ends the last shard.
    pub(super) fn finish(mut self) -> Result<VariantEntry> {
        self.end_file()?;
        if self.target.verbatim {
            for folder in &self.source.empty_folders {
                let path = self.target.folder.join(self.name.as_str()).join(folder.as_str());
                create_dir_all(&path).at(&path, "cannot create")?;
            }
        }
        let Self { source, files, mut ended, .. } = self;
        let content = content_hash(&files, &source.empty_folders);
        ended.add(self.shard, self.name, files, source.empty_folders.clone())?;
        Ok(VariantEntry {
            name: self.name.clone(),
            scheme: scheme_of(source)?,
            dtype: main_dtype(source),
            given: ended.given,
            content,
            tensors: source.arrays.iter().filter(|a| a.key.tensor().is_some()).count() as u64,
            tensor_bytes: source.tensor_bytes(),
            files: source.files.len() as u64,
            raw_bytes: source.raw_bytes(),
            shards: ended.shards,
            verbatim: self.target.verbatim,
            given_only: None,
            archived: false,
            levels: None,
            excluded: source.excluded.clone(),
            unshared: Vec::new(),
        })
    }
}

/// A shard for these arrays.
fn new_shard<'a>(
    source: &Source,
    target: &Target<'a>,
    (small, most_parts): (&[bool], &[usize]),
    arrays: Range<usize>,
) -> Result<ShardWriter<'a>> {
    let first = arrays.start;
    let (bundled, others): (Vec<_>, Vec<_>) = arrays.partition(|index| small[*index]);
    let bundles = most_bundles(bundled.iter().map(|index| &source.arrays[*index]));
    // Their numbers are not known yet.
    let bundles = (0..bundles).map(|_| &ArrayKey::Bundle(u32::MAX));
    let parts: usize = others.iter().map(|index| most_parts[*index]).sum();
    let parts = (0..parts).map(|_| &ArrayKey::Part(u32::MAX));
    let keys = others.iter().filter(|_| !target.verbatim).map(|index| &source.arrays[*index].key);
    ShardWriter::create(
        target.folder,
        target.syncs,
        first,
        keys.chain(bundles).chain(parts),
        source.raw_bytes(),
    )
}

/// The element type that has most bytes.
fn main_dtype(source: &Source) -> String {
    let mut bytes: Vec<(String, u64)> = Vec::new();
    for array in source.arrays.iter().filter(|a| a.key.tensor().is_some()) {
        let dtype = array.dtype.to_string();
        match bytes.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, sum)) => *sum += array.bytes,
            None => bytes.push((dtype, array.bytes)),
        }
    }
    bytes.into_iter().rev().max_by_key(|(_, sum)| *sum).map_or_else(|| "none".to_owned(), |(dtype, _)| dtype)
}

/// How the variant is quantised: a format that is known, else what its `config.json` says, else `none`.
fn scheme_of(source: &Source) -> Result<String> {
    Ok(format_of(&checkpoint_of(source)?).unwrap_or_else(|| "none".to_owned()))
}
