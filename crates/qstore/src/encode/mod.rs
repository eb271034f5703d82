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

use crate::decode::Variant;
use crate::error::{Error, Result};
use crate::file::zeroed;
use crate::ingest::Source;
use crate::pipeline;
use crate::plan::{Action, Coding, Duplicates, Original, Pairs, PlannedArray, Planner};
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
    /// The array's next chunk: its bytes and, unless they are to be stored as they are, its coded form.
    Chunk { raw: Vec<u8>, coded: Option<Vec<u8>> },
}

impl Done {
    /// The form and the bytes of a chunk as stored.
    pub(crate) fn stored<'a>(raw: &'a [u8], coded: Option<&'a Vec<u8>>) -> (ChunkForm, &'a [u8]) {
        coded.map_or((ChunkForm::Raw, raw), |coded| (ChunkForm::Coded, coded))
    }
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
        let chunk = crate::plan::chunk_bytes(array, plan.grid);
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
    let coded = match &plan.action {
        Action::Keep => None,
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
            None
        }
        Action::Code(coding) => code(coding, &plan, &raw, start).map_err(|error| match error {
            Failure::Given(error) => error,
            Failure::NotInverse => Error::input(
                &path,
                format!(
                    "{}: its coded form does not decode to it; this is a bug of qstore, please report it",
                    array.key
                ),
            ),
        })?,
    };
    Ok(Done::Chunk { raw, coded })
}

enum Failure {
    Given(Error),
    NotInverse,
}

/// Codes a chunk and decodes it again: what is committed has been read back once.
fn code(coding: &Coding, plan: &PlannedArray, raw: &[u8], start: u64) -> Result<Option<Vec<u8>>, Failure> {
    let cols = usize::try_from(plan.grid.cols).unwrap_or(usize::MAX);
    let given = coding.given.as_ref().map(|given| given.rows(plan.grid, start, raw.len())).transpose();
    let given = given.map_err(Failure::Given)?;
    let Some(coded) = coding.codec.encode(raw, cols, &coding.classifier, given.as_ref()) else {
        return Ok(None);
    };
    let mut back = vec![0; raw.len()];
    match coding.codec.decode(&coded, cols, given.as_ref(), &mut back) {
        Ok(()) if back == raw => Ok(Some(coded)),
        _ => Err(Failure::NotInverse),
    }
}
