//! Reading a Hugging Face style folder.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use qstore_container::{ArrayKey, Dtype, Manifest, RelativePath, SafetensorsHeader};

use super::exclude::Exclude;
use super::source::{Origin, Source, SourceArray, SourceContent, SourceFile};
use super::whole::{Finding, Kind, POINTER_BYTES, lfs_pointer, look};
use crate::error::{Error, IoContext as _, Result};
use crate::file::{read_exact_at, read_safetensors_header};
use crate::progress::Progress;

/// How a folder is read.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// What of it is left out.
    pub exclude: Exclude,
    /// Refuse a folder that is not whole, where else that is told.
    pub strict: bool,
}

/// Lists every file below `root`, links followed, and parses the headers of those that are safetensors, whatever their
/// names. What a user should know of the folder is told.
///
/// # Errors
/// No such folder, an unreadable file, a safetensors file that could not be restored exactly, or something that is
/// neither file nor folder; a folder that is not whole, if `scan` says so.
pub fn scan_folder(root: &Path, scan: &Scan, progress: &dyn Progress) -> Result<Source> {
    if root.is_file() {
        return Err(Error::usage(format!("{}: this is a file; give the model's folder", root.display())));
    }
    if !root.is_dir() {
        return Err(Error::missing(root, "no such folder"));
    }
    let Listing { files, empty_folders, excluded } = list(root, scan, progress)?;
    let used = scan.exclude.texts().zip(&excluded).filter(|(_, used)| **used);
    let mut source = Source {
        files: Vec::with_capacity(files.len()),
        empty_folders,
        arrays: Vec::new(),
        places: OnceLock::new(),
        excluded: used.map(|(pattern, _)| pattern.to_owned()).collect(),
        origin: Origin::of_folder(root, files.len()),
    };
    for (path, bytes, modified) in files {
        progress.advance(0)?;
        let content = add_file(&mut source, root, &path, bytes)?;
        source.files.push(SourceFile { path, bytes, modified, content });
    }
    make_keys_distinct(&mut source);
    for Finding { path, what, kind } in look(&source, progress)? {
        let path = path.map_or_else(|| root.to_owned(), |path| root.join(path.as_str()));
        if kind == Kind::NoWeights || scan.strict && kind != Kind::Note {
            return Err(Error::input(path, what));
        }
        progress.warn(&format!("{}: {what}", path.display()))?;
    }
    for (pattern, _) in scan.exclude.texts().zip(&excluded).filter(|(_, used)| !**used) {
        progress.warn(&format!("{}: nothing in it matches --exclude {pattern}", root.display()))?;
    }
    Ok(source)
}

/// What is in a folder.
struct Listing {
    /// With size and time.
    files: Vec<(RelativePath, u64, Option<SystemTime>)>,
    /// Those in which nothing is.
    empty_folders: Vec<RelativePath>,
    /// For each pattern whether something was left out by it.
    excluded: Vec<bool>,
}

fn list(root: &Path, scan: &Scan, progress: &dyn Progress) -> Result<Listing> {
    let mut excluded = vec![false; scan.exclude.texts().count()];
    let mut files = Vec::new();
    let mut folders = BTreeSet::new();
    let mut entries =
        walkdir::WalkDir::new(root).follow_links(true).min_depth(1).sort_by_file_name().into_iter();
    while let Some(entry) = entries.next() {
        progress.advance(0)?;
        let path = match &entry {
            Ok(entry) => Some(entry.path()),
            // A link that leads nowhere can be left out, too.
            Err(error) => error.path(),
        };
        // A name that is not UTF-8 can be left out as well.
        let below = path.and_then(|path| path.strip_prefix(root).ok()).map(Path::to_string_lossy);
        if let Some(pattern) = below.and_then(|path| scan.exclude.find(&path)) {
            excluded[pattern] = true;
            if entry.is_ok_and(|entry| entry.file_type().is_dir()) {
                entries.skip_current_dir();
            }
            continue;
        }
        let entry = entry.map_err(|e| walk_error(root, e))?;
        let path = relative(root, entry.path())?;
        if entry.file_type().is_dir() {
            folders.insert(path);
        } else if entry.file_type().is_file() {
            let data = entry.metadata().map_err(|e| walk_error(root, e))?;
            files.push((path, data.len(), data.modified().ok()));
        } else {
            let what = "it is neither a file nor a folder; remove it, or leave it out (--exclude)";
            return Err(Error::input(entry.path(), what));
        }
    }
    if files.is_empty() {
        let all_left_out = excluded.contains(&true);
        let what = if all_left_out { "all of it is left out (--exclude)" } else { "the folder is empty" };
        return Err(Error::input(root, what));
    }
    if files.iter().any(|(path, ..)| path.as_str() == Manifest::FILE_NAME) {
        return Err(Error::input(root, "this folder is itself a store; give the model's folder"));
    }
    // Folders that only contain empty folders are restored along with those.
    let paths = files.iter().map(|(path, ..)| path).chain(&folders);
    let parents: HashSet<String> =
        paths.filter_map(|path| Some(path.as_str().rsplit_once('/')?.0.to_owned())).collect();
    let empty_folders = folders.iter().filter(|folder| !parents.contains(folder.as_str())).cloned().collect();
    Ok(Listing { files, empty_folders, excluded })
}

fn walk_error(root: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(root).to_owned();
    if error.loop_ancestor().is_some() {
        return Error::input(
            path,
            "this link leads back to a folder above it; remove it, or leave it out (--exclude)",
        );
    }
    let broken = path.is_symlink() && !path.exists();
    match error.into_io_error() {
        Some(_) if broken => Error::input(
            path,
            "this link leads nowhere; was the download complete? If it is of no use, leave it out (--exclude)",
        ),
        Some(source) => Error::Io { path, what: "cannot read", source },
        None => Error::input(path, "cannot be read"),
    }
}

fn relative(root: &Path, path: &Path) -> Result<RelativePath> {
    let below = path.strip_prefix(root).map_err(|_| Error::input(path, "it is not below the folder"))?;
    let parts: Option<Vec<&str>> = below.components().map(|c| c.as_os_str().to_str()).collect();
    let parts = parts
        .ok_or_else(|| Error::input(path, "its name is not UTF-8; rename it, or leave it out (--exclude)"))?;
    let unfit = "its name has a backslash, or a colon as its second character, which a store cannot have; rename it, or leave it out (--exclude)";
    parts.join("/").parse().map_err(|_| Error::input(path, unfit))
}

/// Adds the arrays of a file, which is yet to be pushed.
fn add_file(source: &mut Source, root: &Path, path: &RelativePath, bytes: u64) -> Result<SourceContent> {
    let file = source.files.len();
    let full = root.join(path.as_str());
    if let Some(header) = header_of(&full, bytes)? {
        let first = source.arrays.len();
        source.arrays.extend(header.tensors.into_iter().map(|tensor| SourceArray {
            key: ArrayKey::Tensor(tensor.name),
            dtype: tensor.dtype,
            shape: tensor.shape,
            bytes: tensor.bytes.end - tensor.bytes.start,
            file,
            offset: tensor.bytes.start,
            part: None,
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
            part: None,
        });
        Ok(SourceContent::Opaque(source.arrays.len() - 1))
    }
}

/// The header of a safetensors file; `None` for others. Files of other names can be safetensors as well, such as the
/// blobs of Git LFS and of hubs' caches; one that does not turn out to be whole is then just a file.
fn header_of(path: &Path, bytes: u64) -> Result<Option<SafetensorsHeader>> {
    let is_named = path.extension().is_some_and(|extension| extension == "safetensors");
    if !is_named && bytes < 10 {
        return Ok(None);
    }
    let handle = File::open(path).at(path, "cannot open")?;
    let mut start = vec![0; usize::try_from(bytes.min(1024)).unwrap_or(0)];
    read_exact_at(&handle, &mut start, 0).at(path, "cannot read")?;
    // A length, of which at least three bytes are 0 in a file of its size, and the beginning of JSON.
    let looks_so = start.get(5..8) == Some(&[0; 3]) && start.get(8) == Some(&b'{');
    if is_named && bytes <= POINTER_BYTES && lfs_pointer(&start).is_some() || !is_named && !looks_so {
        return Ok(None);
    }
    let read = || {
        let header = read_safetensors_header(&handle, path, bytes, |what| Error::input(path, what))?;
        SafetensorsHeader::parse(header, bytes).map_err(|e| Error::input(path, e))
    };
    match read() {
        Err(Error::Input { .. }) if !is_named => Ok(None),
        Err(Error::Input { path, what, subject }) if !what.contains("--exclude") => {
            let what = format!("{what}; if the file is of no use, leave it out (--exclude)");
            Err(Error::Input { path, what, subject })
        }
        result => result.map(Some),
    }
}

/// Of the tensors of one name that of the file that people see first keeps it: not hidden, in no folder, called a
/// model, and first by name. The others are qualified: `FILE:NAME`. Where that is the name of another tensor, so is
/// that one.
fn make_keys_distinct(source: &mut Source) {
    let rank = |file: &SourceFile| {
        let hidden = file.path.components().filter(|part| part.starts_with('.')).count();
        // What transformers loads has such a name.
        let is_other = !file.path.components().last().is_some_and(|name| name.starts_with("model"));
        (hidden, file.path.components().count(), is_other, file.path.clone())
    };
    let ranks: Vec<_> = source.files.iter().map(rank).collect();
    let mut qualified = vec![false; source.arrays.len()];
    loop {
        let mut first: HashMap<ArrayKey, usize> = HashMap::new();
        for (index, array) in source.arrays.iter().enumerate() {
            let best = first.entry(array.key.clone()).or_insert(index);
            // A qualified name stays.
            let order = |index: usize| (!qualified[index], &ranks[source.arrays[index].file]);
            if order(index) < order(*best) {
                *best = index;
            }
        }
        let mut done = true;
        for (index, qualified) in qualified.iter_mut().enumerate() {
            let array = &source.arrays[index];
            if let (ArrayKey::Tensor(name), false, false) =
                (&array.key, first[&array.key] == index, *qualified)
            {
                let key = ArrayKey::Tensor(format!("{}:{name}", source.files[array.file].path));
                source.arrays[index].key = key;
                *qualified = true;
                done = false;
            }
        }
        if done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::fs;

    fn scan_folder(root: &Path) -> Result<Source> {
        super::scan_folder(root, &Scan { strict: true, ..Scan::default() }, &Silent)
    }

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
        let want =
            ["file:1_Pooling/config.json", "tensor:x", "tensor:y", "tensor:b.safetensors:x", "tensor:z"];
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
