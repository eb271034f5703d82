//! LLM.int8(), as bitsandbytes writes it and transformers saves it.
//!
//! `X.weight` holds I8 codes of shape [out, in] and `X.SCB` one float a row, F32 as bitsandbytes has it: the largest magnitude of the row. Weights are rounded to FP16 first.
//! A code is `rint(fl(w * factor))`, half to even; builds differ in how they round the factor, 127 / SCB ([`Rounding`]).

use qstore_container::{Dtype, Rounding};
use qstore_kernels::BinTable;

use super::edges::{bins_of, rounded};
use super::{ArrayInfo, FloatKind, GroupGrid, Malformed, QuantGroup, Scheme, Tensors, is_one_a_row};

/// The scheme's entry in [`super::ALL`].
pub(crate) struct LlmInt8;

impl Scheme for LlmInt8 {
    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let group = |scale: &ArrayInfo| {
            let weight = format!("{}.weight", scale.name.strip_suffix(".SCB")?);
            let codes = tensors.beside(scale, &weight)?;
            let &[rows, cols] = &codes.shape[..] else { return None };
            // Beside floats it is of a layer that was not quantised after all.
            if codes.dtype != Dtype::I8 {
                return None;
            }
            let why = if !matches!(scale.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                "its scales are no floats of 16 or 32 bits"
            } else if is_one_a_row(&scale.shape, rows) {
                return Some(Ok(QuantGroup {
                    weight,
                    folder: codes.folder().to_owned(),
                    shape: [rows, cols],
                    codes: codes.key.clone(),
                    grid: GroupGrid::LlmInt8 { scale: scale.key.clone() },
                }));
            } else {
                "it does not have one scale for each row of its codes"
            };
            Some(Err(Malformed { name: scale.name.clone(), why }))
        };
        tensors.all.iter().filter_map(group).collect()
    }
}

impl LlmInt8 {
    /// The floats of kind `float` that each code stands for in a row of this `scale`.
    pub(crate) fn bins(rounding: Rounding, scale: f32, float: FloatKind) -> BinTable {
        let quantiser = Quantiser::new(rounding, scale);
        let code = |magnitude: u32| rounded(in_f16(float.value(magnitude)) * quantiser.factor);
        // No weight exceeds the row's scale.
        let beyond = |magnitude: u32| in_f16(float.value(magnitude)) > scale;
        bins_of(float, scale / 127.0, code, beyond, scale)
    }
}

/// The quantiser of one row.
struct Quantiser {
    factor: f32,
}

impl Quantiser {
    fn new(rounding: Rounding, scale: f32) -> Self {
        let factor = match rounding {
            Rounding::ReciprocalTimes127 => (1.0 / scale) * 127.0,
            Rounding::ReciprocalUpTimes127 => (1.0 / scale).next_up() * 127.0,
            Rounding::ReciprocalDownTimes127 => (1.0 / scale).next_down() * 127.0,
            Rounding::Quotient127 => 127.0 / scale,
        };
        Self { factor }
    }

    /// The code of `weight` before it is cut to 8 bits.
    #[cfg(test)]
    fn code(&self, weight: f32) -> f32 {
        (rounded_to_f16(weight) * self.factor).round_ties_even()
    }
}

#[cfg(test)]
fn rounded_to_f16(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

/// Quantises a row as bitsandbytes does on a CPU: its scale, and a code for each weight. Neither step branches, so that compilers make vector
/// code of them for any machine.
pub(crate) fn quantise_row(weights: &[f32], codes: &mut Vec<u8>) -> f32 {
    // Magnitudes are in the order of their bits; a NaN counts as zero.
    let magnitude = |weight: f32| {
        let rounded = in_f16(weight).abs();
        if rounded.is_nan() { 0 } else { rounded.to_bits() }
    };
    let scale = f32::from_bits(weights.iter().map(|&w| magnitude(w)).fold(0, u32::max));
    let factor = Quantiser::new(Rounding::ReciprocalTimes127, scale).factor;
    // Between 2^23 and 2^24, values of FP32 are whole numbers: adding 1.5 * 2^23 rounds half to even and leaves the code in the low bits.
    const WHOLE: f32 = 12_582_912.0;
    codes.extend(weights.iter().map(|&weight| {
        let sum = in_f16(weight) * factor + WHOLE;
        let [low, ..] = sum.to_bits().to_le_bytes();
        if sum.is_nan() { 0 } else { low }
    }));
    scale
}

/// `value` rounded to FP16, half to even, without a branch or a call.
#[inline(always)]
fn in_f16(value: f32) -> f32 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_kernels::{Half, Layout, ResidualCoder, Scratch, SymbolTable};

    /// Every magnitude of a row with this scale, with the code that the quantiser gives it.
    fn whole_row(rounding: Rounding, scale: f32, float: FloatKind) -> (Vec<u8>, Vec<u16>) {
        let quantiser = Quantiser::new(rounding, scale);
        (0..=float.infinity())
            .filter(|&m| rounded_to_f16(float.value(m)) <= scale)
            .map(|m| (quantiser.code(float.value(m)) as i8 as u8, m as u16))
            .unzip()
    }

    #[test]
    fn no_weight_of_a_16_bit_float_falls_outside_its_bin() {
        let mut zero = [0u64; 256];
        zero[..140].fill(1);
        for float in [FloatKind::Bf16, FloatKind::F16] {
            let coder =
                ResidualCoder::new(float.mantissa_bits(), SymbolTable::from_histogram(&zero), Layout::Narrow)
                    .unwrap();
            for rounding in Rounding::ALL {
                for scale in [0.05, 0.1171875, 1.0, 0.001, 65504.0, 3.1e-5, 6e-8] {
                    let scale = rounded_to_f16(scale);
                    let (codes, values) = whole_row(rounding, scale, float);
                    let table = LlmInt8::bins(rounding, scale, float);
                    let values: Vec<Half> = values.iter().map(|value| value.to_le_bytes()).collect();
                    let scratch = &mut Scratch::default();
                    let chunk = coder.encode(&codes, &values, values.len(), &[&table], scratch).unwrap();
                    let exceptions = u32::from_le_bytes(chunk[..4].try_into().unwrap());
                    assert_eq!(exceptions, 0, "{float:?} {rounding:?} {scale}");
                }
            }
        }
    }

    #[test]
    fn odd_scales_have_bins_too() {
        for scale in
            [0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e-45, f32::MAX]
        {
            for float in [FloatKind::Bf16, FloatKind::F16, FloatKind::F32] {
                for rounding in Rounding::ALL {
                    let _ = LlmInt8::bins(rounding, scale, float);
                }
            }
        }
    }

    #[test]
    fn quantises_ties_zeros_and_specials() {
        let quantise = |weights: &[f32]| {
            let mut codes = Vec::new();
            let scale = quantise_row(weights, &mut codes);
            (scale, codes.into_iter().map(u8::cast_signed).collect::<Vec<_>>())
        };
        // 1 / 127 * 127 is 1 in F32, so ties are exact and go to even.
        let ties = quantise(&[127.0, 0.5, 1.5, 2.5, -2.5, -0.0, -127.0, 1e-9]);
        assert_eq!(ties, (127.0, vec![127, 0, 2, 2, -2, 0, -127, 0]));
        assert_eq!(quantise(&[0.0, -0.0]), (0.0, vec![0, 0]));
        // Values that FP16 takes for zero, or for infinity.
        assert_eq!(quantise(&[2.9e-8, -1e-40]), (0.0, vec![0, 0]));
        assert_eq!(quantise(&[1.0, 65520.0, f32::NEG_INFINITY]), (f32::INFINITY, vec![0, 0, 0]));
        assert_eq!(quantise(&[65519.0, -32768.0]), (65504.0, vec![127, -64]));
        assert_eq!(quantise(&[6e-8, -6e-8, 2.5e-8]), (5.960_464_5e-8, vec![127, -127, 0]));
    }

    #[test]
    fn rounds_to_f16_as_the_library_does() {
        // Every sign and exponent, with mantissas around the ones that matter.
        for high in 0..=u16::MAX {
            for low in [
                0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0xefff,
                0xf000, 0xf001, 0xffff,
            ] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                let (ours, theirs) = (in_f16(value), rounded_to_f16(value));
                assert!(ours.to_bits() == theirs.to_bits() || value.is_nan() && ours.is_nan(), "{value:e}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn rows_are_quantised_as_the_bins_say(bits in proptest::collection::vec(0u32.., 0..100), shift in 0u32..10) {
            // Of one magnitude, for else the largest makes all others zero.
            let weights: Vec<f32> = bits
                .iter()
                .map(|bits| f32::from_bits(bits & 0x83ff_ffff | (0x30 + shift) << 24))
                .collect();
            let mut codes = Vec::new();
            let scale = quantise_row(&weights, &mut codes);
            let largest = weights.iter().map(|&w| rounded_to_f16(w).abs()).fold(0.0, f32::max);
            proptest::prop_assert_eq!(scale, largest);
            let quantiser = Quantiser::new(Rounding::ReciprocalTimes127, scale);
            let want: Vec<u8> = weights.iter().map(|&w| (quantiser.code(w) as i8).cast_unsigned()).collect();
            proptest::prop_assert_eq!(codes, want);
        }
    }
}
