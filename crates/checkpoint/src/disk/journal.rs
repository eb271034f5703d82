//! What a change is about to do to a folder, written down so that whoever comes after a crash can finish or undo it.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use qstore_container::{Hash128, RelativePath};
use serde::{Deserialize, Serialize};

/// Bytes of the largest one that is read: of a million files.
const MAX_BYTES: u64 = 1 << 30;

/// A change.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    /// Files that come, by their paths in the folder.
    pub(super) arriving: Vec<Item>,
    /// Folders that come with them, outer ones first.
    pub(super) folders: Vec<Item>,
    /// Whether these folders are made where they belong, and their files moved one by one: the file system cannot
    /// rename folders.
    pub(super) makes_folders: bool,
    /// Files that go when the others are in place.
    pub(super) leaving: Vec<Item>,
    /// Folders that go with them if nothing is left in them, outer ones first.
    pub(super) left_folders: Vec<Item>,
    /// The file whose arrival decides: before it the change is undone, afterwards finished. Without one it is the last.
    pub(super) decisive: Option<Decisive>,
}

/// A small file that is told by its content: whatever becomes of its time, what it says counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decisive {
    pub(super) path: RelativePath,
    hash: Hash128,
}

impl Decisive {
    /// What is at `path` in `folder` now.
    pub(super) fn at(folder: &Path, path: &RelativePath) -> io::Result<Self> {
        let full = folder.join(path.as_str());
        let data = fs::symlink_metadata(&full)?;
        if !data.is_file() || data.len() > MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { path: path.clone(), hash: Hash128::of(&fs::read(full)?) })
    }

    /// Whether that is what lies in `folder` under the same path.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        Self::at(folder, &self.path).is_ok_and(|there| there == *self)
    }
}

impl Journal {
    /// The one in the file at `path`; `None` if there is none that is whole.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let data = fs::symlink_metadata(path).ok()?;
        let text = (data.is_file() && data.len() <= MAX_BYTES).then(|| fs::read(path).ok())??;
        serde_json::from_slice(&text).ok()
    }
}

/// A file or folder, with what tells it from another of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    pub(super) path: RelativePath,
    identity: Identity,
}

/// What stays the same when a file is moved, and is another for one that was put in its place. A folder's time changes
/// with its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    inode: u64,
    bytes: Option<u64>,
    /// Nanoseconds since 1970.
    modified: Option<u64>,
}

impl Identity {
    fn of(data: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(data);
        #[cfg(not(unix))]
        let inode = 0;
        let since = |time: SystemTime| u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok();
        let of_file = |value: Option<u64>| value.filter(|_| !data.is_dir());
        Self {
            inode,
            bytes: of_file(Some(data.len())),
            modified: of_file(data.modified().ok().and_then(since)),
        }
    }
}

impl Item {
    /// What is at `path` in `folder` now.
    ///
    /// # Errors
    /// Nothing is, or a link leads there, which could lead anywhere.
    pub(super) fn at(folder: &Path, path: &RelativePath) -> io::Result<Self> {
        for above in Path::new(path.as_str()).ancestors().skip(1).filter(|above| *above != Path::new("")) {
            if !fs::symlink_metadata(folder.join(above))?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        let data = fs::symlink_metadata(folder.join(path.as_str()))?;
        Ok(Self { path: path.clone(), identity: Identity::of(&data) })
    }

    /// Whether that is what lies in `folder` under the same path.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        Self::at(folder, &self.path).is_ok_and(|there| there == *self)
    }
}
