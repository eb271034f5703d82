//! What the codes of a matrix stand for: `scale * (code - zero)`, with a scale and a zero-point for each group of a row's columns.

use half::{bf16, f16};
use qstore_container::{ArrayRef, Dtype, QuantGrid};
use qstore_kernels::BinTable;

use super::FloatKind;
use super::edges::bins_of;
use crate::codec::unpack_codes;

/// An array that a grid is made of.
#[derive(Debug, Clone)]
pub(crate) struct GridArray {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// Columns of one group that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) group: usize,
}

/// The grid of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Steps {
    rows: usize,
    cols: usize,
    /// Groups of a row.
    groups: usize,
    group_of_column: Vec<u32>,
    /// A scale for each group of each row, those of a row together.
    scales: Vec<f32>,
    /// As many zero-points; empty if all are 0.
    zeros: Vec<u8>,
    /// Bits of a packed code; `None` if codes are signed bytes.
    bits: Option<u8>,
}

/// Columns of which all must be of one group, for a group of fewer costs more than it says.
const LEAST_RUN: usize = 32;

impl Steps {
    /// Reads the grid of a matrix of this shape; `fetch` gets its arrays. The inner error says what does not fit.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub(crate) fn open<E>(
        grid: &QuantGrid,
        [rows, cols]: [u64; 2],
        fetch: impl Fn(&ArrayRef) -> Result<GridArray, E>,
    ) -> Result<Result<Self, &'static str>, E> {
        let (Ok(rows), Ok(cols)) = (usize::try_from(rows), usize::try_from(cols)) else {
            return Ok(Err("a matrix that is too large"));
        };
        Ok(match grid {
            QuantGrid::LlmInt8 { scale } => Self::of_rows(rows, cols, &fetch(scale)?),
            QuantGrid::Gptq { bits, scale, zeros, zero_offset, groups } => {
                let groups = groups.as_ref().map(&fetch).transpose()?;
                let parts = (&fetch(scale)?, &fetch(zeros)?, groups.as_ref());
                Self::of_groups(rows, cols, *bits, *zero_offset, parts)
            }
        })
    }

    fn of_rows(rows: usize, cols: usize, scale: &GridArray) -> Result<Self, &'static str> {
        if scale.dtype != Dtype::F32 || scale.shape != [rows as u64] {
            return Err("scales that do not fit the matrix");
        }
        let scales = floats(scale)?.into_iter().map(|scale| scale / 127.0).collect();
        Ok(Self {
            rows,
            cols,
            groups: 1,
            group_of_column: vec![0; cols],
            scales,
            zeros: Vec::new(),
            bits: None,
        })
    }

    fn of_groups(
        rows: usize,
        cols: usize,
        bits: u8,
        zero_offset: u8,
        (scale, zeros, groups): (&GridArray, &GridArray, Option<&GridArray>),
    ) -> Result<Self, &'static str> {
        let &[count, scaled] = &scale.shape[..] else { return Err("scales that are no matrix") };
        let count = usize::try_from(count).ok().filter(|count| (1..=cols).contains(count));
        let count = count.ok_or("a number of groups that does not fit the matrix")?;
        if scaled != rows as u64 {
            return Err("scales that do not fit the matrix");
        }
        let zero_bits = rows * usize::from(bits);
        let words = (zero_bits / 32) as u64;
        if !zero_bits.is_multiple_of(32) || zeros.dtype != Dtype::I32 || zeros.shape != [count as u64, words]
        {
            return Err("zero-points that do not fit the matrix");
        }
        let group_of_column = match groups {
            Some(groups) if groups.dtype != Dtype::I32 || groups.shape != [cols as u64] => {
                return Err("groups that do not fit the matrix");
            }
            Some(groups) => {
                let groups = groups.bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
                groups.collect::<Vec<u32>>()
            }
            None => {
                let size = cols.div_ceil(count);
                (0..cols).map(|column| u32::try_from(column / size).unwrap_or(u32::MAX)).collect()
            }
        };
        if group_of_column.len() != cols || group_of_column.iter().any(|group| *group as usize >= count) {
            return Err("a column of a group that there is not");
        }
        let mask = u8::MAX >> (8 - bits);
        let mut row = vec![0; rows];
        let mut by_group = Vec::with_capacity(rows * count);
        for words in zeros.bytes.chunks_exact(usize::try_from(words * 4).unwrap_or(usize::MAX).max(1)) {
            unpack_codes(words, bits, &mut row);
            by_group.extend(row.iter().map(|zero| zero.wrapping_add(zero_offset) & mask));
        }
        let scales = floats(scale)?;
        if scales.len() != rows * count || by_group.len() != rows * count {
            return Err("scales or zero-points that are cut short");
        }
        Ok(Self {
            rows,
            cols,
            groups: count,
            group_of_column,
            scales: by_row(&scales, rows, count),
            zeros: by_row(&by_group, rows, count),
            bits: Some(bits),
        })
    }

    /// Columns of the matrix.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Bits of a packed code; `None` if codes are signed bytes.
    pub(crate) fn bits(&self) -> Option<u8> {
        self.bits
    }

    /// Scale and zero-point of a group of a row.
    pub(crate) fn of(&self, row: usize, group: usize) -> (f32, u8) {
        let index = row * self.groups + group;
        let zero = self.zeros.get(index).copied().unwrap_or(0);
        (self.scales.get(index).copied().unwrap_or(0.0), zero)
    }

    /// The columns in the order of their groups, if they are not in it; those of a group in their own order.
    pub(crate) fn order(&self) -> Option<Vec<u32>> {
        if self.group_of_column.is_sorted() {
            return None;
        }
        let mut order: Vec<u32> = (0..u32::try_from(self.cols).unwrap_or(u32::MAX)).collect();
        order.sort_by_key(|column| self.group_of_column[*column as usize]);
        Some(order)
    }

    /// The largest number of columns such that all so many columns, in the order of groups, are of one group; `None` if it is too small to be of use.
    pub(crate) fn stride(&self) -> Option<usize> {
        let mut sizes = vec![0usize; self.groups];
        self.group_of_column.iter().for_each(|group| sizes[*group as usize] += 1);
        let stride = sizes.into_iter().fold(0, greatest_common_divisor);
        (stride >= LEAST_RUN.min(self.cols)).then_some(stride)
    }

    /// In the order of the groups, the scale of every `stride` columns of every row.
    pub(crate) fn strided_scales(&self, stride: usize) -> Vec<f32> {
        let mut sorted = self.group_of_column.clone();
        sorted.sort_unstable();
        let of_row = |row: usize| {
            let scales = &self.scales[row * self.groups..(row + 1) * self.groups];
            sorted.iter().step_by(stride.max(1)).map(|group| scales[*group as usize])
        };
        (0..self.rows).flat_map(of_row).collect()
    }

    /// By how much the codes of the first rows exceed their zero-points on average.
    pub(crate) fn mean_off(&self, codes: &[u8]) -> f64 {
        let mut sum = 0.0;
        for (row, codes) in codes.chunks_exact(self.cols.max(1)).enumerate() {
            for run in self.runs() {
                let zero = f64::from(self.of(row, run.group).1);
                let of_run = &codes[run.start..run.end];
                let codes: u64 = of_run.iter().map(|code| u64::from(*code)).sum();
                #[expect(clippy::cast_precision_loss, reason = "sums of bytes of a row")]
                {
                    sum += codes as f64 - zero * of_run.len() as f64;
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let count = codes.len().max(1) as f64;
        if self.bits.is_some() { sum / count } else { 0.0 }
    }

    /// Whether every zero-point is the middle of the codes.
    pub(crate) fn is_symmetric(&self) -> bool {
        let middle = self.bits.map_or(0, |bits| 1 << (bits - 1));
        self.zeros.iter().all(|zero| *zero == middle)
    }

    /// The groups of the columns, as runs.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut start = 0;
        let of_group = |columns: &[u32]| {
            let run = Run { start, end: start + columns.len(), group: columns[0] as usize };
            start = run.end;
            run
        };
        self.group_of_column.chunk_by(|a, b| a == b).map(of_group).collect()
    }
}

/// What is given for each group of each row, those of a group together, with those of a row together.
fn by_row<T: Copy>(by_group: &[T], rows: usize, groups: usize) -> Vec<T> {
    (0..rows).flat_map(|row| (0..groups).map(move |group| by_group[group * rows + row])).collect()
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn floats(array: &GridArray) -> Result<Vec<f32>, &'static str> {
    let halves = || array.bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    match array.dtype {
        Dtype::F16 => Ok(halves().map(|bits| f16::from_bits(bits).to_f32()).collect()),
        Dtype::BF16 => Ok(halves().map(|bits| bf16::from_bits(bits).to_f32()).collect()),
        Dtype::F32 => Ok(array.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        _ => Err("scales that are no floats"),
    }
}

/// The floats that are nearest to each multiple of `scale / steps`, up to the 127th. That one's bin ends after the next multiple, or far beyond where
/// codes are asymmetric.
pub(crate) fn step_bins(scale: f32, steps: u8, symmetric: bool, float: FloatKind) -> BinTable {
    let (factor, step) = (step_factor(scale, steps), scale / f32::from(steps));
    let code = |magnitude: u32| (float.value(magnitude) * factor).round_ties_even();
    let last = if symmetric { 128.0 } else { 175.0 };
    bins_of(float, step, code, |magnitude| code(magnitude) > last, (last + 0.5) * step)
}

/// What a weight is multiplied with to count it in steps.
pub(crate) fn step_factor(scale: f32, steps: u8) -> f32 {
    f32::from(steps) / scale
}
