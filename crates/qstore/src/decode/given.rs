//! What residuals are given: codes of lower variants, row by row, and what they stand for.

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use qstore_container::limits::MAX_TRANSPOSED_BYTES;
use qstore_container::{ArrayRef, Encoding, QuantGrid, Quantised};

use super::array::ArrayReader;
use super::variant::Variant;
use crate::codec::{
    BinRule, Given, GivenCodes, GivenRows, GivenSteps, Predictor, RowBins, StepGrid, at_least, transpose,
    unpack_codes, with_workspace,
};
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::scheme::{FloatKind, GridArray, Steps, floats};

/// An array of codes, wherever its bytes lie.
pub(crate) trait CodeBytes: Debug + Send + Sync {
    /// How many there are.
    fn bytes(&self) -> Result<u64>;
    /// Fills `out` from byte `offset` on.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;
    /// Elements of a row of the transposed array, if that can be read as fast as the array. One that refers to another has the bytes of that, but maybe
    /// another shape.
    fn turned_cols(&self) -> Option<u64>;
    /// Fills `out` from byte `offset` of the transposed array on, where there are [`turned_cols`](Self::turned_cols).
    fn read_turned(&self, offset: u64, out: &mut [u8]) -> Result<()>;
    /// What errors name.
    fn path(&self) -> &Path;
    /// An error about the array.
    fn wrong(&self, what: &str) -> Error;
}

impl CodeBytes for ArrayReader {
    fn bytes(&self) -> Result<u64> {
        self.bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read(offset, out)
    }

    fn turned_cols(&self) -> Option<u64> {
        let stored = self.stored();
        stored.encoding.is_transposed().then_some(stored.grid.cols)
    }

    fn read_turned(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read_as_coded(offset, out)
    }

    fn path(&self) -> &Path {
        self.folder()
    }

    fn wrong(&self, what: &str) -> Error {
        self.damaged(&what)
    }
}

/// The codes of a quantised matrix, one a byte, in rows of output features.
#[derive(Debug)]
pub(crate) struct CodeReader {
    reader: Box<dyn CodeBytes>,
    cols: u64,
    /// Bits of a packed code.
    bits: Option<u8>,
    /// The transposed words, if they are not stored so.
    turned: OnceLock<Vec<u8>>,
}

impl CodeReader {
    /// Of an array of codes in rows of `cols`, of which each has `bits` bits if they are packed.
    pub(crate) fn new(reader: impl CodeBytes + 'static, cols: u64, bits: Option<u8>) -> Self {
        Self { reader: Box::new(reader), cols, bits, turned: OnceLock::new() }
    }

    /// Reads codes from the beginning of row `row` on: whole rows.
    pub(crate) fn read_rows(&self, row: u64, codes: &mut [u8]) -> Result<()> {
        let Some(bits) = self.bits else { return self.reader.read(row.saturating_mul(self.cols), codes) };
        // A row is whole words.
        let row_bytes = self.cols * u64::from(bits) / 8;
        let length = codes.len() * usize::from(bits) / 8;
        let start = row.saturating_mul(row_bytes);
        if self.reader.turned_cols() == Some(self.words_of_row()) {
            if bits == 8 {
                return self.reader.read_turned(start, codes);
            }
            return with_workspace(|workspace| {
                // The workspaces of what is read in it are others.
                let words = at_least(&mut workspace.fine, length);
                self.reader.read_turned(start, words)?;
                unpack_codes(words, bits, codes);
                Ok(())
            });
        }
        let turned = match self.turned.get() {
            Some(turned) => turned,
            None => {
                let turned = self.turn()?;
                self.turned.get_or_init(|| turned)
            }
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let words = start.checked_add(length).and_then(|end| turned.get(start..end));
        let words = words.ok_or_else(|| self.reader.wrong("it has fewer codes than are asked for"))?;
        unpack_codes(words, bits, codes);
        Ok(())
    }

    fn words_of_row(&self) -> u64 {
        self.cols * u64::from(self.bits.unwrap_or(8)) / 32
    }

    /// Whether all of it would have to be held to read any of it, and is too much for that.
    pub(crate) fn is_too_large(&self) -> bool {
        self.bits.is_some()
            && self.reader.turned_cols() != Some(self.words_of_row())
            && self.reader.bytes().is_ok_and(|bytes| bytes > MAX_TRANSPOSED_BYTES)
    }

    fn turn(&self) -> Result<Vec<u8>> {
        let bytes = self.reader.bytes()?;
        if self.is_too_large() {
            return Err(self.reader.wrong("it is larger than what a reader turns"));
        }
        let mut words = zeroed(bytes).at(self.reader.path(), "cannot hold a matrix")?;
        self.reader.read(0, &mut words)?;
        // The words of a row of codes are a column.
        let mut turned = zeroed(bytes).at(self.reader.path(), "cannot hold a matrix")?;
        transpose(&words, bytes / 4 / self.words_of_row().max(1), 4, &mut turned);
        Ok(turned)
    }
}

/// What the chunks of one array are given.
#[derive(Debug)]
pub(crate) struct GivenReader {
    codes: CodeReader,
    meaning: Meaning,
}

/// What the codes mean for the array.
#[derive(Debug)]
enum Meaning {
    Bins(RowBins),
    Steps(StepGrid),
    Codes(Box<Predictor>),
}

impl GivenReader {
    /// For a residual.
    pub(crate) fn of_bins(codes: CodeReader, bins: RowBins) -> Self {
        Self { codes, meaning: Meaning::Bins(bins) }
    }

    /// For a step residual.
    pub(crate) fn of_steps(codes: CodeReader, grid: StepGrid) -> Self {
        Self { codes, meaning: Meaning::Steps(grid) }
    }

    /// For a code residual.
    pub(crate) fn of_codes(codes: CodeReader, predictor: Predictor) -> Self {
        Self { codes, meaning: Meaning::Codes(Box::new(predictor)) }
    }

    /// What the array `index` of shard `shard` is given, if anything.
    pub(super) fn of_array(variant: &Arc<Variant>, shard: usize, index: usize) -> Result<Option<Self>> {
        let file = variant.shard(shard);
        let array = &file.plan.arrays[index];
        let damaged = |what: &str| crate::Error::damaged(&file.path, format!("{}: {what}", array.key));
        let float = || FloatKind::of_stored(array).ok_or_else(|| damaged("a residual of other elements"));
        let shape = match array.shape[..] {
            [rows, cols] if !array.encoding.is_transposed() => [rows, cols],
            [cols, rows] => [rows, cols],
            _ => [0, 0],
        };
        Ok(Some(match &array.encoding {
            Encoding::Residual { codes, scale, rounding, .. } => {
                let rule = BinRule::LlmInt8 { rounding: *rounding, float: float()? };
                let bins = RowBins::new(rule, floats(&fetch(variant, scale)?).map_err(damaged)?);
                Self::of_bins(CodeReader::new(variant.referred_array(codes)?, shape[1], None), bins)
            }
            Encoding::StepResidual { given, steps, .. } => {
                let float = float()?;
                let (codes, grid) = open(variant, given, shape, damaged)?;
                let grid = StepGrid::new(grid, *steps, float);
                Self::of_steps(
                    codes,
                    grid.ok_or_else(|| damaged("the groups that it is given are too small"))?,
                )
            }
            Encoding::CodeResidual { given, own } => {
                let bits = own.packed_bits();
                let cols = bits.map_or(shape[1], |bits| shape[1].saturating_mul(32) / u64::from(bits.max(1)));
                let shape = [shape[0], cols];
                let (codes, grid) = open(variant, given, shape, damaged)?;
                let own = open_steps(variant, own, shape)?.map_err(damaged)?;
                Self::of_codes(codes, Predictor::new(own, grid))
            }
            _ => return Ok(None),
        }))
    }

    /// Calls `work` with what some rows are given; `buffer` is for the codes.
    pub(crate) fn with_rows<R>(
        &self,
        rows: Range<usize>,
        buffer: &mut Vec<u8>,
        work: impl FnOnce(Given) -> R,
    ) -> Result<R> {
        let cols = usize::try_from(self.codes.cols).unwrap_or(usize::MAX);
        let codes = at_least(buffer, rows.len().saturating_mul(cols));
        self.codes.read_rows(rows.start as u64, codes)?;
        let first_row = rows.start;
        Ok(match &self.meaning {
            Meaning::Bins(bins) => bins.with_rows(rows, |bins| work(Given::Rows(GivenRows { codes, bins }))),
            Meaning::Steps(grid) => work(Given::Steps(GivenSteps { codes, first_row, grid })),
            Meaning::Codes(predictor) => work(Given::Codes(GivenCodes { codes, first_row, predictor })),
        })
    }
}

/// A quantised matrix that an array of `variant` is given.
fn open(
    variant: &Arc<Variant>,
    given: &Quantised,
    shape: [u64; 2],
    damaged: impl Fn(&str) -> crate::Error,
) -> Result<(CodeReader, Steps)> {
    let steps = open_steps(variant, &given.grid, shape)?.map_err(damaged)?;
    let codes = CodeReader::new(variant.referred_array(&given.codes)?, shape[1], given.grid.packed_bits());
    Ok((codes, steps))
}

/// What the codes of a matrix of this shape stand for, as `variant` refers to it.
fn open_steps(
    variant: &Arc<Variant>,
    grid: &QuantGrid,
    shape: [u64; 2],
) -> Result<Result<Steps, &'static str>> {
    // There are no more groups than columns, and no scale has more than four bytes.
    let most = shape[0].saturating_mul(shape[1]).saturating_mul(4);
    Steps::open(grid, shape, |array: &ArrayRef| {
        let reader = variant.referred_array(array)?;
        if reader.bytes()? > most {
            return Err(reader.damaged(&"it is larger than any grid of the matrix that it is to be of"));
        }
        fetch(variant, array)
    })
}

/// All of a small array that `variant` refers to.
fn fetch(variant: &Arc<Variant>, array: &ArrayRef) -> Result<GridArray> {
    let entry = variant.stored(array)?;
    let reader = variant.referred_array(array)?;
    let mut bytes = zeroed(reader.bytes()?).at(variant.folder(), "cannot hold a grid")?;
    reader.read(0, &mut bytes)?;
    Ok(GridArray { dtype: entry.dtype, shape: entry.shape.clone(), bytes })
}
