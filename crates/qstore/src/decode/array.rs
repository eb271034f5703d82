//! Reading one array, chunk by chunk or by a range of bytes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qstore_container::limits::MAX_HEAD_BYTES;
use qstore_container::{ChunkForm, ChunkRecord, Encoding, StoredArray};

use qstore_kernels::DecodeError;

use super::changed::or_changed;
use super::given::GivenReader;
use super::parts::{Part, Rows};
use super::variant::{Variant, is_within};
use crate::codec::{Codec, Given, Workspace, at_least, with_workspace};
use crate::error::{Error, IoContext as _, Result};
use crate::file::{read_exact_at, read_range, zeroed};
use crate::memory::size;

/// A reader of one array: its tables are decoded, its chunks are not.
#[derive(Debug)]
pub(crate) struct ArrayReader {
    variant: Arc<Variant>,
    shard: usize,
    index: usize,
    codec: Codec,
    /// For each data chunk its first byte in the file.
    offsets: Vec<u64>,
    /// The kept original file, for a verbatim array.
    verbatim: Option<(PathBuf, File)>,
    given: Option<GivenReader>,
    /// For a slice the index of its bundle, and its first byte there.
    slice: Option<(usize, u64)>,
    /// The arrays that have its bytes, where it has none of its own.
    elsewhere: Option<Elsewhere>,
}

/// Arrays that hold the bytes of another one.
#[derive(Debug)]
pub(super) enum Elsewhere {
    /// The matrices that it consists of.
    Parts(Vec<Part>),
    /// One of which it is a matrix.
    Rows(Rows),
}

impl ArrayReader {
    /// A reader of array `index` of the variant's shard `shard`, which is no reference to all of another.
    pub(crate) fn open(variant: Arc<Variant>, shard: usize, index: usize) -> Result<Self> {
        let file = variant.shard(shard);
        let array = &file.plan.arrays[index];
        let damaged =
            |what: &dyn ToString| Error::damaged(&file.path, format!("{}: {}", array.key, what.to_string()));
        let mut records = file.records(index);
        let (mut next, verbatim) = match &array.encoding {
            Encoding::Verbatim { file: kept, offset } => {
                let path = variant.folder().join(variant.name().as_str()).join(kept.as_str());
                if path.symlink_metadata().is_ok() && !is_within(variant.folder(), &path) {
                    return Err(Error::damaged(&path, "it is no regular file inside the store"));
                }
                let handle = File::open(&path).at(&path, "cannot open");
                let handle = handle.map_err(|e| or_changed(e, variant.folder(), variant.entry()))?;
                (*offset, Some((path, handle)))
            }
            // What is read lies in its bundle, or in others.
            Encoding::Slice { .. } | Encoding::Parts { .. } | Encoding::Reference { .. } => (0, None),
            _ => (file.stream(index).ok_or_else(|| damaged(&"it has no stream"))?.start, None),
        };
        let mut head = Vec::new();
        if array.has_head() {
            let (record, rest) = records.split_first().ok_or_else(|| damaged(&"it has no head"))?;
            records = rest;
            if u64::from(record.length) > MAX_HEAD_BYTES {
                return Err(damaged(&"its tables are longer than any"));
            }
            head = read_range(&file.file, &file.path, next, u64::from(record.length))?;
            variant.count_read(u64::from(record.length));
            if !record.matches(&head) {
                return Err(damaged(&"its tables are damaged"));
            }
            next += u64::from(record.length);
        }
        let elsewhere = match &array.encoding {
            Encoding::Parts { parts } => Some(Elsewhere::Parts(Part::open_all(&variant, array, parts)?)),
            Encoding::Reference { to, view } => Some(Elsewhere::Rows(Rows::open(&variant, to, view)?)),
            _ => None,
        };
        let codec = match elsewhere {
            Some(_) => Codec::Raw,
            None => Codec::open(array, &head).map_err(|e| damaged(&e))?,
        };
        for (index, record) in (0u64..).zip(records) {
            let decoded = array.bytes_of_chunk(index).map_err(|e| damaged(&e))?;
            let fits = match record.form {
                ChunkForm::Raw => u64::from(record.length) == decoded,
                ChunkForm::Coded => u64::from(record.length) < decoded,
                ChunkForm::Head => false,
            };
            if !fits {
                return Err(damaged(&"a chunk has a length that its rows cannot have"));
            }
        }
        let offsets = records
            .iter()
            .scan(next, |next, record| {
                let at = *next;
                *next += u64::from(record.length);
                Some(at)
            })
            .collect();
        let given = GivenReader::of_array(&variant, shard, index)?;
        let slice = file.slice(index);
        if array.encoding.is_slice() && slice.is_none() {
            return Err(damaged(&"it has no bundle"));
        }
        Ok(Self { variant: variant.clone(), shard, index, codec, offsets, verbatim, given, slice, elsewhere })
    }

    /// The plan's entry of the array whose bytes are read (for a reference the one referred to).
    pub(crate) fn stored(&self) -> &StoredArray {
        &self.variant.shard(self.shard).plan.arrays[self.index]
    }

    /// Bytes of the array decoded.
    pub(crate) fn bytes(&self) -> Result<u64> {
        self.stored().bytes().map_err(|e| self.damaged(&e))
    }

    pub(super) fn elsewhere(&self) -> Option<&Elsewhere> {
        self.elsewhere.as_ref()
    }

    fn records(&self) -> &[ChunkRecord] {
        let records = self.variant.shard(self.shard).records(self.index);
        &records[usize::from(self.stored().has_head())..]
    }

    /// The store's folder.
    pub(super) fn folder(&self) -> &Path {
        self.variant.folder()
    }

    pub(super) fn damaged(&self, what: &dyn ToString) -> Error {
        let path = self.verbatim.as_ref().map_or(&self.variant.shard(self.shard).path, |(path, _)| path);
        Error::damaged(path, format!("{}: {}", self.stored().key, what.to_string()))
    }

    /// Decodes chunk `index` into `out`, which must have its length.
    pub(super) fn read_chunk(&self, index: u64, out: &mut [u8]) -> Result<()> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let (Some(record), Some(&offset)) = (self.records().get(at), self.offsets.get(at)) else {
            return Err(self.damaged(&"a chunk is missing"));
        };
        let check = |stored: &[u8]| {
            if record.matches(stored) {
                return Ok(());
            }
            Err(self.damaged(&format!("chunk {index} is damaged: its checksum does not fit")))
        };
        if record.form == ChunkForm::Raw {
            if out.len() != record.length as usize {
                return Err(self.damaged(&format!("chunk {index} has another length than its rows")));
            }
            self.read_stored(offset, out)?;
            return check(out);
        }
        with_workspace(|workspace| {
            let mut buffer = std::mem::take(&mut workspace.stored);
            let stored = at_least(&mut buffer, record.length as usize);
            let result = self
                .read_stored(offset, stored)
                .and_then(|()| check(stored))
                .and_then(|()| self.decode_chunk(index, stored, workspace, out));
            workspace.stored = buffer;
            result
        })
    }

    fn decode_chunk(
        &self,
        index: u64,
        stored: &[u8],
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<()> {
        let place = self.stored().chunk_place(index).map_err(|e| self.damaged(&e))?;
        let [rows, columns] = [place.rows, place.cols].map(|range| size(range.start)..size(range.end));
        let cols = columns.len();
        let explain = |e: DecodeError| self.damaged(&format!("chunk {index}: {e}"));
        let Some(given) = &self.given else {
            return self.codec.decode(stored, cols, Given::Nothing, workspace, out).map_err(explain);
        };
        let mut buffer = std::mem::take(&mut workspace.codes);
        let block = (self.codec.code_rows(rows), self.codec.code_columns(columns));
        let result = given.with_block(block, &mut buffer, |given| {
            self.codec.decode(stored, cols, given, workspace, out).map_err(explain)
        });
        workspace.codes = buffer;
        result?
    }

    /// Fills `stored` with a chunk as it is stored.
    fn read_stored(&self, offset: u64, stored: &mut [u8]) -> Result<()> {
        self.variant.count_read(stored.len() as u64);
        match &self.verbatim {
            None => {
                let shard = self.variant.shard(self.shard);
                read_exact_at(&shard.file, stored, offset).at(&shard.path, "cannot read")
            }
            Some((path, file)) => match read_exact_at(file, stored, offset) {
                Err(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                    Err(self.damaged(&"the kept file is cut short"))
                }
                result => result.at(path, "cannot read"),
            },
        }
    }

    /// Checks the checksum of every stored chunk without decoding any.
    pub(crate) fn check_stored(&self) -> Result<()> {
        let mut buffer = Vec::new();
        for (index, (record, &offset)) in self.records().iter().zip(&self.offsets).enumerate() {
            let stored = at_least(&mut buffer, record.length as usize);
            self.read_stored(offset, stored)?;
            if !record.matches(stored) {
                return Err(self.damaged(&format!("chunk {index} is damaged: its checksum does not fit")));
            }
        }
        Ok(())
    }

    /// Fills `out` with the array's bytes from byte `offset` on, decoding only the chunks that hold them.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let array = self.stored();
        let total = self.bytes()?;
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= total);
        let end = end.ok_or_else(|| self.damaged(&"more is asked of it than it has"))?;
        if let Some((bundle, start)) = self.slice {
            return self.read_slice(bundle, start.saturating_add(offset), out);
        }
        match &self.elsewhere {
            None => {}
            Some(Elsewhere::Rows(rows)) => return rows.read(offset, out),
            Some(Elsewhere::Parts(parts)) => return Part::read_all(parts, array.width(), offset, out),
        }
        let Some([rows, cols]) = self.coded_matrix().filter(|_| !out.is_empty()) else {
            return self.read_coded(offset, out);
        };
        if !array.encoding.is_transposed() && array.chunk.cols == cols {
            return self.read_coded(offset, out);
        }
        // Whole rows of the array, of which a part may be asked for.
        let cols = if array.encoding.is_transposed() { rows } else { cols };
        let row_bytes = cols.saturating_mul(array.width());
        let rows = offset / row_bytes..end.div_ceil(row_bytes);
        let all = (rows.end - rows.start) * row_bytes;
        if all == out.len() as u64 {
            return self.read_matrix(rows, 0..cols, out);
        }
        let mut whole = zeroed(all).at(self.variant.folder(), "cannot hold rows")?;
        self.read_matrix(rows, 0..cols, &mut whole)?;
        // Within the rows.
        let skip = usize::try_from(offset % row_bytes).unwrap_or(0);
        out.copy_from_slice(&whole[skip..skip + out.len()]);
        Ok(())
    }

    /// Fills `out` from byte `start` of a bundle on.
    fn read_slice(&self, bundle: usize, start: u64, out: &mut [u8]) -> Result<()> {
        let bytes = self.variant.bundle(self.shard, bundle).map_err(|error| match error {
            Error::Damaged { path, what } => Error::damaged(path, format!("{}: {what}", self.stored().key)),
            other => other,
        })?;
        let from = usize::try_from(start).unwrap_or(usize::MAX);
        let part = from.checked_add(out.len()).and_then(|end| bytes.get(from..end));
        out.copy_from_slice(part.ok_or_else(|| self.damaged(&"it is not within its bundle"))?);
        Ok(())
    }

    /// Fills `out` with what is coded, from byte `offset` on; the caller has checked that there is so much.
    pub(super) fn read_coded(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let total = self.bytes()?;
        let chunk_bytes = self.stored().chunk_bytes();
        let mut rest = out;
        let mut offset = offset;
        while !rest.is_empty() {
            let index = offset / chunk_bytes;
            let start = index * chunk_bytes;
            let length = chunk_bytes.min(total - start);
            let skip = offset - start;
            let take = (length - skip).min(rest.len() as u64);
            // `take` is at most the length of `rest`.
            let (head, tail) = rest.split_at_mut(usize::try_from(take).unwrap_or(0));
            if skip == 0 && take == length {
                self.read_chunk(index, head)?;
            } else {
                let mut chunk = zeroed(length).at(self.variant.folder(), "cannot hold a chunk")?;
                self.read_chunk(index, &mut chunk)?;
                // Both are within the chunk.
                let skip = usize::try_from(skip).unwrap_or(0);
                head.copy_from_slice(&chunk[skip..skip + head.len()]);
            }
            rest = tail;
            offset += take;
        }
        Ok(())
    }
}
