//! One array of a variant: which chunks hold a part of it, and that part from what was fetched of them.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use qstore_checkpoint::{Error, IoContext as _, Result, size, zeroed};
use qstore_container::{ArrayKey, ChunkForm, ChunkRecord, CodeLayout, Encoding, StoredArray};
use qstore_kernels::DecodeError;

use super::bytes::{ArrayBytes, fetch_for};
use super::given::GivenReader;
use super::kept;
use super::parts::{Parts, Rows};
use crate::codec::{Codec, GivenOfChunk, KnownCodes, Workspace, at_least, layout_of, with_workspace};
use crate::fetch::{Fetched, Needs, Place};
use crate::storage::Storage;
use crate::variant::{ChunkId, Shard, Variant, about_array};

/// Stored bytes of a stretch of chunks that are checked at a time.
const STRETCH_BYTES: u64 = 4 << 20;

/// An array, and how its bytes are had.
#[derive(Debug)]
pub(crate) struct ArrayReader {
    variant: Arc<Variant>,
    shard: usize,
    index: usize,
    /// Bytes of the array decoded.
    bytes: u64,
    location: Location,
}

/// Where the bytes of an array are.
#[derive(Debug)]
pub(super) enum Location {
    /// In chunks of its own.
    Chunks(Box<Chunks>),
    /// In a bundle, from a byte on.
    Slice { bundle: Arc<ArrayReader>, start: u64 },
    /// In matrices of which it consists.
    Parts(Parts),
    /// In another array, of which it is a matrix.
    Rows(Rows),
}

/// The chunks of an array.
#[derive(Debug)]
pub(super) struct Chunks {
    pub(super) places: Vec<Place>,
    /// Opened when a chunk is first decoded: its tables take a while, and memory.
    pub(super) codec: OnceLock<Codec>,
    pub(super) given: Option<GivenReader>,
    /// Whether they lie in a kept file.
    pub(super) verbatim: bool,
}

impl ArrayReader {
    /// The array at `(shard, index)` of the variant, which has so many bytes.
    pub(super) fn new(
        variant: Arc<Variant>,
        (shard, index): (usize, usize),
        bytes: u64,
        location: Location,
    ) -> Self {
        Self { variant, shard, index, bytes, location }
    }

    /// The plan's entry of the array whose bytes are read (for a reference the one referred to).
    pub(crate) fn stored(&self) -> &StoredArray {
        self.variant.array_at((self.shard, self.index))
    }

    /// Bytes of the array decoded.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn of_shard(&self) -> &Shard {
        self.variant.shard(self.shard)
    }

    /// The store's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.variant.folder()
    }

    pub(super) fn damaged(&self, what: &dyn ToString) -> Error {
        let shard = self.of_shard();
        let kept = match &self.location {
            Location::Chunks(chunks) if chunks.verbatim => chunks.places.first(),
            _ => None,
        };
        let path = kept.map_or_else(|| shard.path.clone(), |place| self.folder().join(&*place.file));
        let error = Error::damaged(path, format!("{}: {}", self.stored().key, what.to_string()));
        about_array(error, self.variant.name(), &self.stored().key)
    }

    /// That something is wrong with one of its chunks.
    fn damaged_chunk(&self, index: u64, what: &dyn ToString) -> Error {
        let error = self.damaged(&format!("chunk {index}{}", what.to_string()));
        error.about(|subject| subject.chunk = Some(index))
    }

    /// `error` of reading what the array lies in, which is about this array.
    fn of_this(&self, error: Error) -> Error {
        let known = error.subject().is_some_and(|subject| subject.tensor.is_some());
        if known { error } else { about_array(error, self.variant.name(), &self.stored().key) }
    }

    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    fn chunks(&self) -> Result<&Chunks> {
        match &self.location {
            Location::Chunks(chunks) => Ok(chunks),
            _ => Err(Error::internal(format!("{}: chunks of an array that has none", self.stored().key))),
        }
    }

    fn codec<'c>(&self, chunks: &'c Chunks) -> Result<&'c Codec> {
        if let Some(codec) = chunks.codec.get() {
            return Ok(codec);
        }
        let tables = self.of_shard().tables(self.index);
        let codec = Codec::open(self.stored(), tables).map_err(|e| self.damaged(&e))?;
        Ok(chunks.codec.get_or_init(|| codec))
    }

    /// The rows and columns of what the array is given that chunk `index` needs.
    fn given_block(&self, index: u64) -> Result<[Range<usize>; 2]> {
        let array = self.stored();
        let place = array.chunk_place(index).map_err(|e| self.damaged(&e))?;
        Ok(array
            .encoding
            .given_block([place.rows, place.cols].map(|range| size(range.start)..size(range.end))))
    }

    /// Adds what decoding chunk `index` needs.
    pub(super) fn needs_chunk(&self, index: u64, needs: &mut Needs) -> Result<()> {
        let chunks = self.chunks()?;
        let place = chunks.places.get(size(index)).ok_or_else(|| self.damaged(&"a chunk is missing"))?;
        // What it is given may be given the same.
        if chunks.given.is_some() && !needs.is_new(place) {
            return Ok(());
        }
        needs.add(place.clone());
        let is_coded =
            self.of_shard().records(self.index).get(size(index)).is_some_and(|r| r.form == ChunkForm::Coded);
        match &chunks.given {
            Some(given) if is_coded => given.needs(self.given_block(index)?, needs),
            _ => Ok(()),
        }
    }

    /// Decodes chunk `index` into `out`, which must have its length.
    pub(super) fn decode_chunk(&self, from: &Fetched, index: u64, out: &mut [u8]) -> Result<()> {
        let id = (Arc::as_ptr(&self.variant).addr(), self.chunk_id(index));
        if kept::copy(id, out) {
            return Ok(());
        }
        let (record, stored) = self.stored_chunk(from, index)?;
        self.decode_stored(from, (index, record), stored, out)?;
        kept::keep(id, out);
        Ok(())
    }

    /// Chunk `index` as it is stored, once its checksum was found to fit, and the record of it.
    fn stored_chunk<'a>(&self, from: &'a Fetched, index: u64) -> Result<(&ChunkRecord, &'a [u8])> {
        let chunks = self.chunks()?;
        let at = size(index);
        let found = self.of_shard().records(self.index).get(at).zip(chunks.places.get(at));
        let (record, place) = found.ok_or_else(|| self.damaged(&"a chunk is missing"))?;
        let stored = from.get(place)?;
        if !record.matches(stored) {
            return Err(self.damaged_chunk(index, &" is damaged: its checksum does not fit"));
        }
        Ok((record, stored))
    }

    /// Decodes a chunk as it is stored.
    fn decode_stored(
        &self,
        from: &Fetched,
        (index, record): (u64, &ChunkRecord),
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        if record.form == ChunkForm::Raw {
            if out.len() != stored.len() {
                return Err(self.damaged_chunk(index, &" has another length than its rows"));
            }
            out.copy_from_slice(stored);
            return Ok(());
        }
        with_workspace(|workspace| self.decode_coded_chunk(from, index, stored, workspace, out))
    }

    fn decode_coded_chunk(
        &self,
        from: &Fetched,
        index: u64,
        stored: &[u8],
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<()> {
        let chunks = self.chunks()?;
        let codec = self.codec(chunks)?;
        let place = self.stored().chunk_place(index).map_err(|e| self.damaged(&e))?;
        let cols = size(place.cols.end - place.cols.start);
        let explain = |e: DecodeError| self.damaged_chunk(index, &format!(": {e}"));
        let Some(given) = &chunks.given else {
            return codec.decode(stored, cols, GivenOfChunk::Nothing, workspace, out).map_err(explain);
        };
        let mut buffer = std::mem::take(&mut workspace.codes);
        let result = given.with_block(from, self.given_block(index)?, &mut buffer, |given| {
            codec.decode(stored, cols, given, workspace, out).map_err(explain)
        });
        workspace.codes = buffer;
        result?
    }

    /// Its chunks in stretches of some megabytes.
    pub(crate) fn stretches_of_chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let places = self.chunks().map_or(&[][..], |chunks| &chunks.places);
        let (mut stretches, mut first, mut bytes) = (Vec::new(), 0, 0);
        for (index, place) in places.iter().enumerate() {
            bytes += place.length;
            if bytes >= STRETCH_BYTES || index + 1 == places.len() {
                stretches.push(first..index + 1);
                (first, bytes) = (index + 1, 0);
            }
        }
        stretches.into_iter()
    }

    /// Bytes of some of its chunks as they are stored.
    pub(crate) fn stored_bytes(&self, chunks: Range<usize>) -> u64 {
        let places = self.chunks().map_or(&[][..], |own| &own.places[chunks]);
        places.iter().map(|place| place.length).sum()
    }

    /// Adds some of its stored chunks, without what they are given.
    pub(crate) fn needs_stored(&self, chunks: Range<usize>, needs: &mut Needs) -> Result<()> {
        self.chunks()?.places[chunks].iter().cloned().for_each(|place| needs.add(place));
        Ok(())
    }

    /// Checks the checksums of some stored chunks without decoding any.
    pub(crate) fn check_stored(&self, from: &Fetched, chunks: Range<usize>) -> Result<()> {
        let places = &self.chunks()?.places;
        let records = self.of_shard().records(self.index).iter().zip(places);
        for (index, (record, place)) in records.enumerate().skip(chunks.start).take(chunks.len()) {
            if !record.matches(from.get(place)?) {
                let index = index as u64;
                return Err(self.damaged_chunk(index, &" is damaged: its checksum does not fit"));
            }
        }
        Ok(())
    }

    /// Reads what it takes, and fills `out` with the array's bytes from byte `offset` on.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let bytes = offset..offset.saturating_add(out.len() as u64);
        self.check_within(&bytes)?;
        if self.copy_held(offset, out) {
            return Ok(());
        }
        let from = fetch_for(self, |needs| self.needs(bytes, needs))?;
        self.decode(&from, offset, out)
    }

    /// The whole rows of the array's own that hold these bytes, and the bytes of a row, if it is read by rows of a
    /// matrix.
    fn rows_of(&self, bytes: &Range<u64>) -> Option<(Range<u64>, u64)> {
        let array = self.stored();
        let [rows, cols] = self.coded_matrix().filter(|_| !bytes.is_empty())?;
        if !array.encoding.is_transposed() && array.chunk.cols == cols {
            return None;
        }
        let cols = if array.encoding.is_transposed() { rows } else { cols };
        let row_bytes = cols.saturating_mul(array.width());
        Some((bytes.start / row_bytes..bytes.end.div_ceil(row_bytes), row_bytes))
    }

    fn check_within(&self, bytes: &Range<u64>) -> Result<()> {
        if bytes.start <= bytes.end && bytes.end <= self.bytes {
            return Ok(());
        }
        Err(self.damaged(&"more is asked of it than it has"))
    }

    /// Fills `out` from byte `offset` on, if a chunk is held that has all of it.
    fn copy_held(&self, offset: u64, out: &mut [u8]) -> bool {
        match &self.location {
            Location::Slice { bundle, start } => bundle.copy_held(start.saturating_add(offset), out),
            Location::Chunks(_) if self.coded_matrix().is_none() => {
                let full = self.stored().chunk_bytes().max(1);
                let held = self.variant.decoded_chunks().peek(self.chunk_id(offset / full));
                let skip = size(offset % full);
                let part = held.as_ref().and_then(|chunk| chunk.get(skip..)?.get(..out.len()));
                part.is_some_and(|part| {
                    out.copy_from_slice(part);
                    true
                })
            }
            _ => false,
        }
    }

    fn chunk_id(&self, index: u64) -> ChunkId {
        (self.shard, self.index, index)
    }

    /// Calls `work` with chunk `index`, which has `bytes` bytes, of which so many are `wanted`. It is held for others
    /// if that is at most half, or it is a bundle's; else `buffer` is for it.
    pub(super) fn with_chunk(
        &self,
        from: &Fetched,
        (index, bytes, wanted): (u64, u64, usize),
        buffer: &mut Vec<u8>,
        work: impl FnOnce(&[u8]),
    ) -> Result<()> {
        let decode = || {
            let mut chunk = zeroed(bytes).at(self.folder(), "cannot hold a chunk")?;
            self.decode_chunk(from, index, &mut chunk)?;
            Ok(chunk)
        };
        let (id, chunks) = (self.chunk_id(index), self.variant.decoded_chunks());
        let others_want_it = wanted as u64 <= bytes / 2 || matches!(self.stored().key, ArrayKey::Bundle(_));
        let held = if others_want_it {
            Some(chunks.get_or_decode(id, bytes, decode)?)
        } else {
            chunks.peek(id).filter(|chunk| chunk.len() as u64 == bytes)
        };
        if let Some(chunk) = held {
            work(&chunk);
        } else {
            let chunk = at_least(buffer, size(bytes));
            self.decode_chunk(from, index, chunk)?;
            work(chunk);
        }
        Ok(())
    }

    /// `error` of reading its bundle, which is about this array.
    fn of_slice(&self, error: Error) -> Error {
        match error {
            Error::Damaged { path, what, subject } => {
                let what = format!("{}: {what}", self.stored().key);
                self.of_this(Error::Damaged { path, what, subject })
            }
            other => other,
        }
    }
}

impl ArrayBytes for ArrayReader {
    fn needs(&self, bytes: Range<u64>, needs: &mut Needs) -> Result<()> {
        self.check_within(&bytes)?;
        match &self.location {
            Location::Slice { bundle, start } => {
                let there = start.saturating_add(bytes.start)..start.saturating_add(bytes.end);
                return bundle.needs(there, needs).map_err(|e| self.of_slice(e));
            }
            Location::Parts(parts) => return parts.needs(bytes, needs),
            Location::Rows(rows) => return rows.needs(bytes, needs),
            Location::Chunks(_) => {}
        }
        if let (true, Location::Chunks(chunks)) = (self.is_in_turn(), &self.location) {
            chunks.places.iter().take(1).for_each(|place| needs.read_together(place));
        }
        match self.rows_of(&bytes) {
            None => self.needs_flat(bytes, needs),
            Some((rows, row_bytes)) => self.needs_matrix(rows, 0..row_bytes / self.stored().width(), needs),
        }
    }

    fn decode(&self, from: &Fetched, offset: u64, out: &mut [u8]) -> Result<()> {
        let bytes = offset..offset.saturating_add(out.len() as u64);
        self.check_within(&bytes)?;
        match &self.location {
            Location::Slice { bundle, start } => {
                let decoded = bundle.decode(from, start.saturating_add(offset), out);
                return decoded.map_err(|e| self.of_slice(e));
            }
            Location::Parts(parts) => return parts.decode(from, offset, out).map_err(|e| self.of_this(e)),
            Location::Rows(rows) => return rows.decode(from, offset, out),
            Location::Chunks(_) => {}
        }
        let Some((rows, row_bytes)) = self.rows_of(&bytes) else {
            return self.decode_flat(from, offset, out);
        };
        // Whole rows of the array, of which a part may be asked for.
        let cols = row_bytes / self.stored().width();
        let all = (rows.end - rows.start) * row_bytes;
        if all == out.len() as u64 {
            return self.decode_matrix(from, rows, 0..cols, out);
        }
        let mut whole = zeroed(all).at(self.folder(), "cannot hold rows")?;
        self.decode_matrix(from, rows, 0..cols, &mut whole)?;
        // Within the rows.
        let skip = size(offset % row_bytes);
        out.copy_from_slice(&whole[skip..skip + out.len()]);
        Ok(())
    }

    fn coded(&self) -> Option<(&CodeLayout, u64)> {
        let [_, cols] = self.coded_matrix()?;
        Some((self.stored().encoding.layout()?, cols))
    }

    fn needs_coded(&self, rows: Range<u64>, cols: Range<u64>, needs: &mut Needs) -> Result<()> {
        self.needs_block(rows, cols, needs)
    }

    fn decode_coded(&self, from: &Fetched, rows: Range<u64>, cols: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.decode_block(from, rows, cols, out)
    }

    fn refined_chunk<'a>(
        &self,
        from: &'a Fetched,
        rows: Range<u64>,
        cols: Range<u64>,
    ) -> Result<Option<KnownCodes<'a>>> {
        let array = self.stored();
        let index = rows.start / array.chunk.rows.max(1);
        let place = array.chunk_place(index).map_err(|e| self.damaged(&e))?;
        let is_refined = matches!(array.encoding, Encoding::Refine { .. });
        let is_one = array.chunks_across().is_ok_and(|across| across == 1);
        if !is_refined || !is_one || place.rows != rows || place.cols != cols {
            return Ok(None);
        }
        let (record, stored) = self.stored_chunk(from, index)?;
        let lanes = layout_of(array.chunk);
        Ok((record.form == ChunkForm::Coded).then_some(KnownCodes::Stored { chunk: stored, lanes }))
    }

    fn piece_end(&self, at: u64) -> u64 {
        match &self.location {
            Location::Parts(parts) => parts.piece_end(at),
            Location::Rows(rows) => rows.piece_end(at),
            Location::Slice { .. } => u64::MAX,
            Location::Chunks(_) => {
                let piece = self.piece_bytes();
                (at - at % piece).saturating_add(piece)
            }
        }
    }

    fn path(&self) -> &Path {
        self.folder()
    }

    fn wrong(&self, what: &str) -> Error {
        self.damaged(&what)
    }

    fn storage(&self) -> Option<&dyn Storage> {
        Some(self.variant.storage())
    }

    fn needs_columns(
        &self,
        matrix: [u64; 2],
        rows: Range<u64>,
        columns: Range<u64>,
        needs: &mut Needs,
    ) -> Result<()> {
        self.needs_of_columns(matrix, rows, columns, needs)
    }

    fn decode_columns(
        &self,
        from: &Fetched,
        matrix: [u64; 2],
        rows: Range<u64>,
        columns: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        self.decode_of_columns(from, matrix, rows, columns, out)
    }
}
