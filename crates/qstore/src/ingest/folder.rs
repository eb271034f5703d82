//! Reading a Hugging Face style folder.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use qstore_container::{ArrayKey, Dtype, Manifest, RelativePath, SafetensorsHeader};
use serde_json::Value;

use super::source::{Origin, Source, SourceArray, SourceContent, SourceFile};
use crate::error::{Error, IoContext as _, Result};
use crate::file::read_safetensors_header;

/// Lists every file below `root`, links followed, and parses the headers of those that end in `.safetensors`.
///
/// # Errors
/// No such folder, an unreadable file, a safetensors file that could not be restored exactly, an index that names a missing shard, or something
/// that is neither file nor folder.
pub(crate) fn scan_folder(root: &Path) -> Result<Source> {
    if root.is_file() {
        return Err(Error::usage(format!("{}: this is a file; give the model's folder", root.display())));
    }
    if !root.is_dir() {
        return Err(Error::missing(root, "no such folder"));
    }
    let mut files = Vec::new();
    let mut folders = BTreeSet::new();
    for entry in walkdir::WalkDir::new(root).follow_links(true).min_depth(1).sort_by_file_name() {
        let entry = entry.map_err(|e| walk_error(root, e))?;
        let path = relative(root, entry.path())?;
        if entry.file_type().is_dir() {
            folders.insert(path);
        } else if entry.file_type().is_file() {
            let data = entry.metadata().map_err(|e| walk_error(root, e))?;
            files.push((path, data.len(), data.modified().ok()));
        } else {
            return Err(Error::input(
                entry.path(),
                "it is neither a file nor a folder; remove it or pack another folder",
            ));
        }
    }
    if files.is_empty() {
        return Err(Error::input(root, "the folder is empty"));
    }
    if files.iter().any(|(path, ..)| path.as_str() == Manifest::FILE_NAME) {
        return Err(Error::input(root, "this folder is itself a store; give the model's folder"));
    }
    let empty_folders = folders.into_iter().filter(|f| !has_children(f, &files)).collect::<Vec<_>>();
    // Folders that only contain empty folders are restored along with those.
    let empty_folders =
        empty_folders.iter().filter(|f| !empty_folders.iter().any(|g| is_below(g, f))).cloned().collect();

    let mut source = Source {
        files: Vec::with_capacity(files.len()),
        empty_folders,
        arrays: Vec::new(),
        origin: Origin::Folder {
            root: root.to_owned(),
            handles: files.iter().map(|_| OnceLock::new()).collect(),
        },
    };
    for (path, bytes, modified) in files {
        let content = add_file(&mut source, root, &path, bytes)?;
        source.files.push(SourceFile { path, bytes, modified, content });
    }
    make_keys_distinct(&mut source);
    check_indices(&source, root)?;
    Ok(source)
}

fn walk_error(root: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(root).to_owned();
    if error.loop_ancestor().is_some() {
        return Error::input(path, "this link leads back to a folder above it; remove it");
    }
    let broken = path.is_symlink() && !path.exists();
    match error.into_io_error() {
        Some(_) if broken => Error::input(path, "this link leads nowhere; was the download complete?"),
        Some(source) => Error::Io { path, what: "cannot read", source },
        None => Error::input(path, "cannot be read"),
    }
}

fn relative(root: &Path, path: &Path) -> Result<RelativePath> {
    let below = path.strip_prefix(root).map_err(|_| Error::input(path, "it is not below the folder"))?;
    let parts: Option<Vec<&str>> = below.components().map(|c| c.as_os_str().to_str()).collect();
    let parts = parts.ok_or_else(|| Error::input(path, "its name is not UTF-8; rename it"))?;
    parts.join("/").parse().map_err(|e| Error::input(path, e))
}

fn has_children(folder: &RelativePath, files: &[(RelativePath, u64, Option<SystemTime>)]) -> bool {
    files.iter().any(|(path, ..)| is_below(path, folder))
}

fn is_below(path: &RelativePath, folder: &RelativePath) -> bool {
    path.as_str().strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
}

/// Adds the arrays of a file, which is yet to be pushed.
fn add_file(source: &mut Source, root: &Path, path: &RelativePath, bytes: u64) -> Result<SourceContent> {
    let file = source.files.len();
    let full = root.join(path.as_str());
    if path.as_str().ends_with(".safetensors") {
        let handle = File::open(&full).at(&full, "cannot open")?;
        let header = read_safetensors_header(&handle, &full, bytes, |what| Error::input(&full, what))?;
        let header = SafetensorsHeader::parse(header, bytes).map_err(|e| Error::input(&full, e))?;
        let first = source.arrays.len();
        source.arrays.extend(header.tensors.into_iter().map(|tensor| SourceArray {
            key: ArrayKey::Tensor(tensor.name),
            dtype: tensor.dtype,
            shape: tensor.shape,
            bytes: tensor.bytes.end - tensor.bytes.start,
            file,
            offset: tensor.bytes.start,
        }));
        let arrays = (first..source.arrays.len()).collect();
        Ok(SourceContent::Safetensors { header: header.text, arrays })
    } else {
        source.arrays.push(SourceArray {
            key: ArrayKey::File(path.clone()),
            dtype: Dtype::U8,
            shape: vec![bytes],
            bytes,
            file,
            offset: 0,
        });
        Ok(SourceContent::Opaque(source.arrays.len() - 1))
    }
}

/// A name that several files use is qualified in each: `FILE:NAME`. Where that is the name of another tensor, so is that one.
fn make_keys_distinct(source: &mut Source) {
    let mut qualified = vec![false; source.arrays.len()];
    loop {
        let mut uses: HashMap<ArrayKey, usize> = HashMap::new();
        for array in &source.arrays {
            *uses.entry(array.key.clone()).or_default() += 1;
        }
        let mut done = true;
        for (array, qualified) in source.arrays.iter_mut().zip(&mut qualified) {
            if let (ArrayKey::Tensor(name), Some(2..), false) = (&array.key, uses.get(&array.key), *qualified)
            {
                array.key = ArrayKey::Tensor(format!("{}:{name}", source.files[array.file].path));
                *qualified = true;
                done = false;
            }
        }
        if done {
            return;
        }
    }
}

/// A shard that an index names must be there: a folder without it is a download that did not finish.
fn check_indices(source: &Source, root: &Path) -> Result<()> {
    for file in source.files.iter().filter(|f| f.path.as_str().ends_with(".safetensors.index.json")) {
        let path = root.join(file.path.as_str());
        let text = std::fs::read(&path).at(&path, "cannot read")?;
        let index: Value =
            serde_json::from_slice(&text).map_err(|e| Error::input(&path, format!("it is not JSON: {e}")))?;
        let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
            return Err(Error::input(
                &path,
                "it has no weight_map; is it the index of a sharded checkpoint?",
            ));
        };
        let folder =
            file.path.as_str().rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        for shard in map.values().filter_map(Value::as_str).collect::<BTreeSet<_>>() {
            let wanted = format!("{folder}{shard}");
            if !source.files.iter().any(|f| f.path.as_str() == wanted) {
                let what =
                    format!("it names the shard {shard}, which is not there; was the download complete?");
                return Err(Error::input(&path, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn safetensors(tensors: &[(&str, &[u8])]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, data)| {
            (*name, safetensors::tensor::TensorView::new(Dtype::U8, vec![data.len()], data).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn finds_files_folders_and_tensors() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("1_Pooling/empty/inner")).unwrap();
        fs::write(root.join("1_Pooling/config.json"), "{}").unwrap();
        fs::write(root.join("a.safetensors"), safetensors(&[("x", b"1"), ("y", b"22")])).unwrap();
        fs::write(root.join("b.safetensors"), safetensors(&[("x", b"333"), ("z", b"")])).unwrap();
        let source = scan_folder(root).unwrap();
        let keys: Vec<_> = source.arrays.iter().map(|a| a.key.to_string()).collect();
        let want = [
            "file:1_Pooling/config.json",
            "tensor:a.safetensors:x",
            "tensor:y",
            "tensor:b.safetensors:x",
            "tensor:z",
        ];
        assert_eq!(BTreeSet::from_iter(keys), want.map(str::to_owned).into());
        assert_eq!(source.empty_folders, ["1_Pooling/empty/inner".parse().unwrap()]);
        let y = source.arrays.iter().find(|a| a.key.tensor() == Some("y")).unwrap();
        let mut bytes = [0; 2];
        source.read(y, 0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"22");
    }

    #[test]
    fn follows_links_and_notices_bad_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (root, blob) = (dir.path().join("model"), dir.path().join("blob"));
        fs::create_dir(&root).unwrap();
        fs::write(&blob, safetensors(&[("x", b"1")])).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::symlink;
            symlink(&blob, root.join("model.safetensors")).unwrap();
            assert_eq!(scan_folder(&root).unwrap().arrays.len(), 1);
            symlink("nowhere", root.join("gone.json")).unwrap();
            assert!(scan_folder(&root).unwrap_err().to_string().contains("leads nowhere"));
            fs::remove_file(root.join("gone.json")).unwrap();
            symlink(&root, root.join("loop")).unwrap();
            assert!(scan_folder(&root).unwrap_err().to_string().contains("leads back"));
        }
    }

    #[test]
    fn refuses_incomplete_folders() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(scan_folder(&root.join("none")).unwrap_err().to_string().contains("no such folder"));
        assert!(scan_folder(root).unwrap_err().to_string().contains("empty"));
        let index = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#;
        fs::write(root.join("model.safetensors.index.json"), index).unwrap();
        assert!(scan_folder(root).unwrap_err().to_string().contains("model-00001-of-00002"));
        let shard = root.join("model-00001-of-00002.safetensors");
        let mut bytes = safetensors(&[("a", b"1234")]);
        fs::write(&shard, &bytes).unwrap();
        assert!(scan_folder(root).is_ok());
        bytes.push(0);
        fs::write(&shard, &bytes).unwrap();
        let error = scan_folder(root).unwrap_err().to_string();
        assert!(error.contains("belong to no tensor") && error.contains("model-00001-of-00002"), "{error}");
    }
}
