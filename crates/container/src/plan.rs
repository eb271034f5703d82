//! What a shard holds and how: the plan, written as JSON and stored zstd-compressed in the shard.

use serde::{Deserialize, Serialize};

use crate::fields::ContentFields;
use crate::limits::{MAX_FILES, MAX_PLAN_BYTES, MAX_PLAN_EXPANSION, MAX_PLAN_WINDOW_LOG, PLAN_SLACK_BYTES};
use crate::{ArrayKey, FormatError, Hash128, RelativePath, Sha256Hex, StoredArray, VariantName};
use crate::{bundles, parts};

/// Bytes of JSON of a plan that is compressed faster; what long lists of like tensors lose by that is within 1%.
const LARGE_PLAN: usize = 4 << 20;

/// What restores the bytes of an original file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", try_from = "ContentFields")]
pub enum FileContent {
    /// A safetensors file: 8 bytes of header length, the header's text, then the arrays in this order.
    Safetensors {
        /// The header exactly as it was.
        header: String,
        /// The tensors in the order of their bytes.
        tensors: Vec<String>,
    },
    /// Any other file: the array `file:PATH`.
    Opaque,
}

/// A file of the variant as its producer wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginalFile {
    /// Path in the variant's folder.
    pub path: RelativePath,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of its bytes, which a model hub shows as well.
    pub sha256: Sha256Hex,
    /// What restores it.
    pub content: FileContent,
}

impl OriginalFile {
    /// The arrays that hold its bytes behind its header, in order.
    pub fn arrays(&self) -> impl Iterator<Item = ArrayKey> {
        let (own, tensors) = match &self.content {
            FileContent::Opaque => (Some(ArrayKey::File(self.path.clone())), &[][..]),
            FileContent::Safetensors { tensors, .. } => (None, &tensors[..]),
        };
        own.into_iter().chain(tensors.iter().cloned().map(ArrayKey::Tensor))
    }
}

/// A variant that another is given, pinned to what it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// The variant.
    pub variant: VariantName,
    /// Its content, see [`crate::VariantEntry::content`].
    pub content: Hash128,
}

/// The plan of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPlan {
    /// The variant that the shard belongs to.
    pub variant: VariantName,
    /// The variants that its arrays need.
    pub given: Vec<Given>,
    /// The arrays in this shard, in the order of their chunks.
    pub arrays: Vec<StoredArray>,
    /// In the last shard: every original file of the variant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<OriginalFile>,
    /// In the last shard: folders that are empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty_folders: Vec<RelativePath>,
}

impl ShardPlan {
    /// The stored form.
    ///
    /// # Errors
    /// JSON or zstd failed, or a reader would not accept the plan.
    pub fn write(&self) -> Result<Vec<u8>, FormatError> {
        let failed = |e: &dyn std::fmt::Display| FormatError::new(format!("the plan cannot be written: {e}"));
        self.check()?;
        let json = serde_json::to_vec(self).map_err(|e| failed(&e))?;
        if json.len() as u64 > MAX_PLAN_BYTES {
            return Err(FormatError::new("its plan is larger than a reader accepts; use smaller shards"));
        }
        let stored = zstd::bulk::compress(&json, if json.len() > LARGE_PLAN { 7 } else { 12 })
            .map_err(|e| failed(&e))?;
        if json.len() as u64 > most_json(&stored) {
            // Long names or padding of one letter: a reader could not tell it from a bomb.
            return Err(FormatError::new(
                "its names or headers repeat themselves more than a reader accepts; shorten their padding",
            ));
        }
        Ok(stored)
    }

    /// Reads what [`write`](Self::write) wrote, and checks all that can be checked without other files.
    ///
    /// # Errors
    /// Not a plan, or one that contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        use std::io::Read as _;
        let bad = |e: &dyn std::fmt::Display| FormatError::new(format!("its plan cannot be read: {e}"));
        let limit = most_json(bytes);
        let mut json = Vec::new();
        let mut decoder = zstd::Decoder::with_buffer(bytes).map_err(|e| bad(&e))?.single_frame();
        // A frame may ask for a window that is larger than all it holds.
        decoder.window_log_max(MAX_PLAN_WINDOW_LOG).map_err(|e| bad(&e))?;
        decoder.by_ref().take(limit + 1).read_to_end(&mut json).map_err(|e| bad(&e))?;
        if json.len() as u64 > limit {
            return Err(FormatError::new("its plan is larger than a reader accepts"));
        }
        if !decoder.finish().is_empty() {
            return Err(bad(&"something follows its Zstandard frame"));
        }
        let plan: Self = serde_json::from_slice(&json).map_err(|e| bad(&e))?;
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.files.len() > MAX_FILES || self.empty_folders.len() > MAX_FILES {
            return Err(FormatError::new("it lists more files than a reader accepts"));
        }
        for array in &self.arrays {
            array.check()?;
            for need in array.encoding.needs() {
                let known =
                    need.variant == self.variant || self.given.iter().any(|g| g.variant == need.variant);
                if matches!(need.array, ArrayKey::Bundle(_)) {
                    return Err(FormatError::new(format!("{}: it refers to a bundle", array.key)));
                }
                if !known {
                    let text = format!(
                        "{}: it needs variant {}, which its own is not given",
                        array.key, need.variant
                    );
                    return Err(FormatError::new(text));
                }
            }
        }
        let names = self.given.iter().map(|g| &g.variant).chain([&self.variant]);
        all_distinct(names, "variant")?;
        all_distinct(self.arrays.iter().map(|a| &a.key), "array")?;
        bundles::check(&self.arrays)?;
        parts::check(&self.arrays)?;
        let mut paths: Vec<_> = self.files.iter().map(|f| &f.path).chain(&self.empty_folders).collect();
        all_distinct(paths.iter(), "file")?;
        // In this order a path is followed by what lies below it.
        paths.sort_by(|a, b| a.components().cmp(b.components()));
        let below = |pair: &&[&RelativePath]| {
            let rest = pair[1].as_str().strip_prefix(pair[0].as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        match paths.windows(2).find(below) {
            Some(pair) => Err(FormatError::new(format!(
                "it lists {}, although {} is no folder or an empty one",
                pair[1], pair[0]
            ))),
            None => Ok(()),
        }
    }
}

/// Bytes of JSON that a plan stored as `stored` may expand to.
fn most_json(stored: &[u8]) -> u64 {
    let most = (stored.len() as u64).saturating_mul(MAX_PLAN_EXPANSION).saturating_add(PLAN_SLACK_BYTES);
    most.min(MAX_PLAN_BYTES)
}

/// Fails if an item occurs twice.
pub(crate) fn all_distinct<T: std::hash::Hash + Eq + std::fmt::Display>(
    items: impl Iterator<Item = T>,
    what: &str,
) -> Result<(), FormatError> {
    let mut seen = std::collections::HashSet::with_capacity(items.size_hint().0);
    for item in items {
        if let Some(twice) = seen.replace(item) {
            return Err(FormatError::new(format!("it lists the {what} {twice} twice")));
        }
    }
    Ok(())
}
