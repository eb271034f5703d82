//! The store on disk: a folder with `qstore.json` and shards.

mod arrange;
mod change;
mod inspect;
mod load;
#[cfg(test)]
#[cfg(unix)]
mod ownership;
mod pieces;
mod spec;
mod tensor;
mod unpack;
mod unshared;
mod verify;
mod work;
mod write;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qstore_checkpoint::{Error, Result, Staging};
use qstore_container::limits::MAX_MANIFEST_BYTES;
use qstore_container::{Manifest, VariantName};

use crate::storage::{Counted, Folder, Storage};
use crate::variant::{Variant, or_changed};

pub use inspect::{FileInspection, Inspection, TensorInspection, VariantInspection, inspect};
pub use load::{LoadedTensor, load};
pub use spec::{GivenRule, VariantSpec};
pub use tensor::Tensor;
pub use unpack::{read_file, unpack};
pub use unshared::UnsharedInspection;
pub use verify::{Problem, VariantVerification, Verification, verify};
pub use write::{add, pack, remove};

/// A store, its manifest read.
///
/// A store is a folder with `qstore.json`, the manifest, and some files for each variant. Opening it reads the
/// manifest; opening a variant reads the tail of each of its files, which says what is in it. Then [`load`] decodes all
/// tensors, [`Tensor`] parts of them, and [`unpack`] writes the original files.
///
/// ```no_run
/// use qstore::{Options, Silent, Store};
///
/// let store = Store::open("llama.qstore".as_ref())?;
/// for variant in &store.manifest().variants {
///     println!("{}: {} tensors, {} bytes", variant.name, variant.tensors, variant.raw_bytes);
/// }
/// let int8 = store.variant(&"int8".parse().expect("a name"))?;
/// let tensors = qstore::load(&int8, &Options::default(), &Silent)?;
/// # Ok::<(), qstore::Error>(())
/// ```
///
/// A store that is changed meanwhile stays readable as it was, as far as its files are still there; else errors are
/// [`Error::Changed`].
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    /// Bytes of the manifest.
    manifest_bytes: u64,
    /// Whether its path is a folder's of the local file system.
    is_folder: bool,
}

impl Store {
    /// Reads the manifest of the store in folder `path`; no shard is opened.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is no store, [`Error::Damaged`] if its manifest is not whole.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Err(Error::usage(format!("{}: this is a file; give the store's folder", path.display())));
        }
        match Self::open_in(Arc::new(Folder::new(path))).map(|store| Self { is_folder: true, ..store }) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                let left = if Staging::is_in(path) {
                    "; a pack into it was interrupted: run it again, or delete the folder"
                } else {
                    ""
                };
                Err(Error::missing(path, format!("no store here (no {}){left}", Manifest::FILE_NAME)))
            }
            opened => opened,
        }
    }

    /// Reads the manifest of the store in `storage`, with one read; no shard is opened.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no manifest, [`Error::Damaged`] if it is not whole.
    pub fn open_in(storage: Arc<dyn Storage>) -> Result<Self> {
        let path = storage.location().to_owned();
        let text = storage.read_all(Manifest::FILE_NAME, MAX_MANIFEST_BYTES)?;
        let manifest =
            Manifest::parse(&text).map_err(|e| Error::damaged(path.join(Manifest::FILE_NAME), e))?;
        Ok(Self { path, storage, manifest, manifest_bytes: text.len() as u64, is_folder: false })
    }

    /// The store's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the manifest.
    pub(crate) fn manifest_bytes(&self) -> u64 {
        self.manifest_bytes
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Opens a variant: its own shards and those of the variants that it is given, with one read each.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Io`] for a shard that is not there, [`Error::Damaged`] for shards that are not
    /// whole.
    pub fn variant(&self, name: &VariantName) -> Result<Arc<Variant>> {
        open_variant(&self.storage, &self.manifest, name)
    }
}

/// Opens variant `name` of the store in `storage`.
fn open_variant(storage: &Arc<dyn Storage>, manifest: &Manifest, name: &VariantName) -> Result<Arc<Variant>> {
    if manifest.variant(name).is_none() {
        return Err(no_variant(storage.location(), manifest, name));
    }
    let storage = Arc::new(Counted::new(storage.clone()));
    let mut open: HashMap<&VariantName, Arc<Variant>> = HashMap::new();
    // The manifest lists a variant after all that it is given, so one pass over the needed ones suffices.
    let mut needed = vec![name];
    let mut next = 0;
    while let Some(name) = needed.get(next) {
        let given = manifest.variant(name).into_iter().flat_map(|entry| &entry.given);
        let fresh: Vec<_> = given.map(|g| &g.variant).filter(|g| !needed.contains(g)).collect();
        needed.extend(fresh);
        next += 1;
    }
    for entry in manifest.variants.iter().filter(|entry| needed.contains(&&entry.name)) {
        let given = entry.given.iter().filter_map(|g| open.get(&g.variant).cloned()).collect();
        let variant =
            Variant::open(&storage, entry, given).map_err(|error| or_changed(error, &*storage, &[entry]))?;
        open.insert(&entry.name, Arc::new(variant));
    }
    open.remove(name).ok_or_else(|| no_variant(storage.location(), manifest, name))
}

/// That the store in `folder` has no variant `name`, and which it has.
fn no_variant(folder: &Path, manifest: &Manifest, name: &VariantName) -> Error {
    let known: Vec<_> = manifest.variants.iter().map(|v| v.name.as_str()).collect();
    let text = format!("{}: no variant {name}; it has {}", folder.display(), known.join(", "));
    Error::unknown(text).about(|subject| subject.variant = Some(name.to_string()))
}
