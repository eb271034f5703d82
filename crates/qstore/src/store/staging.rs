//! Changing a store so that a crash at any moment leaves the old one or the new one.
//!
//! Everything new is written to a staging folder inside the store, which also holds the lock of the one process that may write. When all is
//! there and synced, the new files are moved into place; then the new manifest replaces the old one in a single rename, which is the commit;
//! then files that no variant names any more are deleted. Whatever a crash leaves behind is not named by the manifest, and goes with the next
//! change.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use qstore_container::Manifest;

use super::Store;
use crate::decode::is_of_kept_variant;
use crate::error::{Error, IoContext as _, Result};
use crate::file::sync_folder;

/// Name of the staging folder in a store.
pub(super) const FOLDER: &str = ".qstore-staging";
const LOCK: &str = "lock";

/// The right to change a store, and the place where the change is prepared.
#[derive(Debug)]
pub(super) struct Staging {
    store: PathBuf,
    folder: PathBuf,
    /// Held until dropped.
    _lock: File,
}

impl Staging {
    /// Locks the store in folder `store`, which exists, and clears what an interrupted change left in its staging folder.
    pub(super) fn begin(store: &Path) -> Result<Self> {
        let folder = store.join(FOLDER);
        let path = folder.join(LOCK);
        // The process that held the lock removes the folder at its end; then it has to be made anew.
        for _ in 0..100 {
            match fs::create_dir_all(&folder) {
                // It was there for a moment, and then was not.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && !folder.exists() => continue,
                result => result.at(&folder, "cannot create")?,
            }
            // All that is in this folder will be deleted, so it may not be a link to another; and a pipe would be waited for.
            let is = |path: &Path, kind: fn(&fs::Metadata) -> bool| {
                fs::symlink_metadata(path).map(|m| kind(&m)).ok()
            };
            if is(&folder, fs::Metadata::is_dir) == Some(false)
                || is(&path, fs::Metadata::is_file) == Some(false)
            {
                return Err(Error::usage(format!(
                    "{}: qstore did not make this; remove it",
                    folder.display()
                )));
            }
            let lock = match File::options().create(true).truncate(false).write(true).open(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                result => result.at(&path, "cannot create")?,
            };
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(Error::Busy(store.to_owned())),
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io { path, what: "cannot lock", source });
                }
                Ok(()) => {}
            }
            let ours = same_file::Handle::from_file(lock.try_clone().at(&path, "cannot lock")?)
                .at(&path, "cannot lock")?;
            if same_file::Handle::from_path(&path).is_ok_and(|there| there == ours) {
                let staging = Self { store: store.to_owned(), folder, _lock: lock };
                staging.clear()?;
                return Ok(staging);
            }
        }
        Err(Error::Busy(store.to_owned()))
    }

    /// The store's folder.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// The folder for new files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder).at(&self.folder, "cannot read")? {
            let entry = entry.at(&self.folder, "cannot read")?;
            if entry.file_name() != LOCK {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Moves every new file of `manifest` from the staging folder into the store and makes `manifest` the store's.
    ///
    /// # Errors
    /// Whatever the file system says. Unless the new manifest is in place by then, the store is as it was.
    pub(super) fn commit(&self, manifest: &Manifest) -> Result<()> {
        let result = self.move_into_place(manifest);
        if result.is_err() {
            let current = match Store::open(&self.store) {
                Ok(store) => Some(store.manifest),
                Err(Error::Missing { .. }) => Some(Manifest::new(Vec::new())),
                // Who knows what it names.
                Err(_) => None,
            };
            if let Some(current) = current {
                // What cannot be removed either is known as a leftover.
                drop(self.remove_leftovers(&current));
            }
            return result;
        }
        self.remove_leftovers(manifest)
    }

    fn move_into_place(&self, manifest: &Manifest) -> Result<()> {
        let path = self.store.join(Manifest::FILE_NAME);
        let text = manifest.write().map_err(|e| Error::damaged(&path, e))?;
        let staged = self.folder.join(Manifest::FILE_NAME);
        let write = || {
            let mut file = File::create(&staged)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        // First, while nothing has happened yet: from here on no more room is needed on the disk.
        write().at(&staged, "cannot write")?;
        for name in entries_of(manifest) {
            let (from, to) = (self.folder.join(&name), self.store.join(&name));
            if from.symlink_metadata().is_err() {
                continue;
            }
            if to.is_dir() {
                // The store had no variant of this name; an interrupted change leaves a layer file beside its folder.
                if !leftovers(&self.store, &Manifest::new(Vec::new()))?.contains(&name) {
                    return Err(Error::usage(format!(
                        "{}: this folder is in the way; move it elsewhere",
                        to.display()
                    )));
                }
                remove(&to)?;
            }
            sync_folders(&from)?;
            fs::rename(&from, &to).at(&to, "cannot move into place")?;
        }
        sync_folder(&self.store)?;
        fs::rename(&staged, &path).at(&path, "cannot replace")?;
        sync_folder(&self.store)
    }

    fn remove_leftovers(&self, manifest: &Manifest) -> Result<()> {
        for name in leftovers(&self.store, manifest)? {
            remove(&self.store.join(name))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next change; the lock goes last, with the folder.
        drop(self.clear());
        drop(fs::remove_file(self.folder.join(LOCK)));
        drop(fs::remove_dir(&self.folder));
    }
}

/// Files and folders in the store that `manifest` names, itself not included: layer files first, so that a kept folder never lies there without
/// one.
fn entries_of(manifest: &Manifest) -> Vec<String> {
    let layers = manifest.variants.iter().flat_map(|v| &v.layer).map(|f| f.name.to_string());
    let kept = manifest.variants.iter().filter(|v| v.verbatim).map(|v| v.name.to_string());
    layers.chain(kept).collect()
}

/// What interrupted changes left in the store's folder: layer files that the manifest does not name, and the folders of those that are of kept
/// variants. What qstore did not write is not among them, such as a folder of a variant's name that the user unpacked it to. Folders come before
/// the layer files that tell them.
pub(super) fn leftovers(store: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let named: HashSet<String> = entries_of(manifest).into_iter().collect();
    let all = names_in(store)?;
    let unnamed: Vec<_> = all.into_iter().filter(|name| !named.contains(name)).collect();
    let is_kept = |variant: &str| {
        let mut layers = unnamed.iter().filter(|name| variant_of_layer(name) == Some(variant));
        layers.any(|name| is_of_kept_variant(store, name))
    };
    let ours = |name: &&String| variant_of_layer(name).is_some() || is_kept(name);
    Ok(unnamed.iter().filter(ours).cloned().collect())
}

/// The entries of a folder in order; names that are not UTF-8 are not ours.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).at(folder, "cannot read")? {
        names.extend(entry.at(folder, "cannot read")?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Whether an earlier change was interrupted.
pub(super) fn has_leftovers(store: &Path) -> bool {
    store.join(FOLDER).exists()
}

/// Whether a folder has nothing in it but what an interrupted pack leaves.
pub(super) fn is_free(store: &Path) -> Result<bool> {
    let left = leftovers(store, &Manifest::new(Vec::new()))?;
    let entries = fs::read_dir(store).at(store, "cannot read")?.count();
    Ok(entries == left.len() + usize::from(has_leftovers(store)))
}

/// The variant that a layer file of this name belongs to: `VARIANT-ID.safetensors`, the id being 12 hexadecimal digits.
fn variant_of_layer(name: &str) -> Option<&str> {
    let (variant, id) = name.strip_suffix(".safetensors")?.rsplit_once('-')?;
    let digits = id.len() == 12 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digits.then_some(variant)
}

/// Makes what is below a kept folder durable; its files have been synced one by one.
fn sync_folders(path: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(path).contents_first(true) {
        let entry = entry.map_err(std::io::Error::from).at(path, "cannot sync")?;
        if entry.file_type().is_dir() {
            sync_folder(entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(path).at(path, "cannot remove")?;
    if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.at(path, "cannot remove")
}
