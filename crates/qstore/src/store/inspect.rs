//! Describing a store.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use qstore_checkpoint::{Error, Result, Staging};
use qstore_container::{ArrayKey, FORMAT_VERSION, FileContent, Manifest, VariantEntry};
use serde::Serialize;

use super::Store;
use super::unshared::UnsharedInspection;
use crate::decode::{ArrayBytes as _, Readers};
use crate::fetch::Needs;
use crate::variant::Variant;

/// A store, described.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Version of the format.
    pub format_version: u32,
    /// Bytes of all variants' original files.
    pub raw_bytes: u64,
    /// Bytes of all that the store has in its folder: its manifest, and what each variant adds.
    pub stored_bytes: u64,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// `stored_bytes / raw_bytes`.
    pub ratio: f64,
    /// The variants, lower precision first.
    pub variants: Vec<VariantInspection>,
    /// Files that an interrupted change left; the next change deletes them.
    pub leftovers: Vec<String>,
    /// What else lies in the store's folder. It is not the store's, and is left alone.
    pub foreign: Vec<String>,
}

/// A variant, described.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VariantInspection {
    /// Name.
    pub name: String,
    /// How its weights are quantised, or `none`.
    pub scheme: String,
    /// The element type that most of its weights have.
    pub dtype: String,
    /// The variants that its tensors are stored given, or shared with; reading it reads these, and those that they are
    /// given in turn.
    pub given: Vec<String>,
    /// Whether its files are kept as they are.
    pub verbatim: bool,
    /// Whether it is archived: stored given variants of higher precision.
    pub archived: bool,
    /// How many variants reading it reads, itself included.
    pub reads: u64,
    /// Number of tensors.
    pub tensor_count: u64,
    /// Its original files; empty if its shards cannot be read.
    pub files: Vec<FileInspection>,
    /// The files of the store that hold it, relative to the store's folder.
    pub stored_files: Vec<String>,
    /// Those of them that are not there.
    pub missing_files: Vec<String>,
    /// Bytes of its original files.
    pub raw_bytes: u64,
    /// Bytes that it adds to the store. All that its tensors and its files take, and the overhead.
    pub stored_bytes: u64,
    /// Bytes of headers, plans and lists of chunks; none if its shards cannot be read.
    pub overhead_bytes: Option<u64>,
    /// Bytes that loading all its tensors reads; none if its shards cannot be read.
    pub read_bytes: Option<u64>,
    /// Why its shards cannot be read, if it cannot.
    pub problem: Option<String>,
    /// Patterns of the files that were left out when it was stored.
    pub excluded: Vec<String>,
    /// What of it shares less than one would expect, and why.
    pub unshared: Vec<UnsharedInspection>,
    /// Its tensors, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorInspection>>,
}

/// An original file, described.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FileInspection {
    /// Path in the variant's folder.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, as a model hub shows it.
    pub sha256: String,
    /// How it is stored: `tensors` of a safetensors file, whose tensors are described by themselves, else as a tensor
    /// is.
    pub encoding: String,
    /// The variant that it is equal to a file of.
    pub given: Option<String>,
    /// Bytes that it takes in its variant's shards, its tensors left out.
    pub stored_bytes: u64,
}

/// A tensor, described.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TensorInspection {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// How it is stored.
    pub encoding: String,
    /// The variant that it is stored given, or equal to a tensor of.
    pub given: Option<String>,
    /// Bytes in memory.
    pub raw_bytes: u64,
    /// Bytes that it takes in its variant's shards.
    pub stored_bytes: u64,
    /// Stored bits for each element, or for each code that is packed into one; none for an empty tensor.
    pub bits_per_weight: Option<f64>,
}

/// Describes a store, tensor by tensor if `tensors`.
///
/// # Errors
/// The folder cannot be listed. A variant whose shards cannot be read is described as far as the manifest does.
pub fn inspect(store: &Store, tensors: bool) -> Result<Inspection> {
    let manifest_bytes = store.manifest_bytes;
    let entries = &store.manifest().variants;
    let variants: Vec<_> = entries.iter().map(|entry| describe(store, entry, tensors)).collect();
    let add = |sum: u64, bytes: u64| sum.saturating_add(bytes);
    // The manifest may claim anything.
    let raw_bytes = entries.iter().map(|v| v.raw_bytes).fold(0, add);
    let missing: HashSet<&String> = variants.iter().flat_map(|variant| &variant.missing_files).collect();
    let there =
        variants.iter().flat_map(|variant| &variant.stored_files).filter(|file| !missing.contains(file));
    let stated = stated_sizes(store);
    let size = |file: &String| {
        let found = store.storage.size(file).ok().flatten();
        found.or_else(|| stated.get(file).copied()).unwrap_or(0)
    };
    let stored_bytes = there.map(size).fold(manifest_bytes, add);
    // Only a folder can be listed.
    let (leftovers, foreign) = if store.is_folder {
        let leftovers = Staging::leftovers(store.path());
        let foreign = foreign(store.path(), &variants, &leftovers)?;
        (leftovers, foreign)
    } else {
        (Vec::new(), Vec::new())
    };
    Ok(Inspection {
        format_version: FORMAT_VERSION,
        raw_bytes,
        stored_bytes,
        manifest_bytes,
        ratio: quotient(stored_bytes, raw_bytes).unwrap_or(0.0),
        foreign,
        variants,
        leftovers,
    })
}

/// What the manifest says of the sizes of shards.
fn stated_sizes(store: &Store) -> HashMap<String, u64> {
    let shards = store.manifest().variants.iter().flat_map(|entry| &entry.shards);
    shards.map(|shard| (shard.name.to_string(), shard.bytes)).collect()
}

/// What lies in the store's folder and is not the store's: files, and folders in which nothing is.
fn foreign(store: &Path, variants: &[VariantInspection], leftovers: &[String]) -> Result<Vec<String>> {
    let mut known: HashSet<&str> = leftovers.iter().map(String::as_str).collect();
    known.insert(Manifest::FILE_NAME);
    let mut folders: HashSet<&Path> = HashSet::new();
    for file in variants.iter().flat_map(|variant| &variant.stored_files) {
        known.insert(file);
        folders.extend(Path::new(file).ancestors().skip(1));
    }
    // Of a kept variant that cannot be read all in its folder may be its own.
    let unread = variants.iter().filter(|variant| variant.verbatim && variant.problem.is_some());
    known.extend(unread.map(|variant| variant.name.as_str()));
    let kept = variants.iter().filter(|variant| variant.verbatim).map(|variant| variant.name.as_str());
    let kept: HashSet<&str> = kept.collect();
    let mut found = Vec::new();
    let mut entries = walkdir::WalkDir::new(store).min_depth(1).sort_by_file_name().into_iter();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|e| Error::damaged(store, format!("cannot be listed: {e}")))?;
        let Ok(path) = entry.path().strip_prefix(store) else { continue };
        let is_folder = entry.file_type().is_dir();
        if is_folder && folders.contains(path) {
            continue;
        }
        let text = path.to_string_lossy();
        if is_folder {
            entries.skip_current_dir();
            let is_kept = path.components().next().and_then(|top| top.as_os_str().to_str());
            let is_kept = is_kept.is_some_and(|top| kept.contains(top));
            // Empty folders within a kept one may have been so in the original.
            let mut below = walkdir::WalkDir::new(entry.path()).into_iter().flatten();
            if is_kept && below.all(|entry| entry.file_type().is_dir()) {
                continue;
            }
        }
        if !known.contains(&*text) {
            found.push(text.into_owned());
        }
    }
    Ok(found)
}

/// How many variants reading one reads.
fn reads(manifest: &Manifest, entry: &VariantEntry) -> u64 {
    let mut found = HashSet::from([&entry.name]);
    let mut left = vec![entry];
    while let Some(entry) = left.pop() {
        for given in &entry.given {
            if let Some(given) = manifest.variant(&given.variant).filter(|given| found.insert(&given.name)) {
                left.push(given);
            }
        }
    }
    found.len() as u64
}

fn describe(store: &Store, entry: &VariantEntry, tensors: bool) -> VariantInspection {
    let opened = store.variant(&entry.name);
    let files: Vec<FileInspection> = opened.iter().flat_map(describe_files).collect();
    let shards = entry.shards.iter().map(|f| f.name.to_string());
    let kept = files.iter().filter(|_| entry.verbatim).map(|f| format!("{}/{}", entry.name, f.path));
    let kept_bytes = if entry.verbatim { entry.raw_bytes } else { 0 };
    let stored_files: Vec<String> = shards.chain(kept).collect();
    let is_missing = |file: &&String| store.storage.size(file).is_err();
    VariantInspection {
        name: entry.name.to_string(),
        scheme: entry.scheme.clone(),
        dtype: entry.dtype.clone(),
        given: entry.given.iter().map(|g| g.variant.to_string()).collect(),
        verbatim: entry.verbatim,
        archived: entry.archived,
        reads: reads(store.manifest(), entry),
        tensor_count: entry.tensors,
        missing_files: stored_files.iter().filter(is_missing).cloned().collect(),
        stored_files,
        raw_bytes: entry.raw_bytes,
        stored_bytes: entry.shards.iter().fold(kept_bytes, |sum, f| sum.saturating_add(f.bytes)),
        overhead_bytes: opened.as_ref().ok().map(|variant| variant.overhead()),
        read_bytes: opened.as_ref().ok().and_then(|variant| read_bytes(variant).ok()),
        problem: match &opened {
            Err(error) => Some(error.to_string()),
            Ok(variant) => kept_problem(store, variant),
        },
        excluded: entry.excluded.clone(),
        unshared: entry.unshared.iter().map(UnsharedInspection::new).collect(),
        tensors: opened.as_ref().ok().filter(|_| tensors).map(|v| describe_tensors(v)),
        files,
    }
}

/// What is wrong with the kept files of a variant, as far as their sizes tell.
fn kept_problem(store: &Store, variant: &Variant) -> Option<String> {
    let of_file = |file: &qstore_container::OriginalFile| {
        let name = format!("{}/{}", variant.name(), file.path);
        match store.storage.size(&name) {
            Err(error) => Some(error.to_string()),
            Ok(Some(bytes)) if bytes != file.bytes => {
                let path = store.path.join(name);
                Some(format!("{}: it has {bytes} bytes, not {}", path.display(), file.bytes))
            }
            Ok(_) => None,
        }
    };
    variant.files().iter().filter(|_| variant.entry().verbatim).find_map(of_file)
}

fn describe_files(variant: &Arc<Variant>) -> Vec<FileInspection> {
    let describe = |file: &qstore_container::OriginalFile| {
        let (path, bytes, sha256) = (file.path.to_string(), file.bytes, file.sha256.to_string());
        let array = match &file.content {
            FileContent::Opaque => variant.stored_size(&ArrayKey::File(file.path.clone())),
            FileContent::Safetensors { .. } => None,
        };
        let Some((array, stored_bytes)) = array else {
            // A kept file has its header as well; of others the plan has it.
            let stored_bytes = match &file.content {
                FileContent::Safetensors { header, .. } if variant.entry().verbatim => {
                    8 + header.len() as u64
                }
                _ => 0,
            };
            return FileInspection {
                path,
                bytes,
                sha256,
                encoding: "tensors".to_owned(),
                given: None,
                stored_bytes,
            };
        };
        let given = array.encoding.needs().next().map(|need| need.variant.to_string());
        FileInspection {
            path,
            bytes,
            sha256,
            encoding: array.encoding.name().to_owned(),
            given,
            stored_bytes,
        }
    };
    variant.files().iter().map(describe).collect()
}

fn describe_tensors(variant: &Variant) -> Vec<TensorInspection> {
    let describe = |tensor: crate::TensorInfo| TensorInspection {
        bits_per_weight: quotient(tensor.stored_bytes.saturating_mul(8), tensor.weights),
        name: tensor.name,
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape,
        encoding: tensor.encoding.to_owned(),
        given: tensor.given.map(|g| g.to_string()),
        raw_bytes: tensor.bytes,
        stored_bytes: tensor.stored_bytes,
    };
    variant.tensors().into_iter().map(describe).collect()
}

/// Bytes that loading every tensor reads: what opening has read, and each chunk that a tensor needs, once.
fn read_bytes(variant: &Arc<Variant>) -> Result<u64> {
    let (mut readers, mut needs) = (Readers::default(), Needs::default());
    for (array, _) in variant.arrays().filter(|(array, _)| array.key.tensor().is_some()) {
        let reader = readers.open(variant, &array.key)?;
        reader.needs(0..reader.bytes(), &mut needs)?;
    }
    let chunks: u64 = needs.sorted().iter().map(|place| place.length).sum();
    Ok(variant.bytes_read() + chunks)
}

/// `None` for a divisor of 0.
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn quotient(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}
