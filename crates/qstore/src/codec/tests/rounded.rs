//! Codes given the floats that they were made from.

use proptest::prelude::*;
use qstore_container::{Dtype, Encoding, Field};
use qstore_kernels::Classifier;

use super::*;
use crate::quant::Rounder;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn codes_given_floats(
        own in any_values(), has_rule in any::<bool>(), rows in 1usize..9, cols in 1usize..90, first_row in 0usize..3,
        kind in 0usize..3, seed in any::<u64>(), (moved, wide) in (0u8..4, any::<bool>()),
    ) {
        let cols = cols * 8;
        let (float, _) = float_kind(kind);
        let opened = own.open(rows + first_row, cols);
        let rounder = Rounder::new(if has_rule { opened.clone() } else { opened.clone().without_rule() });
        let near = codes(rows * cols, &own, seed);
        let raw = weights(&opened, &near, first_row, float, (0.7, 1), seed);
        let given = GivenFloats { raw: &raw, float, first_row, columns: (0, cols), rounder: &rounder };
        let (layout_of_codes, words) = (own.layout(), own.elements(cols));
        // The codes that weights are rounded to, of which some are moved.
        let mut made = vec![0; rows * cols];
        opened.levels().to_codes(&mut made);
        let zeros = own.pack(&made, cols);
        let expected = shifts(layout_of_codes.packing.as_ref(), &zeros, words, given).unwrap();
        let mut ranks = vec![0; rows * cols];
        opened.levels().to_ranks(&mut made);
        ranks.iter_mut().zip(made.iter().zip(&expected)).for_each(|(rank, (zero, off))| *rank = zero.wrapping_sub(*off));
        let mut state = seed;
        for rank in &mut ranks {
            if next(&mut state) % 64 < u64::from(moved) {
                *rank = next(&mut state).to_le_bytes()[0] >> (8 - own.bits);
            }
        }
        opened.levels().to_codes(&mut ranks);
        let packed = own.pack(&ranks, cols);
        let shifts = shifts(layout_of_codes.packing.as_ref(), &packed, words, given).unwrap();
        if moved == 0 {
            prop_assert!(shifts.iter().all(|shift| *shift == 0), "codes that are not what weights are rounded to");
        }
        let fit = fit(&shifts, cols);
        let codec = Codec::Rounded(Shifted::new(&layout_of_codes, fit.tables, layout(wide)).unwrap());
        let case = Case { codec, wide, classifier: Classifier::single(), raw: &packed, cols: words, given: GivenOfChunk::Floats(given) };
        let floats = Field::of(any_given().codes.array);
        let encoding = Encoding::Rounded { floats, own: Box::new(any_given().values), layout: layout_of_codes };
        let shrank = case.check(encoding, Dtype::U8, seed)?;
        prop_assert!(shrank || moved > 0 || packed.len() < 1500, "{} bytes", packed.len());
        let fewer = GivenOfChunk::Floats(GivenFloats { raw: &raw[float.width()..], ..given });
        let mut out = vec![0; packed.len()];
        prop_assert!(case.codec.decode(&[0; 900], words, fewer, &mut Workspace::default(), &mut out).is_err());
    }
}
