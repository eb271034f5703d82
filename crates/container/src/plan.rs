//! What a shard holds and how: the plan, written as JSON and stored zstd-compressed in the shard.

use serde::{Deserialize, Serialize};

use crate::bundles;
use crate::fields::{ContentFields, some_grid, some_hash, some_mantissa};
use crate::limits::{
    MAX_CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_FILES, MAX_PLAN_BYTES, MAX_PLAN_EXPANSION, MAX_PLAN_WINDOW_LOG,
    MAX_RESIDUAL_CHUNK_ROWS, MAX_RESIDUAL_ROWS, MAX_TRANSPOSED_BYTES, PLAN_SLACK_BYTES,
};
use crate::{
    ArrayKey, Dtype, Encoding, FormatError, Hash128, QuantGrid, QuantScheme, RelativePath, Sha256Hex,
    VariantName,
};

/// Bytes of JSON of a plan that is compressed faster; what long lists of like tensors lose by that is within 1%.
const LARGE_PLAN: usize = 4 << 20;

/// How an array is cut into chunks: rows of `cols` elements, `rows_per_chunk` rows to a chunk; the last row and the last chunk may be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Elements a row.
    pub cols: u64,
    /// Rows a chunk.
    pub rows_per_chunk: u64,
    /// Lanes of a chunk's coder.
    #[serde(default, skip_serializing_if = "Lanes::is_default")]
    pub lanes: Lanes,
}

/// How many lanes a coder has, which also says how its slots are arranged; plans give the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum Lanes {
    /// 64 lanes, ascending slots. What plans mean that do not say.
    #[default]
    Narrow,
    /// 128 lanes, alias slots.
    Wide,
}

impl Lanes {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Lanes> for u16 {
    fn from(lanes: Lanes) -> Self {
        match lanes {
            Lanes::Narrow => 64,
            Lanes::Wide => 128,
        }
    }
}

impl TryFrom<u16> for Lanes {
    type Error = FormatError;

    fn try_from(lanes: u16) -> Result<Self, FormatError> {
        match lanes {
            64 => Ok(Self::Narrow),
            128 => Ok(Self::Wide),
            _ => Err(FormatError::new(format!("a coder has 64 or 128 lanes, not {lanes}"))),
        }
    }
}

impl Grid {
    /// That of a slice, which has no chunks of its own.
    pub const NONE: Self = Self { cols: 0, rows_per_chunk: 0, lanes: Lanes::Narrow };

    fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// One array of a variant: a tensor, a file that is not safetensors (as U8), or a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredArray {
    /// Which.
    pub key: ArrayKey,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<u64>,
    /// XXH3-128 of its bytes; a slice has none of its own.
    #[serde(default, deserialize_with = "some_hash", skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash128>,
    /// Chunks. One element of a type smaller than a byte counts as packed: the grid then counts bytes. [`Grid::NONE`] for a slice.
    #[serde(default = "no_grid", deserialize_with = "some_grid", skip_serializing_if = "Grid::is_none")]
    pub grid: Grid,
    /// Mantissa bits that its floats use, where an encoding of floats makes use of their having fewer than their type: 7 of F16 that was once BF16.
    #[serde(default, deserialize_with = "some_mantissa", skip_serializing_if = "Option::is_none")]
    pub mantissa: Option<u8>,
    /// Encoding.
    pub encoding: Encoding,
}

fn no_grid() -> Grid {
    Grid::NONE
}

impl StoredArray {
    /// Bytes of the array decoded.
    ///
    /// # Errors
    /// A shape that overflows, or a number of bits that fills no whole bytes.
    pub fn bytes(&self) -> Result<u64, FormatError> {
        array_bytes(self.dtype, &self.shape)
            .ok_or_else(|| FormatError::new(format!("{}: its shape is absurd", self.key)))
    }

    /// Bytes of an element; 1 for the types that are smaller.
    #[must_use]
    pub fn width(&self) -> u64 {
        (self.dtype.bitsize() as u64 / 8).max(1)
    }

    /// Bytes of a full chunk, decoded; of a slice all that it has.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        if self.encoding.is_slice() {
            return self.bytes().unwrap_or(0).max(1);
        }
        self.grid.cols.saturating_mul(self.grid.rows_per_chunk).saturating_mul(self.width())
    }

    /// Number of data chunks.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn chunk_count(&self) -> Result<u64, FormatError> {
        Ok(self.bytes()?.div_ceil(self.chunk_bytes()))
    }

    /// Number of records in the list of chunks: those of the data and, for some encodings, a head.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn record_count(&self) -> Result<u64, FormatError> {
        match self.encoding {
            Encoding::Reference { .. } | Encoding::Slice { .. } => Ok(0),
            _ => Ok(self.chunk_count()?.saturating_add(u64::from(self.encoding.has_head()))),
        }
    }

    /// Whether the first record is a head.
    #[must_use]
    pub fn has_head(&self) -> bool {
        self.encoding.has_head()
    }

    fn check(&self) -> Result<(), FormatError> {
        let bad = |what: &str| Err(FormatError::new(format!("{}: {what}", self.key)));
        let bytes = self.bytes()?;
        let slice = self.encoding.is_slice();
        if self.hash.is_none() != slice || self.grid.is_none() != slice {
            return bad("a hash or grid is missing, or is that of a slice");
        }
        let split = matches!(self.encoding, Encoding::FloatSplit) || self.encoding.is_float_residual();
        if self.mantissa.is_some_and(|bits| bits != 7 || self.dtype != Dtype::F16 || !split) {
            return bad("mantissas that are shorter than any that are made use of");
        }
        if slice {
            return Ok(());
        }
        if self.grid.cols == 0 || self.grid.rows_per_chunk == 0 || self.chunk_bytes() > MAX_CHUNK_BYTES {
            return bad("its chunks are empty or larger than a reader accepts");
        }
        let float = matches!(self.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32);
        let rows = bytes.div_ceil(self.width()).div_ceil(self.grid.cols).min(self.grid.rows_per_chunk);
        match &self.encoding {
            Encoding::FloatSplit if !float => bad("a float split of elements that are no BF16, F16 or F32"),
            Encoding::Codes if self.width() != 1 => bad("codes of more than a byte"),
            Encoding::FloatSplit | Encoding::Codes if rows > MAX_CHUNK_ROWS => {
                bad("chunks of more rows than a reader accepts")
            }
            Encoding::Residual { scheme, .. } if *scheme != QuantScheme::LlmInt8 => {
                bad("a residual of codes that do not follow from their weights alone")
            }
            Encoding::StepResidual { steps, .. } if ![1, 2, 4, 8, 16].contains(steps) => {
                bad("a number of steps other than 1, 2, 4, 8 or 16")
            }
            Encoding::Packed { bits } if !is_code_width(*bits) => {
                bad("codes of other than 2, 3, 4 or 8 bits")
            }
            Encoding::Packed { bits }
                if !self.grid.cols.saturating_mul(32).is_multiple_of((*bits).into()) =>
            {
                bad("codes that do not fill whole words")
            }
            encoding if encoding.is_residual() || encoding.is_transposed() => {
                let (all_rows, cols) = match (&self.shape[..], encoding.is_transposed()) {
                    (&[rows, cols], false) | (&[cols, rows], true) => (rows, cols),
                    _ => (0, 0),
                };
                let fits = match encoding {
                    Encoding::Packed { .. } => self.dtype == Dtype::I32,
                    Encoding::CodeResidual { own, .. } => {
                        self.dtype == if own.packed_bits().is_some() { Dtype::I32 } else { Dtype::I8 }
                    }
                    _ => float,
                };
                // What is done with packed codes is done with one a byte.
                let packed = match encoding {
                    Encoding::Packed { bits } => Some(*bits),
                    Encoding::CodeResidual { own, .. } => own.packed_bits(),
                    _ => None,
                };
                let most = packed.map_or(u64::MAX, |bits| MAX_CHUNK_BYTES / 8 * u64::from(bits));
                if bytes.min(self.chunk_bytes()) > most {
                    return bad("chunks of more codes than a reader accepts");
                }
                if !fits || cols != self.grid.cols {
                    bad("its encoding is for a matrix of other elements or rows")
                } else if all_rows > MAX_RESIDUAL_ROWS || rows > MAX_RESIDUAL_CHUNK_ROWS {
                    bad("a residual of more rows than a reader accepts")
                } else if encoding.is_transposed() && bytes > MAX_TRANSPOSED_BYTES {
                    bad("a transposed matrix larger than a reader accepts")
                } else {
                    encoding.grids().try_for_each(|grid| match grid {
                        QuantGrid::Gptq { bits, zero_offset, .. }
                            if !is_code_width(*bits) || *zero_offset > 1 =>
                        {
                            bad("a quantisation grid that no GPTQ checkpoint has")
                        }
                        _ => Ok(()),
                    })
                }
            }
            Encoding::Verbatim { offset, .. } if offset.checked_add(bytes).is_none() => {
                bad("an offset out of range")
            }
            _ => Ok(()),
        }
    }
}

/// Whether GPTQ checkpoints have codes of so many bits.
fn is_code_width(bits: u8) -> bool {
    [2, 3, 4, 8].contains(&bits)
}

/// Bytes of an array, `None` where that overflows or is not whole.
pub(crate) fn array_bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |product, &d| product.checked_mul(d))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

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

/// A variant that a layer depends on, pinned to what it held.
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
        let mut decoder = zstd::Decoder::new(bytes).map_err(|e| bad(&e))?;
        // A frame may ask for a window that is larger than all it holds.
        decoder.window_log_max(MAX_PLAN_WINDOW_LOG).map_err(|e| bad(&e))?;
        decoder.take(limit + 1).read_to_end(&mut json).map_err(|e| bad(&e))?;
        if json.len() as u64 > limit {
            return Err(FormatError::new("its plan is larger than a reader accepts"));
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
                        "{}: it needs variant {}, which its layer is not given",
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
