//! Codes given codes, floats given codes, and codes by themselves.

use proptest::prelude::*;
use qstore_container::{Axis, CodeLayout, Dtype, Encoding, Levels, Packing};
use qstore_kernels::{Classifier, SymbolTable};

use super::super::step_residual::split;
use super::*;
use crate::quant::words_of_codes;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn codes_given_codes(
        own in any_values(), given in any_values(), rows in 1usize..9, cols in 1usize..49, first_row in 0usize..3,
        seed in any::<u64>(), close in any::<bool>(), wide in any::<bool>(),
    ) {
        // Whole words.
        let cols = cols * 8;
        let predictor = Predictor::new(own.open(rows + first_row, cols), given.open(rows + first_row, cols));
        let given_codes = codes(rows * cols, &given, seed);
        let given_of = GivenCodes { codes: &given_codes, first_row, columns: (0, cols), predictor: &predictor };
        let (layout_of_codes, words) = (own.layout(), own.elements(cols));
        let shifts_of = |raw: &[u8], given| shifts(layout_of_codes.packing.as_ref(), raw, words, given);
        let mut raw = own.pack(&codes(rows * cols, &own, seed ^ 1), cols);
        if close {
            // What is expected: the codes whose shifts are 0.
            let levels = own.open(rows + first_row, cols);
            let mut zeros = vec![0; rows * cols];
            levels.levels().to_codes(&mut zeros);
            let mut expected = vec![0; rows * cols];
            predictor.add_expected(given_of, &mut expected);
            levels.levels().to_codes(&mut expected);
            raw = own.pack(&expected, cols);
        }
        let symbols = shifts_of(&raw, given_of).unwrap();
        if close {
            prop_assert!(symbols.iter().all(|shift| *shift == 0), "the expected codes are no codes");
        }
        let fit = fit(&symbols, cols);
        let codec = Codec::CodeResidual(Shifted::new(&layout_of_codes, fit.tables, layout(wide)).unwrap());
        let case = Case { codec, wide, classifier: fit.classifier, raw: &raw, cols: words, given: GivenOfChunk::Codes(given_of) };
        let encoding = Encoding::CodeResidual { given: any_given(), own: Box::new(any_given().values), layout: layout_of_codes.clone() };
        let shrank = case.check(encoding, Dtype::U8, seed)?;
        prop_assert!(shrank || !close || raw.len() < 1500, "{} bytes", raw.len());
        // One code less, or more, is a mistake of the caller that is an error.
        let fewer = GivenCodes { codes: &given_codes[1..], ..given_of };
        prop_assert!(shifts_of(&raw, fewer).is_none());
        let mut out = vec![0; raw.len()];
        let workspace = &mut Workspace::default();
        prop_assert!(case.codec.decode(&[0; 900], words, GivenOfChunk::Codes(fewer), workspace, &mut out).is_err());
        prop_assert!(case.codec.decode(&[0; 900], words, GivenOfChunk::Nothing, workspace, &mut out).is_err());
    }

    #[test]
    fn floats_given_moved_codes(
        values in any_values(), rows in 1usize..9, cols in 1usize..300, first_row in 0usize..3, exponent in -8i8..=7,
        kind in 0usize..4, seed in any::<u64>(), noise in 0u8..4, wide in any::<bool>(),
    ) {
        let (float, dtype) = float_kind(kind);
        let opened = values.open(rows + first_row, cols);
        let given_codes = codes(rows * cols, &values, seed);
        let raw = weights(&opened, &given_codes, first_row, float, (1.0, noise), seed);
        let subdivisions = Subdivisions::new(opened, exponent, float);
        let given_of = GivenSubdivisions { codes: &given_codes, first_row, subdivisions: &subdivisions };
        let parts = split(&raw, given_of).unwrap();
        let mut zeros = [0; 256];
        parts.count_zeros(&raw, given_of, &mut zeros);
        let fit = fit(&parts.shifts, cols);
        let residual = StepResidual::new(float, fit.tables, SymbolTable::from_histogram(&zeros), layout(wide)).unwrap();
        let case = Case { codec: Codec::StepResidual(residual), wide, classifier: fit.classifier, raw: &raw, cols, given: GivenOfChunk::Subdivisions(given_of) };
        let encoding = Encoding::StepResidual { given: any_given(), subdivisions: exponent, transposed: false };
        case.check(encoding, dtype, seed)?;
        let fewer = GivenSubdivisions { codes: &given_codes[1..], ..given_of };
        prop_assert!(split(&raw, fewer).is_none());
        let mut out = vec![0; raw.len()];
        let mut chunk = vec![0; 900];
        prop_assert!(case.codec.decode(&chunk, cols, GivenOfChunk::Subdivisions(fewer), &mut Workspace::default(), &mut out).is_err());
        chunk[..4].fill(0xff);
        prop_assert!(case.codec.decode(&chunk, cols, case.given, &mut Workspace::default(), &mut out).is_err());
    }

    #[test]
    fn floats_given_codes_of_their_bins(
        values in any_values(), rows in 1usize..9, cols in 1usize..300, first_row in 0usize..3,
        kind in 0usize..4, seed in any::<u64>(), noise in 0u8..4, wide in any::<bool>(),
    ) {
        let (float, dtype) = float_kind(kind);
        let values = AnyValues { zero: AnyZero::None, ..values };
        let opened = values.open(rows + first_row, cols);
        let has_bins = !matches!(values.levels, Levels::Unsigned | Levels::Table(_));
        let bins = Bins::new(&opened, float);
        prop_assert_eq!(bins.is_some(), has_bins);
        let Some(bins) = bins else { return Ok(()) };
        let given_codes = codes(rows * cols, &values, seed);
        let raw = weights(&opened, &given_codes, first_row, float, (0.2, noise), seed);
        let given_of = GivenBins { codes: &given_codes, first_row, bins: &bins };
        let mut zeros = [0; 256];
        count_zeros(float, &raw, given_of, &mut zeros);
        let residual = Residual::fit(float, &zeros, layout(wide)).unwrap();
        let case = Case { codec: Codec::Residual(residual), wide, classifier: Classifier::single(), raw: &raw, cols, given: GivenOfChunk::Bins(given_of) };
        case.check(Encoding::Residual { given: any_given(), transposed: false }, dtype, seed)?;
        let fewer = GivenBins { codes: &given_codes[1..], ..given_of };
        let mut out = vec![0; raw.len()];
        prop_assert!(case.codec.decode(&[0; 900], cols, GivenOfChunk::Bins(fewer), &mut Workspace::default(), &mut out).is_err());
    }

    #[test]
    fn packed_codes(
        values in any_values(), rows in 1usize..20, cols in 1usize..20, word in prop::sample::select(vec![8u8, 32]),
        along in prop::sample::select(vec![Axis::Rows, Axis::Columns]), seed in any::<u64>(), wide in any::<bool>(),
    ) {
        let bits = values.bits;
        let packing = Packing { bits, word, along, order: Vec::new() };
        // Whole codes along either axis.
        let (cols, rows) = (cols * usize::from(bits), rows * usize::from(bits));
        let mut codes = codes(rows * cols * usize::from(word) / usize::from(bits), &values, seed);
        codes.iter_mut().enumerate().filter(|(at, _)| at % 4 != 0).for_each(|(_, code)| *code = 1);
        let mut raw = vec![0; rows * cols * usize::from(word / 8)];
        words_of_codes(&packing, &codes, cols * usize::from(word / 8), &mut raw);
        let layout_of_codes = CodeLayout { transposed: true, pitch: None, packing: Some(packing) };
        let symbols = Symbols::of(&layout_of_codes);
        let fit = fit(&symbols.read(&raw, cols), symbols.cols(cols));
        let codec = Codec::Codes(Codes::new(&layout_of_codes, fit.tables, layout(wide)).unwrap());
        let case = Case { codec, wide, classifier: fit.classifier, raw: &raw, cols, given: GivenOfChunk::Nothing };
        let dtype = if word == 8 { Dtype::U8 } else { Dtype::I32 };
        let shrank = case.check(Encoding::Codes { layout: layout_of_codes }, dtype, seed)?;
        prop_assert!(shrank || raw.len() < 3000 || bits == 1, "{} bytes", raw.len());
    }
}

/// What a code of 4 bits lets expect of codes of 8 bits, by hand.
#[test]
fn expected_codes_are_rounded_values() {
    let values = |bits, scale: f32, zero| AnyValues {
        levels: Levels::Unsigned,
        bits,
        tile: [1, 1000],
        act_order: false,
        zero: AnyZero::Codes { add: 0 },
        // What is divided by a half.
        scales: vec![scale * 0.5],
        zeros: vec![zero],
        seed: 0,
    };
    let expected = |own: &AnyValues, given: &AnyValues, codes: &[u8]| {
        let predictor = Predictor::new(own.open(1, 16), given.open(1, 16));
        let mut expected = vec![0; 16];
        predictor.add_expected(
            GivenCodes { codes, first_row: 0, columns: (0, 16), predictor: &predictor },
            &mut expected,
        );
        expected
    };
    let (own, given) = (values(8, 0.5, 100), values(4, 4.0, 7));
    let all: Vec<u8> = (0..16).collect();
    // 4 * (code - 7) = 0.5 * (expected - 100)
    assert_eq!(
        expected(&own, &given, &all),
        [44, 52, 60, 68, 76, 84, 92, 100, 108, 116, 124, 132, 140, 148, 156, 164]
    );
    // A tie goes to the even code; what is beyond the codes is cut.
    let (own, given) = (values(4, 2.0, 8), values(8, 1.0, 128));
    let some = [128, 127, 129, 125, 131, 126, 130, 255, 0, 142, 143, 112, 113, 124, 132, 128];
    assert_eq!(expected(&own, &given, &some), [8, 8, 8, 6, 10, 7, 9, 15, 0, 15, 15, 0, 0, 6, 10, 8]);
}
