//! What a model can be quantised to.

use std::fmt;
use std::str::FromStr;

use qstore_checkpoint::{Error, Result};

/// What [`quantize`](super::quantize) makes of weight matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// LLM.int8(), as transformers and bitsandbytes write it: `X.weight` holds I8 codes and `X.SCB` an F32 scale for
    /// each row.
    Int8,
    /// The tensors of a GPTQ checkpoint, rounded to nearest.
    Gptq(Gptq),
}

/// How matrices become GPTQ tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gptq {
    /// Size of a code.
    pub bits: GptqBits,
    /// Columns that share a scale and a zero-point in each row.
    pub group_size: GroupSize,
    /// Where zero lies among the codes.
    pub zero_point: ZeroPoint,
}

/// Bits of a GPTQ code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GptqBits {
    /// Two codes a byte.
    Four,
    /// A code a byte.
    Eight,
}

/// Where zero lies among the codes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroPoint {
    /// In the middle, at 2^(bits - 1); the scale is made for the largest magnitude.
    Symmetric,
    /// Where the group's least weight gets code 0; the scale is made for the distance from the least weight to the
    /// largest.
    MinMax,
}

/// Columns (input features) that share a scale: one of [`GroupSize::READ`], or the whole row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSize(Option<u16>);

impl GptqBits {
    /// As a number.
    pub(super) fn count(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Codes in a word of 32 bits.
    pub(super) fn codes_in_word(self) -> usize {
        match self {
            Self::Four => 8,
            Self::Eight => 4,
        }
    }
}

impl GroupSize {
    /// The sizes that gptqmodel 7 has kernels for; other readers take 32, 64 and 128.
    pub const READ: [u16; 7] = [16, 32, 64, 128, 256, 512, 1024];

    /// One group a row.
    pub const ROW: Self = Self(None);

    /// Columns of a group in a row of `cols`.
    pub(super) fn columns(self, cols: u64) -> u64 {
        self.0.map_or(cols, u64::from)
    }

    /// As configurations say it: -1 for a whole row.
    pub(super) fn number(self) -> i32 {
        self.0.map_or(-1, i32::from)
    }
}

impl Default for GroupSize {
    /// Groups of 128.
    fn default() -> Self {
        Self(Some(128))
    }
}

impl FromStr for GroupSize {
    type Err = Error;

    /// Reads a number of columns, or -1.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is not among [`READ`](Self::READ).
    fn from_str(text: &str) -> Result<Self> {
        if text == "-1" {
            return Ok(Self::ROW);
        }
        let columns = text.parse().ok().filter(|columns| Self::READ.contains(columns));
        columns.map(|columns| Self(Some(columns))).ok_or_else(|| {
            let sizes = Self::READ.map(|size| size.to_string()).join(", ");
            Error::usage(format!("readers of GPTQ take groups of {sizes} columns, or -1 for one group a row"))
        })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int8 => f.write_str("INT8"),
            Self::Gptq(gptq) => write!(f, "GPTQ of {} bits", gptq.bits.count()),
        }
    }
}
