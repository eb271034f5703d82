//! Whether a folder is a whole checkpoint: what downloads and clones leave behind, and what indices say.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use qstore_container::RelativePath;
use serde_json::Value;

use super::{Source, SourceContent, SourceFile};
use crate::disk::size_text;
use crate::error::Result;
use crate::progress::Progress;
use crate::shard_name::ShardSet;

/// The largest file that could be a pointer.
pub(super) const POINTER_BYTES: u64 = 4096;
/// Ends of the names of files that are still being fetched.
const PARTIAL: [&str; 7] = [".incomplete", ".part", ".partial", ".aria2", ".crdownload", ".download", ".tmp"];

/// Something that a user should know of a folder.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) path: Option<RelativePath>,
    pub(super) what: String,
    pub(super) kind: Kind,
}

/// What a finding means for the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has pointers in the place of all weights: it is no model at all.
    NoWeights,
    /// It is less than it should be.
    Lack,
    /// It is whole.
    Note,
}

impl Finding {
    fn lack(path: Option<&RelativePath>, what: String) -> Self {
        Self { path: path.cloned(), what, kind: Kind::Lack }
    }

    fn note(path: Option<&RelativePath>, what: String) -> Self {
        Self { path: path.cloned(), what, kind: Kind::Note }
    }
}

/// If `text` is a Git LFS pointer, the size of the file that it stands for, where it says so.
pub(super) fn lfs_pointer(text: &[u8]) -> Option<Option<u64>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let known: [&[u8]; 3] = [
        b"version https://git-lfs.github.com/spec/",
        b"version https://hawser.github.com/spec/",
        b"version http://git-media.io/v/",
    ];
    let text = known.iter().any(|start| text.starts_with(start)).then(|| String::from_utf8_lossy(text))?;
    Some(text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse().ok()))
}

/// Whether a file holds weights, or would if it were not a pointer.
fn is_weights(file: &SourceFile) -> bool {
    let ends = [".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack"];
    matches!(file.content, SourceContent::Safetensors { .. })
        || ends.iter().any(|end| file.path.as_str().ends_with(end))
}

/// All that there is to say of a folder.
pub(super) fn look(source: &Source, progress: &dyn Progress) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut pointers = Vec::new();
    for file in &source.files {
        progress.advance(0)?;
        let SourceContent::Opaque(array) = file.content else { continue };
        if file.bytes > POINTER_BYTES {
            continue;
        }
        let array = &source.arrays[array];
        let mut text = vec![0; usize::try_from(file.bytes).unwrap_or(0)];
        source.read(array, 0, &mut text)?;
        if let Some(size) = lfs_pointer(&text) {
            pointers.push((&file.path, size));
        }
    }
    if let [(first, size), others @ ..] = &pointers[..] {
        let more = match others.len() {
            0 => String::new(),
            more => format!(" (and {more} more like it)"),
        };
        let stands = size.map_or(String::new(), |size| format!(" in place of {}", size_text(size)));
        let what = format!(
            "it is a Git LFS pointer{more}: three lines of text{stands}; run `git lfs pull` to have the file, or leave it out (--exclude)"
        );
        findings.push(Finding::lack(Some(first), what));
    }
    let pointers: HashSet<&RelativePath> = pointers.into_iter().map(|(path, _)| path).collect();
    let (absent, there): (Vec<_>, Vec<_>) =
        source.files.iter().filter(|file| is_weights(file)).partition(|file| pointers.contains(&file.path));
    if let (Some(finding), true) = (findings.first_mut(), !absent.is_empty() && there.is_empty()) {
        finding.kind = Kind::NoWeights;
    }
    for file in &source.files {
        if file.path.as_str().ends_with(".safetensors.index.json") && !pointers.contains(&file.path) {
            findings.extend(check_index(source, file)?);
        }
    }
    findings.extend(check_sets(source));
    findings.extend(check_partial(source));
    findings.extend(check_git(source));
    findings.extend(check_place(source));
    Ok(findings)
}

/// The largest index that is read.
const INDEX_BYTES: u64 = 1 << 30;

/// What an index says that is not so.
fn check_index(source: &Source, file: &SourceFile) -> Result<Option<Finding>> {
    let (path, bytes) = (&file.path, file.bytes);
    let SourceContent::Opaque(array) = file.content else { return Ok(None) };
    let Some(array) = source.arrays.get(array).filter(|_| bytes <= INDEX_BYTES) else { return Ok(None) };
    let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
    source.read(array, 0, &mut text)?;
    let index: Value = match serde_json::from_slice(&text) {
        Ok(index) => index,
        Err(e) => {
            return Ok(Some(Finding::lack(
                Some(path),
                format!("it is not JSON: {e}; was the download complete?"),
            )));
        }
    };
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        let what = "it has no weight_map; is it the index of a sharded checkpoint?".to_owned();
        return Ok(Some(Finding::lack(Some(path), what)));
    };
    let folder = path.as_str().rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let there: HashSet<&str> = source.files.iter().map(|file| file.path.as_str()).collect();
    let shards: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let missing: Vec<&str> =
        shards.iter().copied().filter(|shard| !there.contains(format!("{folder}{shard}").as_str())).collect();
    let Some(first) = missing.first() else { return Ok(None) };
    let files = source.files.iter().filter(|file| file.path.as_str().starts_with(&folder));
    let names: BTreeSet<String> = files.flat_map(|file| source.names_of(file)).collect();
    let absent = |tensor: &&String| {
        // What a quantiser made of a weight has other names.
        let module = tensor.rsplit_once('.').map_or(tensor.as_str(), |(module, _)| module);
        let of_module = format!("{module}.");
        let mut from = names.range(of_module.clone()..);
        !names.contains(*tensor) && !from.next().is_some_and(|name| name.starts_with(&of_module))
    };
    let lost = map.keys().find(absent);
    let (count, all) = (missing.len(), shards.len());
    let what = match lost {
        None => format!(
            "it names {count} of {all} shards that are not there, such as {first}, but all its tensors are in other files: it is of another set of weights; it is stored as it is"
        ),
        Some(tensor) => format!(
            "it names {count} of {all} shards that are not there, such as {first}, and nothing else has {tensor}; was the download complete?"
        ),
    };
    Ok(Some(Finding::lack(Some(path), what)))
}

/// Shards of which others are missing, told by their names: `model-00001-of-00003.safetensors`.
fn check_sets(source: &Source) -> Vec<Finding> {
    let mut sets: BTreeMap<ShardSet, BTreeSet<u32>> = BTreeMap::new();
    for (set, number) in source.files.iter().filter_map(|file| ShardSet::of(file.path.as_str())) {
        sets.entry(set).or_default().insert(number);
    }
    let there: HashSet<&str> = source.files.iter().map(|file| file.path.as_str()).collect();
    let mut findings = Vec::new();
    for (ShardSet { stem, total, extension }, numbers) in sets {
        let from = u32::from(!numbers.contains(&0));
        let missing: Vec<u32> =
            (from..total.saturating_add(from)).filter(|number| !numbers.contains(number)).collect();
        let name = |number: u32| format!("{stem}-{number:05}-of-{total:05}.{extension}");
        let index = format!("{stem}.{extension}.index.json");
        let has_index = there.contains(index.as_str());
        if let Some(first) = missing.first() {
            // An index that is there has said so.
            if !has_index {
                let count = missing.len();
                let are = if count == 1 { "is" } else { "are" };
                let what = format!(
                    "{count} of its {total} shards {are} not there, such as {}; was the download complete?",
                    name(*first)
                );
                findings.push(Finding::lack(
                    name(numbers.first().copied().unwrap_or(0)).parse().ok().as_ref(),
                    what,
                ));
            }
        } else if extension == "safetensors" && !has_index {
            let what = format!(
                "its {total} shards are there, but not their index, {index}, without which transformers does not find them"
            );
            findings.push(Finding::note(name(from).parse().ok().as_ref(), what));
        }
    }
    findings
}

/// Whether the folder is a model's at all.
fn check_place(source: &Source) -> Option<Finding> {
    let paths = || source.files.iter().map(|file| file.path.as_str());
    if paths().any(|path| path.starts_with("snapshots/")) && paths().any(|path| path.starts_with("blobs/")) {
        let what = "this is all that a hub's cache has of a repository; a model is one of the folders in its snapshots";
        return Some(Finding::note(None, what.to_owned()));
    }
    if let Some(store) = source.files.iter().find(|file| file.path.components().last() == Some("qstore.json"))
    {
        let what = "the folder that this is in is itself a store, and is stored with the rest; leave it out with --exclude";
        return Some(Finding::note(Some(&store.path), what.to_owned()));
    }
    let has_weights = source.files.iter().any(is_weights);
    (!has_weights)
        .then(|| Finding::lack(None, "there are no weights in it; is it the model's folder?".to_owned()))
}

/// Files that are still being fetched.
fn check_partial(source: &Source) -> Option<Finding> {
    let is_partial = |path: &&RelativePath| PARTIAL.iter().any(|end| path.as_str().ends_with(end));
    let partial: Vec<_> = source.files.iter().map(|file| &file.path).filter(is_partial).collect();
    let first = partial.first()?;
    let more =
        if partial.len() > 1 { format!(" (and {} more like it)", partial.len() - 1) } else { String::new() };
    let what = format!(
        "it has the name of a file that is still being fetched{more}; was the download complete? Leave it out with --exclude if it is of no use"
    );
    Some(Finding::lack(Some(first), what))
}

/// What `git clone` has put beside the files.
fn check_git(source: &Source) -> Option<Finding> {
    let of_git = source.files.iter().filter(|file| file.path.components().any(|part| part == ".git"));
    let sizes: Vec<u64> = of_git.map(|file| file.bytes).collect();
    if sizes.is_empty() {
        return None;
    }
    let what = format!(
        "its .git is stored as well ({}; what equals other files takes no room); leave it out with --exclude .git",
        size_text(sizes.into_iter().fold(0, u64::saturating_add))
    );
    Some(Finding::note(None, what))
}
