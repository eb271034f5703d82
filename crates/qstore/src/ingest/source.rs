//! Where the bytes of a variant come from when it is stored.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use qstore_container::{ArrayKey, Dtype, FileContent, Hash128, RelativePath};

use super::SourcePart;
use crate::decode::{ArrayReader, read_each};
use crate::error::{Error, IoContext as _, Result};
use crate::file::{read_exact_at, zeroed};
use crate::formats::{ArrayInfo, Checkpoint};
use crate::quant::Arrays;
use crate::variant::Variant;

/// The largest `config.json` that is looked at.
const CONFIG_BYTES: u64 = 1 << 24;

/// Whether an array of so many bytes is a variant's `config.json`.
pub(crate) fn is_config(key: &ArrayKey, bytes: u64) -> bool {
    matches!(key, ArrayKey::File(path) if path.as_str() == "config.json") && bytes <= CONFIG_BYTES
}

/// All of a variant: its files, and the arrays that they are made of, read by range.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) files: Vec<SourceFile>,
    pub(crate) empty_folders: Vec<RelativePath>,
    pub(crate) arrays: Vec<SourceArray>,
    /// Where each is, made when it is first asked for.
    pub(crate) places: OnceLock<HashMap<ArrayKey, usize>>,
    /// Patterns of what was left out of the folder.
    pub(crate) excluded: Vec<String>,
    pub(crate) origin: Origin,
}

/// One file.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Path in the variant's folder.
    pub(crate) path: RelativePath,
    /// Size.
    pub(crate) bytes: u64,
    /// When it was last written, where that is known and may change.
    pub(crate) modified: Option<SystemTime>,
    /// What it is made of.
    pub(crate) content: SourceContent,
}

/// What a file is made of.
#[derive(Debug)]
pub(crate) enum SourceContent {
    /// A safetensors file: its header's text and the arrays behind it, by their index in the source.
    Safetensors {
        /// The header as stored, padding included.
        header: String,
        /// Indices of its tensors in the order of their bytes.
        arrays: Vec<usize>,
    },
    /// Any other file, by the index of its array.
    Opaque(usize),
}

/// A tensor, a file that is not safetensors, or a matrix of a tensor.
#[derive(Debug, Clone)]
pub(crate) struct SourceArray {
    /// Which.
    pub(crate) key: ArrayKey,
    /// Element type; U8 for a file.
    pub(crate) dtype: Dtype,
    /// Shape; the size for a file.
    pub(crate) shape: Vec<u64>,
    /// Bytes in all.
    pub(crate) bytes: u64,
    /// Index of its file in the source.
    pub(crate) file: usize,
    /// First byte in that file.
    pub(crate) offset: u64,
    /// What it is a matrix of, if it is one.
    pub(crate) part: Option<Arc<SourcePart>>,
}

/// Where a source's bytes lie.
#[derive(Debug)]
pub(crate) enum Origin {
    /// In files below this folder; handles of safetensors files stay open.
    Folder { root: PathBuf, handles: Vec<OnceLock<File>> },
    /// In a store. Chunks of one array are mostly asked for one after another, so its reader is kept.
    /// The reader's key may be another: that of the array which this one refers to.
    Stored { variant: Arc<Variant>, last: Mutex<Option<(ArrayKey, Arc<ArrayReader>)>> },
}

impl Source {
    /// A stored variant, to be stored anew.
    ///
    /// # Errors
    /// Its plan lacks an array that a file is made of.
    pub(crate) fn of_variant(variant: &Arc<Variant>) -> Result<Self> {
        let mut source = Self {
            files: Vec::new(),
            empty_folders: variant.empty_folders().to_vec(),
            arrays: Vec::new(),
            places: OnceLock::new(),
            excluded: variant.entry().excluded.clone(),
            origin: Origin::Stored { variant: variant.clone(), last: Mutex::new(None) },
        };
        for (file, original) in variant.files().iter().enumerate() {
            let (mut offset, keys) = match &original.content {
                FileContent::Opaque => (0, vec![ArrayKey::File(original.path.clone())]),
                FileContent::Safetensors { header, tensors } => {
                    (8 + header.len() as u64, tensors.iter().cloned().map(ArrayKey::Tensor).collect())
                }
            };
            let first = source.arrays.len();
            for key in keys {
                let stored = variant.stored_array(&key)?;
                let bytes = stored.bytes().map_err(|e| Error::damaged(variant.folder(), e))?;
                let (dtype, shape) = (stored.dtype, stored.shape.clone());
                source.arrays.push(SourceArray { key, dtype, shape, bytes, file, offset, part: None });
                offset += bytes;
            }
            let content = match &original.content {
                FileContent::Opaque => SourceContent::Opaque(first),
                FileContent::Safetensors { header, .. } => SourceContent::Safetensors {
                    header: header.clone(),
                    arrays: (first..source.arrays.len()).collect(),
                },
            };
            let (path, bytes) = (original.path.clone(), original.bytes);
            source.files.push(SourceFile { path, bytes, modified: None, content });
        }
        Ok(source)
    }

    /// The array of that key.
    pub(crate) fn find(&self, key: &ArrayKey) -> Option<&SourceArray> {
        let index =
            || self.arrays.iter().enumerate().map(|(index, array)| (array.key.clone(), index)).collect();
        self.places.get_or_init(index).get(key).map(|index| &self.arrays[*index])
    }

    /// The array of that key, which was there before.
    pub(crate) fn expect(&self, key: &ArrayKey) -> Result<&SourceArray> {
        self.find(key).ok_or_else(|| Error::input(self.path(), format!("{key}: it is gone")))
    }

    /// What the folder says of itself.
    ///
    /// # Errors
    /// Its `config.json` cannot be read. One that is no JSON is some other file of that name.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint> {
        let paths: Vec<Arc<str>> = self.files.iter().map(|file| file.path.as_str().into()).collect();
        let info = |a: &SourceArray| ArrayInfo::new(&a.key, &paths[a.file], a.dtype, &a.shape);
        let tensors = self.arrays.iter().filter_map(info).collect();
        let config = self.arrays.iter().find(|array| is_config(&array.key, array.bytes));
        let mut checkpoint = Checkpoint { tensors, ..Checkpoint::default() };
        if let Some(array) = config {
            let mut text = zeroed(array.bytes).at(self.path(), "cannot hold a file")?;
            self.read(array, 0, &mut text)?;
            checkpoint.config = serde_json::from_slice(&text).unwrap_or_default();
        }
        Ok(checkpoint)
    }

    /// The names that the tensors of a file have in it.
    pub(crate) fn names_of(&self, file: &SourceFile) -> Vec<String> {
        let path: Arc<str> = file.path.as_str().into();
        let SourceContent::Safetensors { arrays, .. } = &file.content else { return Vec::new() };
        let arrays = arrays.iter().map(|index| &self.arrays[*index]);
        arrays.filter_map(|a| Some(ArrayInfo::new(&a.key, &path, a.dtype, &[])?.name)).collect()
    }

    /// The hash of an array, where it is known without reading it.
    pub(crate) fn known_hash(&self, array: &SourceArray) -> Option<Hash128> {
        match &self.origin {
            Origin::Stored { variant, .. } => variant.stored_array(&array.key).ok()?.hash,
            Origin::Folder { .. } => None,
        }
    }

    /// The path that errors about the whole variant name.
    pub(crate) fn path(&self) -> &Path {
        match &self.origin {
            Origin::Folder { root, .. } => root,
            Origin::Stored { variant, .. } => variant.folder(),
        }
    }

    /// The path that errors about an array name.
    pub(crate) fn path_of(&self, array: &SourceArray) -> PathBuf {
        match &self.origin {
            Origin::Folder { root, .. } => root.join(self.files[array.file].path.as_str()),
            Origin::Stored { variant, .. } => variant.folder().to_owned(),
        }
    }

    /// Whether reading means decoding.
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self.origin, Origin::Stored { .. })
    }

    /// Bytes of all files.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Bytes of all tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.arrays.iter().filter(|a| a.key.tensor().is_some()).map(|a| a.bytes).sum()
    }

    /// Fails if `file` was written to since it was listed: what was read of it may be of two minds.
    pub(crate) fn check_unchanged(&self, file: &SourceFile) -> Result<()> {
        let Origin::Folder { root, .. } = &self.origin else { return Ok(()) };
        let path = root.join(file.path.as_str());
        let now = path.metadata().at(&path, "cannot read")?;
        if now.len() == file.bytes && now.modified().ok() == file.modified {
            return Ok(());
        }
        Err(Error::input(path, "it changed while it was being stored"))
    }

    /// The bytes of arrays that follow each other in one file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn read_run(&self, run: Range<usize>) -> Result<Vec<u8>> {
        let arrays = &self.arrays[run];
        let bytes = arrays.iter().map(|array| array.bytes).sum();
        if let Origin::Stored { variant, .. } = &self.origin {
            return read_each(variant, arrays.iter().map(|array| &array.key), bytes);
        }
        let mut raw = zeroed(bytes).at(self.path(), "cannot hold tensors")?;
        if let Some(first) = arrays.first() {
            self.read(first, 0, &mut raw)?;
        }
        Ok(raw)
    }

    /// Fills `out` with the bytes of `array` from its byte `offset` on.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    pub(crate) fn read(&self, array: &SourceArray, offset: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if let Some(part) = &array.part {
            return part.read(self, offset, out);
        }
        match &self.origin {
            Origin::Stored { variant, last } => {
                let kept =
                    last.lock().ok().and_then(|kept| kept.clone()).filter(|(key, _)| *key == array.key);
                let reader = match kept {
                    Some((_, reader)) => reader,
                    None => Arc::new(ArrayReader::open(variant, &array.key)?),
                };
                if let Ok(mut kept) = last.lock() {
                    *kept = Some((array.key.clone(), reader.clone()));
                }
                reader.read(offset, out)
            }
            Origin::Folder { root, handles } => {
                let file = &self.files[array.file];
                let path = root.join(file.path.as_str());
                let mut read = |handle: &File| {
                    read_exact_at(handle, out, array.offset + offset).map_err(|source| match source.kind() {
                        std::io::ErrorKind::UnexpectedEof => {
                            Error::input(&path, "it became shorter while it was being stored")
                        }
                        _ => Error::Io { path: path.clone(), what: "cannot read", source },
                    })
                };
                let open = || File::open(&path).at(&path, "cannot open");
                match (&file.content, &handles[array.file]) {
                    // A folder may have any number of small files, but has few of these.
                    (SourceContent::Safetensors { .. }, handle) => match handle.get() {
                        Some(handle) => read(handle),
                        None => {
                            let opened = open()?;
                            read(handle.get_or_init(|| opened))
                        }
                    },
                    (SourceContent::Opaque(_), _) => read(&open()?),
                }
            }
        }
    }
}

impl Arrays<ArrayKey> for Source {
    fn describe(&self, key: &ArrayKey) -> Result<(Dtype, Vec<u64>)> {
        let array = self.expect(key)?;
        Ok((array.dtype, array.shape.clone()))
    }

    fn read(&self, key: &ArrayKey, bytes: Range<u64>) -> Result<Vec<u8>> {
        let array = self.expect(key)?;
        let mut out = zeroed(bytes.end.saturating_sub(bytes.start)).at(self.path(), "cannot hold scales")?;
        self.read(array, bytes.start, &mut out)?;
        Ok(out)
    }
}
