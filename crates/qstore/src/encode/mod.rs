//! From a variant's files to its shards.
//!
//! Jobs run through [`ordered`]: one thread plans arrays and, in the order of the files, hashes and writes what the
//! others have coded; these read, code, decode again and compare.

mod jobs;
mod measure;
mod shard_writer;
mod slab;
mod spare;
mod variant_writer;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use qstore_checkpoint::{
    Error, Progress, Result, Source, SourceArray, Syncs, Window, ordered, size, transpose, zeroed,
};
use qstore_container::{ChunkForm, ChunkShape, Hash128, Part, StoredArray, VariantEntry, VariantName};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::codec::{GivenOfChunk, Workspace, at_least, with_workspace};
use crate::plan::{
    Action, Bundle, Bundles, Coding, Duplicates, Lower, Pairs, PlannedArray, Planner, chunk_of,
    element_bytes, is_small, plan_alone,
};
use crate::variant::Variant;
pub(crate) use jobs::SmallTensors;
use jobs::{Job, Jobs, shards};
pub(crate) use measure::{measure, measure_bundle};
use slab::{CodedPart, code_slab, read_original};
use spare::Spare;
use variant_writer::VariantWriter;

/// Where and how a variant is written.
pub(crate) struct Target<'a> {
    /// The folder that gets its files, in which `lower` need not lie.
    pub(crate) folder: &'a Path,
    /// Has its files synced, which must be waited for before they are committed.
    pub(crate) syncs: &'a Syncs,
    /// The variants below, open.
    pub(crate) lower: &'a [Arc<Variant>],
    /// All variants below, among them those in which tensors of `lower` are kept.
    pub(crate) below: &'a [Arc<Variant>],
    /// Matrices that an array is given at most.
    pub(crate) levels: usize,
    /// Keep the original files as they are and code nothing.
    pub(crate) verbatim: bool,
    /// It is archived: codes are to be given floats.
    pub(crate) archived: bool,
    /// Most bytes of a shard.
    pub(crate) shard_size: u64,
    /// Workers.
    pub(crate) pool: &'a ThreadPool,
    /// Chunks in flight.
    pub(crate) window: Window,
}

/// Stores `source` as variant `name` and returns its entry for the manifest.
///
/// # Errors
/// Whatever can go wrong with reading the source or writing shards; the folder then holds files that no manifest names.
pub(crate) fn write_variant(
    source: &Source,
    name: &VariantName,
    target: &Target,
    progress: &dyn Progress,
) -> Result<VariantEntry> {
    progress.begin(&format!("storing {name}"), source.raw_bytes())?;
    let lower: Vec<_> = target.lower.iter().cloned().map(Lower::Stored).collect();
    let pairs = if target.verbatim { Pairs::default() } else { Pairs::find(source, &lower, progress)? };
    if target.archived {
        pairs.expect_floats();
    }
    let is_small = |array: &SourceArray| !target.verbatim && is_small(array, &pairs);
    let small: Vec<bool> = source.arrays.iter().map(is_small).collect();
    // That a small tensor shares nothing is no loss.
    let tensors = source.arrays.iter().zip(&small).filter(|(_, small)| **small);
    tensors.for_each(|(array, _)| pairs.shares(&array.key));
    let most_parts: Vec<usize> = source.arrays.iter().map(|array| pairs.most_parts(&array.key)).collect();
    let shards = shards(source, target.shard_size);
    let duplicates = Duplicates::new(source, name, target.lower, (&pairs, &small), progress)?;
    let mut planner = Planner {
        source,
        name,
        pairs,
        duplicates,
        bundles: Bundles::default(),
        small: &small,
        verbatim: target.verbatim,
        levels: target.levels,
        parts: 0,
    };
    let spare = Spare::new(target.window.jobs);
    let mut writer = VariantWriter::new(source, name, target, &shards, (&small, &most_parts))?;
    let work = |step| work(source, &spare, step);
    let sink = |done: Done| {
        let raw = match &done {
            Done::Chunk { raw, .. }
            | Done::Whole { raw, .. }
            | Done::Small(SmallTensors { raw, .. })
            | Done::Slab { raw, .. } => Some(raw),
            _ => None,
        };
        if let Some(raw) = raw {
            progress.advance(raw.len() as u64)?;
        }
        writer.take(done, &spare)
    };
    let jobs = Jobs::new(&mut planner, &shards);
    ordered(target.pool, target.window, jobs, Job::holds, work, sink)?;
    let entry = writer.finish()?;
    Ok(VariantEntry { unshared: planner.pairs.unshared(), ..entry })
}

/// What became of a step.
pub(crate) enum Done {
    /// A file of the source begins.
    File(usize),
    /// The next shard begins.
    Shard,
    /// Small tensors of that file.
    Small(SmallTensors),
    /// A bundle of small tensors that have passed.
    Bundle(Box<CodedBundle>),
    /// An array of that file begins.
    Array(Arc<PlannedArray>),
    /// An array that is one chunk.
    Whole { plan: Arc<PlannedArray>, raw: Vec<u8>, stored: Stored },
    /// The array's next bytes, and the chunks that hold them.
    Chunk { raw: Vec<u8>, stored: Stored },
    /// The next bytes of an array that is stored by parts, and the parts that they are.
    Slab { raw: Vec<u8>, parts: Vec<CodedPart> },
    /// An array whose parts have passed.
    Parts { index: usize, parts: Vec<Part> },
}

/// A bundle as it is stored.
pub(crate) struct CodedBundle {
    pub(crate) array: StoredArray,
    pub(crate) head: Option<Vec<u8>>,
    /// Its one chunk; none if it is empty.
    pub(crate) chunk: Option<(ChunkForm, Vec<u8>)>,
}

/// The stored form of an array's next bytes.
pub(crate) enum Stored {
    /// One chunk, as they are.
    Raw,
    /// One chunk, coded.
    Coded(Vec<u8>),
    /// All chunks of a transposed matrix, whose bytes are in another order.
    Transposed(Vec<(ChunkForm, Vec<u8>)>),
}

/// Reads and codes one chunk.
fn work(source: &Source, spare: &Spare, step: Job) -> Result<Done> {
    let (plan, start, length) = match step {
        Job::File(file) => return Ok(Done::File(file)),
        Job::Shard => return Ok(Done::Shard),
        Job::Small(run) => return Ok(Done::Small(run)),
        Job::Bundle(bundle) => return code_bundle(source, bundle).map(Box::new).map(Done::Bundle),
        Job::Array(plan) => return Ok(Done::Array(plan)),
        Job::Whole { index, chunk } => return code_whole(source, index, chunk),
        Job::Slab(slab) => return code_slab(source, spare, slab),
        Job::Parts { index, parts } => return Ok(Done::Parts { index, parts }),
        Job::Chunk { plan, start, length } => (plan, start, length),
    };
    let array = &plan.array;
    let path = source.path_of(array);
    let hold = |source| Error::Io { path: path.clone(), what: "cannot hold a chunk", source };
    let mut raw = spare.take(length).map_err(hold)?;
    source.read(array, start, &mut raw)?;
    let stored = match &plan.action {
        Action::Keep => Stored::Raw,
        Action::Refer { original, .. } => {
            let mut other = spare.take(length).map_err(hold)?;
            read_original(source, original, start, &mut other)?;
            if raw != other {
                return Err(Error::input(
                    &path,
                    format!("{}: it changed while it was being stored", array.key),
                ));
            }
            spare.give(other);
            Stored::Raw
        }
        Action::Code(coding) => {
            let stored = if plan.action.is_transposed() {
                code_transposed(coding, &plan, array, &raw)
            } else {
                let row_bytes = plan.chunk.cols.saturating_mul(element_bytes(array)).max(1);
                code(coding, block(plan.chunk, start / row_bytes, raw.len() as u64 / row_bytes), &raw)
                    .map(|coded| coded.map_or(Stored::Raw, Stored::Coded))
            };
            stored.map_err(|failure| failure.explain(&path, array))?
        }
    };
    Ok(Done::Chunk { raw, stored })
}

/// Why a chunk cannot be coded.
enum Failure {
    /// What it is given cannot be read.
    Given(Error),
    /// Decoding it gives something else.
    NotInverse,
}

impl Failure {
    fn explain(self, path: &Path, array: &SourceArray) -> Error {
        match self {
            Self::Given(error) => error,
            Self::NotInverse => Error::internal(format!(
                "{}: {}: its coded form does not decode to it",
                path.display(),
                array.key
            )),
        }
    }
}

/// Codes a whole matrix, of which `raw` is the transposed.
fn code_transposed(
    coding: &Coding,
    plan: &PlannedArray,
    array: &SourceArray,
    raw: &[u8],
) -> Result<Stored, Failure> {
    let cols = array.shape.last().copied().unwrap_or(1);
    let width = element_bytes(array);
    let mut matrix = vec![0; raw.len()];
    transpose(raw, cols, width, &mut matrix);
    let (rows, cols) = (size(cols), raw.len() / size(cols.saturating_mul(width)).max(1));
    let (high, wide) = (size(plan.chunk.rows), size(plan.chunk.cols));
    let places =
        (0..rows).step_by(high).flat_map(|row| (0..cols).step_by(wide).map(move |column| (row, column)));
    let places: Vec<_> = places.collect();
    // In parallel: there may be no other work, as few such matrices are held at a time.
    let stored = places.into_par_iter().map(|(row, column)| {
        let (rows, columns) = (row..(row + high).min(rows), column..(column + wide).min(cols));
        let line = |row: usize| {
            &matrix[(row * cols + columns.start) * size(width)..(row * cols + columns.end) * size(width)]
        };
        let part: Cow<[u8]> = if columns.len() == cols {
            Cow::Borrowed(&matrix[rows.start * cols * size(width)..rows.end * cols * size(width)])
        } else {
            rows.clone().flat_map(line).copied().collect()
        };
        let coded = code(coding, (rows, columns), &part)?;
        Ok(coded.map_or_else(|| (ChunkForm::Raw, part.to_vec()), |coded| (ChunkForm::Coded, coded)))
    });
    Ok(Stored::Transposed(stored.collect::<Result<_, _>>()?))
}

/// Plans and codes an array that is one chunk and needs no other array.
fn code_whole(source: &Source, index: usize, chunk: ChunkShape) -> Result<Done> {
    let array = &source.arrays[index];
    let path = source.path_of(array);
    let hold = |source| Error::Io { path: path.clone(), what: "cannot hold a chunk", source };
    let mut raw = zeroed(array.bytes).map_err(hold)?;
    source.read(array, 0, &mut raw)?;
    let coding = plan_alone(array, chunk, &raw);
    let coded = code(&coding, block(chunk, 0, 0), &raw).map_err(|failure| failure.explain(&path, array))?;
    let plan = PlannedArray { array: array.clone(), chunk, action: Action::Code(Box::new(coding)) };
    Ok(Done::Whole { plan: Arc::new(plan), raw, stored: coded.map_or(Stored::Raw, Stored::Coded) })
}

/// Plans and codes a bundle.
fn code_bundle(source: &Source, bundle: Bundle) -> Result<CodedBundle> {
    let (chunk_shape, coding) = (chunk_of(&bundle.array), bundle.coding());
    let coded = code(&coding, block(chunk_shape, 0, 0), &bundle.raw);
    let coded = coded.map_err(|failure| failure.explain(source.path(), &bundle.array))?;
    let Bundle { array: SourceArray { key, dtype, shape, .. }, raw } = bundle;
    let hash = Some(Hash128::of(&raw));
    let chunk = match coded {
        _ if raw.is_empty() => None,
        None => Some((ChunkForm::Raw, raw)),
        Some(coded) => Some((ChunkForm::Coded, coded)),
    };
    let array = StoredArray {
        key,
        dtype,
        shape,
        hash,
        chunk: chunk_shape,
        mantissa: coding.codec.mantissa(),
        encoding: coding.encoding,
    };
    Ok(CodedBundle { array, head: coding.codec.head(), chunk })
}

/// Rows of elements, and columns.
type Block = (Range<usize>, Range<usize>);

/// `count` whole rows from row `first` on.
fn block(chunk: ChunkShape, first: u64, count: u64) -> Block {
    (size(first)..size(first.saturating_add(count)), 0..size(chunk.cols))
}

/// Codes a chunk and decodes it again: what is committed has been read back once.
fn code(coding: &Coding, (rows, columns): Block, raw: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let cols = columns.len();
    with_workspace(|workspace| {
        let Some(given) = &coding.given else {
            return code_given(coding, cols, raw, GivenOfChunk::Nothing, workspace);
        };
        let block = coding.encoding.given_block([rows, columns]);
        let mut codes = std::mem::take(&mut workspace.codes);
        let coded =
            given.read_block(block, &mut codes, |given| code_given(coding, cols, raw, given, workspace));
        workspace.codes = codes;
        coded.map_err(Failure::Given)?
    })
}

fn code_given(
    coding: &Coding,
    cols: usize,
    raw: &[u8],
    given: GivenOfChunk,
    workspace: &mut Workspace,
) -> Result<Option<Vec<u8>>, Failure> {
    let Some(coded) = coding.codec.encode(raw, cols, &coding.classifier, given, workspace) else {
        return Ok(None);
    };
    let mut decoded = std::mem::take(&mut workspace.decoded);
    let back = at_least(&mut decoded, raw.len());
    let result = coding.codec.decode(&coded, cols, given, workspace, back);
    let same = result.is_ok() && back == raw;
    workspace.decoded = decoded;
    if same { Ok(Some(coded)) } else { Err(Failure::NotInverse) }
}
