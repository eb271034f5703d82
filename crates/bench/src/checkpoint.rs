//! The folders that are measured: which files they have, and where each tensor is. Every peer's output is compared with
//! these bytes.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use qstore::VariantSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, IoContext as _, Result};

/// A header longer than this is none; the safetensors library has the same limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One variant's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) files: Vec<SourceFile>,
}

/// One file of a folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SourceFile {
    /// Below the folder, with `/`.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// Of a safetensors file; empty for any other, which is stored but not loaded.
    pub(crate) tensors: Vec<Tensor>,
}

/// Where a tensor's bytes are in its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Checkpoint {
    /// Lists the files below the variant's folder, links followed.
    pub(crate) fn scan(variant: &VariantSpec) -> Result<Self> {
        let VariantSpec { name, folder, .. } = variant;
        let usage = |what: &str| Error::Usage(format!("{}: {what}", folder.display()));
        if !folder.is_dir() {
            return Err(usage("no such folder"));
        }
        let root = std::path::absolute(folder).at(folder, "cannot find")?;
        let mut files = Vec::new();
        for entry in walkdir::WalkDir::new(&root).follow_links(true).sort_by_file_name() {
            let entry = entry.map_err(|e| usage(&e.to_string()))?;
            if entry.file_type().is_file() {
                files.push(SourceFile::scan(&root, entry.path())?);
            }
        }
        if files.iter().all(|file| file.tensors.is_empty()) {
            return Err(usage("it has no safetensors file with tensors; give a model's folder"));
        }
        Ok(Self { name: name.to_string(), folder: root, files })
    }

    /// The files that a load reads: those with tensors.
    pub(crate) fn tensor_files(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| !file.tensors.is_empty())
    }

    /// Bytes of all its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes of all its tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.files.iter().flat_map(|file| &file.tensors).map(|tensor| tensor.bytes).sum()
    }
}

impl SourceFile {
    fn scan(root: &Path, path: &Path) -> Result<Self> {
        let below = path.strip_prefix(root).unwrap_or(path);
        let parts: Option<Vec<&str>> = below.components().map(|part| part.as_os_str().to_str()).collect();
        let Some(parts) = parts else {
            return Err(Error::Usage(format!("{}: its name is not UTF-8; rename it", path.display())));
        };
        let bytes = path.metadata().at(path, "cannot read")?.len();
        let tensors = if path.extension().is_some_and(|e| e == "safetensors") {
            tensors(path, bytes)?
        } else {
            Vec::new()
        };
        Ok(Self { path: parts.join("/"), bytes, tensors })
    }
}

/// The tensors that the header of the safetensors file `path` of `bytes` bytes lists.
fn tensors(path: &Path, bytes: u64) -> Result<Vec<Tensor>> {
    let wrong = || Error::Usage(format!("{}: it is no whole safetensors file", path.display()));
    let mut file = File::open(path).at(path, "cannot open")?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| wrong())?;
    let length = u64::from_le_bytes(length);
    let data = length.checked_add(8).filter(|end| *end <= bytes && length <= MAX_HEADER_BYTES);
    let data = data.ok_or_else(wrong)?;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).at(path, "cannot read")?;
    let header: Map<String, Value> = serde_json::from_slice(&header).map_err(|_| wrong())?;
    let tensor = |(name, entry): (String, Value)| {
        let offsets = entry.get("data_offsets")?;
        let (start, end) = (offsets.get(0)?.as_u64()?, offsets.get(1)?.as_u64()?);
        let fits = start <= end && data.checked_add(end)? <= bytes;
        fits.then(|| Tensor { name, offset: data + start, bytes: end - start })
    };
    let entries = header.into_iter().filter(|(name, _)| name != "__metadata__");
    entries.map(|entry| tensor(entry).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scan(folder: &Path) -> Result<Checkpoint> {
        let name = "bf16".parse().unwrap();
        Checkpoint::scan(&VariantSpec::new(name, folder.to_owned()))
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn finds_tensors_and_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let header =
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}"#;
        fs::write(dir.path().join("model.safetensors"), file(header, b"xabc")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/config.json"), "{}").unwrap();
        let found = scan(dir.path()).unwrap();
        let paths: Vec<_> = found.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["model.safetensors", "sub/config.json"]);
        let [tensor] = &found.files[0].tensors[..] else { panic!() };
        assert_eq!((tensor.name.as_str(), tensor.offset, tensor.bytes), ("a", 9 + header.len() as u64, 3));
        assert_eq!((found.tensor_bytes(), found.bytes()), (3, 8 + header.len() as u64 + 4 + 2));
        assert_eq!(found.tensor_files().count(), 1);
    }

    #[test]
    fn says_what_is_wrong_with_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let message = |folder: &Path| scan(folder).unwrap_err().to_string();
        assert!(message(&dir.path().join("none")).contains("no such folder"));
        assert!(message(dir.path()).contains("no safetensors file"));
        let path = dir.path().join("model.safetensors");
        let outside = r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}"#;
        for bytes in [&b"abc"[..], &u64::MAX.to_le_bytes(), &file("{", b""), &file(outside, b"ab")] {
            fs::write(&path, bytes).unwrap();
            assert!(message(dir.path()).contains("no whole safetensors file"));
        }
    }
}
