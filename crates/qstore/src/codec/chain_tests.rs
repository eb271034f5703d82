//! Coders of codes given codes, and of floats given codes, on codes, values and weights of any kind: also of formats
//! that nobody has yet.

use proptest::prelude::*;
use qstore_container::{
    ArrayRef, Axis, CodeLayout, ColumnGroups, Dequantization, Dtype, Factor, Field, Inverse, Levels,
    MiniFloat, Number, Numbers, Packing, QuantMatrix, Rounded, Rule, Scale, View, Zero, ZeroCodes,
};
use qstore_kernels::{ClassFit, Classifier, Histograms, Layout, Rows, SymbolTable, code_bucket};

use super::step_residual::split;
use super::*;
use crate::quant::{Dequantizer, HeldArray, words_of_codes};

/// What codes stand for, by numbers.
#[derive(Debug, Clone)]
struct AnyValues {
    levels: Levels,
    bits: u8,
    /// Rows and columns of a tile.
    tile: [usize; 2],
    /// Columns of any order.
    act_order: bool,
    zero: AnyZero,
    /// For each tile in turn, and one for the whole matrix.
    scales: Vec<f32>,
    zeros: Vec<u8>,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum AnyZero {
    None,
    Constant(i16),
    Codes { add: u8 },
    Bias,
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn fetched(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> HeldArray {
    HeldArray { dtype, shape: shape.iter().map(|d| *d as u64).collect(), bytes }
}

impl AnyValues {
    fn open(&self, rows: usize, cols: usize) -> Dequantizer {
        let [high, wide] = self.tile;
        let (tiles, groups) = (rows.div_ceil(high), cols.div_ceil(wide));
        let scales = self.scales.iter().cycle().take(tiles * groups).flat_map(|scale| scale.to_le_bytes());
        let zeros: Vec<u8> = self.zeros.iter().cycle().take(tiles * groups).copied().collect();
        let biases = zeros.iter().flat_map(|zero| (f32::from(*zero) * -0.01).to_le_bytes());
        let mut of_column: Vec<u32> = (0..cols).map(|column| u32::try_from(column / wide).unwrap()).collect();
        let mut state = self.seed;
        (1..cols).for_each(|at| of_column.swap(at, usize::try_from(next(&mut state)).unwrap() % (at + 1)));
        let arrays = [
            fetched(Dtype::F32, &[tiles, groups], scales.collect()),
            fetched(Dtype::F32, &[], 0.5f32.to_le_bytes().to_vec()),
            fetched(
                Dtype::U8,
                &[tiles, groups],
                zeros.iter().map(|zero| zero & (u8::MAX >> (8 - self.bits))).collect(),
            ),
            fetched(Dtype::F32, &[tiles, groups], biases.collect()),
            fetched(Dtype::I32, &[cols], of_column.iter().flat_map(|group| group.to_le_bytes()).collect()),
        ];
        let tile = [high as u64, wide as u64];
        let numbers = |array, tile| Numbers { field: Field::of(array), number: Number::F32, tile };
        let values = Dequantization {
            levels: self.levels.clone(),
            scales: vec![
                Scale::Times(Factor::Numbers(numbers(0, tile))),
                Scale::Over(Factor::Numbers(numbers(1, [1 << 20; 2]))),
            ],
            zero: match self.zero {
                AnyZero::None => Zero::None,
                AnyZero::Constant(level) => Zero::Constant(level),
                AnyZero::Codes { add } => {
                    Zero::Codes(ZeroCodes { field: Field::of(2), levels: Levels::Unsigned, add, tile })
                }
                AnyZero::Bias => Zero::Bias(numbers(3, tile)),
            },
            column_groups: self.act_order.then(|| ColumnGroups {
                field: Field { view: View::COLUMN, ..Field::of(4) },
                count: groups as u64,
            }),
            rule: Some(Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::F32 }),
        };
        // One scale for the whole matrix has no group of its own where columns are in any order.
        let values = if self.act_order {
            Dequantization { scales: values.scales[..1].to_vec(), ..values }
        } else {
            values
        };
        Dequantizer::open(&values, [rows as u64, cols as u64], self.bits, &|at: &usize| arrays[*at].clone())
            .unwrap()
    }

    /// Where packed codes lie; those of a byte are not packed.
    fn layout(&self) -> CodeLayout {
        let (bits, along) = (self.bits, Axis::Columns);
        let packing = (bits < 8).then(|| Packing { bits, word: 8, along, order: Vec::new() });
        CodeLayout { transposed: false, packing }
    }

    fn pack(&self, codes: &[u8], cols: usize) -> Vec<u8> {
        let Some(packing) = self.layout().packing else { return codes.to_vec() };
        let mut words = vec![0; codes.len() * usize::from(self.bits) / 8];
        words_of_codes(&packing, codes, cols * usize::from(self.bits) / 8, &mut words);
        words
    }

    /// Elements of a row of so many codes.
    fn elements(&self, cols: usize) -> usize {
        cols * usize::from(self.bits) / 8
    }
}

fn any_levels() -> impl Strategy<Value = (Levels, u8)> {
    let integers = (prop::sample::select(vec![Levels::Unsigned, Levels::Signed, Levels::Offset]), 1u8..=8);
    let floats = prop::sample::select(vec![MiniFloat::E4m3, MiniFloat::E5m2, MiniFloat::E2m1])
        .prop_map(|float| (Levels::Float(float), float.bits()));
    let table = prop::collection::vec(-1f32..1.0, 16).prop_map(|table| {
        (Levels::Table(table.into_iter().map(|level| level.try_into().unwrap()).collect()), 4)
    });
    prop_oneof![4 => integers, 2 => floats, 1 => table]
}

fn any_values() -> impl Strategy<Value = AnyValues> {
    let scale = prop_oneof![
        20 => (1u16..1000).prop_map(|scale| f32::from(scale) * 1e-4),
        1 => prop::sample::select(vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-45, -1e-40, -0.01, f32::NEG_INFINITY]),
    ];
    let zero = prop_oneof![
        2 => Just(AnyZero::None),
        1 => (-300i16..300).prop_map(AnyZero::Constant),
        3 => (0u8..2).prop_map(|add| AnyZero::Codes { add }),
        1 => Just(AnyZero::Bias),
    ];
    let tile = (
        prop::sample::select(vec![1usize, 2, 5, 128]),
        prop::sample::select(vec![8usize, 16, 20, 32, 64, 128, 1000]),
    );
    let rest = (
        prop::collection::vec(scale, 1..40),
        prop::collection::vec(any::<u8>(), 1..10),
        any::<u64>(),
        any::<bool>(),
    );
    (any_levels(), tile, zero, rest).prop_map(
        |((levels, bits), (high, wide), zero, (scales, zeros, seed, act_order))| AnyValues {
            levels,
            bits,
            tile: [high, wide],
            act_order,
            zero,
            scales,
            zeros,
            seed,
        },
    )
}

/// Codes around the middle, as those of weights are, and a few of any kind.
fn codes(count: usize, values: &AnyValues, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mask = u8::MAX >> (8 - values.bits);
    let middle =
        if matches!(values.levels, Levels::Signed | Levels::Float(_)) { 0 } else { 1u8 << (values.bits - 1) };
    let one = |_| {
        let [a, b, c, d, ..] = next(&mut state).to_le_bytes();
        if d % 16 == 0 {
            a & mask
        } else {
            middle.wrapping_add(a % 4).wrapping_sub(b % 4).wrapping_add(c % 2) & mask
        }
    };
    (0..count).map(one).collect()
}

fn fit(symbols: &[u8], cols: usize) -> ClassFit {
    let mut histograms = Histograms::default();
    for row in Rows::new(symbols.len(), cols).iter() {
        histograms.add_row(code_bucket(&symbols[row.clone()]), symbols[row].iter().copied());
    }
    ClassFit::new(&histograms, 1)
}

/// A chunk and what it takes to code it.
struct Case<'a> {
    codec: Codec,
    wide: bool,
    classifier: Classifier,
    raw: &'a [u8],
    cols: usize,
    given: GivenOfChunk<'a>,
}

impl Case<'_> {
    fn decode(&self, codec: &Codec, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
        // What a workspace or the output holds must not matter.
        let mut workspace = Workspace { fine: vec![0xa5; 9000], ..Workspace::default() };
        let mut out = vec![0xc3; self.raw.len()];
        codec.decode(stored, self.cols, self.given, &mut workspace, &mut out).map(|()| out)
    }

    /// Decodes what was encoded, by a codec read from its head; then each of some damaged chunks, which may decode to
    /// anything or not.
    fn check(&self, encoding: Encoding, dtype: Dtype, seed: u64) -> Result<bool, TestCaseError> {
        let array = StoredArray {
            key: "tensor:x".parse().unwrap(),
            dtype,
            shape: Vec::new(),
            hash: None,
            mantissa: self.codec.mantissa(),
            chunk: ChunkShape {
                rows: 1,
                cols: self.cols as u64,
                lanes: if self.wide { Lanes::Wide } else { Lanes::Narrow },
            },
            encoding,
        };
        let head = self.codec.head().unwrap();
        let opened = Codec::open(&array, &head).unwrap();
        for cut in 0..head.len() {
            prop_assert!(Codec::open(&array, &head[..cut]).is_err(), "a head cut to {}", cut);
        }
        let Some(stored) =
            self.codec.encode(self.raw, self.cols, &self.classifier, self.given, &mut Workspace::default())
        else {
            return Ok(false);
        };
        prop_assert!(self.decode(&self.codec, &stored).unwrap() == self.raw);
        prop_assert!(self.decode(&opened, &stored).unwrap() == self.raw);
        prop_assert!(self.decode(&opened, &[&stored[..], &[0, 0]].concat()).is_err());
        let mut state = seed;
        for _ in 0..20 {
            let at = usize::try_from(next(&mut state)).unwrap() % stored.len();
            prop_assert!(self.decode(&opened, &stored[..at]).is_err(), "cut to {} of {}", at, stored.len());
            let mut bad = stored.clone();
            bad[at] ^= 1 << (next(&mut state) % 8);
            drop(self.decode(&opened, &bad));
        }
        Ok(true)
    }
}

fn layout(wide: bool) -> Layout {
    if wide { Layout::Wide } else { Layout::Narrow }
}

fn any_given() -> Box<QuantMatrix<ArrayRef>> {
    let codes = ArrayRef { variant: "v".parse().unwrap(), array: "tensor:codes".parse().unwrap() };
    let values = Dequantization {
        levels: Levels::Signed,
        scales: Vec::new(),
        zero: Zero::None,
        column_groups: None,
        rule: None,
    };
    Box::new(QuantMatrix { shape: [1, 1], codes: Field::of(codes), values })
}

/// A float type by its number, with that of its arrays.
fn float_kind(kind: usize) -> (FloatKind, Dtype) {
    [
        (FloatKind::Bf16, Dtype::BF16),
        (FloatKind::F16, Dtype::F16),
        (FloatKind::F32, Dtype::F32),
        (FloatKind::ShortF16, Dtype::F16),
    ][kind]
}

/// Weights near what codes stand for, up to `off` scales beside; of 64 so many as `noise` says are anything at all.
fn weights(
    opened: &Dequantizer,
    codes: &[u8],
    first_row: usize,
    float: FloatKind,
    (off, noise): (f32, u8),
    seed: u64,
) -> Vec<u8> {
    let (cols, runs) = (opened.cols(), opened.columns().runs());
    let mut state = seed;
    let mut raw = Vec::new();
    for (index, code) in codes.iter().enumerate() {
        let (row, column) = (opened.row(first_row + index / cols), index % cols);
        let run = runs.iter().find(|run| (run.start..run.end).contains(&column)).unwrap();
        let aside = (f32::from(u16::try_from(next(&mut state) % 1024).unwrap()) / 512.0 - 1.0) * off;
        let value = row.scale(run.group) * (opened.levels().value(*code) - row.zero(run.group) + aside);
        let bits = match float {
            FloatKind::Bf16 => u32::from(half::bf16::from_f32(value).to_bits()),
            FloatKind::F16 => u32::from(half::f16::from_f32(value).to_bits()),
            FloatKind::ShortF16 => u32::from(half::f16::from_f32(value).to_bits()) & !7,
            FloatKind::F32 => value.to_bits(),
        };
        // Not numbers, infinities, zeros of both signs, subnormals.
        let odd = next(&mut state);
        let odd_bits = [0x7fc1_7fc1u32, 0xff80_fc00, 0x8000_8000, 0x0001_0001, 0x7f80_7c00, 0, odd as u32]
            [usize::try_from(odd % 7).unwrap()];
        let bits = if odd / 7 % 64 < u64::from(noise) { odd_bits } else { bits };
        raw.extend(&bits.to_le_bytes()[..float.width()]);
    }
    raw
}

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
        let codec = Codec::CodeResidual(CodeResidual::new(&layout_of_codes, fit.tables, layout(wide)).unwrap());
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
        let layout_of_codes = CodeLayout { transposed: true, packing: Some(packing) };
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
