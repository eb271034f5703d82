//! Arrays as bytes, wherever these come from: what a part of them needs, and the part itself from what was fetched.

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

use qstore_checkpoint::{Error, Result, size};
use qstore_container::CodeLayout;

use crate::codec::KnownCodes;
use crate::fetch::{Fetched, Needs, fetch};
use crate::storage::Storage;

/// The bytes of an array.
pub(crate) trait ArrayBytes: Debug + Send + Sync {
    /// Adds what decoding these bytes needs.
    fn needs(&self, bytes: Range<u64>, needs: &mut Needs) -> Result<()>;
    /// Fills `out` from byte `offset` on.
    fn decode(&self, from: &Fetched, offset: u64, out: &mut [u8]) -> Result<()>;
    /// How the codes of the array are coded, if they are, and how many elements a coded row has. An array that refers
    /// to another has the bytes of that, but maybe another shape.
    fn coded(&self) -> Option<(&CodeLayout, u64)>;
    /// Adds what decoding columns `cols` of rows `rows` of what is coded needs, where there is [`coded`](Self::coded).
    fn needs_coded(&self, rows: Range<u64>, cols: Range<u64>, needs: &mut Needs) -> Result<()>;
    /// Fills `out` with columns `cols` of rows `rows` of what is coded, where there is [`coded`](Self::coded).
    fn decode_coded(&self, from: &Fetched, rows: Range<u64>, cols: Range<u64>, out: &mut [u8]) -> Result<()>;
    /// The chunk that has these rows and columns of what is coded and no others, as it is stored, if it is of codes
    /// that are refined.
    fn refined_chunk<'a>(
        &self,
        _from: &'a Fetched,
        _rows: Range<u64>,
        _cols: Range<u64>,
    ) -> Result<Option<KnownCodes<'a>>> {
        Ok(None)
    }

    /// Up to which byte is best asked for from byte `at` on.
    fn piece_end(&self, at: u64) -> u64;
    /// What errors name.
    fn path(&self) -> &Path;
    /// An error about the array.
    fn wrong(&self, what: &str) -> Error;
    /// Where what it needs is read, if it needs anything.
    fn storage(&self) -> Option<&dyn Storage>;

    /// Adds what decoding columns `columns` of rows `rows` needs, of the array seen as rows of so many elements of so
    /// many bytes.
    fn needs_columns(
        &self,
        [cols, width]: [u64; 2],
        rows: Range<u64>,
        columns: Range<u64>,
        needs: &mut Needs,
    ) -> Result<()> {
        rows.into_iter().try_for_each(|row| {
            let line = row * cols;
            self.needs((line + columns.start) * width..(line + columns.end) * width, needs)
        })
    }

    /// Fills `out` with these.
    fn decode_columns(
        &self,
        from: &Fetched,
        [cols, width]: [u64; 2],
        rows: Range<u64>,
        columns: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        let length = size((columns.end - columns.start) * width).max(1);
        rows.zip(out.chunks_exact_mut(length))
            .try_for_each(|(row, piece)| self.decode(from, (row * cols + columns.start) * width, piece))
    }
}

/// Reads what `add` asks of `array`.
pub(crate) fn fetch_for(
    array: &dyn ArrayBytes,
    add: impl FnOnce(&mut Needs) -> Result<()>,
) -> Result<Fetched> {
    let Some(storage) = array.storage() else { return Ok(Fetched::default()) };
    let mut needs = Needs::default();
    add(&mut needs)?;
    fetch(storage, needs)
}
