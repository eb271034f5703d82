//! Making the new tensors, block by block: each is a few megabytes of one source tensor, whatever the model's size.

use std::ops::Range;

use qstore_container::Dtype;

use super::checkpoint::SourceTensor;
use super::values;
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::ingest::Source;
use crate::save::NewTensor;
use crate::scheme::{FloatKind, quantise_row};

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
    /// Codes, a scale for each row, and the number of the layout: the values of type `from`, rounded to `loaded`, are quantised.
    Quantise { from: FloatKind, loaded: FloatKind, rows: u64, cols: u64, transposed: bool },
}

impl Recipe {
    /// The tensors that it makes of `source`.
    pub(super) fn outputs(self, source: &SourceTensor<'_>) -> Vec<NewTensor> {
        let array = source.array;
        let tensor = |name: &str, dtype: Dtype, shape: &[u64], bytes: u64| NewTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        };
        match self {
            Self::Copy => vec![tensor(&source.name, array.dtype, &array.shape, array.bytes)],
            Self::Cast { from, to } => {
                let bytes = array.bytes / from.width() as u64 * to.width() as u64;
                vec![tensor(&source.name, dtype_of(to), &array.shape, bytes)]
            }
            Self::Quantise { rows, cols, .. } => {
                let module = source.name.strip_suffix("weight").unwrap_or(&source.name);
                vec![
                    tensor(&source.name, Dtype::I8, &[rows, cols], rows * cols),
                    tensor(&format!("{module}SCB"), Dtype::F32, &[rows], rows * 4),
                    // 0: the codes lie row by row. New files are zero.
                    tensor(&format!("{module}weight_format"), Dtype::U8, &[], 1),
                ]
            }
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
    /// New bytes: of which new tensor, from which of its bytes on.
    pub(super) parts: Vec<(usize, u64, Vec<u8>)>,
    /// Bytes of the source that are in them.
    pub(super) read: u64,
    /// Rows with a weight that FP16 cannot hold.
    pub(super) infinite_rows: u64,
}

impl<'a> Task<'a> {
    /// Bytes of memory that the smallest block takes: a row of a matrix is never divided.
    pub(super) fn line_memory(&self) -> u64 {
        match self.recipe {
            Recipe::Quantise { from, cols, .. } => cols.saturating_mul(from.width() as u64 + 5),
            Recipe::Copy | Recipe::Cast { .. } => 0,
        }
    }

    /// Its blocks, in order.
    pub(super) fn blocks(&'a self) -> impl Iterator<Item = Block<'a>> {
        let bytes = self.source.array.bytes;
        let (count, each) = match self.recipe {
            Recipe::Copy => (bytes, 1),
            Recipe::Cast { from, .. } => (bytes / from.width() as u64, from.width() as u64),
            Recipe::Quantise { from, rows, cols, .. } => (rows, (cols * from.width() as u64).max(1)),
        };
        let step = (BLOCK_BYTES / each).max(1);
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
    /// The source cannot be read, or has a weight that is no number.
    pub(super) fn run(self, source: &Source) -> Result<Done<'a>> {
        let Self { task, range } = self;
        let count = range.end - range.start;
        match task.recipe {
            Recipe::Copy => {
                let bytes = read(source, task, range.start, count)?;
                let read = bytes.len() as u64;
                Ok(Done { task, parts: vec![(task.first, range.start, bytes)], read, infinite_rows: 0 })
            }
            Recipe::Cast { from, to } => {
                let width = from.width() as u64;
                let bytes = read(source, task, range.start * width, count * width)?;
                let (mut values, mut cast) = (Vec::new(), Vec::new());
                values::read(from, &bytes, &mut values);
                values::write(to, &values, &mut cast);
                let parts = vec![(task.first, range.start * to.width() as u64, cast)];
                Ok(Done { task, parts, read: bytes.len() as u64, infinite_rows: 0 })
            }
            Recipe::Quantise { from, loaded, rows, cols, transposed } => {
                let mut values = if transposed {
                    read_columns(source, task, from, rows, range.clone())?
                } else {
                    let width = cols * from.width() as u64;
                    let bytes = read(source, task, range.start * width, count * width)?;
                    let mut values = Vec::with_capacity(bytes.len() / from.width());
                    values::read(from, &bytes, &mut values);
                    values
                };
                values::round(&mut values, from, loaded);
                let read = values.len() as u64 * from.width() as u64;
                let (mut codes, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
                let mut infinite_rows = 0;
                for (row, weights) in (range.start..).zip(values.chunks_exact(values.len() / length(count))) {
                    if weights.iter().any(|w| w.is_nan()) {
                        return Err(no_number(source, task, row, transposed));
                    }
                    let scale = quantise_row(weights, &mut codes);
                    infinite_rows += u64::from(scale.is_infinite());
                    scales.extend(scale.to_le_bytes());
                }
                let parts =
                    vec![(task.first, range.start * cols, codes), (task.first + 1, range.start * 4, scales)];
                Ok(Done { task, parts, read, infinite_rows })
            }
        }
    }
}

/// A number of rows of one block, which is small enough for any machine.
fn length(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX).max(1)
}

fn no_number(source: &Source, task: &Task<'_>, row: u64, transposed: bool) -> Error {
    let line = if transposed { "column" } else { "row" };
    let what = format!(
        "{} has a weight that is no number (NaN) in {line} {row}, for which INT8 has no code; was the model trained and saved well?",
        task.source.name
    );
    Error::input(source.path_of(task.source.array), what)
}

fn read(source: &Source, task: &Task<'_>, offset: u64, length: u64) -> Result<Vec<u8>> {
    let array = task.source.array;
    let mut bytes = zeroed(length).at(source.path(), "cannot read")?;
    source.read(array, offset, &mut bytes)?;
    Ok(bytes)
}

/// Columns `range` of a matrix that has `width` of them, one after another.
fn read_columns(
    source: &Source,
    task: &Task<'_>,
    kind: FloatKind,
    width: u64,
    range: Range<u64>,
) -> Result<Vec<f32>> {
    let value = kind.width() as u64;
    let columns = range.end - range.start;
    let rows = task.source.array.bytes / (width * value);
    let mut bytes = zeroed(rows * columns * value).at(source.path(), "cannot read")?;
    for (row, part) in (0..rows).zip(bytes.chunks_exact_mut(length(columns * value))) {
        source.read(task.source.array, (row * width + range.start) * value, part)?;
    }
    let mut lines = Vec::new();
    values::read(kind, &bytes, &mut lines);
    let columns = length(columns);
    Ok((0..columns).flat_map(|column| lines.iter().skip(column).step_by(columns).copied()).collect())
}
