//! One row, quantised as bitsandbytes does it.

use qstore_checkpoint::in_f16;

/// Quantises a row as bitsandbytes does on a CPU: returns its largest magnitude, and appends a code for each weight.
/// Neither step branches, so that compilers make vector code of them for any machine.
pub(super) fn quantise_row(weights: &[f32], codes: &mut Vec<u8>) -> f32 {
    // Magnitudes are in the order of their bits; a NaN counts as zero.
    let magnitude = |weight: f32| {
        let rounded = in_f16(weight).abs();
        if rounded.is_nan() { 0 } else { rounded.to_bits() }
    };
    let scale = f32::from_bits(weights.iter().map(|&w| magnitude(w)).fold(0, u32::max));
    let factor = (1.0 / scale) * 127.0;
    // Between 2^23 and 2^24, values of FP32 are whole numbers: adding 1.5 * 2^23 rounds half to even and leaves the
    // code in the low bits.
    const WHOLE: f32 = 12_582_912.0;
    codes.extend(weights.iter().map(|&weight| {
        let sum = in_f16(weight) * factor + WHOLE;
        let [low, ..] = sum.to_bits().to_le_bytes();
        if sum.is_nan() { 0 } else { low }
    }));
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

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

    proptest::proptest! {
        #[test]
        fn rows_are_quantised_as_the_definition_says(bits in proptest::collection::vec(0u32.., 0..100), shift in 0u32..10) {
            // Of one magnitude, for else the largest makes all others zero.
            let weights: Vec<f32> = bits
                .iter()
                .map(|bits| f32::from_bits(bits & 0x83ff_ffff | (0x30 + shift) << 24))
                .collect();
            let mut codes = Vec::new();
            let scale = quantise_row(&weights, &mut codes);
            let rounded = |weight: f32| half::f16::from_f32(weight).to_f32();
            let largest = weights.iter().map(|&w| rounded(w).abs()).fold(0.0, f32::max);
            proptest::prop_assert_eq!(scale, largest);
            let factor = (1.0 / scale) * 127.0;
            let code = |&w: &f32| ((rounded(w) * factor).round_ties_even() as i8).cast_unsigned();
            proptest::prop_assert_eq!(codes, weights.iter().map(code).collect::<Vec<u8>>());
        }
    }
}
