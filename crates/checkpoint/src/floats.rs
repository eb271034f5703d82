//! The float types whose weights can be coded.

use half::f16;
use qstore_container::{Dtype, StoredArray};

/// A float type. The *magnitude* of a value is its bits without the sign; magnitudes order values of one sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatKind {
    /// BF16.
    Bf16,
    /// FP16.
    F16,
    /// F16 numbers that were once BF16: their mantissas end in three zeros, which are no part of their magnitudes.
    ShortF16,
    /// Coded as its high 16 bits, which read as BF16, and its low 16 bits.
    F32,
}

impl FloatKind {
    /// That of elements of this type, if it is one.
    #[must_use]
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F16 => Some(Self::F16),
            Dtype::F32 => Some(Self::F32),
            _ => None,
        }
    }

    /// That of a stored array.
    pub fn of_stored(array: &StoredArray) -> Option<Self> {
        let float = Self::of(array.dtype);
        if array.mantissa.is_some() {
            float.filter(|float| *float == Self::F16).map(|_| Self::ShortF16)
        } else {
            float
        }
    }

    /// That of an array which begins with, or is like, `bytes`.
    pub fn fitting(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        let float = Self::of(dtype)?;
        if float != Self::F16 {
            return Some(float);
        }
        let halves = bytes.as_chunks::<2>().0;
        let short = halves.iter().filter(|half| half[0] & 7 == 0).count();
        // Of others one in eight ends so.
        Some(if short > halves.len() / 10 * 9 { Self::ShortF16 } else { Self::F16 })
    }

    /// Bytes of a value.
    pub fn width(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 | Self::ShortF16 => 2,
            Self::F32 => 4,
        }
    }

    /// Stored mantissa bits among the high 16 bits.
    pub fn mantissa_bits(self) -> u32 {
        match self {
            Self::Bf16 | Self::ShortF16 | Self::F32 => 7,
            Self::F16 => 10,
        }
    }

    /// Bits below the high 16.
    pub fn low_bits(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 | Self::ShortF16 => 0,
            Self::F32 => 16,
        }
    }

    /// The value of a float's bytes, of which there are [`width`](Self::width).
    #[inline(always)]
    pub fn read(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::Bf16, &[low, high, ..]) => {
                f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16)
            }
            (Self::F16 | Self::ShortF16, &[low, high, ..]) => {
                let bits = u32::from(u16::from_le_bytes([low, high]));
                f32::from_bits(Self::F16.value(bits & 0x7fff).to_bits() | (bits & 0x8000) << 16)
            }
            (Self::F32, &[a, b, c, d, ..]) => f32::from_le_bytes([a, b, c, d]),
            _ => 0.0,
        }
    }

    /// The value of a magnitude, without a call.
    #[inline(always)]
    pub fn value(self, magnitude: u32) -> f32 {
        match self {
            Self::Bf16 => f32::from_bits(magnitude << 16),
            Self::ShortF16 => Self::F16.value(magnitude << 3),
            Self::F16 => {
                // Exponents differ by 112. Subnormals are multiples of 2^-24, which is how far values of FP32 from 2^-1
                // to 2^0 lie apart; nothing here is a subnormal of FP32, which a thread may have been told to take for
                // zero.
                let bits = (magnitude & 0x7fff) << 13;
                let normal = f32::from_bits(bits.wrapping_add(112 << 23));
                let subnormal = f32::from_bits(magnitude & 0x3ff | 126 << 23) - 0.5;
                let special = f32::from_bits(bits | 0x7f80_0000);
                match magnitude & 0x7c00 {
                    0 => subnormal,
                    0x7c00 => special,
                    _ => normal,
                }
            }
            Self::F32 => f32::from_bits(magnitude),
        }
    }

    /// A magnitude whose value is at most one away from `value`, which is positive and no NaN, without a call.
    #[inline(always)]
    pub fn magnitude_of(self, value: f32) -> u32 {
        let bits = value.to_bits() & 0x7fff_ffff;
        match self {
            Self::Bf16 => bits >> 16,
            Self::ShortF16 => Self::F16.magnitude_of(value) >> 3,
            // The other way round: subnormals come out cut off, as all others do.
            Self::F16 => ((value * f32::from_bits(0x0780_0000)).to_bits() >> 13) & 0x7fff,
            Self::F32 => bits,
        }
    }

    /// A magnitude whose value is close to `value`, which is taken as positive; infinity's for what is no number.
    pub fn magnitude_near(self, value: f32) -> u32 {
        let bits = if value.is_nan() { f32::INFINITY } else { value }.abs().to_bits();
        match self {
            Self::Bf16 => bits >> 16,
            Self::ShortF16 => Self::F16.magnitude_near(value) >> 3,
            Self::F16 => u32::from(f16::from_f32(f32::from_bits(bits)).to_bits()),
            Self::F32 => bits,
        }
    }

    /// The magnitude of infinity: what lies above are NaNs.
    pub fn infinity(self) -> u32 {
        match self {
            Self::Bf16 => 0x7f80,
            Self::F16 => 0x7c00,
            Self::ShortF16 => 0xf80,
            Self::F32 => 0x7f80_0000,
        }
    }

    /// The high 16 bits of a magnitude.
    pub fn high(self, magnitude: u32) -> u16 {
        low_half(magnitude >> self.low_bits())
    }
}

/// `value` rounded to FP16, half to even, without a branch or a call.
#[inline(always)]
pub fn in_f16(value: f32) -> f32 {
    const LEAST_NORMAL: f32 = 6.103_515_6e-5;
    let magnitude = value.abs();
    let bits = magnitude.to_bits();
    // Thirteen bits of the mantissa go; a carry may reach the exponent, and beyond that of 65504 is infinity.
    let odd = (bits >> 13) & 1;
    let normal = f32::from_bits((bits + 0xfff + odd) & !0x1fff);
    let normal = if normal >= 65_536.0 { f32::INFINITY } else { normal };
    // The subnormals are the multiples of 2^-24, which is how far values of FP32 from one half to one lie apart.
    let subnormal = (magnitude + 0.5) - 0.5;
    let rounded = if magnitude < LEAST_NORMAL { subnormal } else { normal };
    if value.is_nan() { value } else { rounded.copysign(value) }
}

/// `value` rounded to BF16, half to even, without a branch or a call.
#[inline(always)]
pub fn in_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let odd = (bits >> 16) & 1;
    let rounded = f32::from_bits(bits.wrapping_add(0x7fff + odd) & !0xffff);
    if value.is_nan() { value } else { rounded }
}

fn low_half(bits: u32) -> u16 {
    let [low, high, ..] = bits.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_has_its_value() {
        for magnitude in 0..=0x7fff {
            let (ours, theirs) =
                (FloatKind::F16.value(magnitude), f16::from_bits(low_half(magnitude)).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{magnitude:#x}");
            if magnitude < 0x7c00 {
                assert_eq!(FloatKind::F16.magnitude_of(theirs), magnitude);
            }
        }
    }

    #[test]
    fn rounds_as_the_library_does() {
        // Every sign and exponent, with mantissas around the ones that matter.
        for high in 0..=u16::MAX {
            for low in [
                0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001,
                0xefff, 0xf000, 0xf001, 0xffff,
            ] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                for (ours, theirs) in [
                    (in_f16(value), f16::from_f32(value).to_f32()),
                    (in_bf16(value), half::bf16::from_f32(value).to_f32()),
                ] {
                    assert!(
                        ours.to_bits() == theirs.to_bits() || value.is_nan() && ours.is_nan(),
                        "{value:e}"
                    );
                }
            }
        }
    }
}
