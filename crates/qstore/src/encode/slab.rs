//! Coding arrays that are stored by parts, a slab at a time: bytes that follow each other and are those of one part, or
//! of several that lie in each other.

use std::sync::Arc;

use qstore_checkpoint::{CHUNK_MEMORY, Error, Result, Source, SourceArray, gather, size};
use qstore_container::{ChunkForm, Hash128};
use rayon::prelude::*;

use super::spare::Spare;
use super::{Done, Failure, Stored, block, code, code_transposed};
use crate::plan::{Action, Original, PlannedArray, element_bytes};

/// Bytes of an array, and the parts that they are.
pub(crate) struct Slab {
    /// The index of the array in the source.
    pub(crate) index: usize,
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) parts: Vec<Arc<PlannedArray>>,
}

/// A part as it is stored.
pub(crate) struct CodedPart {
    pub(crate) plan: Arc<PlannedArray>,
    pub(crate) hash: Hash128,
    /// Its chunks; none of a reference.
    pub(crate) chunks: Vec<(ChunkForm, Vec<u8>)>,
}

impl Slab {
    /// Bytes that coding it holds at most: as it is, a part gathered, transposed, and coded.
    pub(super) fn holds(&self) -> u64 {
        self.length.saturating_mul(4).max(CHUNK_MEMORY)
    }
}

/// Reads a slab and codes its parts.
pub(super) fn code_slab(source: &Source, spare: &Spare, slab: Slab) -> Result<Done> {
    let array = &source.arrays[slab.index];
    let path = source.path_of(array);
    let hold = |source| Error::Io { path: path.clone(), what: "cannot hold a matrix", source };
    let mut raw = spare.take(slab.length).map_err(hold)?;
    source.read(array, slab.start, &mut raw)?;
    let width = element_bytes(array);
    let code_one = |plan: Arc<PlannedArray>| {
        let Some(part) = &plan.array.part else {
            return Err(Error::internal(format!("{}: a part of nothing", plan.array.key)));
        };
        let placed = part.placed();
        // A part whose rows lie as they are is all of its slab.
        let matrix =
            if placed.is_contiguous() { raw[..].into() } else { gather(&raw, &placed.from_slab(), width) };
        let chunks = match &plan.action {
            Action::Code(_) => code_part(&plan, &matrix).map_err(|failure| failure.explain(&path, array))?,
            Action::Refer { original, .. } => {
                compare(source, &plan.array, original, &matrix)?;
                Vec::new()
            }
            Action::Keep => return Err(Error::internal(format!("{}: a kept part", plan.array.key))),
        };
        Ok(CodedPart { hash: Hash128::of(&matrix), chunks, plan: plan.clone() })
    };
    let parts = slab.parts.into_iter().map(code_one).collect::<Result<_>>()?;
    Ok(Done::Slab { raw, parts })
}

/// Codes all chunks of a part, in parallel: there may be no other work, as few slabs are held at a time.
fn code_part(plan: &PlannedArray, matrix: &[u8]) -> Result<Vec<(ChunkForm, Vec<u8>)>, Failure> {
    let Action::Code(coding) = &plan.action else { return Ok(Vec::new()) };
    if plan.action.is_transposed() {
        let Stored::Transposed(chunks) = code_transposed(coding, plan, &plan.array, matrix)? else {
            return Ok(Vec::new());
        };
        return Ok(chunks);
    }
    let row_bytes = plan.chunk.cols.saturating_mul(element_bytes(&plan.array)).max(1);
    let chunk_bytes = size(row_bytes.saturating_mul(plan.chunk.rows)).max(1);
    let code_chunk = |(index, raw): (usize, &[u8])| {
        let first = (index as u64).saturating_mul(plan.chunk.rows);
        let coded = code(coding, block(plan.chunk, first, raw.len() as u64 / row_bytes), raw)?;
        Ok(coded.map_or_else(|| (ChunkForm::Raw, raw.to_vec()), |coded| (ChunkForm::Coded, coded)))
    };
    matrix.par_chunks(chunk_bytes).enumerate().map(code_chunk).collect()
}

/// Fails unless an array, which has these bytes, equals another.
pub(super) fn compare(source: &Source, array: &SourceArray, original: &Original, bytes: &[u8]) -> Result<()> {
    let mut other = vec![0; bytes.len()];
    read_original(source, original, 0, &mut other)?;
    if *bytes == other {
        return Ok(());
    }
    let what = format!("{}: it changed while it was being stored", array.key);
    Err(Error::input(source.path_of(array), what))
}

/// Fills `out` with what a reference stands for, from byte `start` on.
pub(super) fn read_original(source: &Source, original: &Original, start: u64, out: &mut [u8]) -> Result<()> {
    match original {
        Original::Stored(reader) => reader.read(start, out),
        Original::Rows(rows) => rows.read(start, out),
        Original::Own(index) => source.read(&source.arrays[*index], start, out),
    }
}
