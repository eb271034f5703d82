//! How the bytes of an array are stored, as plans say it.

use serde::{Deserialize, Serialize};

use crate::fields::EncodingFields;
use crate::{ArrayKey, RelativePath, VariantName};

/// An array of a variant, seen from another array.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayRef {
    /// The variant: the one that the referring array is in, or one that its layer is given.
    pub variant: VariantName,
    /// The array.
    pub array: ArrayKey,
}

/// A family of quantisers whose codes a residual can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QuantScheme {
    /// bitsandbytes LLM.int8(): one F32 absolute maximum a row (`SCB`), codes from -127 to 127.
    #[serde(rename = "llm.int8")]
    LlmInt8,
}

impl QuantScheme {
    /// The name that plans and the command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LlmInt8 => "llm.int8",
        }
    }
}

/// How a quantiser rounds; `docs/format.md` gives each one's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// `rint(fl(w * fl(r * 127)))` with `r = fl(1 / s)`: bitsandbytes on CPU.
    ReciprocalTimes127,
    /// The same with the F32 just above `r`: a GPU's approximate reciprocal may be off by one.
    ReciprocalUpTimes127,
    /// The same with the F32 just below `r`.
    ReciprocalDownTimes127,
    /// `rint(fl(w * fl(127 / s)))`.
    Quotient127,
}

impl Rounding {
    /// Every rule, the likeliest first.
    pub const ALL: [Self; 4] = [
        Self::ReciprocalTimes127,
        Self::ReciprocalUpTimes127,
        Self::ReciprocalDownTimes127,
        Self::Quotient127,
    ];
}

/// How the bytes of an array are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", try_from = "EncodingFields")]
pub enum Encoding {
    /// Not at all: they equal those of another array.
    Reference {
        /// The other array, which is itself no reference.
        to: ArrayRef,
    },
    /// In the original file, which the store keeps as it is under the variant's name.
    Verbatim {
        /// Path of the file in the variant.
        file: RelativePath,
        /// First byte in the file.
        offset: u64,
    },
    /// In a bundle, which this shard has.
    Slice {
        /// The bundle.
        of: ArrayKey,
        /// First byte in it.
        offset: u64,
    },
    /// As what the floats add to their quantisation codes.
    Residual {
        /// The codes, I8 of the same shape.
        codes: ArrayRef,
        /// One F32 scale a row.
        scale: ArrayRef,
        /// What the codes mean.
        scheme: QuantScheme,
        /// How the quantiser rounded, as far as known.
        rounding: Rounding,
        /// Whether the codes are those of the transposed matrix, which is then what is coded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        transposed: bool,
    },
    /// High bits of floats coded, sign and low bits raw.
    FloatSplit,
    /// One-byte codes with order-0 tables.
    Codes,
    /// Zstandard, over the bytes regrouped by their place in an element.
    Zstd,
    /// As they are.
    Raw,
}

impl Encoding {
    /// The name that the plan and the command line use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "reference",
            Self::Verbatim { .. } => "verbatim",
            Self::Slice { .. } => "slice",
            Self::Residual { .. } => "residual",
            Self::FloatSplit => "float-split",
            Self::Codes => "codes",
            Self::Zstd => "zstd",
            Self::Raw => "raw",
        }
    }

    /// The arrays that decoding needs, beside a bundle.
    pub fn needs(&self) -> impl Iterator<Item = &ArrayRef> {
        let needs = match self {
            Self::Reference { to } => [Some(to), None],
            Self::Residual { codes, scale, .. } => [Some(codes), Some(scale)],
            _ => [None, None],
        };
        needs.into_iter().flatten()
    }

    /// Whether it is a slice of a bundle.
    #[must_use]
    pub fn is_slice(&self) -> bool {
        matches!(self, Self::Slice { .. })
    }

    pub(crate) fn has_head(&self) -> bool {
        matches!(self, Self::Residual { .. } | Self::FloatSplit | Self::Codes)
    }

    /// Whether the shard has a stream for the array.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        !matches!(self, Self::Reference { .. } | Self::Verbatim { .. } | Self::Slice { .. })
    }
}
