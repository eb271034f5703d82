//! The words of a matrix, wherever they lie, row by row: elements of an array, as which floats lie there or packed codes.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use qstore_checkpoint::{IoContext as _, Result, gather, size, zeroed};
use qstore_container::Placed;
use qstore_container::limits::MAX_TRANSPOSED_BYTES;

use super::bytes::ArrayBytes;
use crate::codec::KnownCodes;
use crate::fetch::{Fetched, Group, Needs};

/// The words of a matrix.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) array: Arc<dyn ArrayBytes>,
    /// Where they lie in the array.
    pub(super) placed: Placed,
    /// Bytes of a word.
    pub(super) width: u64,
    access: Access,
}

/// How rows of words are had.
#[derive(Debug)]
enum Access {
    /// As they lie in the array.
    Direct,
    /// As they are coded.
    Coded,
    /// From a copy in memory, made when it is first needed.
    Whole(Whole),
}

/// A copy of all words, in the order of the matrix.
#[derive(Debug, Default)]
struct Whole {
    words: OnceLock<Vec<u8>>,
    /// Held by who makes it.
    making: Mutex<()>,
    /// What it is made of.
    group: Group,
}

impl Words {
    /// Those of an array; `is_coded` if the array codes them in the rows and columns of the matrix.
    pub(super) fn new(array: Arc<dyn ArrayBytes>, placed: Placed, width: u64, is_coded: bool) -> Self {
        let access = if is_coded {
            Access::Coded
        } else if placed.is_contiguous() {
            Access::Direct
        } else {
            Access::Whole(Whole::default())
        };
        Self { array, placed, width, access }
    }

    /// Whether the array codes them in the rows and columns of the matrix.
    fn is_coded(&self) -> bool {
        matches!(self.access, Access::Coded)
    }

    /// Adds what columns `cols` of rows `rows` need.
    pub(super) fn needs(&self, rows: Range<u64>, cols: Range<u64>, needs: &mut Needs) -> Result<()> {
        match &self.access {
            Access::Coded => {
                let first = self.placed.first_row();
                self.array.needs_coded(first + rows.start..first + rows.end, cols, needs)
            }
            Access::Direct => self.array.needs(self.bytes_of(&rows), needs),
            Access::Whole(whole) if whole.words.get().is_some() => Ok(()),
            Access::Whole(whole) => {
                let elements = self.placed.elements();
                let bytes = elements.start * self.width..elements.end * self.width;
                whole.group.add_to(needs, |listed| self.array.needs(bytes, listed))
            }
        }
    }

    /// The bytes of the array that are rows of words, where these lie as they are.
    fn bytes_of(&self, rows: &Range<u64>) -> Range<u64> {
        let start = self.placed.element(rows.start, 0) * self.width;
        start..start + (rows.end - rows.start) * self.placed.shape[1] * self.width
    }

    /// The chunk that has these rows and columns of words and no others, as it is stored, if its codes are refined.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn stored_chunk<'a>(
        &self,
        from: &'a Fetched,
        rows: Range<u64>,
        cols: Range<u64>,
    ) -> Result<Option<KnownCodes<'a>>> {
        if !self.is_coded() || self.placed.first_row() != 0 {
            return Ok(None);
        }
        self.array.refined_chunk(from, rows, cols)
    }

    /// Memory for so many bytes.
    pub(super) fn hold(&self, bytes: u64) -> Result<Vec<u8>> {
        zeroed(bytes).at(self.array.path(), "cannot hold a matrix")
    }

    /// Decodes columns `cols` of rows `rows`.
    pub(super) fn decode(
        &self,
        from: &Fetched,
        rows: Range<u64>,
        cols: Range<u64>,
        words: &mut [u8],
    ) -> Result<()> {
        let first = self.placed.first_row();
        if self.is_coded() {
            return self.array.decode_coded(from, first + rows.start..first + rows.end, cols, words);
        }
        let all = self.placed.shape[1];
        if cols != (0..all) {
            let mut whole =
                self.hold((rows.end - rows.start).saturating_mul(all.saturating_mul(self.width)))?;
            self.decode(from, rows, 0..all, &mut whole)?;
            let (skip, line) = (size(cols.start * self.width), size((cols.end - cols.start) * self.width));
            let lines = whole.chunks_exact(size(all * self.width).max(1));
            for (words, whole) in words.chunks_exact_mut(line.max(1)).zip(lines) {
                words.copy_from_slice(&whole[skip..skip + line]);
            }
            return Ok(());
        }
        let Access::Whole(whole) = &self.access else {
            return self.array.decode(from, self.bytes_of(&rows).start, words);
        };
        let all = self.whole(from, whole)?;
        let start = size(rows.start.saturating_mul(self.placed.shape[1]).saturating_mul(self.width));
        let found = start.checked_add(words.len()).and_then(|end| all.get(start..end));
        let found = found.ok_or_else(|| self.array.wrong("it has fewer words than are asked for"))?;
        words.copy_from_slice(found);
        Ok(())
    }

    /// All words in the order of the matrix, which one thread makes: others wait, rather than make as many.
    fn whole<'w>(&self, from: &Fetched, whole: &'w Whole) -> Result<&'w [u8]> {
        if let Some(words) = whole.words.get() {
            return Ok(words);
        }
        let _making = whole.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = whole.words.get() {
            return Ok(words);
        }
        let words = self.gather(from)?;
        Ok(whole.words.get_or_init(|| words))
    }

    /// Whether all of it would have to be held to read any of it, and is too much for that.
    pub(super) fn is_too_large(&self) -> bool {
        let elements = self.placed.elements();
        matches!(self.access, Access::Whole(_))
            && (elements.end - elements.start).saturating_mul(self.width) > MAX_TRANSPOSED_BYTES
    }

    fn gather(&self, from: &Fetched) -> Result<Vec<u8>> {
        if self.is_too_large() {
            return Err(self.array.wrong("it is larger than what a reader transposes"));
        }
        let elements = self.placed.elements();
        let mut slab = self.hold((elements.end - elements.start) * self.width)?;
        self.array.decode(from, elements.start * self.width, &mut slab)?;
        match gather(&slab, &self.placed.from_slab(), self.width) {
            Cow::Owned(words) => Ok(words),
            Cow::Borrowed(_) => Ok(slab),
        }
    }
}
