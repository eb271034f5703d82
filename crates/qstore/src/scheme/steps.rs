//! What the codes of a matrix stand for: `scale * (code - zero)`, with a scale and a zero-point for each group of a row's columns.

use half::{bf16, f16};
use qstore_container::{ArrayRef, Dtype, QuantGrid};
use qstore_kernels::BinTable;

use super::FloatKind;
use super::edges::{bins_of, rounded};
use crate::codec::{transpose, unpack_codes};

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
        if !is_one_a_row(&scale.shape, rows as u64) {
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
        let words = (rows * usize::from(bits)).div_ceil(32) as u64;
        if zeros.dtype != Dtype::I32 || zeros.shape != [count as u64, words] {
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
        let width = if scale.dtype == Dtype::F32 { 4 } else { 2 };
        if scale.bytes.len() != rows * count * width || zeros.bytes.len() as u64 != words * 4 * count as u64 {
            return Err("scales or zero-points that are cut short");
        }
        let mut zeros_of_groups = vec![0; rows * count];
        let words = zeros.bytes.chunks_exact(usize::try_from(words * 4).unwrap_or(usize::MAX).max(1));
        for (words, row) in words.zip(zeros_of_groups.chunks_exact_mut(rows.max(1))) {
            unpack_codes(words, bits, row);
            row.iter_mut().for_each(|zero| *zero = zero.wrapping_add(zero_offset) & mask);
        }
        // A row's values follow each other in memory, as rows are what is decoded.
        let mut by_row = GridArray { bytes: vec![0; scale.bytes.len()], ..scale.clone() };
        transpose(&scale.bytes, rows as u64, width as u64, &mut by_row.bytes);
        let mut zeros = vec![0; rows * count];
        transpose(&zeros_of_groups, rows as u64, 1, &mut zeros);
        Ok(Self {
            rows,
            cols,
            groups: count,
            group_of_column,
            scales: floats(&by_row)?,
            zeros,
            bits: Some(bits),
        })
    }

    /// Columns of the matrix.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Rows of the matrix.
    pub(crate) fn rows(&self) -> usize {
        self.rows
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
        let groups = sorted.iter().step_by(stride.max(1)).map(|group| *group as usize);
        if groups.eq(0..self.groups) {
            return self.scales.clone();
        }
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

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Whether an array of this shape has one element for each of `rows`: as `[rows]`, `[rows, 1]` or `[1, rows]`.
pub(crate) fn is_one_a_row(shape: &[u64], rows: u64) -> bool {
    shape.len() <= 2
        && shape.contains(&rows)
        && shape.iter().all(|dimension| [1, rows].contains(dimension))
        && shape.iter().filter(|dimension| **dimension == rows).count()
            == if rows == 1 { shape.len() } else { 1 }
}

/// Scales as F32.
pub(crate) fn floats(array: &GridArray) -> Result<Vec<f32>, &'static str> {
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
    let code = |magnitude: u32| rounded(float.value(magnitude) * factor);
    let last = if symmetric { 128.0 } else { 175.0 };
    bins_of(float, step, code, |magnitude| code(magnitude) > last, (last + 0.5) * step)
}

/// What a weight is multiplied with to count it in steps.
pub(crate) fn step_factor(scale: f32, steps: u8) -> f32 {
    f32::from(steps) / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refer(name: &str) -> ArrayRef {
        let array = format!("tensor:{name}").parse().unwrap();
        ArrayRef { variant: "v".parse().unwrap(), array }
    }

    fn words(shape: &[u64], words: &[u32]) -> GridArray {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        GridArray { dtype: Dtype::I32, shape: shape.to_vec(), bytes }
    }

    fn scales(dtype: Dtype, shape: &[u64], values: &[f32]) -> GridArray {
        let bytes = values.iter().flat_map(|value| match dtype {
            Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        });
        GridArray { dtype, shape: shape.to_vec(), bytes: bytes.collect() }
    }

    struct Parts {
        bits: u8,
        zero_offset: u8,
        scale: GridArray,
        zeros: GridArray,
        groups: Option<GridArray>,
    }

    impl Parts {
        /// 4 rows and 8 columns in 2 groups: scale 10 * group + row, zero-point 4 * group + row.
        fn new() -> Self {
            let values = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
            Self {
                bits: 8,
                zero_offset: 0,
                scale: scales(Dtype::F16, &[2, 4], &values),
                zeros: words(&[2, 1], &[0x0302_0100, 0x0706_0504]),
                groups: None,
            }
        }

        fn open(&self) -> Result<Steps, &'static str> {
            let grid = QuantGrid::Gptq {
                bits: self.bits,
                scale: refer("scale"),
                zeros: refer("zeros"),
                zero_offset: self.zero_offset,
                groups: self.groups.as_ref().map(|_| refer("groups")),
            };
            let fetch = |array: &ArrayRef| {
                Ok::<_, ()>(match array.array.tensor().unwrap() {
                    "scale" => self.scale.clone(),
                    "zeros" => self.zeros.clone(),
                    _ => self.groups.clone().unwrap(),
                })
            };
            Steps::open(&grid, [4, 8], fetch).unwrap()
        }
    }

    fn runs(steps: &Steps) -> Vec<(usize, usize, usize)> {
        steps.runs().into_iter().map(|run| (run.start, run.end, run.group)).collect()
    }

    #[test]
    fn each_group_of_each_row_has_its_own() {
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
            let mut parts = Parts::new();
            parts.scale = scales(dtype, &[2, 4], &[0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
            let steps = parts.open().unwrap();
            assert_eq!(
                (0..4).map(|row| steps.of(row, 0)).collect::<Vec<_>>(),
                [(0.0, 0), (1.0, 1), (2.0, 2), (3.0, 3)]
            );
            assert_eq!(
                (0..4).map(|row| steps.of(row, 1)).collect::<Vec<_>>(),
                [(10.0, 4), (11.0, 5), (12.0, 6), (13.0, 7)]
            );
            assert_eq!(runs(&steps), [(0, 4, 0), (4, 8, 1)]);
            assert_eq!((steps.order(), steps.stride()), (None, None), "groups of 4 are too small");
        }
    }

    #[test]
    fn zero_points_wrap_around() {
        for (bits, stored, want) in
            [(8u8, 255u32, 0u8), (4, 15, 0), (3, 7, 0), (2, 3, 0), (4, 7, 8), (2, 1, 2)]
        {
            let mut parts = Parts::new();
            parts.bits = bits;
            let word = (0..4).fold(0, |word, code| word | stored << (code * u32::from(bits)));
            parts.zeros = words(&[2, 1], &[word, word]);
            assert_eq!(parts.open().unwrap().of(3, 1).1, u8::try_from(stored).unwrap());
            parts.zero_offset = 1;
            assert_eq!(parts.open().unwrap().of(3, 1).1, want, "{bits} bits");
        }
    }

    #[test]
    fn columns_may_be_in_any_order() {
        let mut parts = Parts::new();
        parts.groups = Some(words(&[8], &[1, 0, 0, 1, 1, 1, 0, 1]));
        let steps = parts.open().unwrap();
        assert_eq!(runs(&steps), [(0, 1, 1), (1, 3, 0), (3, 6, 1), (6, 7, 0), (7, 8, 1)]);
        assert_eq!(steps.order().unwrap(), [1, 2, 6, 0, 3, 4, 5, 7]);
        assert_eq!(steps.stride(), None);
        // All columns of one group; there is another, which has none.
        parts.groups = Some(words(&[8], &[1; 8]));
        let steps = parts.open().unwrap();
        assert_eq!((runs(&steps), steps.order(), steps.stride()), (vec![(0, 8, 1)], None, Some(8)));
        assert_eq!(steps.strided_scales(8), [10.0, 11.0, 12.0, 13.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |change: &dyn Fn(&mut Parts), why: &str| {
            let mut parts = Parts::new();
            change(&mut parts);
            let found = parts.open().unwrap_err();
            assert!(found.contains(why), "{found}");
        };
        let groups = |values: [u32; 8]| move |p: &mut Parts| p.groups = Some(words(&[8], &values));
        refused(&groups([0, 0, 0, 0, 0, 0, 0, 2]), "a group that there is not");
        refused(&groups([u32::MAX, 0, 0, 0, 0, 0, 0, 0]), "a group that there is not");
        refused(&groups([1 << 31, 0, 0, 0, 0, 0, 0, 0]), "a group that there is not");
        refused(&|p| p.groups = Some(words(&[7], &[0; 7])), "groups that do not fit");
        refused(&|p| p.groups = Some(words(&[8], &[0; 7])), "a group that there is not");
        refused(
            &|p| p.groups = Some(GridArray { dtype: Dtype::I64, ..words(&[8], &[0; 16]) }),
            "groups that do not fit",
        );
        refused(&|p| p.scale = scales(Dtype::F16, &[0, 4], &[]), "number of groups");
        refused(&|p| p.scale = scales(Dtype::F16, &[9, 4], &[1.0; 36]), "number of groups");
        refused(&|p| p.scale = scales(Dtype::F16, &[u64::MAX, 4], &[]), "number of groups");
        refused(&|p| p.scale = scales(Dtype::F16, &[2, 3], &[1.0; 6]), "scales that do not fit");
        refused(&|p| p.scale = scales(Dtype::F16, &[8], &[1.0; 8]), "no matrix");
        refused(&|p| p.scale.dtype = Dtype::F64, "no floats");
        refused(&|p| p.scale.bytes.truncate(15), "cut short");
        refused(&|p| p.zeros = words(&[2, 2], &[0; 4]), "zero-points that do not fit");
        refused(&|p| p.zeros = words(&[1, 1], &[0]), "zero-points that do not fit");
        refused(&|p| p.zeros.dtype = Dtype::F32, "zero-points that do not fit");
        refused(&|p| p.zeros.bytes.truncate(7), "cut short");
        // Rows of LLM.int8() have a scale each.
        let grid = QuantGrid::LlmInt8 { scale: refer("scale") };
        let open = |scale: GridArray| Steps::open(&grid, [2, 40], |_| Ok::<_, ()>(scale.clone())).unwrap();
        assert!(open(scales(Dtype::F32, &[3], &[1.0; 3])).is_err());
        assert!(open(scales(Dtype::F32, &[2, 2], &[1.0; 4])).is_err());
        assert!(open(scales(Dtype::F32, &[1, 2, 1], &[1.0; 2])).is_err());
        for shape in [&[2][..], &[2, 1], &[1, 2]] {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
                assert_eq!(open(scales(dtype, shape, &[127.0, -254.0])).unwrap().of(1, 0), (-2.0, 0));
            }
        }
        let steps = open(scales(Dtype::F32, &[2], &[127.0, -254.0])).unwrap();
        assert_eq!((steps.of(0, 0), steps.of(1, 0), steps.stride()), ((1.0, 0), (-2.0, 0), Some(40)));
    }

    #[test]
    fn strides_are_what_group_sizes_share() {
        for (cols, group, want) in [
            (256usize, 128usize, Some(128)),
            (448, 128, Some(64)),
            (192, 128, Some(64)),
            (200, 64, None),
            (16, 16, Some(16)),
            (96, 40, None),
        ] {
            let groups = cols.div_ceil(group);
            let of_column: Vec<u32> = (0..cols).map(|c| u32::try_from(c / group).unwrap()).collect();
            let (scale, zeros) =
                (scales(Dtype::F32, &[groups as u64, 8], &vec![1.0; 8 * groups]), vec![0; groups]);
            let zeros = words(&[groups as u64, 1], &zeros);
            let parts = (&scale, &zeros, Some(&words(&[cols as u64], &of_column)));
            let steps = Steps::of_groups(8, cols, 4, 1, parts).unwrap();
            assert_eq!(steps.stride(), want, "{cols} columns in groups of {group}");
            if let Some(stride) = want {
                assert_eq!(steps.strided_scales(stride).len(), 8 * cols / stride);
            }
        }
    }

    /// What scales there are decides size alone: bins of any are made.
    #[test]
    fn any_scale_has_bins() {
        let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45, -1e-40, -2.5];
        for scale in odd {
            for float in [FloatKind::Bf16, FloatKind::F16, FloatKind::F32] {
                for steps in [1, 2, 4, 8, 16] {
                    for symmetric in [true, false] {
                        step_bins(scale, steps, symmetric, float);
                    }
                }
            }
        }
    }
}
