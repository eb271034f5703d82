//! Describing a store.

use std::collections::HashSet;
use std::sync::Arc;

use qstore_container::{ArrayKey, Encoding, FORMAT_VERSION, StoredArray, VariantEntry, VariantName};
use serde::Serialize;

use super::{Store, staging};
use crate::decode::{Variant, is_within};
use crate::error::{Error, Result};

/// A store, described.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Version of the format.
    pub format_version: u32,
    /// Bytes of all variants' original files.
    pub raw_bytes: u64,
    /// Bytes of everything in the store's folder.
    pub stored_bytes: u64,
    /// `stored_bytes / raw_bytes`.
    pub ratio: f64,
    /// The variants, lower precision first.
    pub variants: Vec<VariantInspection>,
    /// Files that an interrupted change left; the next change deletes them.
    pub leftovers: Vec<String>,
}

/// A variant, described.
#[derive(Debug, Clone, Serialize)]
pub struct VariantInspection {
    /// Name.
    pub name: String,
    /// How its weights are quantised, or `none`.
    pub scheme: String,
    /// The element type that most of its weights have.
    pub dtype: String,
    /// The variants that its tensors are stored given, or shared with; reading it reads these, and those that they are given in turn.
    pub given: Vec<String>,
    /// Whether its files are kept as they are.
    pub verbatim: bool,
    /// Number of tensors.
    pub tensor_count: u64,
    /// Its original files; empty if its layer cannot be read.
    pub files: Vec<FileInspection>,
    /// The files of the store that hold it, relative to the store's folder.
    pub layer_files: Vec<String>,
    /// Bytes of its original files.
    pub raw_bytes: u64,
    /// Bytes that it adds to the store.
    pub stored_bytes: u64,
    /// Bytes that loading all its tensors reads; none if its layer cannot be read.
    pub read_bytes: Option<u64>,
    /// Why its layer cannot be read, if it cannot.
    pub problem: Option<String>,
    /// Its tensors, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorInspection>>,
}

/// An original file, described.
#[derive(Debug, Clone, Serialize)]
pub struct FileInspection {
    /// Path in the variant's folder.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, as a model hub shows it.
    pub sha256: String,
}

/// A tensor, described.
#[derive(Debug, Clone, Serialize)]
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
    /// Bytes that it takes in its variant's layer.
    pub stored_bytes: u64,
    /// Stored bits for each element, or for each code that is packed into one; none for an empty tensor.
    pub bits_per_weight: Option<f64>,
}

/// Describes a store, tensor by tensor if `tensors`.
///
/// # Errors
/// The folder cannot be listed. A variant whose layer cannot be read is described as far as the manifest does.
pub fn inspect(store: &Store, tensors: bool) -> Result<Inspection> {
    let mut stored_bytes = 0u64;
    for entry in walkdir::WalkDir::new(store.path()) {
        let entry = entry.map_err(|e| Error::damaged(store.path(), format!("cannot be listed: {e}")))?;
        // A link counts as what it leads to where a reader would follow it.
        let file =
            entry.file_type().is_file() || entry.path_is_symlink() && is_within(store.path(), entry.path());
        if file {
            let data = std::fs::metadata(entry.path())
                .map_err(|e| Error::damaged(entry.path(), format!("cannot be read: {e}")))?;
            stored_bytes = stored_bytes.saturating_add(data.len());
        }
    }
    let entries = &store.manifest().variants;
    // The manifest may claim anything.
    let raw_bytes = entries.iter().fold(0u64, |sum, v| sum.saturating_add(v.raw_bytes));
    let mut leftovers = staging::leftovers(store.path(), store.manifest())?;
    if staging::has_leftovers(store.path()) {
        leftovers.push(staging::FOLDER.to_owned());
    }
    Ok(Inspection {
        format_version: FORMAT_VERSION,
        raw_bytes,
        stored_bytes,
        ratio: quotient(stored_bytes, raw_bytes).unwrap_or(0.0),
        variants: entries.iter().map(|entry| describe(store, entry, tensors)).collect(),
        leftovers,
    })
}

fn describe(store: &Store, entry: &VariantEntry, tensors: bool) -> VariantInspection {
    let opened = store.variant(&entry.name);
    let files: Vec<FileInspection> = opened
        .iter()
        .flat_map(|v| v.files())
        .map(|f| FileInspection { path: f.path.to_string(), bytes: f.bytes, sha256: f.sha256.to_string() })
        .collect();
    let layers = entry.layer.iter().map(|f| f.name.to_string());
    let kept = files.iter().filter(|_| entry.verbatim).map(|f| format!("{}/{}", entry.name, f.path));
    let kept_bytes = if entry.verbatim { entry.raw_bytes } else { 0 };
    VariantInspection {
        name: entry.name.to_string(),
        scheme: entry.scheme.clone(),
        dtype: entry.dtype.clone(),
        given: entry.given.iter().map(|g| g.variant.to_string()).collect(),
        verbatim: entry.verbatim,
        tensor_count: entry.tensors,
        layer_files: layers.chain(kept).collect(),
        raw_bytes: entry.raw_bytes,
        stored_bytes: entry.layer.iter().fold(kept_bytes, |sum, f| sum.saturating_add(f.bytes)),
        read_bytes: opened.as_ref().ok().map(read_bytes),
        problem: opened.as_ref().err().map(ToString::to_string),
        tensors: opened.as_ref().ok().filter(|_| tensors).map(|v| describe_tensors(v)),
        files,
    }
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

/// Bytes that loading every tensor reads: what opening has read, and for each tensor its stream and those that it needs.
fn read_bytes(variant: &Arc<Variant>) -> u64 {
    let opening = variant.bytes_read();
    let mut bundles = HashSet::new();
    let tensors = variant.arrays().filter(|(array, _)| array.key.tensor().is_some());
    opening + tensors.map(|(array, stored)| stream_bytes(variant, array, stored, &mut bundles)).sum::<u64>()
}

/// `bundles` are those that were counted: one is read once for all of its slices.
fn stream_bytes<'a>(
    variant: &'a Variant,
    array: &'a StoredArray,
    stored: u64,
    bundles: &mut HashSet<(&'a VariantName, &'a ArrayKey)>,
) -> u64 {
    let own = match &array.encoding {
        Encoding::Verbatim { .. } => array.bytes().unwrap_or(0),
        Encoding::Slice { of, .. } if !bundles.insert((variant.name(), of)) => 0,
        Encoding::Slice { of, .. } => variant.stored_size(of).map_or(0, |(_, stored)| stored),
        _ => stored,
    };
    let needed = array.encoding.needs().map(|need| {
        let lower = variant.given().iter().find(|g| *g.name() == need.variant).map_or(variant, |g| &**g);
        lower
            .stored_size(&need.array)
            .map_or(0, |(array, stored)| stream_bytes(lower, array, stored, bundles))
    });
    own + needed.sum::<u64>()
}

/// `None` for a divisor of 0.
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn quotient(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}
