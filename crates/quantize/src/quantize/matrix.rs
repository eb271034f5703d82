//! Weight matrices as they lie in the source, and reading some of their rows.

use std::ops::Range;

use qstore_checkpoint::{Error, FloatKind, IoContext as _, Result, Source, SourceArray, zeroed};

use super::values;

/// A weight matrix that is quantised: of `rows` output features and `cols` input features, however it lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) kind: FloatKind,
    pub(super) rows: u64,
    pub(super) cols: u64,
    /// Whether it lies in its file column by column: the weight of a `Conv1D`.
    pub(super) transposed: bool,
}

/// Some rows of a matrix.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    source: &'a Source,
    array: &'a SourceArray,
    name: &'a str,
    transposed: bool,
    /// Which.
    pub(super) range: Range<u64>,
    /// Their weights, one row after another.
    pub(super) weights: Vec<f32>,
}

impl Matrix {
    /// Bytes of a row in the source.
    pub(super) fn row_bytes(self) -> u64 {
        self.cols.saturating_mul(self.kind.width() as u64)
    }

    /// Reads the rows `range` of this matrix, which is `array` and called `name`.
    pub(super) fn read<'a>(
        self,
        source: &'a Source,
        array: &'a SourceArray,
        name: &'a str,
        range: Range<u64>,
    ) -> Result<Rows<'a>> {
        let weights = if self.transposed {
            self.read_columns(source, array, range.clone())?
        } else {
            let bytes = read(
                source,
                array,
                range.start * self.row_bytes(),
                (range.end - range.start) * self.row_bytes(),
            )?;
            let mut weights = Vec::with_capacity(bytes.len() / self.kind.width());
            values::read(self.kind, &bytes, &mut weights);
            weights
        };
        Ok(Rows { source, array, name, transposed: self.transposed, range, weights })
    }

    /// Rows that lie as columns, one after another.
    fn read_columns(self, source: &Source, array: &SourceArray, range: Range<u64>) -> Result<Vec<f32>> {
        let value = self.kind.width() as u64;
        let columns = range.end - range.start;
        let mut bytes = zeroed(self.cols * columns * value).at(source.path(), "cannot read")?;
        for (line, part) in (0..self.cols).zip(bytes.chunks_exact_mut(length(columns * value))) {
            source.read(array, (line * self.rows + range.start) * value, part)?;
        }
        let mut lines = Vec::new();
        values::read(self.kind, &bytes, &mut lines);
        let columns = length(columns);
        Ok((0..columns).flat_map(|column| lines.iter().skip(column).step_by(columns).copied()).collect())
    }
}

impl Rows<'_> {
    /// How many.
    pub(super) fn count(&self) -> usize {
        length(self.range.end - self.range.start)
    }

    /// Each with its number.
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, &[f32])> {
        let cols = (self.weights.len() / self.count()).max(1);
        (self.range.start..).zip(self.weights.chunks_exact(cols))
    }

    /// Says of row `row` that it has `what`, and `why` that cannot be.
    pub(super) fn error(&self, row: u64, what: &str, why: &str) -> Error {
        let (name, line) = (self.name, if self.transposed { "column" } else { "row" });
        let what = format!("{name} has {what} in {line} {row}, {why}; was the model trained and saved well?");
        Error::input(self.source.path_of(self.array), what)
    }
}

/// A number of values of one block, which is small enough for any machine.
pub(super) fn length(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).max(1)
}

/// Bytes of a tensor from `offset` on.
pub(super) fn read(source: &Source, array: &SourceArray, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = zeroed(length).at(source.path(), "cannot read")?;
    source.read(array, offset, &mut bytes)?;
    Ok(bytes)
}
