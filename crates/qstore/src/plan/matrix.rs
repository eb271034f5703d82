//! A matrix that is to be coded in its own rows or in those of its transposed, and a few chunks of it.

use std::ops::Range;
use std::sync::OnceLock;

use qstore_container::Grid;
use qstore_container::limits::{MAX_RESIDUAL_ROWS, MAX_TRANSPOSED_BYTES};
use rayon::prelude::*;

use super::grid::{grid_of, grid_of_codes};
use super::sample::{chunk_bytes, element_bytes, read_chunk, spread_chunks};
use crate::codec::{codes_in, transpose, unpack_codes};
use crate::decode::CodeReader;
use crate::error::{IoContext as _, Result};
use crate::file::zeroed;
use crate::ingest::{Source, SourceArray};

/// A matrix as it is coded.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    source: &'a Source,
    array: &'a SourceArray,
    /// The array as if it were stored in the rows that are coded.
    coded: SourceArray,
    /// Whether these are the columns of the array.
    pub(super) turned: bool,
    pub(super) grid: Grid,
    /// Bits of a packed code.
    bits: Option<u8>,
    /// The whole array, once it has been read.
    all: OnceLock<Vec<u8>>,
}

/// A chunk with the codes that it is given.
pub(super) struct Part {
    pub(super) raw: Vec<u8>,
    /// One a byte; none if it is given none.
    pub(super) codes: Vec<u8>,
    pub(super) rows: Range<usize>,
}

/// A matrix as if it were stored the other way round.
fn transposed(array: &SourceArray) -> SourceArray {
    SourceArray { shape: array.shape.iter().rev().copied().collect(), ..array.clone() }
}

impl<'a> Matrix<'a> {
    /// Elements of one weight or code each, in rows of the array, or of its transposed if `turned`. `None` if it has other than two dimensions or is too
    /// large.
    pub(super) fn new(source: &'a Source, array: &'a SourceArray, turned: bool) -> Option<Self> {
        let coded = if turned { transposed(array) } else { array.clone() };
        let grid = grid_of(&coded);
        Self { source, array, coded, turned, grid, bits: None, all: OnceLock::new() }.checked()
    }

    /// Packed codes of `bits` bits, whose rows are the array's columns.
    pub(super) fn packed(source: &'a Source, array: &'a SourceArray, bits: u8) -> Option<Self> {
        let coded = transposed(array);
        let grid = grid_of_codes(&coded, bits)?;
        Self { source, array, coded, turned: true, grid, bits: Some(bits), all: OnceLock::new() }.checked()
    }

    fn checked(self) -> Option<Self> {
        let &[rows, cols] = &self.coded.shape[..] else { return None };
        let large = self.turned && self.array.bytes > MAX_TRANSPOSED_BYTES || rows > MAX_RESIDUAL_ROWS;
        (!large && rows > 0 && cols == self.grid.cols).then_some(self)
    }

    /// Elements of a row as coded: weights, codes or words of packed codes.
    pub(super) fn cols(&self) -> usize {
        usize::try_from(self.grid.cols).unwrap_or(usize::MAX)
    }

    /// Rows and columns, of codes where they are packed.
    pub(super) fn shape(&self) -> [u64; 2] {
        let rows = self.coded.shape[0];
        [rows, self.bits.map_or(self.grid.cols, |bits| self.grid.cols * 32 / u64::from(bits))]
    }

    /// A few chunks by themselves.
    pub(super) fn parts(&self) -> Result<Vec<Part>> {
        self.take_parts(|_, _| Ok(Vec::new()))
    }

    /// A few chunks with what they are given.
    pub(super) fn given_parts(&self, codes: &CodeReader) -> Result<Vec<Part>> {
        let cols = usize::try_from(self.shape()[1]).unwrap_or(usize::MAX);
        self.take_parts(|first, rows| {
            let mut given = vec![0; rows.saturating_mul(cols)];
            codes.read_rows(first as u64, &mut given)?;
            Ok(given)
        })
    }

    /// The codes of a few rows from the first on, one a byte.
    pub(super) fn first_codes(&self) -> Result<Vec<u8>> {
        let parts = self.parts()?;
        let Some(part) = parts.into_iter().find(|part| part.rows.start == 0) else { return Ok(Vec::new()) };
        let Some(bits) = self.bits else { return Ok(part.raw) };
        let mut codes = vec![0; codes_in(part.raw.len(), bits)];
        unpack_codes(&part.raw, bits, &mut codes);
        Ok(codes)
    }

    fn take_parts(&self, codes: impl Fn(usize, usize) -> Result<Vec<u8>> + Sync) -> Result<Vec<Part>> {
        let all = if self.turned { Some(self.all()?) } else { None };
        let full = chunk_bytes(&self.coded, self.grid);
        let row_bytes = self.grid.cols * element_bytes(self.array);
        let take = |chunk: u64| {
            let start = chunk * full;
            let raw = match all {
                None => read_chunk(self.source, self.array, self.grid, chunk)?,
                Some(all) => self.turned_rows(all, chunk * self.grid.rows_per_chunk),
            };
            let first = usize::try_from(start / row_bytes).unwrap_or(usize::MAX);
            let rows = raw.len() / usize::try_from(row_bytes).unwrap_or(usize::MAX);
            Ok(Part { codes: codes(first, rows)?, rows: first..first + rows, raw })
        };
        spread_chunks(&self.coded, self.grid).into_par_iter().map(take).collect()
    }

    /// The whole array, which is of bounded size, read once.
    fn all(&self) -> Result<&[u8]> {
        if let Some(all) = self.all.get() {
            return Ok(all);
        }
        let mut all = zeroed(self.array.bytes).at(self.source.path(), "cannot hold a matrix")?;
        self.source.read(self.array, 0, &mut all)?;
        Ok(self.all.get_or_init(|| all))
    }

    /// A chunk of rows of the transposed array, from row `first` on.
    fn turned_rows(&self, all: &[u8], first: u64) -> Vec<u8> {
        let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let rows = self.grid.rows_per_chunk.min(self.coded.shape[0].saturating_sub(first));
        let width = element_bytes(self.array);
        let (line, from, length) =
            (size(self.coded.shape[0] * width), size(first * width), size(rows * width));
        // Their columns side by side, then the other way round.
        let columns: Vec<u8> =
            all.chunks_exact(line.max(1)).flat_map(|line| &line[from..from + length]).copied().collect();
        let mut turned = vec![0; columns.len()];
        transpose(&columns, rows, width, &mut turned);
        turned
    }

    /// How many rows there are for each in `parts`.
    pub(super) fn rows_per_sampled(&self, parts: &[Part]) -> u64 {
        let sampled: usize = parts.iter().map(|part| part.rows.len()).sum();
        (self.coded.shape[0] / (sampled.max(1) as u64)).max(1)
    }
}
