//! An open variant: what its plans say. Nothing but its shards' tails has been read.

mod aside;
mod changed;
mod check;
mod decoded;
mod shape;
mod shard;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use qstore_checkpoint::{Error, Result};
use qstore_container::{
    ArrayKey, ArrayRef, Dtype, Encoding, FileContent, Hash128, OriginalFile, RelativePath, StoredArray,
    VariantEntry, VariantName, View,
};
use serde::Deserialize;

use crate::names::ArrayInfo;
use crate::storage::{Counted, Storage};
pub(crate) use changed::or_changed;
pub(crate) use check::{GivenSource, chunks_align, is_elsewhere};
pub(crate) use decoded::{ChunkId, DecodedChunks};
pub(crate) use shape::coded_shape;
pub(crate) use shard::Shard;

/// A variant of a store, open for reading: its own shards and those that it is given, and nothing else.
#[derive(Debug)]
pub struct Variant {
    storage: Arc<Counted>,
    entry: VariantEntry,
    shards: Vec<Shard>,
    /// Where each array is: shard and index in its plan.
    places: HashMap<ArrayKey, (usize, usize)>,
    given: Vec<Arc<Variant>>,
    decoded: DecodedChunks,
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    /// Opens the shards of `entry` in `storage`; `given` are the open variants that the entry lists.
    pub(crate) fn open(storage: &Arc<Counted>, entry: &VariantEntry, given: Vec<Arc<Self>>) -> Result<Self> {
        let open = |file| Shard::open(&**storage, file);
        let shards = entry.shards.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut places = HashMap::with_capacity(shards.iter().map(|shard| shard.plan().arrays.len()).sum());
        for (index, shard) in shards.iter().enumerate() {
            let damaged = |what: String| Error::damaged(&shard.path, what);
            let plan = shard.plan();
            if plan.variant != entry.name {
                let what = format!("it belongs to variant {}, not {}", plan.variant, entry.name);
                return Err(damaged(what));
            }
            if let Some(unknown) = plan.given.iter().find(|g| !entry.given.contains(g)) {
                let what = format!("it was stored given another {} than the manifest names", unknown.variant);
                return Err(damaged(what));
            }
            for (at, array) in plan.arrays.iter().enumerate() {
                if places.insert(array.key.clone(), (index, at)).is_some() {
                    let error = damaged(format!("{}: another shard has it as well", array.key));
                    return Err(about_array(error, &entry.name, &array.key));
                }
            }
        }
        let (storage, entry) = (storage.clone(), entry.clone());
        let variant = Self { storage, entry, shards, places, given, decoded: DecodedChunks::default() };
        variant.check()?;
        Ok(variant)
    }

    /// Where an array of its own is.
    pub(crate) fn place(&self, key: &ArrayKey) -> Option<(usize, usize)> {
        self.places.get(key).copied()
    }

    pub(crate) fn array_at(&self, (shard, at): (usize, usize)) -> &StoredArray {
        &self.shards[shard].plan().arrays[at]
    }

    fn own(&self, key: &ArrayKey) -> Option<&StoredArray> {
        self.place(key).map(|place| self.array_at(place))
    }

    /// The plan's entry of an array.
    pub(crate) fn stored_array(&self, key: &ArrayKey) -> Result<&StoredArray> {
        self.own(key).ok_or_else(|| {
            let text = format!("{}: variant {} has no {key}", self.folder().display(), self.entry.name);
            about_array(Error::unknown(text), &self.entry.name, key)
        })
    }

    /// The stored array behind a reference from this variant's plan.
    pub(crate) fn stored(&self, to: &ArrayRef) -> Result<&StoredArray> {
        let variant = if to.variant == self.entry.name {
            Some(self)
        } else {
            self.given.iter().find(|g| g.entry.name == to.variant).map(|g| &**g)
        };
        let array = variant.and_then(|v| v.own(&to.array));
        array.ok_or_else(|| {
            let what = format!("variant {}: {} of {} is missing", self.entry.name, to.array, to.variant);
            about_array(Error::damaged(self.folder(), what), &to.variant, &to.array)
        })
    }

    /// Where the bytes of one of its arrays are: in itself, or where a reference leads.
    pub(crate) fn origin(&self, key: &ArrayKey) -> (ArrayRef, View) {
        match self.own(key).map(|array| &array.encoding) {
            Some(Encoding::Reference { to, view }) => (to.clone(), view.clone()),
            _ => (ArrayRef { variant: self.entry.name.clone(), array: key.clone() }, View::WHOLE),
        }
    }

    /// What a reference to a matrix of one of its arrays says; `is_part` if a part is to refer to it. `None` if it
    /// cannot be referred to.
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

    /// The store's folder, or what errors call where else it lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.storage.location()
    }

    /// Where its files lie.
    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// `error` of reading it, or that the store was changed since it was opened.
    pub(crate) fn or_changed(&self, error: Error) -> Error {
        let mut entries = vec![&self.entry];
        let mut left: Vec<&Arc<Self>> = self.given.iter().collect();
        while let Some(given) = left.pop() {
            entries.push(&given.entry);
            left.extend(&given.given);
        }
        or_changed(error, self.storage(), &entries)
    }

    /// Its chunks that were decoded last for a little of each.
    pub(crate) fn decoded_chunks(&self) -> &DecodedChunks {
        &self.decoded
    }

    /// Bytes read so far for this variant and the ones opened along with it.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.storage.bytes()
    }

    /// The original files.
    #[must_use]
    pub fn files(&self) -> &[OriginalFile] {
        self.shards.last().map_or(&[], |shard| &shard.plan().files)
    }

    /// What the headers of its safetensors files say beside their tensors (`__metadata__`), all files together; where
    /// two say different things, the first one's word.
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
                .map_err(|e| Error::damaged(self.folder(), format!("header of {}: {e}", file.path)))?;
            for (key, value) in header.metadata.unwrap_or_default() {
                all.entry(key).or_insert(value);
            }
        }
        Ok(all)
    }

    /// The original folders that were empty.
    pub(crate) fn empty_folders(&self) -> &[RelativePath] {
        self.shards.last().map_or(&[], |shard| &shard.plan().empty_folders)
    }

    /// Every array with what it takes in the store, in the order of storage.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = (&StoredArray, u64)> {
        self.shards.iter().flat_map(|shard| (0..shard.plan().arrays.len()).map(|index| shard.array(index)))
    }

    /// An array with what it takes in the store.
    pub(crate) fn stored_size(&self, key: &ArrayKey) -> Option<(&StoredArray, u64)> {
        self.places.get(key).map(|&(shard, at)| self.shards[shard].array(at))
    }

    /// Bytes of its shards that are of no array.
    pub(crate) fn overhead(&self) -> u64 {
        self.shards.iter().map(|shard| shard.overhead()).sum()
    }

    /// What its tensors are called and look like, as formats see them.
    pub(crate) fn array_infos(&self) -> Vec<ArrayInfo> {
        let mut tensors = Vec::with_capacity(self.places.len());
        for file in self.files() {
            let FileContent::Safetensors { tensors: names, .. } = &file.content else { continue };
            let path: Arc<str> = file.path.as_str().into();
            let arrays = names.iter().filter_map(|name| self.own(&ArrayKey::Tensor(name.clone())));
            tensors.extend(arrays.filter_map(|a| ArrayInfo::new(&a.key, &path, a.dtype, &a.shape)));
        }
        tensors
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
                given: self.first_given(array),
                stored_bytes,
            })
        };
        self.arrays().filter_map(info).collect()
    }

    /// The variant that an array, or the first of its parts, is stored given or equal to.
    fn first_given(&self, array: &StoredArray) -> Option<VariantName> {
        let part = match &array.encoding {
            Encoding::Parts { parts } => parts.first().and_then(|part| self.own(&part.array)),
            _ => None,
        };
        part.unwrap_or(array).encoding.needs().next().map(|need| need.variant.clone())
    }

    /// The open variant that an array of this one refers to: itself, or one that it is given.
    pub(crate) fn referred(self: &Arc<Self>, to: &ArrayRef) -> Result<Arc<Self>> {
        if to.variant == self.entry.name {
            return Ok(self.clone());
        }
        let given = self.given.iter().find(|g| g.entry.name == to.variant).cloned();
        given.ok_or_else(|| {
            let what = format!("variant {} is not given {}", self.entry.name, to.variant);
            Error::damaged(self.folder(), what)
        })
    }

    pub(crate) fn shard(&self, index: usize) -> &Shard {
        &self.shards[index]
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

/// `error`, which is about an array of a variant.
pub(crate) fn about_array(error: Error, variant: &VariantName, key: &ArrayKey) -> Error {
    error.about(|subject| {
        subject.variant = Some(variant.to_string());
        match key {
            ArrayKey::Tensor(name) => subject.tensor = Some(name.clone()),
            ArrayKey::File(path) => subject.file = Some(path.to_string()),
            // What they belong to is known where they are read.
            ArrayKey::Bundle(_) | ArrayKey::Part(_) => {}
        }
    })
}

fn weights_of(array: &StoredArray) -> u64 {
    let elements = array.shape.iter().fold(1u64, |product, dimension| product.saturating_mul(*dimension));
    match array.encoding.packing() {
        Some(packing) => packing.numbers_in(elements).unwrap_or(elements),
        None => elements,
    }
}

/// The content of a variant: XXH3-128 over a line `SHA256 SIZE PATH` for each file, in order, and a line `PATH/` for
/// each empty folder.
pub(crate) fn content_hash(files: &[OriginalFile], empty_folders: &[RelativePath]) -> Hash128 {
    let files = files.iter().map(|f| format!("{} {} {}\n", f.sha256, f.bytes, f.path));
    let folders = empty_folders.iter().map(|f| format!("{f}/\n"));
    Hash128::of(files.chain(folders).collect::<String>().as_bytes())
}
