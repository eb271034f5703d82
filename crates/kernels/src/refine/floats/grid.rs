//! Which 16-bit floats lie in an interval.

/// A type of floats of 16 bits. The *magnitude* of one is its bits without the sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatGrid {
    /// BF16.
    Bf16,
    /// The high halves of binary32: each stands for all numbers from its own away from zero up to the next one.
    HighHalf,
    /// FP16.
    F16,
    /// FP16 whose mantissas end in three zeros, which are no part of magnitudes.
    ShortF16,
}

impl FloatGrid {
    /// Bits of a mantissa.
    #[must_use]
    pub fn mantissa_bits(self) -> u32 {
        match self {
            Self::Bf16 | Self::HighHalf | Self::ShortF16 => 7,
            Self::F16 => 10,
        }
    }
}

/// The magnitudes of one type.
pub(super) trait Grid: Copy {
    /// The least magnitude from this number on, which is not negative.
    fn from(self, least: f32) -> u32;
    /// The greatest magnitude up to this number, which is not negative.
    fn to(self, most: f32) -> u32;
    /// The number that a magnitude is; of those beyond infinity what they would be, if it were one.
    fn value(self, magnitude: u32) -> f32;
}

/// Those that are cut from the bits of binary32, after this is added.
#[derive(Clone, Copy)]
pub(super) struct Cut(pub(super) u32);

impl Cut {
    /// What there is for a type, if it is cut.
    pub(super) fn of(grid: FloatGrid) -> Option<Self> {
        match grid {
            FloatGrid::Bf16 => Some(Self::BF16),
            FloatGrid::HighHalf => Some(Self::HIGH_HALF),
            FloatGrid::F16 | FloatGrid::ShortF16 => None,
        }
    }

    /// BF16.
    pub(super) const BF16: Self = Self(0xffff);
    /// The high halves of binary32.
    pub(super) const HIGH_HALF: Self = Self(0);
}

impl Grid for Cut {
    #[inline(always)]
    fn from(self, least: f32) -> u32 {
        least.to_bits().wrapping_add(self.0) >> 16
    }

    #[inline(always)]
    fn to(self, most: f32) -> u32 {
        most.to_bits() >> 16
    }

    #[inline(always)]
    fn value(self, magnitude: u32) -> f32 {
        f32::from_bits(magnitude << 16)
    }
}

/// FP16; if it is short, three bits of mantissas are no part of magnitudes.
#[derive(Clone, Copy)]
pub(super) struct F16<const SHORT: bool>;

/// What takes exponents of FP16 to those of binary32.
const REBIAS: u32 = 112 << 23;
/// The least normal FP16, and what makes integers of those below it.
const LEAST_NORMAL: f32 = f32::from_bits(113 << 23);
const SUBNORMALS: f32 = f32::from_bits((127 + 24) << 23);
/// The magnitude of infinity.
const INFINITY: u32 = 0x7c00;

impl<const SHORT: bool> Grid for F16<SHORT> {
    #[inline(always)]
    fn from(self, least: f32) -> u32 {
        let normal = least.to_bits().wrapping_sub(REBIAS).wrapping_add(0x1fff) >> 13;
        let scaled = least * SUBNORMALS;
        let small = super::number(scaled);
        let small = small + u32::from(small_float(small) < scaled);
        let magnitude = if least < LEAST_NORMAL { small } else { normal };
        let magnitude = if magnitude < INFINITY { magnitude } else { INFINITY };
        if SHORT { (magnitude + 7) >> 3 } else { magnitude }
    }

    #[inline(always)]
    fn to(self, most: f32) -> u32 {
        let normal = most.to_bits().wrapping_sub(REBIAS) >> 13;
        let scaled = most * SUBNORMALS;
        let small = super::number(scaled);
        let small = small.wrapping_sub(u32::from(small_float(small) > scaled));
        let magnitude = if most < LEAST_NORMAL { small } else { normal };
        let magnitude = if magnitude < INFINITY { magnitude } else { INFINITY };
        if SHORT { magnitude >> 3 } else { magnitude }
    }

    #[inline(always)]
    fn value(self, magnitude: u32) -> f32 {
        // What has more bits is beyond all.
        let short = if magnitude < 1 << 12 { magnitude << 3 } else { 1 << 15 };
        let magnitude = if SHORT { short } else { magnitude };
        let normal = f32::from_bits((magnitude << 13).wrapping_add(REBIAS));
        if magnitude < 1 << 10 { small_float(magnitude) * (1.0 / SUBNORMALS) } else { normal }
    }
}

/// An integer below 2^24 as a float.
#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "below 2^24")]
fn small_float(small: u32) -> f32 {
    small.cast_signed() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f16_value(magnitude: u16) -> f32 {
        let (exponent, mantissa) = (i32::from(magnitude >> 10), f32::from(magnitude & 0x3ff));
        if exponent == 0 { mantissa * 2f32.powi(-24) } else { (1024.0 + mantissa) * 2f32.powi(exponent - 25) }
    }

    fn check(grid: impl Grid, infinity: u16, rounds_down: bool, value: impl Fn(u16) -> f32) {
        let all: Vec<f32> = (0..infinity).map(&value).collect();
        let mut ends = vec![0.0, 1.0, 6e-8, 6.1e-5, 5.9e-8, 1e-4, 65_503.0];
        let mut seed = 3u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ends.push(f32::from_bits(seed >> 1 & 0x477f_ffff));
            ends.push(value((seed >> 8) as u16 % infinity));
        }
        for end in ends.into_iter().filter(|end| *end < 65_504.0) {
            let above = all.partition_point(|of| *of < end);
            let below = all.partition_point(|of| *of <= end) - 1;
            let from = if rounds_down { below } else { above };
            assert_eq!([grid.from(end) as usize, grid.to(end) as usize], [from, below], "{end:e}");
        }
        assert!((0..infinity).all(|magnitude| grid.value(magnitude.into()) == value(magnitude)));
    }

    #[test]
    fn magnitudes_of_an_interval_are_those_that_a_search_finds() {
        let high = |magnitude: u16| f32::from_bits(u32::from(magnitude) << 16);
        check(Cut::BF16, 0x7f80, false, high);
        check(Cut::HIGH_HALF, 0x7f80, true, high);
        check(F16::<false>, 0x7c00, false, f16_value);
        check(F16::<true>, 0x7c00 >> 3, false, |magnitude| f16_value(magnitude << 3));
    }
}
