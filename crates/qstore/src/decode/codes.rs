//! The codes of a quantised matrix, wherever they lie, row by row.

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use qstore_container::limits::MAX_TRANSPOSED_BYTES;
use qstore_container::{Axis, CodeLayout, Dtype, Field, FormatError, Packing, Placed};

use super::array::ArrayReader;
use crate::codec::{at_least, with_workspace};
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::memory::size;
use crate::quant::{codes_of_words, gather, greatest_common_divisor, unpack};

/// An array of codes.
pub(crate) trait CodeBytes: Debug + Send + Sync {
    /// Fills `out` from byte `offset` on.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;
    /// How the codes of the array are coded, if they are, and how many elements a coded row has. An array that refers to another has the bytes of that, but
    /// maybe another shape.
    fn coded(&self) -> Option<(&CodeLayout, u64)>;
    /// Fills `out` with columns `cols` of rows `rows` of what is coded, where there is [`coded`](Self::coded).
    fn read_coded(&self, rows: Range<u64>, cols: Range<u64>, out: &mut [u8]) -> Result<()>;
    /// What errors name.
    fn path(&self) -> &Path;
    /// An error about the array.
    fn wrong(&self, what: &str) -> Error;
}

impl CodeBytes for ArrayReader {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read(offset, out)
    }

    fn coded(&self) -> Option<(&CodeLayout, u64)> {
        let [_, cols] = self.coded_matrix()?;
        Some((self.stored().encoding.layout()?, cols))
    }

    fn read_coded(&self, rows: Range<u64>, cols: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.read_block(rows, cols, out)
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
    /// Where the words of the codes lie.
    placed: Placed,
    /// Bytes of a word.
    width: u64,
    packing: Option<Packing>,
    access: Access,
    /// Rows and columns of codes that there are.
    there: [u64; 2],
    /// Columns that are asked for.
    cols: u64,
    /// What stands in the place of codes that there are not.
    fill: u8,
}

/// How rows of words are had.
#[derive(Debug)]
enum Access {
    /// As they lie in the array.
    Direct,
    /// As they are coded.
    Coded,
    /// From a copy in memory, made when it is first needed.
    Whole(OnceLock<Vec<u8>>),
}

impl CodeReader {
    /// Of the codes `field` of an array of this element type and shape, of which `shape` count; rows of `cols` are asked for.
    ///
    /// # Errors
    /// What of the field does not fit the array.
    pub(crate) fn new<A>(
        reader: impl CodeBytes + 'static,
        field: &Field<A>,
        (dtype, array_shape): (Dtype, &[u64]),
        shape: [u64; 2],
        (cols, fill): (u64, u8),
    ) -> Result<Self, FormatError> {
        check_codes(field, dtype, array_shape, shape)?;
        let placed = field.view.place(array_shape)?;
        let is_coded = reader.coded().is_some_and(|(layout, cols)| {
            layout.is_of(field) && cols == placed.shape[1] && placed.pitch != 0
        });
        let access = if is_coded {
            Access::Coded
        } else if placed.is_contiguous() {
            Access::Direct
        } else {
            Access::Whole(OnceLock::new())
        };
        let width = dtype.bitsize() as u64 / 8;
        let packing = field.packing.clone();
        Ok(Self { reader: Box::new(reader), placed, width, packing, access, there: shape, cols, fill })
    }

    /// Reads codes from the beginning of row `row` on: whole rows.
    pub(crate) fn read_rows(&self, row: u64, codes: &mut [u8]) -> Result<()> {
        self.read_block(row, 0..self.cols, codes)
    }

    /// Reads columns `columns` of rows from row `row` on.
    pub(crate) fn read_block(&self, row: u64, columns: Range<u64>, codes: &mut [u8]) -> Result<()> {
        let cols = size(columns.end.saturating_sub(columns.start));
        let rows = (codes.len() / cols.max(1)) as u64;
        let pitch = self.codes_of_row();
        let is_there = columns.end <= self.there[1] && row.saturating_add(rows) <= self.there[0];
        if is_there && let Some(words) = self.words_of(&columns) {
            return self.read_there(row..row + rows, words, codes);
        }
        codes.fill(self.fill);
        let there = self.there[0].saturating_sub(row).min(rows);
        let mut found = vec![0; size(there.saturating_mul(pitch))];
        self.read_there(row..row + there, 0..self.placed.shape[1], &mut found)?;
        let shared = columns.start.min(self.there[1])..columns.end.min(self.there[1]);
        let (skip, length) = (size(shared.start), size(shared.end - shared.start));
        for (codes, found) in codes.chunks_exact_mut(cols.max(1)).zip(found.chunks_exact(size(pitch).max(1)))
        {
            codes[..length].copy_from_slice(&found[skip..skip + length]);
        }
        Ok(())
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
        let words = self.placed.shape;
        self.packing.as_ref().and_then(|packing| packing.unpacked(words)).unwrap_or(words)[1]
    }

    /// Reads rows of codes that there are, those in columns `cols` of words.
    fn read_there(&self, rows: Range<u64>, cols: Range<u64>, codes: &mut [u8]) -> Result<()> {
        if codes.is_empty() {
            return Ok(());
        }
        let Some(packing) = &self.packing else { return self.read_words(rows, cols, codes) };
        let line = (cols.end - cols.start).saturating_mul(self.width);
        match packing.along {
            Axis::Columns if packing.is_bytes() => self.read_words(rows, cols, codes),
            Axis::Columns => with_workspace(|workspace| {
                // The workspaces of what is read in it are others.
                let words = at_least(&mut workspace.fine, size((rows.end - rows.start).saturating_mul(line)));
                self.read_words(rows, cols, words)?;
                unpack(packing, words, codes);
                Ok(())
            }),
            Axis::Rows => {
                // Whole rows of words that hold whole rows of codes.
                let (bits, word) = (u64::from(packing.bits), u64::from(packing.word));
                let shared = greatest_common_divisor(bits, word);
                let (unit_codes, unit_words) = (word / shared, bits / shared);
                let units = rows.start / unit_codes..rows.end.div_ceil(unit_codes);
                let end = (units.end * unit_words).min(self.placed.shape[0]);
                let mut words = vec![0; size((end - units.start * unit_words).saturating_mul(line))];
                self.read_words(units.start * unit_words..end, cols.clone(), &mut words)?;
                let all = codes_of_words(Some(packing), &words, size(line));
                let skip = size((rows.start - units.start * unit_codes) * (cols.end - cols.start));
                codes.copy_from_slice(&all[skip..skip + codes.len()]);
                Ok(())
            }
        }
    }

    /// Reads columns `cols` of rows of words.
    fn read_words(&self, rows: Range<u64>, cols: Range<u64>, words: &mut [u8]) -> Result<()> {
        let first = self.placed.first_row();
        if matches!(self.access, Access::Coded) {
            return self.reader.read_coded(first + rows.start..first + rows.end, cols, words);
        }
        let all = self.placed.shape[1];
        if cols != (0..all) {
            let mut whole = vec![0; size((rows.end - rows.start).saturating_mul(all * self.width))];
            self.read_words(rows, 0..all, &mut whole)?;
            let (skip, line) = (size(cols.start * self.width), size((cols.end - cols.start) * self.width));
            let lines = whole.chunks_exact(size(all * self.width).max(1));
            for (words, whole) in words.chunks_exact_mut(line.max(1)).zip(lines) {
                words.copy_from_slice(&whole[skip..skip + line]);
            }
            return Ok(());
        }
        let Access::Whole(whole) = &self.access else {
            return self.reader.read(self.placed.element(rows.start, 0) * self.width, words);
        };
        let all = match whole.get() {
            Some(all) => all,
            None => {
                let all = self.gather()?;
                whole.get_or_init(|| all)
            }
        };
        let start = size(rows.start.saturating_mul(self.placed.shape[1]).saturating_mul(self.width));
        let found = start.checked_add(words.len()).and_then(|end| all.get(start..end));
        words.copy_from_slice(
            found.ok_or_else(|| self.reader.wrong("it has fewer codes than are asked for"))?,
        );
        Ok(())
    }

    /// Whether all of it would have to be held to read any of it, and is too much for that.
    pub(crate) fn is_too_large(&self) -> bool {
        let elements = self.placed.elements();
        matches!(self.access, Access::Whole(_))
            && (elements.end - elements.start).saturating_mul(self.width) > MAX_TRANSPOSED_BYTES
    }

    /// All words in the order of the matrix.
    fn gather(&self) -> Result<Vec<u8>> {
        if self.is_too_large() {
            return Err(self.reader.wrong("it is larger than what a reader transposes"));
        }
        let elements = self.placed.elements();
        let hold = |bytes| zeroed(bytes).at(self.reader.path(), "cannot hold a matrix");
        let mut slab = hold((elements.end - elements.start) * self.width)?;
        self.reader.read(elements.start * self.width, &mut slab)?;
        match gather(&slab, &self.placed.from_slab(), self.width) {
            Cow::Owned(words) => Ok(words),
            Cow::Borrowed(_) => Ok(slab),
        }
    }
}

/// Whether a field of an array of this element type and shape has so many codes, in whole words.
///
/// # Errors
/// What of it does not fit.
pub(crate) fn check_codes<A>(
    field: &Field<A>,
    dtype: Dtype,
    array_shape: &[u64],
    shape: [u64; 2],
) -> Result<(), FormatError> {
    let [rows, cols] = field.shape(dtype, array_shape)?;
    if rows < shape[0] || cols < shape[1] {
        return Err(FormatError::new("view: fewer codes than the matrix has"));
    }
    let words = field.view.place(array_shape)?.shape;
    let Some(packing) = &field.packing else {
        let is_byte = dtype.bitsize() == 8;
        return if is_byte { Ok(()) } else { Err(FormatError::new("packing: elements of more than a byte")) };
    };
    let (codes, words) = match packing.along {
        Axis::Rows => (rows, words[0]),
        Axis::Columns => (cols, words[1]),
    };
    if codes.checked_mul(packing.bits.into()) != words.checked_mul(packing.word.into()) {
        return Err(FormatError::new("packing: codes that do not fill whole words"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_container::View;

    /// An array in memory.
    #[derive(Debug)]
    struct Memory(Vec<u8>);

    impl CodeBytes for Memory {
        fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
            let start = size(offset);
            out.copy_from_slice(&self.0[start..start + out.len()]);
            Ok(())
        }

        fn coded(&self) -> Option<(&CodeLayout, u64)> {
            None
        }

        fn read_coded(&self, _: Range<u64>, _: Range<u64>, _: &mut [u8]) -> Result<()> {
            Err(self.wrong("it is not coded"))
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
    ) -> Result<CodeReader, FormatError> {
        let bytes = shape.iter().product::<u64>() * dtype.bitsize() as u64 / 8;
        let memory = Memory((0..bytes).map(|i| (i * 7 % 251) as u8).collect());
        CodeReader::new(memory, &Field { array: (), view, packing }, (dtype, shape), there, (cols, 9))
    }

    fn rows(reader: &CodeReader, rows: Range<u64>) -> Vec<u8> {
        let mut codes = vec![0; size((rows.end - rows.start) * reader.cols)];
        reader.read_rows(rows.start, &mut codes).unwrap();
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
