//! Making the new tensors, block by block: each is a few megabytes of one source tensor, whatever the model's size.

use std::ops::Range;

use qstore_checkpoint::{FloatKind, Result, Source};
use qstore_container::Dtype;

use super::checkpoint::SourceTensor;
use super::gptq::{self, GptqMatrix};
use super::int8::Int8;
use super::matrix::{self, Matrix};
use super::values;
use crate::save::NewTensor;

/// Bytes of a source tensor that are read at a time, about.
const BLOCK_BYTES: u64 = 4 << 20;

/// What a block in flight takes: its bytes, twice as much for their values, and the results.
pub(super) const BLOCK_MEMORY: u64 = 4 * BLOCK_BYTES;

/// What is done with one source tensor.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) source: &'a SourceTensor<'a>,
    pub(super) recipe: Recipe,
    /// Index of the first of its new tensors.
    pub(super) first: usize,
}

/// How a source tensor becomes new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipe {
    /// Its bytes.
    Copy,
    /// Its values in another type.
    Cast { from: FloatKind, to: FloatKind },
    /// The tensors of LLM.int8().
    Int8(Int8),
    /// The tensors of GPTQ.
    Gptq(GptqMatrix),
}

impl Recipe {
    /// The tensors that it makes of `source`.
    pub(super) fn outputs(self, source: &SourceTensor<'_>) -> Vec<NewTensor> {
        let (name, array) = (&source.name, source.array);
        match self {
            // Elements of a type that is copied may be smaller than a byte.
            Self::Copy => vec![NewTensor {
                name: name.clone(),
                dtype: array.dtype,
                shape: array.shape.clone(),
                bytes: array.bytes,
            }],
            Self::Cast { to, .. } => vec![NewTensor::new(name, dtype_of(to), &array.shape)],
            Self::Int8(int8) => int8.outputs(name),
            Self::Gptq(gptq) => gptq.outputs(name),
        }
    }

    /// The matrix that it quantises, and how many rows come in one block at least and divide it.
    pub(super) fn matrix(self) -> Option<(Matrix, u64)> {
        match self {
            Self::Copy | Self::Cast { .. } => None,
            Self::Int8(int8) => Some((int8.matrix, 1)),
            Self::Gptq(gptq) => Some((gptq.matrix, gptq::PACKED_TOGETHER)),
        }
    }
}

/// The type of values of `kind` in a file.
pub(super) fn dtype_of(kind: FloatKind) -> Dtype {
    match kind {
        FloatKind::Bf16 => Dtype::BF16,
        FloatKind::F16 | FloatKind::ShortF16 => Dtype::F16,
        FloatKind::F32 => Dtype::F32,
    }
}

/// A part of a task: bytes, values or rows of the result, as its recipe counts.
#[derive(Debug, Clone)]
pub(super) struct Block<'a> {
    pub(super) task: &'a Task<'a>,
    range: Range<u64>,
}

/// What came of a block.
#[derive(Debug)]
pub(super) struct Done<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) parts: Vec<Part>,
    /// Bytes of the source that are in them.
    pub(super) read: u64,
    /// Rows with a weight that FP16 cannot hold.
    pub(super) infinite_rows: u64,
}

/// New bytes of one tensor: lines of equal length, equally far apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Which of the tensors that the task makes.
    tensor: usize,
    /// Of the first byte, in the tensor.
    offset: u64,
    bytes: Vec<u8>,
    /// Bytes of a line.
    line: usize,
    /// Bytes from one line to the next.
    stride: u64,
}

impl Part {
    /// `bytes` in one piece.
    pub(super) fn whole(tensor: usize, offset: u64, bytes: Vec<u8>) -> Self {
        Self { tensor, offset, line: bytes.len(), stride: 0, bytes }
    }

    /// The columns `range` of a matrix of `columns`, line by line; each value has `width` bytes.
    pub(super) fn columns(
        tensor: usize,
        width: u64,
        range: Range<u64>,
        columns: u64,
        bytes: Vec<u8>,
    ) -> Self {
        let line = matrix::length((range.end - range.start) * width);
        Self { tensor, offset: range.start * width, line, stride: columns * width, bytes }
    }

    /// Each piece: of which of the task's tensors, where in it, and its bytes.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (usize, u64, &[u8])> {
        let lines = self.bytes.chunks(self.line.max(1));
        (0..).zip(lines).map(|(at, line)| (self.tensor, self.offset + at * self.stride, line))
    }
}

impl<'a> Task<'a> {
    /// Bytes of memory that the smallest block takes: a row of a matrix is never divided.
    pub(super) fn line_memory(&self) -> u64 {
        self.recipe.matrix().map_or(0, |(matrix, rows)| {
            // Its bytes, their values as FP32, codes, and these packed.
            let results = if rows == 1 { 5 } else { 6 };
            matrix.row_bytes().saturating_add(matrix.cols.saturating_mul(results)).saturating_mul(rows)
        })
    }

    /// Its blocks, in order.
    pub(super) fn blocks(&'a self) -> impl Iterator<Item = Block<'a>> {
        let bytes = self.source.array.bytes;
        let (count, each, together) = match self.recipe {
            Recipe::Cast { from, .. } => (bytes / from.width() as u64, from.width() as u64, 1),
            _ => self
                .recipe
                .matrix()
                .map_or((bytes, 1, 1), |(matrix, rows)| (matrix.rows, matrix.row_bytes().max(1), rows)),
        };
        let step = (BLOCK_BYTES / each.saturating_mul(together)).max(1) * together;
        (0..count.div_ceil(step)).map(move |block| {
            let first = block * step;
            Block { task: self, range: first..count.min(first + step) }
        })
    }
}

impl<'a> Block<'a> {
    /// Reads the block and makes what becomes of it.
    ///
    /// # Errors
    /// The source cannot be read, or has a weight that cannot be quantised.
    pub(super) fn run(self, source: &Source) -> Result<Done<'a>> {
        let Self { task, range } = self;
        let array = task.source.array;
        let done = |parts, read| Done { task, parts, read, infinite_rows: 0 };
        let rows = |matrix: Matrix| matrix.read(source, array, &task.source.name, range.clone());
        let bytes_of = |matrix: Matrix| (range.end - range.start) * matrix.row_bytes();
        Ok(match task.recipe {
            Recipe::Copy => {
                let bytes = matrix::read(source, array, range.start, range.end - range.start)?;
                let read = bytes.len() as u64;
                done(vec![Part::whole(0, range.start, bytes)], read)
            }
            Recipe::Cast { from, to } => {
                let width = from.width() as u64;
                let bytes =
                    matrix::read(source, array, range.start * width, (range.end - range.start) * width)?;
                let (mut values, mut cast) = (Vec::new(), Vec::new());
                values::read(from, &bytes, &mut values);
                values::write(to, &values, &mut cast);
                done(vec![Part::whole(0, range.start * to.width() as u64, cast)], bytes.len() as u64)
            }
            Recipe::Int8(int8) => {
                let (parts, infinite_rows) = int8.quantise(rows(int8.matrix)?)?;
                Done { infinite_rows, ..done(parts, bytes_of(int8.matrix)) }
            }
            Recipe::Gptq(gptq) => done(gptq.quantise(&rows(gptq.matrix)?)?, bytes_of(gptq.matrix)),
        })
    }
}
