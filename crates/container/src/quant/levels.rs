//! What numbers are: the levels that codes stand for before they are scaled, and the types of scales.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::FormatError;

/// A binary32 that is a number; two are equal if their bits are.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Finite(f32);

impl Finite {
    /// The number.
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

impl From<Finite> for f32 {
    fn from(number: Finite) -> Self {
        number.0
    }
}

impl TryFrom<f32> for Finite {
    type Error = FormatError;

    fn try_from(number: f32) -> Result<Self, FormatError> {
        // Decimal numbers have one zero, and so have these.
        let finite = number.is_finite().then_some(Self(number + 0.0));
        finite.ok_or_else(|| FormatError::new("a number that is none or infinite"))
    }
}

impl PartialEq for Finite {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Finite {}

impl Hash for Finite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// A float of 8 bits or fewer: sign, exponent, mantissa, the sign highest. The names are OCP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MiniFloat {
    /// 4 bits of exponent, biased by 7, and 3 of mantissa; no infinities, NaN is all ones (`F8_E4M3` of safetensors).
    E4m3,
    /// 5 bits of exponent, biased by 15, and 2 of mantissa; infinities and NaNs as IEEE 754 has them.
    E5m2,
    /// 2 bits of exponent, biased by 1, and 1 of mantissa; every code is a number.
    E2m1,
}

impl MiniFloat {
    /// Bits of a code.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::E4m3 | Self::E5m2 => 8,
            Self::E2m1 => 4,
        }
    }

    /// Bits of the mantissa.
    #[must_use]
    pub fn mantissa_bits(self) -> u32 {
        match self {
            Self::E4m3 => 3,
            Self::E5m2 => 2,
            Self::E2m1 => 1,
        }
    }

    /// What is added to exponents.
    #[must_use]
    pub fn bias(self) -> u32 {
        match self {
            Self::E4m3 => 7,
            Self::E5m2 => 15,
            Self::E2m1 => 1,
        }
    }
}

/// What a code stands for before it is scaled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Levels {
    /// The number that its bits are.
    Unsigned,
    /// The same in two's complement.
    Signed,
    /// The number that its bits are, less `2^(bits - 1)`.
    Offset,
    /// The number that its bits are in two's complement, which is cut to those from the first one, 0 or less, to the
    /// second, more than that: codes of 4 bits in bytes.
    Between([i8; 2]),
    /// A float.
    Float(MiniFloat),
    /// A number of a table with an entry for each code.
    Table(Vec<Finite>),
}

impl Levels {
    pub(crate) fn check(&self, bits: u8) -> Result<(), FormatError> {
        let fits = match self {
            Self::Unsigned | Self::Signed | Self::Offset => true,
            Self::Between([least, most]) => bits == 8 && *least <= 0 && 0 < *most,
            Self::Float(float) => float.bits() == bits,
            Self::Table(table) => table.len() == 1 << bits,
        };
        if fits {
            return Ok(());
        }
        Err(FormatError::new("levels: they are for codes of another number of bits"))
    }
}

/// The type of a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Number {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The high half of a binary32.
    Bf16,
    /// A float of 8 bits.
    E4m3,
    /// A float of 8 bits.
    E5m2,
    /// A power of two, of which a byte is the exponent, biased by 127; 255 is NaN.
    E8m0,
    /// An integer, zero or more.
    Unsigned,
    /// An integer in two's complement.
    Signed,
}

impl Number {
    /// Bits of one; `None` for integers, which may have any number from 1 to 8.
    #[must_use]
    pub fn bits(self) -> Option<u8> {
        match self {
            Self::F32 => Some(32),
            Self::F16 | Self::Bf16 => Some(16),
            Self::E4m3 | Self::E5m2 | Self::E8m0 => Some(8),
            Self::Unsigned | Self::Signed => None,
        }
    }
}
