//! Reading rows and columns of a matrix, from the chunks that hold them.

use std::ops::Range;

use super::array::{ArrayReader, Elsewhere};
use super::parts::Part;
use crate::codec::at_least;
use crate::error::{IoContext as _, Result};
use crate::file::zeroed;
use crate::memory::size;
use crate::quant::transpose;

impl ArrayReader {
    /// Rows and columns of what is coded, if that is a matrix.
    pub(super) fn coded_matrix(&self) -> Option<[u64; 2]> {
        let array = self.stored();
        array.encoding.is_of_matrix().then(|| array.coded_shape().ok())?
    }

    /// Rows that are best asked for at a time, from a multiple of them on: those that a chunk has some of.
    pub(crate) fn rows_at_once(&self) -> u64 {
        let array = self.stored();
        match self.coded_matrix() {
            Some(_) if array.encoding.is_transposed() => array.chunk.cols,
            Some(_) => array.chunk.rows,
            None => {
                let line = array.shape.last().copied().unwrap_or(1).saturating_mul(array.width());
                (array.chunk_bytes() / line.max(1)).max(1)
            }
        }
    }

    /// Up to which byte is best asked for from byte `at` on: the end of a chunk, or of the rows of a matrix that a chunk has some of.
    pub(crate) fn piece_end(&self, at: u64) -> u64 {
        match self.elsewhere() {
            Some(Elsewhere::Parts(parts)) => Part::piece_end(parts, self.stored().width(), at),
            Some(Elsewhere::Rows(rows)) => rows.piece_end(at),
            None => {
                let piece = self.piece_bytes();
                (at - at % piece).saturating_add(piece)
            }
        }
    }

    /// Bytes of a piece of what is coded.
    fn piece_bytes(&self) -> u64 {
        let array = self.stored();
        let Some([rows, cols]) = self.coded_matrix() else { return array.chunk_bytes().max(1) };
        let cols = if array.encoding.is_transposed() { rows } else { cols };
        self.rows_at_once().saturating_mul(cols).saturating_mul(array.width()).max(1)
    }

    /// Fills `out` with columns `columns` of rows `rows` of a matrix.
    pub(super) fn read_matrix(&self, rows: Range<u64>, columns: Range<u64>, out: &mut [u8]) -> Result<()> {
        if !self.stored().encoding.is_transposed() {
            return self.read_block(rows, columns, out);
        }
        let mut coded = zeroed(out.len() as u64).at(self.folder(), "cannot hold a matrix")?;
        self.read_block(columns, rows.clone(), &mut coded)?;
        transpose(&coded, rows.end - rows.start, self.stored().width(), out);
        Ok(())
    }

    /// Fills `out` with columns `columns` of rows `rows` of an array that is seen as rows of `cols` elements of `width` bytes. Of a matrix whose chunks have a part of
    /// the columns only those are decoded that hold some of them.
    pub(crate) fn read_columns(
        &self,
        [cols, width]: [u64; 2],
        rows: Range<u64>,
        columns: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        let array = self.stored();
        // What a reference leads to may have another shape and type.
        let is_alike = array.shape.last() == Some(&cols) && array.width() == width;
        if is_alike && self.coded_matrix().is_some() {
            return self.read_matrix(rows, columns, out);
        }
        let line = cols.saturating_mul(width);
        let (skip, length) = (columns.start * width, (columns.end - columns.start) * width);
        let mut pieces = out.chunks_exact_mut(size(length).max(1));
        let at_once = array.chunk_bytes() / line.max(1);
        if at_once < 2 {
            // Rows of a chunk or more: no more is read of each than is asked for.
            return rows.zip(pieces).try_for_each(|(row, piece)| self.read(row * line + skip, piece));
        }
        let (line_size, skip) = (size(line), size(skip));
        let mut buffer = Vec::new();
        for first in rows.clone().step_by(size(at_once)) {
            let count = size(at_once.min(rows.end - first));
            let whole = at_least(&mut buffer, count.saturating_mul(line_size));
            self.read(first * line, whole)?;
            for (row, piece) in whole.chunks_exact(line_size).zip(&mut pieces) {
                piece.copy_from_slice(&row[skip..skip + piece.len()]);
            }
        }
        Ok(())
    }

    /// Fills `out` with columns `cols` of rows `rows` of what is coded, a matrix.
    pub(super) fn read_block(&self, rows: Range<u64>, cols: Range<u64>, out: &mut [u8]) -> Result<()> {
        let (array, [all_rows, all_cols]) = (self.stored(), self.coded_matrix().unwrap_or_default());
        let (count, length) = (rows.end.saturating_sub(rows.start), cols.end.saturating_sub(cols.start));
        let width = array.width();
        if rows.end > all_rows
            || cols.end > all_cols
            || count.saturating_mul(length).saturating_mul(width) != out.len() as u64
        {
            return Err(self.damaged(&"more is asked of it than it has"));
        }
        if length == all_cols && array.chunk.cols == all_cols {
            return self.read_coded(rows.start * all_cols * width, out);
        }
        let across = array.chunks_across().map_err(|e| self.damaged(&e))?;
        let line = size(length * width).max(1);
        let mut buffer = Vec::new();
        for band in rows.start / array.chunk.rows..rows.end.div_ceil(array.chunk.rows) {
            for tile in cols.start / array.chunk.cols..cols.end.div_ceil(array.chunk.cols) {
                let index = band * across + tile;
                let place = array.chunk_place(index).map_err(|e| self.damaged(&e))?;
                let chunk_line = size((place.cols.end - place.cols.start) * width).max(1);
                let chunk =
                    at_least(&mut buffer, size(place.rows.end - place.rows.start).saturating_mul(chunk_line));
                self.read_chunk(index, chunk)?;
                // What both have.
                let shared = place.cols.start.max(cols.start)..place.cols.end.min(cols.end);
                let (from, to) = (
                    size((shared.start - place.cols.start) * width),
                    size((shared.start - cols.start) * width),
                );
                let bytes = size((shared.end - shared.start) * width);
                for row in place.rows.start.max(rows.start)..place.rows.end.min(rows.end) {
                    let source = &chunk[size(row - place.rows.start) * chunk_line + from..][..bytes];
                    out[size(row - rows.start) * line + to..][..bytes].copy_from_slice(source);
                }
            }
        }
        Ok(())
    }
}
