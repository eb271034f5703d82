//! Restoring a variant's files.

use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;

use qstore_checkpoint::{
    CHUNK_MEMORY, Error, IoContext as _, NewFolder, Options, Progress, Result, Window, ordered, zeroed,
};
use qstore_container::{ArrayKey, Encoding, FileContent, OriginalFile, Sha256Hex, StoredArray, VariantName};
use rayon::ThreadPool;
use sha2::{Digest as _, Sha256};

use super::Store;
use crate::decode::{ArrayBytes as _, ArrayReader, Readers, decode_each};
use crate::fetch::{Ahead, Fetched, Needs};
use crate::variant::Variant;

/// Restores every original file of variant `name` into folder `target`, which must not exist or be empty. It appears
/// when all files are written and their SHA-256 fit.
///
/// # Errors
/// An unknown variant, a target that is taken, damage, or an I/O error. The target is then as it was.
pub fn unpack(
    store: &Store,
    name: &VariantName,
    target: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let variant = store.variant(name)?;
    let folder = NewFolder::begin(target)?;
    folder.check_room(variant.files().iter().map(|file| file.bytes))?;
    let pool = options.pool()?;
    progress.begin(&format!("restoring {name}"), variant.entry().raw_bytes)?;
    for file in variant.files() {
        let mut out = folder.writer(file.path.as_str())?;
        restore(&variant, file, &pool, options.window(&pool), |bytes| {
            progress.advance(bytes.len() as u64)?;
            out.write(bytes)
        })?;
        out.finish()?;
    }
    for empty in variant.empty_folders() {
        folder.create_folder(empty.as_str())?;
    }
    folder.commit(progress)
}

/// The bytes of one original file of a variant, whose SHA-256 is checked.
///
/// # Errors
/// [`Error::UnknownName`], damage, an I/O error, or too little memory.
pub fn read_file(variant: &Arc<Variant>, path: &str, options: &Options) -> Result<Vec<u8>> {
    let file = variant.files().iter().find(|file| file.path.as_str() == path).ok_or_else(|| {
        let store = variant.folder().display();
        let text = format!("{store}: variant {} has no file {path}", variant.name());
        Error::unknown(text).about(|subject| {
            (subject.variant, subject.file) = (Some(variant.name().to_string()), Some(path.to_owned()));
        })
    })?;
    let pool = options.pool()?;
    let mut out = Vec::new();
    restore(variant, file, &pool, options.window(&pool), |bytes| {
        out.try_reserve(bytes.len())
            .map_err(std::io::Error::from)
            .at(variant.folder(), "cannot hold the file")?;
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(out)
}

/// Hands the bytes of an original file to `sink`, in order, and checks its SHA-256.
///
/// # Errors
/// Damage, or what `sink` returns.
pub(super) fn restore(
    variant: &Arc<Variant>,
    file: &OriginalFile,
    pool: &ThreadPool,
    window: Window,
    mut sink: impl FnMut(&[u8]) -> Result<()> + Send,
) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut pass = |bytes: &[u8]| {
        hasher.update(bytes);
        sink(bytes)
    };
    let keys = match &file.content {
        FileContent::Opaque => vec![ArrayKey::File(file.path.clone())],
        FileContent::Safetensors { header, tensors } => {
            pass(&(header.len() as u64).to_le_bytes())?;
            pass(header.as_bytes())?;
            tensors.iter().cloned().map(ArrayKey::Tensor).collect()
        }
    };
    if variant.entry().verbatim && file.bytes == 0 {
        // There is nothing to read of it, but it must be there.
        let there = variant.storage().read_all(&format!("{}/{}", variant.name(), file.path), 0);
        there.map_err(|error| variant.or_changed(error))?;
    }
    let pieces = pieces_of(variant, keys)?;
    let needs = pieces.iter().map(Piece::needs).collect::<Result<_>>()?;
    let ahead = Ahead::new(variant.storage(), window.bytes / 4, pool.current_num_threads(), needs);
    let decode = |(index, piece): (usize, Piece)| piece.decode(variant, ahead.get(index)?.fetched());
    let jobs = pieces.into_iter().enumerate().map(Ok);
    let passed = ordered(pool, window, jobs, |(_, piece)| piece.holds(), decode, |bytes| pass(&bytes));
    passed.map_err(|error| variant.or_changed(error))?;
    let found = Sha256Hex(hasher.finalize().into());
    if found == file.sha256 {
        return Ok(());
    }
    let what =
        format!("{} of variant {}: its SHA-256 is {found}, not {}", file.path, variant.name(), file.sha256);
    Err(Error::damaged(variant.folder(), what).about(|subject| {
        (subject.variant, subject.file) = (Some(variant.name().to_string()), Some(file.path.to_string()));
    }))
}

/// What is decoded at a time of the arrays of a file.
fn pieces_of(variant: &Arc<Variant>, keys: Vec<ArrayKey>) -> Result<Vec<Piece>> {
    let (mut readers, mut pieces) = (Readers::default(), Vec::new());
    for run in (ArrayRuns { variant, keys: keys.into_iter().peekable() }) {
        run.and_then(|run| add_pieces(variant, run, &mut readers, &mut pieces))?;
    }
    Ok(pieces)
}

/// Bytes of small arrays that are read as one piece.
const RUN_BYTES: u64 = 256 << 10;
/// Small arrays that are read as one piece.
const RUN_ARRAYS: usize = 4096;

/// What a worker decodes at a time.
enum Piece {
    /// A part of an array.
    Chunk { reader: Arc<ArrayReader>, start: u64, length: u64 },
    /// All of several small arrays.
    Whole { readers: Vec<Arc<ArrayReader>>, bytes: u64 },
}

impl Piece {
    /// Bytes that decoding it and its bytes take: twice as many of a matrix, which is read the other way round.
    fn holds(&self) -> u64 {
        match self {
            Self::Chunk { length, .. } => length.saturating_mul(2).max(CHUNK_MEMORY),
            Self::Whole { .. } => CHUNK_MEMORY,
        }
    }

    fn needs(&self) -> Result<Needs> {
        let mut needs = Needs::default();
        match self {
            Self::Chunk { reader, start, length } => reader.needs(*start..*start + *length, &mut needs)?,
            Self::Whole { readers, .. } => {
                readers.iter().try_for_each(|reader| reader.needs(0..reader.bytes(), &mut needs))?;
            }
        }
        Ok(needs)
    }

    fn decode(self, variant: &Variant, from: &Fetched) -> Result<Vec<u8>> {
        match self {
            Self::Chunk { reader, start, length } => {
                let mut out = zeroed(length).at(variant.folder(), "cannot hold a chunk")?;
                reader.decode(from, start, &mut out)?;
                Ok(out)
            }
            Self::Whole { readers, bytes } => decode_each(&readers, from, variant, bytes),
        }
    }
}

/// Cuts the arrays of a file into runs: small ones that follow each other, or one other array.
struct ArrayRuns<'a, K: Iterator<Item = ArrayKey>> {
    variant: &'a Variant,
    keys: Peekable<K>,
}

impl<K: Iterator<Item = ArrayKey>> Iterator for ArrayRuns<'_, K> {
    type Item = Result<(Vec<ArrayKey>, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        let variant = self.variant;
        // They are slices of few bundles, or references to such.
        let is_slice = |array: &StoredArray| match &array.encoding {
            Encoding::Reference { to, .. } => variant.stored(to).is_ok_and(|array| array.encoding.is_slice()),
            encoding => encoding.is_slice(),
        };
        let small_bytes = |key: &ArrayKey| {
            let array = variant.stored_array(key).ok().filter(|array| is_slice(array))?;
            array.bytes().ok().filter(|bytes| *bytes <= RUN_BYTES / 4)
        };
        let first = self.keys.next()?;
        let Some(mut bytes) = small_bytes(&first) else {
            let bytes = variant
                .stored_array(&first)
                .and_then(|array| array.bytes().map_err(|e| Error::damaged(variant.folder(), e)));
            return Some(bytes.map(|bytes| (vec![first], bytes)));
        };
        let mut run = vec![first];
        while run.len() < RUN_ARRAYS {
            let Some(more) = self.keys.peek().and_then(small_bytes).filter(|more| bytes + more <= RUN_BYTES)
            else {
                break;
            };
            bytes += more;
            run.extend(self.keys.next());
        }
        Some(Ok((run, bytes)))
    }
}

/// Adds the pieces of a run of arrays, which have so many bytes.
fn add_pieces(
    variant: &Arc<Variant>,
    (keys, bytes): (Vec<ArrayKey>, u64),
    open: &mut Readers,
    pieces: &mut Vec<Piece>,
) -> Result<()> {
    let [key] = &keys[..] else {
        let readers = keys.iter().map(|key| open.open(variant, key)).collect::<Result<_>>()?;
        pieces.push(Piece::Whole { readers, bytes });
        return Ok(());
    };
    let reader = open.open(variant, key)?;
    let mut start = 0;
    while start < bytes {
        let end = reader.piece_end(start).clamp(start + 1, bytes);
        pieces.push(Piece::Chunk { reader: reader.clone(), start, length: end - start });
        start = end;
    }
    Ok(())
}
