//! From a variant's files to its layer.
//!
//! Jobs run through [`pipeline::ordered`]: the caller's thread plans arrays and, in the order of the files, hashes and writes what the workers
//! have coded; the workers read, code, decode again and compare.

mod layer;
mod shard_writer;

use std::path::Path;
use std::sync::Arc;

use qstore_container::{ChunkForm, VariantEntry, VariantName};
use rayon::ThreadPool;

use crate::codec::{GivenRows, Workspace, at_least, transpose, with_workspace};
use crate::decode::Variant;
use crate::error::{Error, Result};
use crate::file::zeroed;
use crate::ingest::{Source, SourceArray};
use crate::pipeline;
use crate::plan::{
    Action, Coding, Duplicates, Original, Pairs, PlannedArray, Planner, chunk_bytes, element_bytes,
};
use crate::progress::Progress;
use layer::LayerWriter;

/// Where and how a layer is written.
pub(crate) struct Target<'a> {
    /// The folder that gets the layer files, in which `lower` need not lie.
    pub(crate) folder: &'a Path,
    /// The variants below, open.
    pub(crate) lower: &'a [Arc<Variant>],
    /// Keep the original files as they are and code nothing.
    pub(crate) verbatim: bool,
    /// Most bytes of a shard.
    pub(crate) shard_size: u64,
    /// Workers.
    pub(crate) pool: &'a ThreadPool,
    /// Chunks in flight.
    pub(crate) window: usize,
}

/// Stores `source` as variant `name` and returns its entry for the manifest.
///
/// # Errors
/// Whatever can go wrong with reading the source or writing the layer; the folder then holds an incomplete layer that no manifest names.
pub(crate) fn write_layer(
    source: &Source,
    name: &VariantName,
    target: &Target,
    progress: &dyn Progress,
) -> Result<VariantEntry> {
    progress.begin(&format!("storing {name}"), source.raw_bytes());
    let mut planner = Planner {
        source,
        pairs: Pairs::find(source, target.lower)?,
        duplicates: Duplicates::new(source, name, target.lower)?,
        verbatim: target.verbatim,
    };
    let mut writer = LayerWriter::new(source, name, target)?;
    let work = |step| work(source, step);
    let sink = |done: Done| {
        if let Done::Chunk { raw, .. } = &done {
            progress.advance(raw.len() as u64);
        }
        writer.take(done)
    };
    pipeline::ordered(target.pool, target.window, steps(&mut planner), work, sink)?;
    planner.pairs.report(name.as_str(), progress);
    writer.finish()
}

/// A step of the work, in the order of the files.
enum Step {
    File(usize),
    Array(Arc<PlannedArray>),
    Chunk { plan: Arc<PlannedArray>, start: u64, length: u64 },
}

/// What became of a step.
pub(crate) enum Done {
    /// A file of the source begins.
    File(usize),
    /// An array of that file begins.
    Array(Arc<PlannedArray>),
    /// The array's next bytes, and the chunks that hold them.
    Chunk { raw: Vec<u8>, stored: Stored },
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

/// All steps; arrays are planned as their turn comes.
fn steps<'a, 's>(planner: &'a mut Planner<'s>) -> impl Iterator<Item = Result<Step>> + use<'a, 's> {
    use crate::ingest::SourceContent;
    let source = planner.source;
    // Zero-size arrays may come in any order within a file; a file's arrays are in the order of their bytes.
    let arrays = source.files.iter().enumerate().flat_map(|(index, file)| {
        let arrays = match &file.content {
            SourceContent::Safetensors { arrays, .. } => arrays.clone(),
            SourceContent::Opaque(array) => vec![*array],
        };
        std::iter::once((index, None)).chain(arrays.into_iter().map(move |a| (index, Some(a))))
    });
    arrays.flat_map(move |(file, array)| {
        let Some(index) = array else { return Steps::One(Some(Ok(Step::File(file)))) };
        match planner.plan(index) {
            Err(error) => Steps::One(Some(Err(error))),
            Ok(plan) => Steps::array(source, plan),
        }
    })
}

/// The steps of one array or file, without collecting them: an array may have very many chunks.
enum Steps {
    One(Option<Result<Step>>),
    Chunks { plan: Arc<PlannedArray>, begun: bool, at: u64, bytes: u64, chunk: u64 },
}

impl Steps {
    fn array(source: &Source, plan: PlannedArray) -> Self {
        let array = &source.arrays[plan.index];
        // A transposed matrix is one step: its first row as coded is spread over all of its bytes.
        let whole = plan.action.is_transposed();
        let chunk = if whole { array.bytes } else { chunk_bytes(array, plan.grid) };
        Self::Chunks { plan: Arc::new(plan), begun: false, at: 0, bytes: array.bytes, chunk }
    }
}

impl Iterator for Steps {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(step) => step.take(),
            Self::Chunks { plan, begun, .. } if !*begun => {
                *begun = true;
                Some(Ok(Step::Array(plan.clone())))
            }
            Self::Chunks { plan, at, bytes, chunk, .. } => {
                let (start, length) = (*at, (*bytes - *at).min(*chunk));
                *at += length;
                (length > 0).then(|| Ok(Step::Chunk { plan: plan.clone(), start, length }))
            }
        }
    }
}

/// Reads and codes one chunk.
fn work(source: &Source, step: Step) -> Result<Done> {
    let (plan, start, length) = match step {
        Step::File(file) => return Ok(Done::File(file)),
        Step::Array(plan) => return Ok(Done::Array(plan)),
        Step::Chunk { plan, start, length } => (plan, start, length),
    };
    let array = &source.arrays[plan.index];
    let path = source.path_of(array);
    let hold = |source| Error::Io { path: path.clone(), what: "cannot hold a chunk", source };
    let mut raw = zeroed(length).map_err(hold)?;
    source.read(array, start, &mut raw)?;
    let stored = match &plan.action {
        Action::Keep => Stored::Raw,
        Action::Refer { original, .. } => {
            let mut other = zeroed(length).map_err(hold)?;
            match original {
                Original::Stored(reader) => reader.read(start, &mut other)?,
                Original::Own(index) => source.read(&source.arrays[*index], start, &mut other)?,
            }
            if raw != other {
                return Err(Error::input(
                    &path,
                    format!("{}: it changed while it was being stored", array.key),
                ));
            }
            Stored::Raw
        }
        Action::Code(coding) => {
            let stored = if plan.action.is_transposed() {
                code_transposed(coding, &plan, array, &raw)
            } else {
                code(coding, &plan, &raw, start).map(|coded| coded.map_or(Stored::Raw, Stored::Coded))
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
            Self::NotInverse => {
                let what = "its coded form does not decode to it; this is a bug of qstore, please report it";
                Error::input(path, format!("{}: {what}", array.key))
            }
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
    let matrix = transpose(raw, cols, element_bytes(array));
    let chunk = chunk_bytes(array, plan.grid);
    let chunks = matrix.chunks(usize::try_from(chunk).unwrap_or(usize::MAX)).zip(0u64..);
    let stored = chunks.map(|(part, index)| {
        let coded = code(coding, plan, part, index * chunk)?;
        Ok(coded.map_or_else(|| (ChunkForm::Raw, part.to_vec()), |coded| (ChunkForm::Coded, coded)))
    });
    Ok(Stored::Transposed(stored.collect::<Result<_, _>>()?))
}

/// Codes a chunk and decodes it again: what is committed has been read back once.
fn code(coding: &Coding, plan: &PlannedArray, raw: &[u8], start: u64) -> Result<Option<Vec<u8>>, Failure> {
    with_workspace(|workspace| {
        let Some(given) = &coding.given else { return code_given(coding, plan, raw, None, workspace) };
        let mut codes = std::mem::take(&mut workspace.codes);
        let coded = given.with_rows(plan.grid, start, raw.len(), &mut codes, |given| {
            code_given(coding, plan, raw, Some(given), workspace)
        });
        workspace.codes = codes;
        coded.map_err(Failure::Given)?
    })
}

fn code_given(
    coding: &Coding,
    plan: &PlannedArray,
    raw: &[u8],
    given: Option<GivenRows>,
    workspace: &mut Workspace,
) -> Result<Option<Vec<u8>>, Failure> {
    let cols = usize::try_from(plan.grid.cols).unwrap_or(usize::MAX);
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
