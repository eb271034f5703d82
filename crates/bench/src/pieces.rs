//! Files read, copied and coded in pieces, by all threads of the current pool at once. This is the best that we know
//! for peers that have no threads of their own, so that what is compared is coders and not loops around them. For the
//! same reason their results lie in the library's kind of memory, huge pages where the system has them.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use qstore::{TensorBytes, Throttle};
use qstore_checkpoint::read_exact_at;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext as _, Result};

/// Bytes of a piece before it is coded: enough for any coder's window, and many pieces for each thread. Of 128 KiB to
/// 16 MiB, pieces of 1 to 4 MiB were read fastest into fresh memory, in half the time of a plain read of the whole
/// file.
pub(crate) const PIECE: usize = 4 << 20;

/// `PIECE` as an offset.
const PIECE_BYTES: u64 = 4 << 20;

/// Codes a piece and decodes it into a buffer of its length.
pub(crate) trait Coder: Sync {
    fn code(&self, piece: &[u8]) -> io::Result<Vec<u8>>;
    fn decode(&self, coded: &[u8], piece: &mut [u8]) -> io::Result<()>;
}

/// Where a piece is in a coded file. One as long as the piece itself is the piece, as it did not shrink.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Place {
    offset: u64,
    length: u64,
}

/// What stands at the end of a coded file, before its own length in 8 bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    bytes: u64,
    pieces: Vec<Place>,
}

/// A pool of so many threads.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let built = ThreadPoolBuilder::new().num_threads(threads).build();
    built.map_err(|e| Error::Usage(format!("cannot start {threads} threads: {e}")))
}

/// Reads the file at `path`, all of it.
pub(crate) fn read_whole(path: &Path, limit: Option<&Throttle>) -> Result<TensorBytes> {
    let file = File::open(path).at(path, "cannot open")?;
    let mut data =
        TensorBytes::zeroed(file.metadata().at(path, "cannot read")?.len()).at(path, "cannot hold it")?;
    data.par_chunks_mut(PIECE).enumerate().try_for_each(|(index, piece)| {
        wait(limit, piece.len());
        read_exact_at(&file, piece, index as u64 * PIECE_BYTES).at(path, "cannot read")
    })?;
    Ok(data)
}

/// Copies a file through memory, since a file system's own copy may only promise one, and syncs it.
pub(crate) fn copy(source: &Path, target: &Path) -> Result<()> {
    let input = File::open(source).at(source, "cannot open")?;
    let output = create(target)?;
    let bytes = input.metadata().at(source, "cannot read")?.len();
    starts(bytes).try_for_each_init(Vec::new, |buffer, start| {
        read_piece(&input, buffer, start, bytes).at(source, "cannot read")?;
        write_all_at(&output, buffer, start).at(target, "cannot write")
    })?;
    output.sync_all().at(target, "cannot sync")
}

/// Codes a file and syncs the result.
pub(crate) fn code(source: &Path, target: &Path, coder: &dyn Coder) -> Result<()> {
    let input = File::open(source).at(source, "cannot open")?;
    let output = create(target)?;
    let bytes = input.metadata().at(source, "cannot read")?.len();
    // Pieces are written where there is room when they are ready, so that no thread waits for another.
    let end = AtomicU64::new(0);
    let pieces = starts(bytes).map_init(Vec::new, |buffer, start| {
        read_piece(&input, buffer, start, bytes).at(source, "cannot read")?;
        let coded = coder.code(buffer).at(source, "cannot code")?;
        let kept = if coded.len() < buffer.len() { &coded } else { &*buffer };
        let length = kept.len() as u64;
        let offset = end.fetch_add(length, Ordering::Relaxed);
        write_all_at(&output, kept, offset).at(target, "cannot write")?;
        Ok(Place { offset, length })
    });
    let index = Index { bytes, pieces: pieces.collect::<Result<_>>()? };
    let mut tail = serde_json::to_vec(&index).map_err(io::Error::from).at(target, "cannot write")?;
    tail.extend((tail.len() as u64).to_le_bytes());
    write_all_at(&output, &tail, end.into_inner()).at(target, "cannot write")?;
    output.sync_all().at(target, "cannot sync")
}

/// Decodes what [`code`] wrote.
pub(crate) fn decode(path: &Path, coder: &dyn Coder, limit: Option<&Throttle>) -> Result<TensorBytes> {
    let file = File::open(path).at(path, "cannot open")?;
    let index = read_index(&file, limit).at(path, "cannot read")?;
    let mut data = TensorBytes::zeroed(index.bytes).at(path, "cannot hold it")?;
    if data.len().div_ceil(PIECE) != index.pieces.len() {
        return Err(invalid()).at(path, "cannot read");
    }
    let pieces = data.par_chunks_mut(PIECE).zip(&index.pieces);
    pieces.try_for_each_init(Vec::new, |buffer, (piece, place)| {
        let length = usize::try_from(place.length).unwrap_or(usize::MAX);
        wait(limit, length);
        if length == piece.len() {
            return read_exact_at(&file, piece, place.offset).at(path, "cannot read");
        }
        if length > piece.len() {
            return Err(invalid()).at(path, "cannot read");
        }
        buffer.resize(length, 0);
        read_exact_at(&file, buffer, place.offset).at(path, "cannot read")?;
        coder.decode(buffer, piece).at(path, "cannot decode")
    })?;
    Ok(data)
}

fn read_index(file: &File, limit: Option<&Throttle>) -> io::Result<Index> {
    let bytes = file.metadata()?.len();
    let end = bytes.checked_sub(8).ok_or_else(invalid)?;
    let mut length = [0; 8];
    read_exact_at(file, &mut length, end)?;
    let length = u64::from_le_bytes(length);
    let start = end.checked_sub(length).ok_or_else(invalid)?;
    let mut index = vec![0; usize::try_from(length).map_err(|_| invalid())?];
    wait(limit, index.len());
    read_exact_at(file, &mut index, start)?;
    Ok(serde_json::from_slice(&index)?)
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not what was written")
}

fn wait(limit: Option<&Throttle>, bytes: usize) {
    if let Some(limit) = limit {
        limit.take(bytes as u64);
    }
}

/// The first byte of each piece of a file.
fn starts(bytes: u64) -> impl ParallelIterator<Item = u64> {
    // In order of the file, as collected results must be.
    let starts: Vec<u64> = (0..bytes.div_ceil(PIECE_BYTES)).map(|index| index * PIECE_BYTES).collect();
    starts.into_par_iter()
}

fn read_piece(file: &File, buffer: &mut Vec<u8>, start: u64, bytes: u64) -> io::Result<()> {
    let length = usize::try_from(bytes - start).unwrap_or(usize::MAX).min(PIECE);
    buffer.resize(length, 0);
    read_exact_at(file, buffer, start)
}

/// A new file, and the folders above it.
fn create(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at(parent, "cannot create")?;
    }
    File::create_new(path).at(path, "cannot create")
}

#[cfg(unix)]
fn write_all_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, buffer, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut buffer: &[u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                buffer = &buffer[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Halves pieces of equal bytes, and cannot shrink others.
    struct Halving;

    impl Coder for Halving {
        fn code(&self, piece: &[u8]) -> io::Result<Vec<u8>> {
            let equal = piece.iter().all(|byte| *byte == piece[0]);
            Ok(if equal { piece[..piece.len() / 2].to_vec() } else { vec![0; piece.len() + 9] })
        }

        fn decode(&self, coded: &[u8], piece: &mut [u8]) -> io::Result<()> {
            piece.fill(coded[0]);
            Ok(())
        }
    }

    #[test]
    fn files_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut data = vec![7; 2 * PIECE];
        data.extend((0..=255).cycle().take(PIECE + 100));
        let pool = pool(3).unwrap();
        for (name, data) in [("long", &data[..]), ("short", b"abc"), ("empty", b"")] {
            let (source, coded, copied) = (path(name), path("sub").join(name), path("copied").join(name));
            fs::write(&source, data).unwrap();
            pool.install(|| {
                assert!(*read_whole(&source, None).unwrap() == *data);
                copy(&source, &copied).unwrap();
                code(&source, &coded, &Halving).unwrap();
                assert!(*decode(&coded, &Halving, None).unwrap() == *data);
            });
            assert!(fs::read(copied).unwrap() == data);
        }
        let coded = fs::metadata(path("sub/long")).unwrap().len();
        assert!(coded > 2 * PIECE_BYTES && coded < 2 * PIECE_BYTES + 1000, "{coded}");
    }

    #[test]
    fn a_coded_file_that_is_cut_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (source, coded) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&source, vec![1; PIECE * 2]).unwrap();
        code(&source, &coded, &Halving).unwrap();
        let bytes = fs::read(&coded).unwrap();
        fs::write(&coded, &bytes[..bytes.len() - 1]).unwrap();
        assert!(decode(&coded, &Halving, None).is_err());
        fs::write(&coded, "").unwrap();
        assert!(decode(&coded, &Halving, None).is_err());
    }
}
