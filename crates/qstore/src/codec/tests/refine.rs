//! Codes and floats given what the codes of several matrices say of their weights.

use proptest::prelude::*;
use qstore_container::{Dtype, Encoding, KnownMatrix, Levels};
use qstore_kernels::Classifier;

use super::*;
use crate::quant::Ranking;

/// The codes of the levels that are nearest to these weights, some of them moved by one, or to anything.
fn quantised(
    values: &AnyValues,
    opened: &Dequantizer,
    weights: &[f32],
    first_row: usize,
    (noise, seed): (u8, u64),
) -> Vec<u8> {
    let (cols, runs) = (opened.cols(), opened.columns().runs());
    let mut state = seed;
    let code = |(index, weight): (usize, &f32)| {
        let (row, column) = (opened.row(first_row + index / cols), index % cols);
        let run = runs.iter().find(|run| (run.start..run.end).contains(&column)).unwrap();
        let level = weight / row.scale(run.group) + row.zero(run.group);
        let mut rank = [opened.levels().nearest_rank(level)];
        let [odd, by, any, ..] = next(&mut state).to_le_bytes();
        if odd < noise {
            rank[0] = if by < 128 { rank[0].wrapping_add(1) } else { any };
        }
        opened.levels().to_codes(&mut rank);
        rank[0] & (u8::MAX >> (8 - values.bits))
    };
    weights.iter().enumerate().map(code).collect()
}

fn value_of(float: FloatKind, raw: &[u8]) -> Vec<f32> {
    let of = |bytes: &[u8]| match float {
        FloatKind::Bf16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        FloatKind::F16 | FloatKind::ShortF16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        FloatKind::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
    };
    raw.chunks(float.width()).map(of).collect()
}

fn known_in_plan(matrices: usize) -> Vec<KnownMatrix> {
    let known = KnownMatrix {
        matrix: *any_given(),
        ends: Some([0.0, 1.0].map(|end: f32| end.try_into().unwrap())),
        around: None,
        factors: None,
    };
    vec![known; matrices]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each of several quantised matrices given those before it, and the floats given all of them.
    #[test]
    fn chains_of_any_quantisers(
        chain in prop::collection::vec((any_values(), prop_oneof![Just(0u8), 0u8..12], prop::sample::select(vec![0.0f32, 0.5, 8.0]), 0u64..3), 1..5),
        rows in 1usize..9, cols in 1usize..90, first_row in 0usize..3, kind in 0usize..4, seed in any::<u64>(),
        (noise, wide, moved, factored) in (0u8..4, any::<bool>(), 0usize..8, 0u8..3),
        around in prop::collection::vec(prop_oneof![-3f32..3.0, Just(0.0), Just(1e30), Just(-2.0)], 3..18),
    ) {
        let cols = cols * 8;
        let (float, dtype) = float_kind(kind);
        let first = chain[0].0.open(rows + first_row, cols);
        let near = codes(rows * cols, &chain[0].0, seed);
        let raw = weights(&first, &near, first_row, float, (0.5, noise), seed);
        let values = value_of(float, &raw);
        let (mut bins, mut given): (Vec<KnownBins>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        // As readers of what is above have them: as they are stored, where they are coded.
        let mut stored: Vec<Option<Vec<u8>>> = Vec::new();
        for (index, (quantiser, noise, steps, missing)) in chain.iter().enumerate() {
            let opened = quantiser.open(rows + first_row, cols);
            let own_codes = quantised(quantiser, &opened, &values, first_row, (*noise, seed ^ index as u64));
            prop_assert_eq!(Ranking::new(opened.levels(), Rounded::F32).is_some(), true);
            let own = OwnBins::new(opened.clone()).unwrap();
            let known = KnownWeights::new(bins.clone(), Some(own));
            if index > 0 {
                let (layout_of_codes, words) = (quantiser.layout(), quantiser.elements(cols));
                let packed = quantiser.pack(&own_codes, cols);
                let read: Vec<_> = given.iter().map(|codes| KnownCodes::Read(codes)).collect();
                let weights = GivenWeights { codes: &read, first_row, columns: (0, cols), known: &known, factors: None };
                let codec = Codec::Refine(Refine::new(&layout_of_codes, layout(wide)));
                let case = Case { codec, wide, classifier: Classifier::single(), raw: &packed, cols: words, given: GivenOfChunk::Weights(weights) };
                let encoding = Encoding::Refine { known: known_in_plan(index), own: Box::new(any_given().values), layout: layout_of_codes };
                case.check(encoding, Dtype::U8, seed)?;
                let chunk = case.codec.encode(&packed, words, &case.classifier, case.given, &mut Workspace::default());
                stored.push(chunk.filter(|_| *missing == 0));
                let fewer = GivenOfChunk::Weights(GivenWeights { codes: &read[1..], ..weights });
                let mut out = vec![0; packed.len()];
                prop_assert!(case.codec.decode(&[0; 900], words, fewer, &mut Workspace::default(), &mut out).is_err());
            } else {
                stored.push(None);
            }
            // A matrix may have fewer rows and columns than what is given it.
            let there = [(rows + first_row) as u64 - missing.min(&1), (cols as u64 - missing * 3).max(1)];
            let new = KnownBins::new(opened, there, [0.0; 2]).unwrap();
            bins.push(new.ending(new.beyond(*steps)));
            given.push(own_codes);
        }
        // Of one matrix the floats say in which stretch about its codes they lie.
        let mut around = around;
        around.sort_by(f32::total_cmp);
        let moved = (moved < bins.len()).then_some(moved);
        if let Some(moved) = moved {
            bins[moved] = bins[moved].moved(&around).unwrap();
            stored[moved..].fill(None);
        }
        let known = KnownWeights::new(bins, None);
        let read: Vec<_> = given.iter().map(|codes| KnownCodes::Read(codes)).collect();
        let factor = |at: usize| 0.5 + (at as u64 ^ (seed % 97)) as f32 % 7.0 * 0.25;
        let of_rows: Vec<f32> = (0..rows).map(|row| factor(row + 3)).collect();
        let factors = moved.filter(|_| factored > 0).map(|_| {
            let of_columns: Vec<f32> = (0..cols).map(factor).collect();
            Factors::new(&of_columns, (factored > 1).then_some(&of_rows[..])).unwrap()
        });
        prop_assert!(Factors::new(&[1.0, f32::NAN], None).is_none() && Factors::new(&[1.0], Some(&[1e-9])).is_none());
        let weights = GivenWeights { codes: &read, first_row, columns: (0, cols), known: &known, factors: factors.as_ref() };
        let symbols = moved.map(|_| stretches(float, &raw, weights).unwrap());
        let mut near_zero = [0; 256];
        count_near_zero(float, &raw, weights, symbols.as_deref().unwrap_or_default(), &mut near_zero).unwrap();
        let fitted = symbols.map(|symbols| fit(&symbols, cols));
        let (tables, classifier) = fitted.map_or((None, Classifier::single()), |fit| (Some(fit.tables), fit.classifier));
        let codec = Codec::RefineFloats(RefineFloats::fit(float, &near_zero, tables, layout(wide)).unwrap().with_factors(factors.clone()));
        let case = Case { codec, wide, classifier, raw: &raw, cols, given: GivenOfChunk::Weights(weights) };
        let mut known = known_in_plan(chain.len());
        if let Some(moved) = moved {
            known[moved].factors = factors.as_ref().map(Factors::of);
            known[moved].around = Some(around.iter().map(|edge| (*edge).try_into().unwrap()).collect());
        }
        let encoding = Encoding::RefineFloats { known, transposed: false };
        let shrank = case.check(encoding, dtype, seed)?;
        let in_step: Vec<_> = stored.iter().zip(&read).map(|(stored, read)| {
            stored.as_ref().map_or(*read, |chunk| KnownCodes::Stored { chunk, lanes: layout(wide) })
        }).collect();
        if let Some(coded) = case.codec.encode(&raw, cols, &case.classifier, case.given, &mut Workspace::default()) {
            let in_step = GivenOfChunk::Weights(GivenWeights { codes: &in_step, ..weights });
            let mut out = vec![0; raw.len()];
            case.codec.decode(&coded, cols, in_step, &mut Workspace::default(), &mut out).unwrap();
            prop_assert!(out == raw, "codes that are decoded in step are others");
        }
        let is_plain = |scale: &f32| scale.is_finite() && scale.abs() > 1e-5;
        if let ([(quantiser, 0, steps, 0)], None) = (&chain[..], moved) {
            let is_integer = !matches!(quantiser.levels, Levels::Float(_) | Levels::Table(_));
            let is_certain = *steps > 0.0 && is_integer && kind == 0 && noise == 0 && quantiser.scales.iter().all(is_plain);
            prop_assert!(shrank || !is_certain || raw.len() < 6000, "{} bytes", raw.len());
        }
    }
}

/// A part of the columns is coded as in a chunk of all of them.
#[test]
fn columns_of_a_matrix_have_their_own_scales() {
    let values = AnyValues {
        levels: Levels::Signed,
        bits: 8,
        tile: [1, 20],
        act_order: false,
        zero: AnyZero::None,
        scales: vec![0.5, 0.25, -1.0, 0.125],
        zeros: vec![0],
        seed: 1,
    };
    let (low, high) = (AnyValues { bits: 4, scales: vec![8.0, -4.0, 2.0], ..values.clone() }, values);
    let (given, own) = (low.open(2, 200), high.open(2, 200));
    let floats: Vec<f32> = (0..400).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.3).collect();
    let low_codes = quantised(&low, &given, &floats, 0, (0, 1));
    let high_codes = quantised(&high, &own, &floats, 0, (0, 1));
    let bins = KnownBins::new(given, [2, 200], [0.0; 2]).unwrap();
    let known = KnownWeights::new(vec![bins.ending(bins.beyond(0.5))], OwnBins::new(own));
    let codec = Refine::new(&high.layout(), Layout::Narrow);
    for columns in [(0, 200), (16, 120), (100, 168), (40, 60)] {
        let of = |codes: &[u8]| {
            codes.chunks(200).flat_map(|row| &row[columns.0..columns.1]).copied().collect::<Vec<u8>>()
        };
        let (low, high) = (of(&low_codes), of(&high_codes));
        let read = [KnownCodes::Read(&low)];
        let given = GivenWeights { codes: &read, first_row: 0, columns, known: &known, factors: None };
        let workspace = &mut Workspace::default();
        let width = columns.1 - columns.0;
        let coded = codec.encode(&high, width, given, workspace).unwrap();
        // 4 bits of 16 levels leave 16 of 256, and their scales are the same to a factor of 32 at most.
        assert!(coded.len() < 256 + 8 + high.len(), "{}", coded.len());
        let mut back = vec![0; high.len()];
        codec.decode(&coded, width, given, workspace, &mut back).unwrap();
        assert_eq!(back, high);
    }
}
