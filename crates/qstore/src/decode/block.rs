//! Rows and columns of a matrix, and stretches of what is no matrix, from the chunks that hold them.

use std::ops::Range;

use qstore_checkpoint::{IoContext as _, Result, size, transpose, zeroed};
use qstore_container::ChunkPlace;

use super::array::{ArrayReader, Location};
use super::bytes::ArrayBytes as _;
use crate::codec::at_least;
use crate::fetch::{Fetched, Needs};

/// A chunk of which a stretch of bytes has a part.
struct Stretch {
    index: u64,
    /// Decoded bytes of the chunk.
    bytes: u64,
    /// Those that are wanted.
    wanted: Range<u64>,
}

impl ArrayReader {
    /// Rows and columns of what is coded, if that is a matrix.
    pub(super) fn coded_matrix(&self) -> Option<[u64; 2]> {
        let array = self.stored();
        let is_own = matches!(self.location(), Location::Chunks(_));
        (is_own && array.encoding.is_of_matrix()).then(|| array.coded_shape().ok())?
    }

    /// Rows that are best asked for at a time, from a multiple of them on: those that a chunk has some of.
    pub(crate) fn rows_at_once(&self) -> u64 {
        let array = self.stored();
        let line = array.shape.last().copied().unwrap_or(1).saturating_mul(array.width());
        (self.piece_bytes() / line.max(1)).max(1)
    }

    /// Whether the chunks of each piece lie in turn with those of others.
    pub(super) fn is_in_turn(&self) -> bool {
        let array = self.stored();
        array.encoding.is_transposed() && array.chunks_across().is_ok_and(|across| across > 1)
    }

    /// Bytes of a piece of what is coded: of a chunk, or of the rows of a matrix that a chunk has some of.
    pub(super) fn piece_bytes(&self) -> u64 {
        let array = self.stored();
        let Some([rows, cols]) = self.coded_matrix() else { return array.chunk_bytes().max(1) };
        let [at_once, cols] = match array.encoding.is_transposed() {
            true => [array.chunk.cols, rows],
            false => [array.chunk.rows, cols],
        };
        at_once.saturating_mul(cols).saturating_mul(array.width()).max(1)
    }

    /// The chunks that hold a stretch of what is coded.
    fn stretches(&self, bytes: Range<u64>) -> Result<impl Iterator<Item = Stretch> + use<>> {
        let (total, full) = (self.bytes(), self.stored().chunk_bytes().max(1));
        let indices = if bytes.is_empty() { 0..0 } else { bytes.start / full..bytes.end.div_ceil(full) };
        Ok(indices.map(move |index| {
            let start = index * full;
            let length = full.min(total.saturating_sub(start));
            let wanted = bytes.start.max(start) - start..bytes.end.min(start + length) - start;
            Stretch { index, bytes: length, wanted }
        }))
    }

    pub(super) fn needs_flat(&self, bytes: Range<u64>, needs: &mut Needs) -> Result<()> {
        self.stretches(bytes)?.try_for_each(|stretch| self.needs_chunk(stretch.index, needs))
    }

    /// Fills `out` with what is coded, from byte `offset` on; the caller has checked that there is so much.
    pub(super) fn decode_flat(&self, from: &Fetched, offset: u64, out: &mut [u8]) -> Result<()> {
        let (mut rest, mut buffer) = (out, Vec::new());
        for Stretch { index, bytes, wanted } in self.stretches(offset..offset + rest.len() as u64)? {
            let (head, tail) = rest.split_at_mut(size(wanted.end - wanted.start));
            if head.len() as u64 == bytes {
                self.decode_chunk(from, index, head)?;
            } else {
                self.with_chunk(from, (index, bytes, head.len()), &mut buffer, |chunk| {
                    head.copy_from_slice(&chunk[size(wanted.start)..size(wanted.end)]);
                })?;
            }
            rest = tail;
        }
        Ok(())
    }

    pub(super) fn needs_matrix(
        &self,
        rows: Range<u64>,
        columns: Range<u64>,
        needs: &mut Needs,
    ) -> Result<()> {
        if self.stored().encoding.is_transposed() {
            return self.needs_block(columns, rows, needs);
        }
        self.needs_block(rows, columns, needs)
    }

    /// Fills `out` with columns `columns` of rows `rows` of a matrix.
    pub(super) fn decode_matrix(
        &self,
        from: &Fetched,
        rows: Range<u64>,
        columns: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        if !self.stored().encoding.is_transposed() {
            return self.decode_block(from, rows, columns, out);
        }
        let mut coded = zeroed(out.len() as u64).at(self.folder(), "cannot hold a matrix")?;
        self.decode_block(from, columns, rows.clone(), &mut coded)?;
        transpose(&coded, rows.end - rows.start, self.stored().width(), out);
        Ok(())
    }

    /// Whether columns of the array, seen as rows of so many elements of so many bytes, are columns of the matrix that
    /// is coded: what a reference leads to may have another shape and type.
    fn is_matrix_of(&self, [cols, width]: [u64; 2]) -> bool {
        let array = self.stored();
        let is_row = array.matrix_shape().is_some_and(|shape| shape[1] == cols);
        is_row && array.width() == width && self.coded_matrix().is_some()
    }

    /// Rows of so many bytes that are decoded at a time for some of their columns; `None` if each is rather read by
    /// itself, as it has a chunk or more.
    fn lines_at_once(&self, line: u64) -> Option<u64> {
        let at_once = self.stored().chunk_bytes() / line.max(1);
        (at_once >= 2).then_some(at_once)
    }

    pub(super) fn needs_of_columns(
        &self,
        [cols, width]: [u64; 2],
        rows: Range<u64>,
        columns: Range<u64>,
        needs: &mut Needs,
    ) -> Result<()> {
        if self.is_matrix_of([cols, width]) {
            return self.needs_matrix(rows, columns, needs);
        }
        let line = cols.saturating_mul(width);
        if self.lines_at_once(line).is_some() {
            return self.needs(rows.start * line..rows.end * line, needs);
        }
        let of_row = |row: u64| row * line + columns.start * width..row * line + columns.end * width;
        rows.into_iter().try_for_each(|row| self.needs(of_row(row), needs))
    }

    /// Fills `out` with columns `columns` of rows `rows` of an array that is seen as rows of `cols` elements of `width`
    /// bytes. Of a matrix whose chunks have a part of the columns only those are decoded that hold some of them.
    pub(super) fn decode_of_columns(
        &self,
        from: &Fetched,
        [cols, width]: [u64; 2],
        rows: Range<u64>,
        columns: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        if self.is_matrix_of([cols, width]) {
            return self.decode_matrix(from, rows, columns, out);
        }
        let line = cols.saturating_mul(width);
        let (skip, length) = (columns.start * width, (columns.end - columns.start) * width);
        let mut pieces = out.chunks_exact_mut(size(length).max(1));
        let Some(at_once) = self.lines_at_once(line) else {
            return rows.zip(pieces).try_for_each(|(row, piece)| self.decode(from, row * line + skip, piece));
        };
        let (line_size, skip) = (size(line), size(skip));
        let mut buffer = Vec::new();
        for first in rows.clone().step_by(size(at_once)) {
            let count = size(at_once.min(rows.end - first));
            let whole = at_least(&mut buffer, count.saturating_mul(line_size));
            self.decode(from, first * line, whole)?;
            for (row, piece) in whole.chunks_exact(line_size).zip(&mut pieces) {
                piece.copy_from_slice(&row[skip..skip + piece.len()]);
            }
        }
        Ok(())
    }

    /// The chunks of a matrix that hold a part of these rows and columns, with where they lie.
    fn tiles(&self, rows: &Range<u64>, cols: &Range<u64>) -> Result<Vec<(u64, ChunkPlace)>> {
        let (array, [all_rows, all_cols]) = (self.stored(), self.coded_matrix().unwrap_or_default());
        if rows.start > rows.end || cols.start > cols.end || rows.end > all_rows || cols.end > all_cols {
            return Err(self.damaged(&"more is asked of it than it has"));
        }
        let across = array.chunks_across().map_err(|e| self.damaged(&e))?;
        let (high, wide) = (array.chunk.rows.max(1), array.chunk.cols.max(1));
        let mut tiles = Vec::new();
        for band in rows.start / high..rows.end.div_ceil(high) {
            for tile in cols.start / wide..cols.end.div_ceil(wide) {
                let index = band * across + tile;
                tiles.push((index, array.chunk_place(index).map_err(|e| self.damaged(&e))?));
            }
        }
        Ok(tiles)
    }

    pub(super) fn needs_block(&self, rows: Range<u64>, cols: Range<u64>, needs: &mut Needs) -> Result<()> {
        self.tiles(&rows, &cols)?.into_iter().try_for_each(|(index, _)| self.needs_chunk(index, needs))
    }

    /// Fills `out` with columns `cols` of rows `rows` of what is coded, a matrix.
    pub(super) fn decode_block(
        &self,
        from: &Fetched,
        rows: Range<u64>,
        cols: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        let tiles = self.tiles(&rows, &cols)?;
        let array = self.stored();
        let (count, length, width) = (rows.end - rows.start, cols.end - cols.start, array.width());
        if count.saturating_mul(length).saturating_mul(width) != out.len() as u64 {
            return Err(self.damaged(&"more is asked of it than it has"));
        }
        let all_cols = self.coded_matrix().unwrap_or_default()[1];
        if length == all_cols && array.chunk.cols == all_cols {
            return self.decode_flat(from, rows.start * all_cols * width, out);
        }
        if let [(index, place)] = &tiles[..]
            && place.rows == rows
            && place.cols == cols
        {
            return self.decode_chunk(from, *index, out);
        }
        let line = size(length * width).max(1);
        let mut buffer = Vec::new();
        for (index, place) in tiles {
            let chunk_line = size((place.cols.end - place.cols.start) * width).max(1);
            let bytes = (place.rows.end - place.rows.start).saturating_mul(chunk_line as u64);
            // What both have.
            let shared = place.cols.start.max(cols.start)..place.cols.end.min(cols.end);
            let shared_rows = place.rows.start.max(rows.start)..place.rows.end.min(rows.end);
            let (skip, to) =
                (size((shared.start - place.cols.start) * width), size((shared.start - cols.start) * width));
            let run = size((shared.end - shared.start) * width);
            let wanted = size(shared_rows.end - shared_rows.start) * run;
            self.with_chunk(from, (index, bytes, wanted), &mut buffer, |chunk| {
                for row in shared_rows {
                    let source = &chunk[size(row - place.rows.start) * chunk_line + skip..][..run];
                    out[size(row - rows.start) * line + to..][..run].copy_from_slice(source);
                }
            })?;
        }
        Ok(())
    }
}
