//! Restoring a variant's files.

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use qstore_container::{ArrayKey, FileContent, OriginalFile, Sha256Hex, VariantName};
use rayon::ThreadPool;
use sha2::{Digest as _, Sha256};

use super::{Options, Store};
use crate::decode::{ArrayReader, Variant};
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::new_folder::NewFolder;
use crate::pipeline;
use crate::progress::Progress;

/// Restores every original file of variant `name` into folder `target`, which must not exist or be empty. It appears when all files are written
/// and their SHA-256 fit.
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
    let folder = NewFolder::begin(target)?;
    let variant = store.variant(name)?;
    let pool = options.pool()?;
    progress.begin(&format!("restoring {name}"), variant.entry().raw_bytes);
    for file in variant.files() {
        let (path, out) = folder.create(file.path.as_str(), 0)?;
        let mut out = BufWriter::with_capacity(1 << 20, out);
        restore(&variant, file, &pool, options.window(&pool), |bytes| {
            progress.advance(bytes.len() as u64);
            out.write_all(bytes).at(&path, "cannot write")
        })?;
        out.flush().and_then(|()| out.get_ref().sync_all()).at(&path, "cannot write")?;
    }
    for empty in variant.empty_folders() {
        folder.create_folder(empty.as_str())?;
    }
    folder.commit()
}

/// Hands the bytes of an original file to `sink`, in order, and checks its SHA-256.
///
/// # Errors
/// Damage, or what `sink` returns.
pub(super) fn restore(
    variant: &Arc<Variant>,
    file: &OriginalFile,
    pool: &ThreadPool,
    window: usize,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
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
    let pieces =
        keys.into_iter().flat_map(|key| match variant.array(&key).and_then(|r| Ok((r.bytes()?, r))) {
            Err(error) => Pieces::Failed(Some(error)),
            Ok((bytes, reader)) => {
                Pieces::Chunks { chunk: reader.piece_bytes(), reader: Arc::new(reader), at: 0, bytes }
            }
        });
    let decode = |(reader, start, length): (Arc<ArrayReader>, u64, u64)| {
        let mut out = zeroed(length).at(variant.folder(), "cannot hold a chunk")?;
        reader.read(start, &mut out)?;
        Ok(out)
    };
    pipeline::ordered(pool, window, pieces, decode, |bytes| pass(&bytes))?;
    let found = Sha256Hex(hasher.finalize().into());
    if found == file.sha256 {
        return Ok(());
    }
    let what =
        format!("{} of variant {}: its SHA-256 is {found}, not {}", file.path, variant.name(), file.sha256);
    Err(Error::damaged(variant.folder(), what))
}

/// The chunks of one array, or why it cannot be read.
enum Pieces {
    Failed(Option<Error>),
    Chunks { reader: Arc<ArrayReader>, chunk: u64, at: u64, bytes: u64 },
}

impl Iterator for Pieces {
    type Item = Result<(Arc<ArrayReader>, u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Failed(error) => error.take().map(Err),
            Self::Chunks { reader, chunk, at, bytes } => {
                let (start, length) = (*at, (*bytes - *at).min(*chunk));
                *at += length;
                (length > 0).then(|| Ok((reader.clone(), start, length)))
            }
        }
    }
}
