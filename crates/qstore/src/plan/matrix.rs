//! A matrix that is to be coded in its own rows or in those of its transposed, and a few chunks of it.

use std::ops::Range;
use std::sync::OnceLock;

use qstore_checkpoint::{IoContext as _, Result, Source, SourceArray, size, transpose, zeroed};
use qstore_container::limits::{MAX_RESIDUAL_ROWS, MAX_TRANSPOSED_BYTES};
use qstore_container::{Axis, ChunkShape, CodeLayout, Dtype, Encoding, StoredArray};
use rayon::prelude::*;

use super::chunk_shape::{chunk_of_codes, tiled};
use super::sample::{chunk_bytes, element_bytes, read_chunk, spread_chunks};
use crate::decode::MatrixReader;
use crate::quant::codes_of_words;

/// A matrix as it is coded.
#[derive(Debug)]
pub(super) struct CodedMatrix<'a> {
    source: &'a Source,
    array: &'a SourceArray,
    /// The array as if it were stored in the rows that are coded.
    coded: SourceArray,
    /// Whether these are the columns of the array.
    pub(super) transposed: bool,
    /// Its chunks, of whole rows.
    pub(super) chunk: ChunkShape,
    /// Where its codes lie; each is an element where it is one of weights.
    layout: CodeLayout,
    /// The whole array, once it has been read.
    all: OnceLock<Vec<u8>>,
}

/// A chunk with the codes that it is given, and its rows, of codes where it is one of those.
pub(super) struct Part {
    pub(super) raw: Vec<u8>,
    /// One a byte, those of each matrix in turn; none if it is given none.
    pub(super) codes: Vec<u8>,
    pub(super) rows: Range<usize>,
}

impl Part {
    /// Weights of the chunk.
    pub(super) fn weights(&self, matrix: &CodedMatrix) -> usize {
        self.rows.len() * size(matrix.shape()[1])
    }

    /// The codes of some of the `of` matrices that it is given, in turn.
    pub(super) fn codes_of(&self, matrices: &[usize], of: usize) -> Vec<u8> {
        let of_each = self.codes.len() / of.max(1);
        matrices
            .iter()
            .flat_map(|index| &self.codes[index * of_each..(index + 1) * of_each])
            .copied()
            .collect()
    }

    /// Its first rows, of about so many weights; it is given `of` matrices.
    pub(super) fn beginning(&self, matrix: &CodedMatrix, weights: usize, of: usize) -> Self {
        let cols = size(matrix.shape()[1]).max(1);
        let row_bytes = matrix.row_bytes();
        let lines = self.raw.len() / row_bytes.max(1);
        // Of codes that lie across lines several rows are in one.
        let rows_of_line = self.rows.len() / lines.max(1);
        let lines = (weights / cols / rows_of_line.max(1)).clamp(1, lines.max(1));
        let rows = (lines * rows_of_line).min(self.rows.len());
        let of_each = self.codes.len() / of.max(1);
        let codes = self.codes.chunks(of_each.max(1)).flat_map(|codes| &codes[..rows * cols]);
        Self {
            raw: self.raw[..(lines * row_bytes).min(self.raw.len())].to_vec(),
            codes: codes.copied().collect(),
            rows: self.rows.start..self.rows.start + rows,
        }
    }
}

impl<'a> CodedMatrix<'a> {
    /// Weights, in rows of the array, or of its transposed. `None` if it has other than two dimensions or is too large.
    pub(super) fn weights(source: &'a Source, array: &'a SourceArray, transposed: bool) -> Option<Self> {
        Self::codes(source, array, CodeLayout { transposed, ..CodeLayout::default() })
    }

    /// Codes that lie so.
    pub(super) fn codes(source: &'a Source, array: &'a SourceArray, layout: CodeLayout) -> Option<Self> {
        let transposed = layout.transposed;
        let words = layout.words_of(&array.shape)?;
        let words = if transposed { [words[1], words[0]] } else { words };
        let coded = SourceArray { shape: words.to_vec(), ..array.clone() };
        let chunk = chunk_of_codes(&coded, &layout)?;
        Self { source, array, coded, transposed, chunk, layout, all: OnceLock::new() }.checked()
    }

    fn checked(self) -> Option<Self> {
        let &[rows, cols] = &self.coded.shape[..] else { return None };
        let large = self.transposed && self.array.bytes > MAX_TRANSPOSED_BYTES || rows > MAX_RESIDUAL_ROWS;
        (!large && rows > 0 && cols == self.chunk.cols).then_some(self)
    }

    /// The type of its elements.
    pub(super) fn dtype(&self) -> Dtype {
        self.array.dtype
    }

    /// Chunks that have a part of the columns, where that is worth while.
    pub(super) fn tiled(&self) -> ChunkShape {
        tiled(self.chunk, &self.coded, &self.layout)
    }

    /// Elements of a row as coded: weights, codes or words of packed codes.
    pub(super) fn cols(&self) -> usize {
        usize::try_from(self.chunk.cols).unwrap_or(usize::MAX)
    }

    /// Bytes of a row as coded.
    fn row_bytes(&self) -> usize {
        self.cols() * size(element_bytes(self.array))
    }

    /// It as a plan would have it.
    pub(super) fn as_stored(&self, chunk: ChunkShape, encoding: &Encoding) -> StoredArray {
        let SourceArray { key, dtype, shape, .. } = self.array.clone();
        StoredArray { key, dtype, shape, hash: None, chunk, mantissa: None, encoding: encoding.clone() }
    }

    /// Rows and columns of its weights or codes.
    pub(super) fn shape(&self) -> [u64; 2] {
        let words = [self.coded.shape[0], self.chunk.cols];
        self.layout.packing.as_ref().and_then(|packing| packing.unpacked(words)).unwrap_or(words)
    }

    /// Rows of codes in each row as it is coded.
    fn code_rows(&self, rows: usize) -> usize {
        match &self.layout.packing {
            Some(packing) if packing.along == Axis::Rows => rows * usize::from(packing.word / packing.bits),
            _ => rows,
        }
    }

    /// A few chunks by themselves.
    pub(super) fn parts(&self) -> Result<Vec<Part>> {
        self.parts_with(|_, _| Ok(Vec::new()))
    }

    /// A few chunks with the codes of each of the matrices that they are given; with each comes what stands for codes
    /// that it lacks.
    pub(super) fn given_parts(&self, matrices: &[(MatrixReader, u8)]) -> Result<Vec<Part>> {
        let cols = usize::try_from(self.shape()[1]).unwrap_or(usize::MAX);
        self.parts_with(|first, rows| {
            let of_each = rows.saturating_mul(cols);
            let mut given = vec![0; of_each.saturating_mul(matrices.len())];
            for ((codes, fill), given) in matrices.iter().zip(given.chunks_mut(of_each.max(1))) {
                codes.read(first as u64, 0..cols as u64, *fill, given)?;
            }
            Ok(given)
        })
    }

    /// The codes of a few rows from the first on, one a byte.
    pub(super) fn first_codes(&self) -> Result<Vec<u8>> {
        let parts = self.parts()?;
        let Some(part) = parts.into_iter().find(|part| part.rows.start == 0) else { return Ok(Vec::new()) };
        Ok(codes_of_words(self.layout.packing.as_ref(), &part.raw, self.row_bytes()).into_owned())
    }

    /// A few chunks, each with what `codes` gives for its rows, so many from the first on.
    pub(super) fn parts_with(
        &self,
        codes: impl Fn(usize, usize) -> Result<Vec<u8>> + Sync,
    ) -> Result<Vec<Part>> {
        self.map_chunks(spread_chunks(&self.coded, self.chunk), codes, |part| part)
    }

    /// What `work` makes of each chunk, with its codes in a matrix.
    pub(super) fn each_given<T: Send>(
        &self,
        codes: &MatrixReader,
        fill: u8,
        work: impl Fn(Part) -> T + Sync,
    ) -> Result<Vec<T>> {
        let cols = self.shape()[1];
        let read = |first: usize, rows: usize| {
            let mut given = vec![0; rows.saturating_mul(size(cols))];
            codes.read(first as u64, 0..cols, fill, &mut given)?;
            Ok(given)
        };
        let chunks = self.array.bytes.div_ceil(chunk_bytes(&self.coded, self.chunk));
        self.map_chunks((0..chunks).collect(), read, work)
    }

    fn map_chunks<T: Send>(
        &self,
        chunks: Vec<u64>,
        codes: impl Fn(usize, usize) -> Result<Vec<u8>> + Sync,
        work: impl Fn(Part) -> T + Sync,
    ) -> Result<Vec<T>> {
        let all = if self.transposed { Some(self.all()?) } else { None };
        let full = chunk_bytes(&self.coded, self.chunk);
        let row_bytes = self.chunk.cols * element_bytes(self.array);
        let take = |chunk: u64| {
            let start = chunk * full;
            let raw = match all {
                None => read_chunk(self.source, self.array, self.chunk, chunk)?,
                Some(all) => self.transposed_rows(all, chunk * self.chunk.rows),
            };
            let first = usize::try_from(start / row_bytes).unwrap_or(usize::MAX);
            let rows = raw.len() / usize::try_from(row_bytes).unwrap_or(usize::MAX);
            let (first, rows) = (self.code_rows(first), self.code_rows(rows));
            Ok(work(Part { codes: codes(first, rows)?, rows: first..first + rows, raw }))
        };
        chunks.into_par_iter().map(take).collect()
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
    fn transposed_rows(&self, all: &[u8], first: u64) -> Vec<u8> {
        let rows = self.chunk.rows.min(self.coded.shape[0].saturating_sub(first));
        let width = element_bytes(self.array);
        let (line, from, length) =
            (size(self.coded.shape[0] * width), size(first * width), size(rows * width));
        // Their columns side by side, then the other way round.
        let columns: Vec<u8> =
            all.chunks_exact(line.max(1)).flat_map(|line| &line[from..from + length]).copied().collect();
        let mut transposed = vec![0; columns.len()];
        transpose(&columns, rows, width, &mut transposed);
        transposed
    }

    /// How many rows there are for each in `parts`.
    pub(super) fn rows_per_sampled(&self, parts: &[Part]) -> u64 {
        let sampled: usize = parts.iter().map(|part| part.rows.len()).sum();
        (self.shape()[0] / (sampled.max(1) as u64)).max(1)
    }
}
