//! An open variant.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qstore_container::{
    ArrayKey, ArrayRef, Dtype, Encoding, FileContent, Hash128, OriginalFile, RelativePath, StoredArray,
    VariantEntry, VariantName, View,
};

use serde::Deserialize;

use super::array::ArrayReader;
use super::bundles::HeldBundles;
use super::shard::Shard;
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::formats::{ArrayInfo, Checkpoint};
use crate::ingest::is_config;
use crate::throttle::Throttle;

/// A variant of a store, open for reading: its own layer and those that it is given, and nothing else.
#[derive(Debug)]
pub struct Variant {
    pub(super) folder: PathBuf,
    pub(super) entry: VariantEntry,
    pub(super) shards: Vec<Shard>,
    /// Where each array is: shard and index in its plan.
    places: HashMap<ArrayKey, (usize, usize)>,
    pub(super) given: Vec<Arc<Variant>>,
    bundles: HeldBundles,
    bytes_read: Arc<AtomicU64>,
    read_limit: Option<Arc<Throttle>>,
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name; `FILE:NAME` where another file of the variant has one of that name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Bytes in memory.
    pub bytes: u64,
    /// Weights that it stands for: its elements, or the codes that are packed into them.
    pub weights: u64,
    /// How it is stored: `residual`, `codes`, `reference`, ...
    pub encoding: &'static str,
    /// The variant whose tensors it is stored given or equal to.
    pub given: Option<VariantName>,
    /// Bytes that it takes in the store.
    pub stored_bytes: u64,
}

impl Variant {
    /// Opens the layer files of `entry` in `folder`; `given` are the open variants that the entry lists.
    pub(crate) fn open(
        folder: &Path,
        entry: &VariantEntry,
        given: Vec<Arc<Variant>>,
        bytes_read: &Arc<AtomicU64>,
    ) -> Result<Self> {
        let shards = entry
            .layer
            .iter()
            .map(|file| Shard::open(folder, file, bytes_read))
            .collect::<Result<Vec<_>>>()?;
        let mut places = HashMap::with_capacity(shards.iter().map(|shard| shard.plan.arrays.len()).sum());
        for (index, shard) in shards.iter().enumerate() {
            let damaged = |what: String| Error::damaged(&shard.path, what);
            if shard.plan.variant != entry.name {
                let what = format!("it belongs to variant {}, not {}", shard.plan.variant, entry.name);
                return Err(damaged(what));
            }
            if let Some(unknown) = shard.plan.given.iter().find(|g| !entry.given.contains(g)) {
                let what = format!("it was stored given another {} than the manifest names", unknown.variant);
                return Err(damaged(what));
            }
            for (at, array) in shard.plan.arrays.iter().enumerate() {
                if places.insert(array.key.clone(), (index, at)).is_some() {
                    return Err(damaged(format!("{}: another shard has it as well", array.key)));
                }
            }
        }
        let variant = Self {
            folder: folder.to_owned(),
            entry: entry.clone(),
            shards,
            places,
            given,
            bundles: HeldBundles::default(),
            bytes_read: bytes_read.clone(),
            read_limit: None,
        };
        variant.check()?;
        Ok(variant)
    }

    /// Has the arrays read no faster than `limit` allows.
    pub(crate) fn with_read_limit(mut self, limit: Option<Arc<Throttle>>) -> Self {
        self.read_limit = limit;
        self
    }

    /// Where an array of its own is.
    pub(super) fn place(&self, key: &ArrayKey) -> Option<(usize, usize)> {
        self.places.get(key).copied()
    }

    pub(super) fn array_at(&self, (shard, at): (usize, usize)) -> &StoredArray {
        &self.shards[shard].plan.arrays[at]
    }

    fn own(&self, key: &ArrayKey) -> Option<&StoredArray> {
        self.place(key).map(|place| self.array_at(place))
    }

    /// The plan's entry of an array.
    pub(crate) fn stored_array(&self, key: &ArrayKey) -> Result<&StoredArray> {
        self.own(key).ok_or_else(|| {
            let text = format!("{}: variant {} has no {key}", self.folder.display(), self.entry.name);
            Error::UnknownName(text)
        })
    }

    /// The stored array behind a reference from this variant's plan.
    pub(super) fn stored(&self, to: &ArrayRef) -> Result<&StoredArray> {
        let variant = if to.variant == self.entry.name {
            Some(self)
        } else {
            self.given.iter().find(|g| g.entry.name == to.variant).map(|g| &**g)
        };
        let array = variant.and_then(|v| v.own(&to.array));
        array.ok_or_else(|| {
            let what = format!("variant {}: {} of {} is missing", self.entry.name, to.array, to.variant);
            Error::damaged(&self.folder, what)
        })
    }

    /// Where the bytes of one of its arrays are: in itself, or where a reference leads.
    pub(crate) fn origin(&self, key: &ArrayKey) -> (ArrayRef, View) {
        match self.own(key).map(|array| &array.encoding) {
            Some(Encoding::Reference { to, view }) => (to.clone(), view.clone()),
            _ => (ArrayRef { variant: self.entry.name.clone(), array: key.clone() }, View::WHOLE),
        }
    }

    /// What a reference to a matrix of one of its arrays says; `is_part` if a part is to refer to it. `None` if it cannot be referred to.
    pub(crate) fn matrix_of(&self, key: &ArrayKey, view: &View, is_part: bool) -> Option<(ArrayRef, View)> {
        let array = self.own(key)?;
        let here = |array: &ArrayKey| ArrayRef { variant: self.entry.name.clone(), array: array.clone() };
        match &array.encoding {
            Encoding::Reference { to, view: all } if all.is_whole() => {
                let target = self.stored(to).ok().filter(|target| target.shape == array.shape)?;
                let is_parts = matches!(target.encoding, Encoding::Parts { .. });
                (target.dtype == array.dtype && !(is_part && is_parts)).then(|| (to.clone(), view.clone()))
            }
            Encoding::Reference { to, view: all } => view.is_whole().then(|| (to.clone(), all.clone())),
            Encoding::Parts { parts } => {
                let same = parts.iter().find(|part| part.view == *view).map(|part| self.origin(&part.array));
                same.or_else(|| (!is_part).then(|| (here(key), view.clone())))
            }
            _ => Some((here(key), view.clone())),
        }
    }

    /// The variant's name.
    #[must_use]
    pub fn name(&self) -> &VariantName {
        &self.entry.name
    }

    /// What the manifest says of it.
    #[must_use]
    pub fn entry(&self) -> &VariantEntry {
        &self.entry
    }

    /// The store's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The open variants that it is given.
    pub(crate) fn given(&self) -> &[Arc<Variant>] {
        &self.given
    }

    /// Bytes read so far for this variant and the ones opened along with it.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Counts stored bytes that are being read; where reading is limited, waits until it may be done.
    pub(crate) fn count_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        if let Some(limit) = &self.read_limit {
            limit.take(bytes);
        }
    }

    /// The original files.
    #[must_use]
    pub fn files(&self) -> &[OriginalFile] {
        self.shards.last().map_or(&[], |shard| &shard.plan.files)
    }

    /// What the headers of its safetensors files say beside their tensors (`__metadata__`), all files together; where two say different things, the
    /// first one's word.
    ///
    /// # Errors
    /// A header that is damaged.
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        /// A header without its tensors.
        #[derive(Deserialize)]
        struct Rest {
            #[serde(default, rename = "__metadata__")]
            metadata: Option<BTreeMap<String, String>>,
        }
        let mut all = BTreeMap::new();
        for file in self.files() {
            let FileContent::Safetensors { header, .. } = &file.content else { continue };
            let header: Rest = serde_json::from_str(header)
                .map_err(|e| Error::damaged(&self.folder, format!("header of {}: {e}", file.path)))?;
            for (key, value) in header.metadata.unwrap_or_default() {
                all.entry(key).or_insert(value);
            }
        }
        Ok(all)
    }

    /// The original folders that were empty.
    pub(crate) fn empty_folders(&self) -> &[RelativePath] {
        self.shards.last().map_or(&[], |shard| &shard.plan.empty_folders)
    }

    /// Every array with what it takes in the store, in the order of storage.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = (&StoredArray, u64)> {
        self.shards.iter().flat_map(|shard| (0..shard.plan.arrays.len()).map(|index| shard.array(index)))
    }

    /// An array with what it takes in the store.
    pub(crate) fn stored_size(&self, key: &ArrayKey) -> Option<(&StoredArray, u64)> {
        self.places.get(key).map(|&(shard, at)| self.shards[shard].array(at))
    }

    /// Bytes of its layer that are of no array.
    pub(crate) fn overhead(&self) -> u64 {
        self.shards.iter().map(|shard| shard.overhead).sum()
    }

    /// What its folder said of itself.
    ///
    /// # Errors
    /// Its `config.json` cannot be read.
    pub(crate) fn checkpoint(self: &Arc<Self>) -> Result<Checkpoint> {
        let mut tensors = Vec::with_capacity(self.places.len());
        let mut config = serde_json::Value::Null;
        for file in self.files() {
            let FileContent::Safetensors { tensors: names, .. } = &file.content else {
                let key = ArrayKey::File(file.path.clone());
                if is_config(&key, file.bytes) {
                    let mut text = zeroed(file.bytes).at(&self.folder, "cannot hold a file")?;
                    self.array(&key)?.read(0, &mut text)?;
                    config = serde_json::from_slice(&text).unwrap_or_default();
                }
                continue;
            };
            let path: Arc<str> = file.path.as_str().into();
            let arrays = names.iter().filter_map(|name| self.own(&ArrayKey::Tensor(name.clone())));
            tensors.extend(arrays.filter_map(|a| ArrayInfo::new(&a.key, &path, a.dtype, &a.shape)));
        }
        Ok(Checkpoint { tensors, config })
    }

    /// Every tensor, in the order of storage.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let info = |(array, stored_bytes): (&StoredArray, u64)| {
            Some(TensorInfo {
                name: array.key.tensor()?.to_owned(),
                dtype: array.dtype,
                shape: array.shape.clone(),
                bytes: array.bytes().ok()?,
                weights: weights_of(array),
                encoding: array.encoding.name(),
                given: array.encoding.needs().next().map(|need| need.variant.clone()),
                stored_bytes,
            })
        };
        self.arrays().filter_map(info).collect()
    }

    /// A reader of one array.
    pub(crate) fn array(self: &Arc<Self>, key: &ArrayKey) -> Result<ArrayReader> {
        match &self.stored_array(key)?.encoding {
            Encoding::Reference { to, view } if view.is_whole() => self.referred_array(to),
            _ => {
                // `stored_array` has found it.
                let (shard, index) = self.places[key];
                ArrayReader::open(self.clone(), shard, index)
            }
        }
    }

    /// All of several small arrays, one after another, which have `bytes` bytes together.
    pub(crate) fn read_all<'k>(
        self: &Arc<Self>,
        keys: impl Iterator<Item = &'k ArrayKey>,
        bytes: u64,
    ) -> Result<Vec<u8>> {
        let wrong = || Error::damaged(&self.folder, "tensors have other sizes than their file says");
        let mut out = zeroed(bytes).at(&self.folder, "cannot hold tensors")?;
        let mut rest = &mut out[..];
        for key in keys {
            let reader = self.array(key)?;
            let own = usize::try_from(reader.bytes()?).unwrap_or(usize::MAX);
            let (own, tail) = rest.split_at_mut_checked(own).ok_or_else(wrong)?;
            reader.read(0, own)?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(wrong());
        }
        Ok(out)
    }

    /// All of a bundle: that of index `index` in the plan of shard `shard`.
    pub(super) fn bundle(self: &Arc<Self>, shard: usize, index: usize) -> Result<Arc<[u8]>> {
        let bytes = self.shards[shard].plan.arrays[index].bytes().unwrap_or(0);
        self.bundles.get((shard, index), bytes, || {
            let reader = ArrayReader::open(self.clone(), shard, index)?;
            let mut bundle = zeroed(reader.bytes()?).at(&self.folder, "cannot hold a bundle")?;
            reader.read(0, &mut bundle)?;
            Ok(bundle)
        })
    }

    /// A reader of an array that this variant's plan refers to.
    pub(crate) fn referred_array(self: &Arc<Self>, to: &ArrayRef) -> Result<ArrayReader> {
        self.referred(to)?.array(&to.array)
    }

    fn referred(self: &Arc<Self>, to: &ArrayRef) -> Result<Arc<Self>> {
        if to.variant == self.entry.name {
            return Ok(self.clone());
        }
        let given = self.given.iter().find(|g| g.entry.name == to.variant).cloned();
        given.ok_or_else(|| {
            Error::damaged(&self.folder, format!("variant {} is not given {}", self.entry.name, to.variant))
        })
    }

    pub(crate) fn shard(&self, index: usize) -> &Shard {
        &self.shards[index]
    }
}

fn weights_of(array: &StoredArray) -> u64 {
    let elements = array.shape.iter().fold(1u64, |product, dimension| product.saturating_mul(*dimension));
    match array.encoding.packing() {
        Some(packing) => packing.numbers_in(elements).unwrap_or(elements),
        None => elements,
    }
}

/// The content of a variant: XXH3-128 over a line `SHA256 SIZE PATH` for each file, in order, and a line `PATH/` for each empty folder.
pub(crate) fn content_hash(files: &[OriginalFile], empty_folders: &[RelativePath]) -> Hash128 {
    let files = files.iter().map(|f| format!("{} {} {}\n", f.sha256, f.bytes, f.path));
    let folders = empty_folders.iter().map(|f| format!("{f}/\n"));
    Hash128::of(files.chain(folders).collect::<String>().as_bytes())
}

/// Whether `path` leads to a regular file inside `folder`, or through a link of the Hugging Face cache: from `snapshots/REVISION/...` to a file
/// in `blobs` beside `snapshots`. Other links could lead anywhere.
pub(crate) fn is_within(folder: &Path, path: &Path) -> bool {
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
