//! A matrix that others are given, of codes or of floats, row by row.

use std::ops::Range;
use std::sync::Arc;

use qstore_checkpoint::{FloatKind, Result, size};
use qstore_container::{Axis, Dtype, Field, FormatError, Packing};

use super::bytes::{ArrayBytes, fetch_for};
use super::words::Words;
use crate::codec::{KnownCodes, at_least, with_workspace};
use crate::fetch::{Fetched, Needs};
use crate::quant::{check_codes, codes_of_words, greatest_common_divisor, unpack};

/// Codes, one a byte, or floats, in rows of output features.
#[derive(Debug)]
pub(crate) struct MatrixReader {
    words: Words,
    packing: Option<Packing>,
    /// Rows and columns that there are.
    there: [u64; 2],
}

impl MatrixReader {
    /// Of the codes `field` of an array of this element type and shape, of which `shape` count.
    ///
    /// # Errors
    /// What of the field does not fit the array.
    pub(crate) fn codes<A>(
        array: Arc<dyn ArrayBytes>,
        field: &Field<A>,
        (dtype, array_shape): (Dtype, &[u64]),
        shape: [u64; 2],
    ) -> Result<Self, FormatError> {
        check_codes(field, dtype, array_shape, shape)?;
        let placed = field.view.place(array_shape)?;
        let is_coded = array.coded().is_some_and(|(layout, cols)| {
            layout.is_of(field) && cols == placed.shape[1] && placed.pitch != 0
        });
        let words = Words::new(array, placed, dtype.bitsize() as u64 / 8, is_coded);
        Ok(Self { words, packing: field.packing.clone(), there: shape })
    }

    /// Of floats of an array of this element type and shape: a matrix of `shape`.
    ///
    /// # Errors
    /// What of the field does not fit the array.
    pub(crate) fn floats<A>(
        array: Arc<dyn ArrayBytes>,
        field: &Field<A>,
        (dtype, array_shape): (Dtype, &[u64]),
        shape: [u64; 2],
    ) -> Result<Self, FormatError> {
        let placed = field.view.place(array_shape)?;
        if placed.shape != shape || FloatKind::of(dtype).is_none() {
            return Err(FormatError::new("view: no matrix of floats of the same rows and columns"));
        }
        let words = Words::new(array, placed, dtype.bitsize() as u64 / 8, false);
        Ok(Self { words, packing: None, there: shape })
    }

    /// Reads what it takes, and decodes columns `columns` of rows `rows` of elements.
    pub(crate) fn read_elements(&self, rows: Range<u64>, columns: Range<u64>, out: &mut [u8]) -> Result<()> {
        let from = self.fetch(|needs| self.needs(rows.clone(), columns.clone(), needs))?;
        self.decode_words(&from, rows, columns, out)
    }

    /// The rows and columns of words that hold a block of codes, if all of them are there and fill whole words.
    fn words_of_block(&self, rows: &Range<u64>, columns: &Range<u64>) -> Option<Range<u64>> {
        let is_there = columns.end <= self.there[1] && rows.end <= self.there[0];
        if is_there { self.words_of(columns) } else { None }
    }

    /// Adds what columns `columns` of rows `rows` need.
    pub(crate) fn needs(&self, rows: Range<u64>, columns: Range<u64>, needs: &mut Needs) -> Result<()> {
        match self.words_of_block(&rows, &columns) {
            Some(words) => self.needs_there(rows, words, needs),
            None => {
                let rows = rows.start.min(self.there[0])..rows.end.min(self.there[0]);
                self.needs_there(rows, 0..self.words.placed.shape[1], needs)
            }
        }
    }

    /// Decodes columns `columns` of rows from row `row` on; `fill` stands for codes that there are not.
    pub(crate) fn decode(
        &self,
        from: &Fetched,
        row: u64,
        columns: Range<u64>,
        fill: u8,
        codes: &mut [u8],
    ) -> Result<()> {
        let cols = size(columns.end.saturating_sub(columns.start));
        let rows = row..row + (codes.len() / cols.max(1)) as u64;
        if let Some(words) = self.words_of_block(&rows, &columns) {
            return self.decode_there(from, rows, words, codes);
        }
        let pitch = self.codes_of_row();
        codes.fill(fill);
        let there = rows.start.min(self.there[0])..rows.end.min(self.there[0]);
        let mut found = self.words.hold((there.end - there.start).saturating_mul(pitch))?;
        self.decode_there(from, there, 0..self.words.placed.shape[1], &mut found)?;
        let shared = columns.start.min(self.there[1])..columns.end.min(self.there[1]);
        let (skip, length) = (size(shared.start), size(shared.end - shared.start));
        for (codes, found) in codes.chunks_exact_mut(cols.max(1)).zip(found.chunks_exact(size(pitch).max(1)))
        {
            codes[..length].copy_from_slice(&found[skip..skip + length]);
        }
        Ok(())
    }

    /// The chunk that has these rows and columns of codes and no others, as it is stored, if they are refined.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn stored_chunk<'a>(
        &self,
        from: &'a Fetched,
        rows: &Range<u64>,
        columns: &Range<u64>,
    ) -> Result<Option<KnownCodes<'a>>> {
        let Some(words) = self.words_of_block(rows, columns) else { return Ok(None) };
        if self.word_rows(rows.clone()) != *rows {
            return Ok(None);
        }
        self.words.stored_chunk(from, rows.clone(), words)
    }

    /// Reads what `add` asks.
    pub(super) fn fetch(&self, add: impl FnOnce(&mut Needs) -> Result<()>) -> Result<Fetched> {
        fetch_for(&*self.words.array, add)
    }

    /// Reads what it takes, and decodes columns `columns` of rows from row `row` on.
    pub(crate) fn read(&self, row: u64, columns: Range<u64>, fill: u8, codes: &mut [u8]) -> Result<()> {
        let rows = codes.len() as u64 / (columns.end.saturating_sub(columns.start)).max(1);
        let from = self.fetch(|needs| self.needs(row..row + rows, columns.clone(), needs))?;
        self.decode(&from, row, columns, fill, codes)
    }

    /// The columns of words that hold columns of codes and no others.
    fn words_of(&self, columns: &Range<u64>) -> Option<Range<u64>> {
        let Some(packing) = self.packing.as_ref().filter(|packing| packing.along == Axis::Columns) else {
            return Some(columns.clone());
        };
        let word = |codes: u64| {
            let bits = codes.checked_mul(packing.bits.into())?;
            bits.is_multiple_of(packing.word.into()).then(|| bits / u64::from(packing.word))
        };
        Some(word(columns.start)?..word(columns.end)?)
    }

    /// Codes of a row, those included that do not count.
    fn codes_of_row(&self) -> u64 {
        let words = self.words.placed.shape;
        self.packing.as_ref().and_then(|packing| packing.unpacked(words)).unwrap_or(words)[1]
    }

    /// Whole rows of words that hold rows of codes.
    fn word_rows(&self, rows: Range<u64>) -> Range<u64> {
        match self.packing.as_ref().filter(|packing| packing.along == Axis::Rows) {
            None => rows,
            Some(packing) => {
                let [unit_codes, unit_words] = units(packing);
                let end = rows.end.div_ceil(unit_codes) * unit_words;
                rows.start / unit_codes * unit_words..end.min(self.words.placed.shape[0])
            }
        }
    }

    fn needs_there(&self, rows: Range<u64>, cols: Range<u64>, needs: &mut Needs) -> Result<()> {
        if rows.is_empty() || cols.is_empty() {
            return Ok(());
        }
        self.words.needs(self.word_rows(rows), cols, needs)
    }

    /// Decodes rows of codes that there are, those in columns `cols` of words.
    fn decode_there(
        &self,
        from: &Fetched,
        rows: Range<u64>,
        cols: Range<u64>,
        codes: &mut [u8],
    ) -> Result<()> {
        if codes.is_empty() {
            return Ok(());
        }
        let Some(packing) = &self.packing else { return self.decode_words(from, rows, cols, codes) };
        let line = (cols.end - cols.start).saturating_mul(self.words.width);
        match packing.along {
            Axis::Columns if packing.is_bytes() => self.decode_words(from, rows, cols, codes),
            Axis::Columns => with_workspace(|workspace| {
                // The workspaces of what is decoded in it are others.
                let words = at_least(&mut workspace.fine, size((rows.end - rows.start).saturating_mul(line)));
                self.decode_words(from, rows, cols, words)?;
                unpack(packing, words, codes);
                Ok(())
            }),
            Axis::Rows => {
                let of_words = self.word_rows(rows.clone());
                let mut words = self.words.hold((of_words.end - of_words.start).saturating_mul(line))?;
                self.decode_words(from, of_words.clone(), cols.clone(), &mut words)?;
                let all = codes_of_words(Some(packing), &words, size(line));
                let [unit_codes, unit_words] = units(packing);
                let first = of_words.start / unit_words * unit_codes;
                let skip = size((rows.start - first) * (cols.end - cols.start));
                codes.copy_from_slice(&all[skip..skip + codes.len()]);
                Ok(())
            }
        }
    }

    /// Decodes columns `cols` of rows of words.
    pub(super) fn decode_words(
        &self,
        from: &Fetched,
        rows: Range<u64>,
        cols: Range<u64>,
        words: &mut [u8],
    ) -> Result<()> {
        self.words.decode(from, rows, cols, words)
    }

    /// Whether all of it would have to be held to read any of it, and is too much for that.
    pub(crate) fn is_too_large(&self) -> bool {
        self.words.is_too_large()
    }
}

/// The fewest codes that fill whole words, and these words.
fn units(packing: &Packing) -> [u64; 2] {
    let (bits, word) = (u64::from(packing.bits), u64::from(packing.word));
    let shared = greatest_common_divisor(bits, word);
    [word / shared, bits / shared]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use qstore_checkpoint::Error;
    use qstore_container::{CodeLayout, View};
    use std::path::Path;

    /// An array in memory.
    #[derive(Debug)]
    struct Memory(Vec<u8>);

    impl ArrayBytes for Memory {
        fn needs(&self, _: Range<u64>, _: &mut Needs) -> Result<()> {
            Ok(())
        }

        fn decode(&self, _: &Fetched, offset: u64, out: &mut [u8]) -> Result<()> {
            let start = size(offset);
            out.copy_from_slice(&self.0[start..start + out.len()]);
            Ok(())
        }

        fn coded(&self) -> Option<(&CodeLayout, u64)> {
            None
        }

        fn needs_coded(&self, _: Range<u64>, _: Range<u64>, _: &mut Needs) -> Result<()> {
            Err(self.wrong("it is not coded"))
        }

        fn decode_coded(&self, _: &Fetched, _: Range<u64>, _: Range<u64>, _: &mut [u8]) -> Result<()> {
            Err(self.wrong("it is not coded"))
        }

        fn piece_end(&self, _: u64) -> u64 {
            u64::MAX
        }

        fn storage(&self) -> Option<&dyn Storage> {
            None
        }

        fn path(&self) -> &Path {
            Path::new("memory")
        }

        fn wrong(&self, what: &str) -> Error {
            Error::damaged("memory", what)
        }
    }

    fn reader(
        (dtype, shape): (Dtype, &[u64]),
        (view, packing): (View, Option<Packing>),
        there: [u64; 2],
        cols: u64,
    ) -> Result<(MatrixReader, u64), FormatError> {
        let bytes = shape.iter().product::<u64>() * dtype.bitsize() as u64 / 8;
        let memory = Memory((0..bytes).map(|i| (i * 7 % 251) as u8).collect());
        let field = Field { array: (), view, packing };
        Ok((MatrixReader::codes(Arc::new(memory), &field, (dtype, shape), there)?, cols))
    }

    fn rows((reader, cols): &(MatrixReader, u64), rows: Range<u64>) -> Vec<u8> {
        let mut codes = vec![0; size((rows.end - rows.start) * cols)];
        reader.read(rows.start, 0..*cols, 9, &mut codes).unwrap();
        codes
    }

    #[test]
    fn every_row_is_the_same_by_itself_and_among_others() {
        let packing =
            |bits, along, order: &[u8]| Some(Packing { bits, word: 32, along, order: order.to_vec() });
        let awq = [0, 2, 4, 6, 1, 3, 5, 7];
        let views = [
            View::WHOLE,
            View::TRANSPOSED,
            View { slab: Some([3, 9].into()), ..View::WHOLE },
            View { slab: Some([3, 9].into()), rows: Some([3, 9].into()), ..View::TRANSPOSED },
            View { order: Some([2, 3].into()), ..View::WHOLE },
        ];
        for view in views {
            for packing in [
                packing(4, Axis::Columns, &[]),
                packing(4, Axis::Rows, &awq),
                packing(3, Axis::Columns, &[]),
                packing(3, Axis::Rows, &[]),
                packing(8, Axis::Columns, &[]),
            ] {
                let array = (Dtype::I32, &[12u64, 12][..]);
                let field = Field { array: (), view: view.clone(), packing: packing.clone() };
                let shape = field.shape(array.0, array.1).unwrap();
                let reader = reader(array, (view.clone(), packing.clone()), shape, shape[1]).unwrap();
                let all = rows(&reader, 0..shape[0]);
                assert_eq!(all.len() as u64, shape[0] * shape[1]);
                assert!(all.iter().any(|code| *code > 0));
                for row in 0..shape[0] {
                    let at = size(row * shape[1]);
                    assert_eq!(
                        rows(&reader, row..row + 1),
                        all[at..at + size(shape[1])],
                        "{view:?} {packing:?} {row}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_filled() {
        let array = (Dtype::I8, &[3u64, 4][..]);
        let all = rows(&reader(array, (View::WHOLE, None), [3, 4], 4).unwrap(), 0..3);
        let padded = rows(&reader(array, (View::WHOLE, None), [3, 4], 5).unwrap(), 1..5);
        assert_eq!(padded[..5], [all[4], all[5], all[6], all[7], 9]);
        assert_eq!(padded[10..], [9; 10]);
        let cut = rows(&reader(array, (View::WHOLE, None), [3, 4], 2).unwrap(), 0..2);
        assert_eq!(cut, [all[0], all[1], all[4], all[5]]);
        // Of four columns three count.
        let fewer = rows(&reader(array, (View::WHOLE, None), [2, 3], 4).unwrap(), 1..3);
        assert_eq!(fewer, [all[4], all[5], all[6], 9, 9, 9, 9, 9]);
    }

    #[test]
    fn codes_must_be_there() {
        let array = (Dtype::I8, &[3u64, 4][..]);
        assert!(reader(array, (View::WHOLE, None), [4, 4], 4).is_err());
        assert!(reader(array, (View::WHOLE, None), [3, 5], 4).is_err());
        assert!(reader((Dtype::I32, &[3, 4]), (View::WHOLE, None), [3, 4], 4).is_err());
        let packing = Packing { bits: 3, word: 8, along: Axis::Columns, order: Vec::new() };
        assert!(
            reader(array, (View::WHOLE, Some(packing)), [3, 4], 4).is_err(),
            "a code lies across two rows"
        );
    }
}
