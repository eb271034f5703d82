//! Where the bytes of a variant come from when it is stored.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use qstore_container::{ArrayKey, Dtype, Hash128, RelativePath};

use super::SourcePart;
use crate::error::{Error, IoContext as _, Result};
use crate::file::{read_exact_at, zeroed};

/// All of a variant: its files, and the arrays that they are made of, read by range.
#[derive(Debug)]
pub struct Source {
    /// The files.
    pub files: Vec<SourceFile>,
    /// Folders in which nothing is.
    pub empty_folders: Vec<RelativePath>,
    /// The arrays, file by file.
    pub arrays: Vec<SourceArray>,
    /// Where each is, made when it is first asked for.
    pub(super) places: OnceLock<HashMap<ArrayKey, usize>>,
    /// Patterns of what was left out of the folder.
    pub excluded: Vec<String>,
    pub(super) origin: Origin,
}

/// One file.
#[derive(Debug)]
pub struct SourceFile {
    /// Path in the variant's folder.
    pub path: RelativePath,
    /// Size.
    pub bytes: u64,
    /// When it was last written, where that is known and may change.
    pub modified: Option<SystemTime>,
    /// What it is made of.
    pub content: SourceContent,
}

/// What a file is made of.
#[derive(Debug)]
pub enum SourceContent {
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
pub struct SourceArray {
    /// Which.
    pub key: ArrayKey,
    /// Element type; U8 for a file.
    pub dtype: Dtype,
    /// Shape; the size for a file.
    pub shape: Vec<u64>,
    /// Bytes in all.
    pub bytes: u64,
    /// Index of its file in the source.
    pub file: usize,
    /// First byte in that file.
    pub offset: u64,
    /// What it is a matrix of, if it is one.
    pub part: Option<Arc<SourcePart>>,
}

/// Arrays that are stored: reading them means decoding.
pub trait StoredArrays: Debug + Send + Sync {
    /// The path that errors name.
    fn path(&self) -> &Path;

    /// The hash of an array, where it is known.
    fn hash(&self, key: &ArrayKey) -> Option<Hash128>;

    /// Fills `out` with the bytes of an array from its byte `offset` on.
    ///
    /// # Errors
    /// They cannot be read, or are damaged.
    fn read(&self, key: &ArrayKey, offset: u64, out: &mut [u8]) -> Result<()>;

    /// All bytes of several arrays, one after another.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_all(&self, arrays: &[SourceArray]) -> Result<Vec<u8>>;
}

/// Where a source's bytes lie.
#[derive(Debug)]
pub(super) enum Origin {
    /// In files below this folder; handles of safetensors files stay open.
    Folder { root: PathBuf, handles: Vec<OnceLock<File>> },
    /// In a store.
    Stored(Box<dyn StoredArrays>),
}

impl Origin {
    /// In so many files below a folder.
    pub(super) fn of_folder(root: &Path, files: usize) -> Self {
        Self::Folder { root: root.to_owned(), handles: (0..files).map(|_| OnceLock::new()).collect() }
    }
}

impl Source {
    /// What is stored, to be stored anew. Files and arrays are yet to be listed.
    #[must_use]
    pub fn of_stored(stored: Box<dyn StoredArrays>) -> Self {
        Self {
            files: Vec::new(),
            empty_folders: Vec::new(),
            arrays: Vec::new(),
            places: OnceLock::new(),
            excluded: Vec::new(),
            origin: Origin::Stored(stored),
        }
    }

    /// The array of that key.
    pub fn find(&self, key: &ArrayKey) -> Option<&SourceArray> {
        let index =
            || self.arrays.iter().enumerate().map(|(index, array)| (array.key.clone(), index)).collect();
        self.places.get_or_init(index).get(key).map(|index| &self.arrays[*index])
    }

    /// The array of that key, which was there before.
    pub fn expect(&self, key: &ArrayKey) -> Result<&SourceArray> {
        self.find(key).ok_or_else(|| Error::input(self.path(), format!("{key}: it is gone")))
    }

    /// The names that the tensors of a file have in it.
    pub(super) fn names_of(&self, file: &SourceFile) -> Vec<String> {
        let SourceContent::Safetensors { arrays, .. } = &file.content else { return Vec::new() };
        let arrays = arrays.iter().map(|index| &self.arrays[*index]);
        arrays.filter_map(|array| Some(name_in_file(&array.key, file.path.as_str())?.to_owned())).collect()
    }

    /// The hash of an array, where it is known without reading it.
    pub fn known_hash(&self, array: &SourceArray) -> Option<Hash128> {
        match &self.origin {
            Origin::Stored(stored) => stored.hash(&array.key),
            Origin::Folder { .. } => None,
        }
    }

    /// The path that errors about the whole variant name.
    pub fn path(&self) -> &Path {
        match &self.origin {
            Origin::Folder { root, .. } => root,
            Origin::Stored(stored) => stored.path(),
        }
    }

    /// The path that errors about an array name.
    pub fn path_of(&self, array: &SourceArray) -> PathBuf {
        match &self.origin {
            Origin::Folder { root, .. } => root.join(self.files[array.file].path.as_str()),
            Origin::Stored(stored) => stored.path().to_owned(),
        }
    }

    /// Whether reading means decoding.
    pub fn is_stored(&self) -> bool {
        matches!(self.origin, Origin::Stored(_))
    }

    /// Bytes of all files.
    pub fn raw_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.arrays.iter().filter(|a| a.key.tensor().is_some()).map(|a| a.bytes).sum()
    }

    /// Fails if `file` was written to since it was listed: what was read of it may be of two minds.
    pub fn check_unchanged(&self, file: &SourceFile) -> Result<()> {
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
    pub fn read_run(&self, run: Range<usize>) -> Result<Vec<u8>> {
        let arrays = &self.arrays[run];
        if let Origin::Stored(stored) = &self.origin {
            return stored.read_all(arrays);
        }
        let bytes = arrays.iter().map(|array| array.bytes).sum();
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
    pub fn read(&self, array: &SourceArray, offset: u64, out: &mut [u8]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if let Some(part) = &array.part {
            return part.read(self, offset, out);
        }
        match &self.origin {
            Origin::Stored(stored) => stored.read(&array.key, offset, out),
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

/// The name of a tensor in the file at path `file`: one whose name another file uses may be called `FILE:NAME`.
#[must_use]
pub fn name_in_file<'a>(key: &'a ArrayKey, file: &str) -> Option<&'a str> {
    let name = key.tensor()?;
    Some(name.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')).unwrap_or(name))
}
