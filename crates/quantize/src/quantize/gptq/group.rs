//! One group: its scale, its zero-point, and the codes of its weights, rounded to nearest.
//!
//! The formulas are those of GPTQ's quantiser (gptqmodel 7, `quantization/quantizer.py`), with `levels` = 2^bits - 1:
//!
//! | | symmetric | min-max, where min <= 0 <= max |
//! |---|---|---|
//! | scale | 2 * absmax / levels | (max - min) / levels |
//! | zero-point | 2^(bits - 1) | round(-min / scale) |
//! | code | clamp(round(weight / scale) + zero-point, 0, levels) | the same |
//!
//! Every step is one F32 operation, and `round` takes half to even. The scale is rounded to FP16 before anything is
//! divided by it: that is the scale which readers multiply by, and codes made for another come out farther from the
//! weights. gptqmodel divides by the F32 scale: in 8 bits that makes the RMS error of a trained model 0.1% larger, and
//! 12% with the same weights divided by 100. It is rounded to nearest, but upward below FP16's normal range, where
//! steps are so coarse that the largest weights of a group would lie several codes beyond the last one.
//!
//! Three kinds of groups are treated otherwise than by gptqmodel:
//!
//! - A symmetric group without a negative weight has the scale of any other with this absmax. There it is half as
//!   large, which leaves all weights above absmax / 2 beyond the last code.
//! - A min-max group whose zero-point would be 0 gets 1, and a scale for one code fewer. Stored minus one, 0 would be
//!   -1, which some readers take for 2^bits - 1 and others carry into the next zero-point.
//! - A weight that is not finite, or for which FP16 has no scale, is an error.

use half::f16;

use crate::quantize::precision::{GptqBits, ZeroPoint};

/// What the codes of a group stand for: `scale * (code - zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group {
    pub(super) scale: f16,
    /// At least 1.
    pub(super) zero_point: u8,
}

/// Why a group cannot be quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unfit {
    /// It has a weight that is no number.
    Nan,
    /// It has an infinite weight.
    Infinite,
    /// Its scale is beyond the range of FP16.
    TooLarge,
}

/// FP16's least normal value. Between it and zero, values lie 2^-24 apart.
const LEAST_NORMAL: f32 = 6.103_515_6e-5;

/// Between 2^23 and 2^24, values of FP32 are whole numbers: adding 1.5 * 2^23 rounds half to even and leaves the number
/// in the low bits.
const WHOLE: f32 = 12_582_912.0;

/// Quantises a group: appends the code of each weight.
pub(super) fn quantise(
    weights: &[f32],
    bits: GptqBits,
    zero_point: ZeroPoint,
    codes: &mut Vec<u8>,
) -> Result<Group, Unfit> {
    // Both are 0 for a group of zeros; neither is -0.
    let (min, max) = weights.iter().fold((0f32, 0f32), |(min, max), &w| (min.min(w), max.max(w)));
    if !weights.iter().all(|w| w.is_finite()) {
        return Err(if weights.iter().any(|w| w.is_nan()) { Unfit::Nan } else { Unfit::Infinite });
    }
    let (levels, middle) = match bits {
        GptqBits::Four => (15.0, 8),
        GptqBits::Eight => (255.0, 128),
    };
    let group = if min == max {
        // As GPTQ has it: a range from -1 to 1.
        Group { scale: in_f16(2.0 / levels)?, zero_point: middle }
    } else {
        match zero_point {
            ZeroPoint::Symmetric => {
                Group { scale: in_f16(2.0 * max.max(-min) / levels)?, zero_point: middle }
            }
            ZeroPoint::MinMax => min_max(min, max, levels)?,
        }
    };
    let (scale, zero) = (group.scale.to_f32(), f32::from(group.zero_point));
    codes.extend(weights.iter().map(|&weight| {
        let code = ((weight / scale + WHOLE) - WHOLE + zero).clamp(0.0, levels);
        low_byte(code)
    }));
    Ok(group)
}

/// The group for weights from `min` to `max`, which are not both 0.
fn min_max(min: f32, max: f32, levels: f32) -> Result<Group, Unfit> {
    let scale = in_f16((max - min) / levels)?;
    // A scale that was rounded down could make it one code too many.
    let zero_point = ((-min / scale.to_f32() + WHOLE) - WHOLE).min(levels);
    if zero_point < 1.0 {
        return Ok(Group { scale: in_f16(max / (levels - 1.0))?, zero_point: 1 });
    }
    Ok(Group { scale, zero_point: low_byte(zero_point) })
}

/// A whole number from 0 to 255.
fn low_byte(number: f32) -> u8 {
    let [low, ..] = (number + WHOLE).to_bits().to_le_bytes();
    low
}

/// A positive scale in FP16, where it is positive too.
fn in_f16(scale: f32) -> Result<f16, Unfit> {
    let nearest = f16::from_f32(scale);
    let rounded = if scale < LEAST_NORMAL && nearest.to_f32() < scale {
        f16::from_bits(nearest.to_bits() + 1)
    } else {
        nearest
    };
    // What vanishes even in FP32 is not zero either.
    let rounded = rounded.max(f16::MIN_POSITIVE_SUBNORMAL);
    if rounded.is_finite() { Ok(rounded) } else { Err(Unfit::TooLarge) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(GptqBits, ZeroPoint); 4] = [
        (GptqBits::Four, ZeroPoint::Symmetric),
        (GptqBits::Four, ZeroPoint::MinMax),
        (GptqBits::Eight, ZeroPoint::Symmetric),
        (GptqBits::Eight, ZeroPoint::MinMax),
    ];

    fn quantised(weights: &[f32], bits: GptqBits, zero_point: ZeroPoint) -> (Group, Vec<u8>) {
        let mut codes = Vec::new();
        (quantise(weights, bits, zero_point, &mut codes).unwrap(), codes)
    }

    fn four(weights: &[f32], zero_point: ZeroPoint) -> (f32, u8, Vec<u8>) {
        let (group, codes) = quantised(weights, GptqBits::Four, zero_point);
        (group.scale.to_f32(), group.zero_point, codes)
    }

    /// Weights between -1 and 1 that look random.
    fn noise(count: u32, seed: u32) -> impl Iterator<Item = f32> {
        (0..count).map(move |i| {
            let mixed = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b) ^ seed << 7;
            f32::from_bits(0x4000_0000 | mixed.wrapping_mul(0xc2b2_ae35) >> 9) - 3.0
        })
    }

    #[test]
    fn known_groups() {
        // A scale of 1, ties to even, and the one code that the largest magnitude lacks.
        let weights = [7.5, -7.5, 0.5, 1.5, -0.5, -1.5, 6.4, 0.0];
        assert_eq!(four(&weights, ZeroPoint::Symmetric), (1.0, 8, vec![15, 0, 8, 10, 8, 6, 14, 8]));
        let weights = [-3.0, 12.0, 0.49, 0.5, -0.0];
        assert_eq!(four(&weights, ZeroPoint::MinMax), (1.0, 3, vec![0, 15, 3, 3, 3]));
        assert_eq!(four(&[-15.0, -1.0], ZeroPoint::MinMax), (1.0, 15, vec![0, 14]));
        // No negative weight, or none that counts: zero-point 1 and a scale for 14 steps.
        assert_eq!(four(&[14.0, 2.0], ZeroPoint::MinMax), (1.0, 1, vec![15, 3]));
        assert_eq!(four(&[14.0, -0.4], ZeroPoint::MinMax), (1.0, 1, vec![15, 1]));
        assert_eq!(four(&[7.5, 1.0], ZeroPoint::Symmetric), (1.0, 8, vec![15, 9]));
    }

    #[test]
    fn zeros_and_constants() {
        for (bits, zero_point) in ALL {
            for zeros in [[0.0; 4], [-0.0; 4], [0.0, -0.0, 0.0, -0.0]] {
                let (group, codes) = quantised(&zeros, bits, zero_point);
                let middle = 1 << (bits.count() - 1);
                assert_eq!((group.zero_point, codes), (middle, vec![middle; 4]));
                assert!(group.scale.to_f32() > 0.0);
            }
            for constant in [1.0, -1.0, 0.3, -1e-3] {
                let (group, codes) = quantised(&[constant; 3], bits, zero_point);
                let back = group.scale.to_f32() * (f32::from(codes[0]) - f32::from(group.zero_point));
                assert!((back - constant).abs() <= 0.502 * group.scale.to_f32(), "{bits:?} {constant}");
            }
        }
    }

    #[test]
    fn every_weight_is_within_half_a_step() {
        for (bits, zero_point) in ALL {
            for exponent in [-149, -126, -60, -30, -24, -20, -17, -14, -10, -5, 0, 5, 12] {
                for (seed, shift) in [(1, 0.0), (2, 0.9), (3, -0.9), (4, 1.0), (5, -1.0), (6, 0.2)] {
                    let unit = 2f64.powi(exponent);
                    let weights: Vec<_> =
                        noise(128, seed).map(|w| ((f64::from(w) + shift) * unit) as f32).collect();
                    let (group, codes) = quantised(&weights, bits, zero_point);
                    let (scale, zero) = (group.scale.to_f64(), f64::from(group.zero_point));
                    assert!(group.zero_point >= 1 && codes.iter().all(|&c| u32::from(c) < 1 << bits.count()));
                    // The largest weight lies as many steps from zero as the scale's own rounding can add up.
                    let steps = 2f64.powi(bits.count() as i32) * 2f64.powi(-11);
                    for (&weight, &code) in weights.iter().zip(&codes) {
                        let off = (scale * (f64::from(code) - zero) - f64::from(weight)).abs();
                        assert!(
                            off <= (0.5001 + steps) * scale,
                            "{bits:?} {zero_point:?} 2^{exponent}: {weight} is off by {off}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn scales_are_rounded_up_where_fp16_is_coarse() {
        // 1.25 times the least FP16 value, which nearest would make 1 of.
        let least = 2f32.powi(-24);
        let (scale, _, codes) = four(&[7.5 * 1.25 * least, -least], ZeroPoint::Symmetric);
        assert_eq!((scale, codes), (2.0 * least, vec![13, 8]));
        assert_eq!(four(&[f32::from_bits(1), 0.0], ZeroPoint::Symmetric), (least, 8, vec![8, 8]));
        assert_eq!(four(&[f32::from_bits(1), 0.0], ZeroPoint::MinMax), (least, 1, vec![1, 1]));
    }

    #[test]
    fn what_has_no_code_is_refused() {
        for (bits, zero_point) in ALL {
            let refused = |weights: &[f32]| quantise(weights, bits, zero_point, &mut Vec::new()).unwrap_err();
            assert_eq!(refused(&[1.0, f32::NAN, f32::INFINITY]), Unfit::Nan);
            assert_eq!(refused(&[1.0, -f32::NAN]), Unfit::Nan);
            assert_eq!(refused(&[f32::INFINITY, 1.0]), Unfit::Infinite);
            assert_eq!(refused(&[f32::NEG_INFINITY]), Unfit::Infinite);
            assert_eq!(refused(&[f32::MAX, f32::MIN]), Unfit::TooLarge);
            assert_eq!(refused(&[1.8e7, 0.0]), Unfit::TooLarge);
        }
    }
}
