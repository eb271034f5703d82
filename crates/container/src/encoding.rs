//! How the bytes of an array are stored, as plans say it.

use serde::{Deserialize, Serialize};

use crate::fields::{EncodingFields, QuantGridFields};
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
    /// GPTQ's checkpoint formats: a scale and a zero-point for each group of a row, codes of 2, 3, 4 or 8 bits packed into 32-bit words.
    #[serde(rename = "gptq")]
    Gptq,
}

impl QuantScheme {
    /// The name that plans and the command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LlmInt8 => "llm.int8",
            Self::Gptq => "gptq",
        }
    }
}

/// The values that the codes of a matrix stand for: `scale * (code - zero)`. Rows are output features, columns input features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scheme", try_from = "QuantGridFields")]
pub enum QuantGrid {
    /// Codes I8 of shape rows x columns; the zero is 0.
    #[serde(rename = "llm.int8")]
    LlmInt8 {
        /// 127 times the scale of each row, as F32.
        scale: ArrayRef,
    },
    /// Codes packed into I32 of shape columns * bits / 32 x rows, each column of words the bits of a row's codes, low bits first.
    #[serde(rename = "gptq")]
    Gptq {
        /// Bits of a code: 2, 3, 4 or 8.
        bits: u8,
        /// F16, BF16 or F32 of shape groups x rows.
        scale: ArrayRef,
        /// Zero-points as I32 of shape groups x rows * bits / 32, packed like the codes, but along a row of words.
        zeros: ArrayRef,
        /// What is added to a stored zero-point, modulo `2^bits`: 1 (checkpoint format `gptq`) or 0 (`gptq_v2`).
        zero_offset: u8,
        /// The group of each column, as I32; without it groups follow each other, all of one size but the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        groups: Option<ArrayRef>,
    },
}

impl QuantGrid {
    /// Whose it is.
    #[must_use]
    pub fn scheme(&self) -> QuantScheme {
        match self {
            Self::LlmInt8 { .. } => QuantScheme::LlmInt8,
            Self::Gptq { .. } => QuantScheme::Gptq,
        }
    }

    /// The arrays that it is made of.
    pub fn needs(&self) -> impl Iterator<Item = &ArrayRef> {
        let needs = match self {
            Self::LlmInt8 { scale } => [Some(scale), None, None],
            Self::Gptq { scale, zeros, groups, .. } => [Some(scale), Some(zeros), groups.as_ref()],
        };
        needs.into_iter().flatten()
    }

    /// Bits of a code where codes are packed into words; `None` where each is a byte.
    #[must_use]
    pub fn packed_bits(&self) -> Option<u8> {
        match self {
            Self::LlmInt8 { .. } => None,
            Self::Gptq { bits, .. } => Some(*bits),
        }
    }
}

/// A quantised matrix of a lower variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantised {
    /// Its codes.
    pub codes: ArrayRef,
    /// What they stand for.
    pub grid: QuantGrid,
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
    /// As what the floats add to codes that a quantiser has moved: first how many steps each weight lies off its code, then its place in the step.
    StepResidual {
        /// The codes.
        given: Quantised,
        /// Steps to a scale: 1, 2, 4, 8 or 16.
        steps: u8,
        /// Whether the codes are those of the transposed matrix, which is then what is coded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        transposed: bool,
    },
    /// Codes, as how far each lies off what the code of a lower variant lets expect.
    CodeResidual {
        /// The lower variant's codes.
        given: Quantised,
        /// What these codes stand for.
        own: QuantGrid,
    },
    /// Packed codes with order-0 tables, as rows of the matrix that they quantise.
    Packed {
        /// Bits of a code: 2, 3, 4 or 8.
        bits: u8,
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
            Self::StepResidual { .. } => "step-residual",
            Self::CodeResidual { .. } => "code-residual",
            Self::Packed { .. } => "packed",
            Self::FloatSplit => "float-split",
            Self::Codes => "codes",
            Self::Zstd => "zstd",
            Self::Raw => "raw",
        }
    }

    /// The arrays that decoding needs, beside a bundle.
    pub fn needs(&self) -> impl Iterator<Item = &ArrayRef> {
        let direct = match self {
            Self::Reference { to } => [Some(to), None],
            Self::Residual { codes, scale, .. } => [Some(codes), Some(scale)],
            Self::StepResidual { given, .. } | Self::CodeResidual { given, .. } => [Some(&given.codes), None],
            _ => [None, None],
        };
        direct.into_iter().flatten().chain(self.grids().flat_map(QuantGrid::needs))
    }

    /// What the codes that it deals with stand for, where the plan says it as a [`QuantGrid`].
    pub fn grids(&self) -> impl Iterator<Item = &QuantGrid> {
        let grids = match self {
            Self::StepResidual { given, .. } => [Some(&given.grid), None],
            Self::CodeResidual { given, own } => [Some(&given.grid), Some(own)],
            _ => [None, None],
        };
        grids.into_iter().flatten()
    }

    /// Whether what is coded is the transposed of the array, a matrix; of packed codes the transposed matrix of words.
    #[must_use]
    pub fn is_transposed(&self) -> bool {
        match self {
            Self::Residual { transposed, .. } | Self::StepResidual { transposed, .. } => *transposed,
            Self::CodeResidual { own, .. } => own.packed_bits().is_some(),
            Self::Packed { .. } => true,
            _ => false,
        }
    }

    /// Bits of a code where several are packed into each element.
    #[must_use]
    pub fn packed_bits(&self) -> Option<u8> {
        match self {
            Self::Packed { bits } => Some(*bits),
            Self::CodeResidual { own, .. } => own.packed_bits(),
            _ => None,
        }
    }

    /// Whether it is what floats add to codes.
    #[must_use]
    pub fn is_float_residual(&self) -> bool {
        matches!(self, Self::Residual { .. } | Self::StepResidual { .. })
    }

    /// Whether it is what an array adds to one of a lower variant.
    #[must_use]
    pub fn is_residual(&self) -> bool {
        self.is_float_residual() || matches!(self, Self::CodeResidual { .. })
    }

    /// Whether it is a slice of a bundle.
    #[must_use]
    pub fn is_slice(&self) -> bool {
        matches!(self, Self::Slice { .. })
    }

    pub(crate) fn has_head(&self) -> bool {
        self.is_residual() || matches!(self, Self::FloatSplit | Self::Codes | Self::Packed { .. })
    }

    /// Whether the shard has a stream for the array.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        !matches!(self, Self::Reference { .. } | Self::Verbatim { .. } | Self::Slice { .. })
    }
}
