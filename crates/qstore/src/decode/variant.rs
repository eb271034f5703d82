//! An open variant.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qstore_container::{
    ArrayKey, ArrayRef, Dtype, Encoding, FileContent, Hash128, OriginalFile, RelativePath, SafetensorsHeader,
    StoredArray, VariantEntry, VariantName,
};

use super::array::ArrayReader;
use super::shard::Shard;
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::scheme::ArrayInfo;
use crate::throttle::Throttle;

/// A variant of a store, open for reading: its own layer and those that it is given, and nothing else.
#[derive(Debug)]
pub struct Variant {
    folder: PathBuf,
    entry: VariantEntry,
    shards: Vec<Shard>,
    /// Where each array is: shard and index in its plan.
    places: HashMap<ArrayKey, (usize, usize)>,
    given: Vec<Arc<Variant>>,
    bytes_read: Arc<AtomicU64>,
    read_limit: Option<Arc<Throttle>>,
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name; `FILE:NAME` where several files of the variant have one of that name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Bytes in memory.
    pub bytes: u64,
    /// How it is stored: `residual`, `codes`, `reference`, ...
    pub encoding: &'static str,
    /// The variant whose tensors it is stored given or equal to.
    pub given: Option<VariantName>,
    /// Bytes that it takes in the variant's layer.
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
        let mut places = HashMap::new();
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

    /// Whether all that arrays and files refer to is there and fits.
    fn check(&self) -> Result<()> {
        for shard in &self.shards {
            for array in &shard.plan.arrays {
                let damaged = |what: &str| Error::damaged(&shard.path, format!("{}: {what}", array.key));
                if matches!(array.encoding, Encoding::Verbatim { .. }) != self.entry.verbatim {
                    return Err(damaged(
                        "the manifest says otherwise of whether its variant is kept as it is",
                    ));
                }
                match &array.encoding {
                    Encoding::Reference { to } => {
                        let target = self.stored(to)?;
                        let sizes = (target.bytes().ok(), array.bytes().ok());
                        if matches!(target.encoding, Encoding::Reference { .. }) || sizes.0 != sizes.1 {
                            return Err(damaged(
                                "it refers to a tensor of another size, or to another reference",
                            ));
                        }
                    }
                    Encoding::Residual { codes, scale, transposed, .. } => {
                        if codes.variant == self.entry.name || scale.variant == self.entry.name {
                            return Err(damaged("it is given its own variant"));
                        }
                        // Else opening one could take as many steps as there are paths through all the variants.
                        for given in [codes, scale] {
                            if matches!(self.source_of(given)?.encoding, Encoding::Residual { .. }) {
                                return Err(damaged("it is given what is itself a residual"));
                            }
                        }
                        let (codes, scale) = (self.stored(codes)?, self.stored(scale)?);
                        let mut shape = array.shape.clone();
                        if *transposed {
                            shape.reverse();
                        }
                        let fits = codes.dtype == Dtype::I8 && codes.shape == shape;
                        if !fits || scale.dtype != Dtype::F32 || scale.shape != shape[..1] {
                            return Err(damaged("the codes or scales that it is given do not fit it"));
                        }
                    }
                    _ => {}
                }
            }
        }
        let Some(last) = self.shards.last() else {
            return Err(Error::damaged(
                &self.folder,
                format!("variant {} has no layer file", self.entry.name),
            ));
        };
        let damaged = |what: String| Error::damaged(&last.path, what);
        if content_hash(&last.plan.files, &last.plan.empty_folders) != self.entry.content {
            return Err(damaged("its list of files is not the one that the manifest names".to_owned()));
        }
        let mut parts = HashSet::new();
        let (mut tensors, mut tensor_bytes, mut raw_bytes) = (0, 0u64, 0u64);
        for file in &last.plan.files {
            let wrong = |what: &dyn Display| damaged(format!("{}: {what}", file.path));
            let part = |key: ArrayKey| self.own(&key).ok_or_else(|| wrong(&format!("it lacks {key}")));
            raw_bytes = raw_bytes.saturating_add(file.bytes);
            match &file.content {
                FileContent::Opaque => {
                    let array = part(ArrayKey::File(file.path.clone()))?;
                    if array.bytes().ok() != Some(file.bytes) {
                        return Err(wrong(&"it has another size than its array"));
                    }
                    parts.insert(&array.key);
                }
                FileContent::Safetensors { header, tensors: names } => {
                    let header = SafetensorsHeader::parse(header.clone().into_bytes(), file.bytes);
                    let spans = header.map_err(|e| wrong(&e))?.tensors;
                    if spans.len() != names.len() {
                        return Err(wrong(&"its header has other tensors"));
                    }
                    for (span, name) in spans.iter().zip(names) {
                        let array = part(ArrayKey::Tensor(name.clone()))?;
                        let named = *name == span.name || *name == format!("{}:{}", file.path, span.name);
                        if !named || array.dtype != span.dtype || array.shape != span.shape {
                            return Err(wrong(&format!("its header has another {name}")));
                        }
                        tensors += 1;
                        tensor_bytes = tensor_bytes.saturating_add(span.bytes.end - span.bytes.start);
                        parts.insert(&array.key);
                    }
                }
            }
        }
        if parts.len() != self.places.len() {
            return Err(damaged("it has arrays that belong to no file".to_owned()));
        }
        let entry = &self.entry;
        let described = (entry.tensors, entry.tensor_bytes, entry.files, entry.raw_bytes);
        if described != (tensors, tensor_bytes, last.plan.files.len() as u64, raw_bytes) {
            return Err(damaged("its files are not those that the manifest counts".to_owned()));
        }
        Ok(())
    }

    fn own(&self, key: &ArrayKey) -> Option<&StoredArray> {
        self.places.get(key).map(|&(shard, at)| &self.shards[shard].plan.arrays[at])
    }

    /// The plan's entry of an array.
    pub(crate) fn stored_array(&self, key: &ArrayKey) -> Result<&StoredArray> {
        self.own(key).ok_or_else(|| {
            let text = format!("{}: variant {} has no {key}", self.folder.display(), self.entry.name);
            Error::usage(text)
        })
    }

    /// The stored array behind a reference from this variant's plan.
    fn stored(&self, to: &ArrayRef) -> Result<&StoredArray> {
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

    /// The stored array that has the bytes of one that this variant's plan refers to.
    fn source_of(&self, to: &ArrayRef) -> Result<&StoredArray> {
        match &self.stored(to)?.encoding {
            Encoding::Reference { to: next } => {
                let variant = self.given.iter().find(|g| g.entry.name == to.variant);
                variant.map_or(self, |given| given).stored(next)
            }
            _ => self.stored(to),
        }
    }

    /// Where the bytes of one of its arrays are: in itself, or where a reference leads.
    pub(crate) fn origin(&self, key: &ArrayKey) -> ArrayRef {
        match self.own(key).map(|array| &array.encoding) {
            Some(Encoding::Reference { to }) => to.clone(),
            _ => ArrayRef { variant: self.entry.name.clone(), array: key.clone() },
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

    /// The original folders that were empty.
    pub(crate) fn empty_folders(&self) -> &[RelativePath] {
        self.shards.last().map_or(&[], |shard| &shard.plan.empty_folders)
    }

    /// Every array with what it takes in the layer, in the order of storage.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = (&StoredArray, u64)> {
        self.shards.iter().flat_map(|shard| (0..shard.plan.arrays.len()).map(|index| shard.array(index)))
    }

    /// An array with what it takes in the layer.
    pub(crate) fn stored_size(&self, key: &ArrayKey) -> Option<(&StoredArray, u64)> {
        self.places.get(key).map(|&(shard, at)| self.shards[shard].array(at))
    }

    /// Every array as a quantisation scheme sees it.
    pub(crate) fn array_infos(&self) -> Vec<ArrayInfo> {
        let info = |(a, _): (&StoredArray, u64)| ArrayInfo {
            key: a.key.clone(),
            dtype: a.dtype,
            shape: a.shape.clone(),
        };
        self.arrays().map(info).collect()
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
            Encoding::Reference { to } => self.referred_array(to),
            _ => {
                // `stored_array` has found it.
                let (shard, index) = self.places[key];
                ArrayReader::open(self.clone(), shard, index)
            }
        }
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// An unknown name, damage, or an I/O error.
    pub fn read_tensor(self: &Arc<Self>, name: &str) -> Result<Vec<u8>> {
        let key = ArrayKey::Tensor(name.to_owned());
        let bytes = self.stored_array(&key)?.bytes().map_err(|e| Error::damaged(&self.folder, e))?;
        self.read_part(&key, 0, bytes)
    }

    /// The bytes of rows `rows` along the first dimension of a tensor; only the chunks that hold them are read.
    ///
    /// # Errors
    /// An unknown name, rows that the tensor does not have, rows that are no whole bytes, damage, or an I/O error.
    pub fn read_rows(self: &Arc<Self>, name: &str, rows: Range<u64>) -> Result<Vec<u8>> {
        let key = ArrayKey::Tensor(name.to_owned());
        let array = self.stored_array(&key)?;
        let count = array.shape.first().copied().unwrap_or(0);
        if rows.start > rows.end || rows.end > count {
            let text = format!("{name}: rows {}..{} of a tensor that has {count}", rows.start, rows.end);
            return Err(Error::usage(text));
        }
        let bytes = array.bytes().map_err(|e| Error::damaged(&self.folder, e))?;
        if count == 0 || rows.is_empty() {
            return Ok(Vec::new());
        }
        if !bytes.is_multiple_of(count) {
            return Err(Error::usage(format!("{name}: its rows do not begin on whole bytes")));
        }
        let row = bytes / count;
        self.read_part(&key, rows.start * row, (rows.end - rows.start) * row)
    }

    fn read_part(self: &Arc<Self>, key: &ArrayKey, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut out = zeroed(length).at(&self.folder, "cannot hold the tensor")?;
        self.array(key)?.read(offset, &mut out)?;
        Ok(out)
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
