//! Restoring a variant's files.

use std::path::Path;
use std::sync::Arc;

use qstore_checkpoint::{
    CHUNK_MEMORY, Error, IoContext as _, NewFolder, Options, Progress, Result, Window, ordered, size, zeroed,
};
use qstore_container::{FileContent, OriginalFile, Sha256Hex, VariantName};
use rayon::ThreadPool;
use sha2::{Digest as _, Sha256};

use super::Store;
use super::pieces::{Piece, cut, runs};
use crate::decode::Readers;
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
    if let FileContent::Safetensors { header, .. } = &file.content {
        pass(&(header.len() as u64).to_le_bytes())?;
        pass(header.as_bytes())?;
    }
    if variant.entry().verbatim && file.bytes == 0 {
        // There is nothing to read of it, but it must be there.
        let there = variant.storage().read_all(&format!("{}/{}", variant.name(), file.path), 0);
        there.map_err(|error| variant.or_changed(error))?;
    }
    let runs = runs_of(variant, file)?;
    let needs = runs.iter().map(|run| needs_of(run)).collect::<Result<_>>()?;
    let ahead = Ahead::new(variant.storage(), window.bytes / 4, pool.current_num_threads(), needs);
    let work =
        |(index, run): (usize, Vec<Piece>)| decode(&run, ahead.get(index)?.fetched(), variant.folder());
    // Twice the bytes of a matrix, which is read the other way round.
    let holds = |run: &[Piece]| bytes_of(run).saturating_mul(2).max(CHUNK_MEMORY);
    let jobs = runs.into_iter().enumerate().map(Ok);
    let passed = ordered(pool, window, jobs, |(_, run)| holds(run), work, |bytes| pass(&bytes));
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
fn runs_of(variant: &Arc<Variant>, file: &OriginalFile) -> Result<Vec<Vec<Piece>>> {
    let (mut readers, mut pieces) = (Readers::default(), Vec::new());
    for key in file.arrays() {
        let reader = readers.open(variant, &key)?;
        pieces.extend(cut(&reader, 0..reader.bytes()));
    }
    Ok(runs(pieces, |piece| piece.bytes))
}

fn needs_of(run: &[Piece]) -> Result<Needs> {
    let mut needs = Needs::default();
    run.iter().try_for_each(|piece| piece.add_needs(&mut needs))?;
    Ok(needs)
}

fn bytes_of(run: &[Piece]) -> u64 {
    run.iter().map(|piece| piece.bytes).sum()
}

/// The bytes of the pieces of a run, one after another.
fn decode(run: &[Piece], from: &Fetched, folder: &Path) -> Result<Vec<u8>> {
    let mut out = zeroed(bytes_of(run)).at(folder, "cannot hold a chunk")?;
    let mut rest = &mut out[..];
    for piece in run {
        let (own, tail) = rest.split_at_mut(size(piece.bytes));
        piece.decode(from, own)?;
        rest = tail;
    }
    Ok(out)
}
