//! Floats given codes that their quantiser has moved.
//!
//! GPTQ feeds the error of one weight into the next ones before it rounds them, so a code is not that of its weight rounded, though seldom far from it. The
//! weight is counted in steps, of which a scale has 1 to 16: what is coded first is how many steps its multiple lies off the code's, and then its place among
//! the floats that are nearest to that multiple.
//!
//! ```text
//! length  u32   bytes of the steps
//! steps   ...   the steps off each code, coded as codes are
//! places  ...   coded as a residual given the steps
//! ```

use std::ops::Range;

use qstore_container::limits::{MAX_RESIDUAL_CHUNK_ROWS, MAX_STEP_SCALES};
use qstore_kernels::{
    Backend, BinTable, Classifier, CodeRange, CodesCoder, DecodeError, Half, Layout, ResidualCoder,
    SymbolTable, ZeroRun, multiples, nearest_byte, zero_symbols,
};

use super::bins::{BinRule, RowBins};
use super::float::{Parts, high_halves, with_rest};
use super::head::{read_tables, write_tables};
use super::workspace::{Workspace, at_least};
use crate::scheme::{FloatKind, Run, Steps, step_factor};

/// The multiples that weights are counted in, for one matrix of codes and one type of floats.
#[derive(Debug)]
pub(crate) struct StepGrid {
    float: FloatKind,
    /// Steps of a scale.
    steps: u8,
    grid: Steps,
    runs: Vec<Run>,
    /// The columns in the order of their groups, if they are not in it.
    order: Option<Vec<u32>>,
    /// Columns of each row of the places, which have one scale.
    stride: usize,
    bins: RowBins,
}

/// The multiples that there are bins of.
const MULTIPLES: CodeRange = CodeRange { least: -127.0, most: 127.0 };

/// What a chunk of floats is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenSteps<'a> {
    /// The code of each weight.
    pub(crate) codes: &'a [u8],
    /// The row that they begin with.
    pub(crate) first_row: usize,
    pub(crate) grid: &'a StepGrid,
}

impl StepGrid {
    /// `None` if the groups are too small, too many or irregular.
    pub(crate) fn new(grid: Steps, steps: u8, float: FloatKind) -> Option<Self> {
        let stride = grid.stride()?;
        if (grid.cols() / stride).checked_mul(grid.rows()).is_none_or(|scales| scales > MAX_STEP_SCALES) {
            return None;
        }
        let rule = BinRule::Steps { steps, symmetric: grid.is_symmetric(), float };
        let bins = RowBins::new(rule, grid.strided_scales(stride));
        Some(Self { float, steps, runs: grid.runs(), order: grid.order(), grid, stride, bins })
    }

    /// Rows of places in a row of the matrix.
    pub(crate) fn strides(&self) -> usize {
        self.grid.cols() / self.stride
    }

    /// Calls `work` with each run of columns that have one group in some rows, with its scale and zero-point.
    fn for_each_run(&self, first_row: usize, elements: usize, mut work: impl FnMut(Range<usize>, f32, u8)) {
        for (row, start) in (first_row..).zip((0..elements).step_by(self.grid.cols())) {
            for run in &self.runs {
                let (scale, zero) = self.grid.of(row, run.group);
                work(start + run.start..(start + run.end).min(elements), scale, zero);
            }
        }
    }

    /// The codes as multiples of a step, modulo 256.
    fn multiples(&self, given: GivenSteps, out: &mut [u8]) {
        let cols = self.grid.cols().max(1);
        let mut runs = Vec::with_capacity(self.runs.len());
        let rows = given.codes.chunks(cols).zip(out.chunks_mut(cols));
        for (row, (codes, out)) in (given.first_row..).zip(rows) {
            runs.clear();
            let of_run =
                |run: &Run| ZeroRun { len: run.end - run.start, zero: self.grid.of(row, run.group).1 };
            runs.extend(self.runs.iter().map(of_run));
            multiples(Backend::best(), &runs, codes, self.steps, out);
        }
    }

    /// The multiple that each weight is nearest to, from -127 to 127.
    fn nearest(&self, raw: &[u8], first_row: usize, out: &mut [u8]) {
        let width = self.float.width();
        self.for_each_run(first_row, out.len(), |run, scale, _| {
            let factor = step_factor(scale, self.steps);
            let weights = raw[run.start * width..run.end * width].chunks_exact(width);
            for (weight, out) in weights.zip(&mut out[run]) {
                let weight = self.float.read(weight);
                *out = nearest_byte(weight * factor, MULTIPLES);
            }
        });
    }

    /// The elements of rows in the order of the groups.
    fn sorted<T: Copy + Default>(&self, elements: &[T]) -> Vec<T> {
        let Some(order) = &self.order else { return elements.to_vec() };
        let rows = elements.chunks(self.grid.cols());
        rows.flat_map(|row| order.iter().map(|&column| row.get(column as usize).copied().unwrap_or_default()))
            .collect()
    }

    /// Inverse of [`sorted`](Self::sorted).
    fn unsort<T: Copy>(&self, sorted: &[T], out: &mut [T]) {
        let Some(order) = &self.order else { return out.copy_from_slice(sorted) };
        let rows = sorted.chunks(self.grid.cols()).zip(out.chunks_mut(self.grid.cols()));
        for (row, out) in rows {
            for (value, &column) in row.iter().zip(order) {
                out[column as usize] = *value;
            }
        }
    }

    fn with_bins<R>(&self, first_row: usize, elements: usize, work: impl FnOnce(&[&BinTable]) -> R) -> R {
        let first = first_row.saturating_mul(self.strides());
        self.bins.with_rows(first..first.saturating_add(elements / self.stride), work)
    }
}

/// Codes floats of one kind given the codes of one array.
#[derive(Debug, Clone)]
pub(crate) struct StepResidual {
    float: FloatKind,
    shifts: CodesCoder,
    places: ResidualCoder,
}

impl StepResidual {
    pub(crate) fn new(
        float: FloatKind,
        tables: Vec<SymbolTable>,
        zeros: SymbolTable,
        layout: Layout,
    ) -> Result<Self, DecodeError> {
        let shifts = CodesCoder::new(tables, layout)?;
        Ok(Self { float, shifts, places: ResidualCoder::new(float.mantissa_bits(), zeros, layout)? })
    }

    /// The floats.
    pub(crate) fn float(&self) -> FloatKind {
        self.float
    }

    pub(crate) fn open(float: FloatKind, layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        let tables = read_tables(head)?;
        Self::new(float, tables, SymbolTable::read(head)?, layout)
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = write_tables(self.shifts.tables());
        self.places.zero_table().write(&mut head);
        head
    }

    pub(crate) fn encode(
        &self,
        raw: &[u8],
        given: GivenSteps,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let grid = given.grid;
        let Split { shifts, multiples, values } = split(raw, given)?;
        let shifts =
            self.shifts.encode(&shifts, grid.grid.cols(), classifier, &mut workspace.scratch).ok()?;
        let places = grid
            .with_bins(given.first_row, multiples.len(), |bins| {
                self.places.encode(&multiples, &values, grid.stride, bins, &mut workspace.scratch)
            })
            .ok()?;
        // The low halves stay where they were.
        let places = with_rest(self.float, raw, places)?;
        let mut out = u32::try_from(shifts.len()).ok()?.to_le_bytes().to_vec();
        out.extend(shifts);
        out.extend(places);
        Some(out)
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        given: GivenSteps,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let grid = given.grid;
        let (length, rest) = stored.split_first_chunk().ok_or(DecodeError::Truncated)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::Truncated)?;
        let (shifts, places) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        if given.codes.len() * self.float.width() != out.len()
            || !given.codes.len().is_multiple_of(grid.grid.cols().max(1))
        {
            return Err(DecodeError::Corrupt("floats of another number than the codes that they are given"));
        }
        if (given.codes.len() / grid.stride) as u64 > MAX_RESIDUAL_CHUNK_ROWS {
            return Err(DecodeError::Corrupt("a chunk of more groups than a reader accepts"));
        }
        let Workspace { scratch, high, fine, shifts: buffer, .. } = workspace;
        let multiples = at_least(fine, given.codes.len());
        let decoded = at_least(buffer, given.codes.len());
        self.shifts.decode(shifts, grid.grid.cols(), decoded)?;
        grid.multiples(given, multiples);
        multiples
            .iter_mut()
            .zip(decoded)
            .for_each(|(multiple, shift)| *multiple = multiple.wrapping_add(*shift));
        let sorted;
        let multiples = if grid.order.is_some() {
            sorted = grid.sorted(multiples);
            &sorted
        } else {
            &*multiples
        };
        Parts::of(self.float, places, out.len())?.decode(out, high, |part, halves| {
            grid.with_bins(given.first_row, multiples.len(), |bins| {
                if grid.order.is_none() {
                    return self.places.decode(part, multiples, grid.stride, bins, scratch, halves);
                }
                let mut values = vec![[0; 2]; halves.len()];
                self.places.decode(part, multiples, grid.stride, bins, scratch, &mut values)?;
                grid.unsort(&values, halves);
                Ok(())
            })
        })
    }
}

/// A chunk in its parts.
pub(crate) struct Split {
    /// Steps off each code, modulo 256.
    pub(crate) shifts: Vec<u8>,
    /// The multiple that each weight is nearest to, in the order of the groups.
    multiples: Vec<u8>,
    /// The high halves of the weights, in the order of the groups.
    values: Vec<Half>,
}

impl Split {
    /// Counts the symbols that the multiples of 0 take.
    pub(crate) fn count_zeros(&self, given: GivenSteps, into: &mut [u64; 256]) {
        let grid = given.grid;
        grid.with_bins(given.first_row, self.multiples.len(), |bins| {
            zero_symbols(&self.multiples, &self.values, grid.stride, bins, grid.float.mantissa_bits())
                .for_each(|symbol| into[usize::from(symbol)] += 1);
        });
    }
}

/// Takes a chunk apart; `None` if there are not as many codes, or no whole rows.
pub(crate) fn split(raw: &[u8], given: GivenSteps) -> Option<Split> {
    let grid = given.grid;
    let count = given.codes.len();
    if (count / grid.stride) as u64 > MAX_RESIDUAL_CHUNK_ROWS
        || count * grid.float.width() != raw.len()
        || !count.is_multiple_of(grid.grid.cols().max(1))
    {
        return None;
    }
    let mut multiples = vec![0; count];
    grid.nearest(raw, given.first_row, &mut multiples);
    let mut shifts = vec![0; count];
    grid.multiples(given, &mut shifts);
    shifts.iter_mut().zip(&multiples).for_each(|(shift, multiple)| *shift = multiple.wrapping_sub(*shift));
    let values = grid.sorted(&high_halves(grid.float, raw));
    Some(Split { shifts, multiples: grid.sorted(&multiples), values })
}
