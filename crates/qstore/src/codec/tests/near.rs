//! Floats given others that are nearly proportional to them.

use proptest::prelude::*;
use qstore_container::{Encoding, Field, Finite};
use qstore_kernels::Classifier;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn floats_given_floats(
        rows in 1usize..5, cols in 1usize..200, kind in 0usize..3, of_given in 0usize..3,
        times in prop_oneof![any::<f32>().prop_filter("finite", |times| times.is_finite()), Just(1.0), Just(0.058)],
        off in 0u32..6, noise in 0u64..8, seed in any::<u64>(),
    ) {
        let ((float, dtype), (other, _)) = (float_kind(kind), float_kind(of_given));
        let mut state = seed;
        let mut bits = || (next(&mut state) << 16 ^ next(&mut state)) as u32;
        let given_raw: Vec<u8> =
            (0..rows * cols).flat_map(|_| bits().to_le_bytes()[4 - other.width()..].to_vec()).collect();
        let given = GivenNear { raw: &given_raw, float: other, times };
        let mut others = vec![0.0; rows * cols];
        values(other, &given_raw, &mut others);
        // A few floats off what they are given, or anything at all.
        let own = others.iter().flat_map(|other| {
            let number = other * times;
            let near = match float {
                FloatKind::Bf16 => u32::from(half::bf16::from_f32(number).to_bits()),
                FloatKind::F16 | FloatKind::ShortF16 => u32::from(half::f16::from_f32(number).to_bits()),
                FloatKind::F32 => number.to_bits(),
            };
            let near = near.wrapping_add(bits() % (off + 1));
            let own = if u64::from(bits() % 64) < noise { bits() } else { near };
            own.to_le_bytes()[..float.width()].to_vec()
        });
        let raw: Vec<u8> = own.collect();
        let codec = Codec::Near(Near::new(float));
        let case = Case { codec, wide: false, classifier: Classifier::single(), raw: &raw, cols, given: GivenOfChunk::Expected(Expected::Floats(given)) };
        let floats = Field::of(any_given().codes.array);
        let encoding = Encoding::Near { floats, times: Finite::try_from(times).unwrap() };
        let shrank = case.check(encoding, dtype, seed)?;
        let are_numbers = others.iter().all(|other| !(other * times).is_nan());
        prop_assert!(shrank || noise > 1 || off > 3 || !are_numbers || raw.len() < 300, "{} bytes", raw.len());
        let fewer = GivenOfChunk::Expected(Expected::Floats(GivenNear { raw: &given_raw[other.width()..], ..given }));
        let mut out = vec![0; raw.len()];
        prop_assert!(case.codec.decode(&[0; 90], cols, fewer, &mut Workspace::default(), &mut out).is_err());
    }
}

/// Each float of 16 bits is restored, whatever is expected of it.
#[test]
fn all_floats_of_16_bits() {
    for kind in [FloatKind::Bf16, FloatKind::F16] {
        let raw: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (expected, times) in [(0u16, 1.0), (0x3f80, -1.0), (0x7f80, 1.0), (0xffff, 1.0), (0x8000, 0.0)] {
            let others = expected.to_le_bytes().repeat(1 << 16);
            let given = GivenNear { raw: &others, float: FloatKind::Bf16, times };
            let near = Near::new(kind);
            let coded = near.encode(&raw, Expected::Floats(given)).unwrap();
            let mut back = vec![1; raw.len()];
            near.decode(&coded, Expected::Floats(given), &mut Workspace::default(), &mut back).unwrap();
            assert!(back == raw, "{kind:?} {expected} {times}");
        }
    }
}
