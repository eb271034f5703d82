//! A folder of the local file system.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use qstore_checkpoint::{Error, IoContext as _, Result, read_exact_at, read_range};

use super::Storage;

/// Shards that stay open.
const MOST_OPEN: usize = 256;

/// A store's folder. Nothing outside is read, wherever links in it lead, except for those of the Hugging Face cache.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    kept: Mutex<HashMap<String, Arc<File>>>,
}

impl Folder {
    /// The folder at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), kept: Mutex::default() }
    }

    /// Opens a file, which must lie in the folder.
    fn open(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        let there = || fs::symlink_metadata(&path).map_err(|source| unopened(&path, source));
        there()?;
        if !is_within(&self.path, &path) {
            // Unless it was deleted just now.
            there()?;
            return Err(Error::damaged(path, "it is no regular file inside the store"));
        }
        File::open(&path).map_err(|source| unopened(&path, source))
    }

    /// A file to read from: a shard as it was when it was opened, any other as it is now.
    fn file(&self, name: &str) -> Result<Arc<File>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        kept.map_or_else(|| self.open(name).map(Arc::new), Ok)
    }

    /// Opens a shard, which stays open.
    fn keep(&self, name: &str) -> Result<Arc<File>> {
        let file = Arc::new(self.open(name)?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_OPEN
            && let Some(other) = kept.keys().next().cloned()
        {
            kept.remove(&other);
        }
        kept.insert(name.to_owned(), file.clone());
        Ok(file)
    }
}

impl Storage for Folder {
    fn location(&self) -> &Path {
        &self.path
    }

    fn read_all(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        // Not one that is kept: it may be another by now.
        let (file, path) = (self.open(name)?, self.path.join(name));
        let bytes = file.metadata().at(&path, "cannot read")?.len();
        if bytes > most {
            return Err(Error::damaged(path, "it is larger than any of its kind"));
        }
        read_range(&file, &path, 0, bytes)
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        let file = self.file(name)?;
        read_exact_at(&file, out, offset).at(&self.path.join(name), "cannot read")
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        // Whoever opens a shard asks first whether it is the one.
        let file = self.keep(name)?;
        Ok(Some(file.metadata().at(&self.path.join(name), "cannot read")?.len()))
    }
}

/// Why the file at `path` cannot be opened.
fn unopened(path: &Path, source: std::io::Error) -> Error {
    let what = match source.kind() {
        std::io::ErrorKind::NotFound => "this file of the store is missing; fetch or restore it",
        _ => "cannot open",
    };
    Error::Io { path: path.to_owned(), what, source }
}

/// Whether `path` leads to a regular file inside `folder`, or through a link of the Hugging Face cache: from
/// `snapshots/REVISION/...` to a file in `blobs` beside `snapshots`. Other links could lead anywhere.
fn is_within(folder: &Path, path: &Path) -> bool {
    let resolve = || {
        let folder = folder.canonicalize().ok()?;
        let target = path.canonicalize().ok()?;
        let inside = target.starts_with(&folder);
        let snapshots = folder.ancestors().find(|a| a.file_name().is_some_and(|name| name == "snapshots"));
        let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
        let in_cache = blobs.is_some_and(|blobs| target.parent() == Some(&blobs));
        Some(target.is_file() && (inside || in_cache))
    };
    resolve().unwrap_or(false)
}
