//! Coders of codes given codes, and of floats given codes, on any codes, grids and weights.

use proptest::prelude::*;
use qstore_container::{ArrayRef, Dtype, QuantGrid};
use qstore_kernels::{ClassFit, Classifier, Histograms, Layout, Rows, SymbolTable, code_bucket};

use super::packed::pack_codes;
use super::step_residual::split;
use super::*;
use crate::scheme::{GridArray, Steps};

/// What a grid is made of, by numbers.
#[derive(Debug, Clone)]
struct AnyGrid {
    /// `None` for LLM.int8().
    bits: Option<u8>,
    group: usize,
    /// 0: groups follow each other, and nothing says so; 1: a `g_idx` says so; 2: columns in any order.
    order: u8,
    zero_offset: u8,
    /// For each group of each row in turn.
    scales: Vec<f32>,
    zeros: Vec<u8>,
    seed: u64,
}

fn refer(name: &str) -> ArrayRef {
    ArrayRef { variant: "v".parse().unwrap(), array: format!("tensor:{name}").parse().unwrap() }
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

impl AnyGrid {
    fn open(&self, rows: usize, cols: usize) -> Steps {
        let Some(bits) = self.bits else {
            let scales =
                self.scales.iter().cycle().take(rows).flat_map(|scale| (scale * 127.0).to_le_bytes());
            let array = GridArray { dtype: Dtype::F32, shape: vec![rows as u64], bytes: scales.collect() };
            let grid = QuantGrid::LlmInt8 { scale: refer("scale") };
            return Steps::open(&grid, [rows as u64, cols as u64], |_| Ok::<_, ()>(array.clone()))
                .unwrap()
                .unwrap();
        };
        let groups = cols.div_ceil(self.group);
        let of = |dtype, shape: &[usize], bytes: Vec<u8>| GridArray {
            dtype,
            shape: shape.iter().map(|d| *d as u64).collect(),
            bytes,
        };
        let scales =
            self.scales.iter().cycle().take(groups * rows).flat_map(|scale| scale.to_le_bytes()).collect();
        let words = (rows * usize::from(bits)).div_ceil(32);
        let zeros = (0..groups).flat_map(|group| {
            let codes: Vec<u8> = self.zeros.iter().cycle().skip(group).take(rows).copied().collect();
            let mut packed = vec![0; words * 4];
            pack_padded(&codes, bits, &mut packed);
            packed
        });
        let zeros = zeros.collect();
        let mut of_column: Vec<u32> =
            (0..cols).map(|column| u32::try_from(column / self.group).unwrap()).collect();
        if self.order == 2 {
            let mut state = self.seed;
            (1..cols)
                .for_each(|at| of_column.swap(at, usize::try_from(next(&mut state)).unwrap() % (at + 1)));
        }
        let of_column = of_column.iter().flat_map(|group| group.to_le_bytes()).collect();
        let arrays = [
            of(Dtype::F32, &[groups, rows], scales),
            of(Dtype::I32, &[groups, words], zeros),
            of(Dtype::I32, &[cols], of_column),
        ];
        // Without `g_idx` all groups but the last are of the size that their number says.
        let said = self.order > 0 || cols.div_ceil(groups) != self.group;
        let grid = QuantGrid::Gptq {
            bits,
            scale: refer("scale"),
            zeros: refer("zeros"),
            zero_offset: self.zero_offset,
            groups: said.then(|| refer("groups")),
        };
        let fetch = |array: &ArrayRef| {
            let at = ["scale", "zeros", "groups"].iter().position(|name| array.array.tensor() == Some(name));
            Ok::<_, ()>(arrays[at.unwrap()].clone())
        };
        Steps::open(&grid, [rows as u64, cols as u64], fetch).unwrap().unwrap()
    }
}

/// As `pack_codes`, of codes that need not fill the words.
fn pack_padded(codes: &[u8], bits: u8, words: &mut [u8]) {
    let mut padded = codes.to_vec();
    padded.resize(codes_in(words.len(), bits).next_multiple_of(8), 0);
    pack_codes(&padded, bits, words);
}

fn any_grid(bits: impl Strategy<Value = Option<u8>>) -> impl Strategy<Value = AnyGrid> {
    let scale = prop_oneof![
        20 => (1u16..1000).prop_map(|scale| f32::from(scale) * 1e-4),
        1 => prop::sample::select(vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-45, -1e-40, -0.01, f32::NEG_INFINITY]),
    ];
    let parts = (bits, prop::sample::select(vec![8usize, 32, 64, 96, 128, 1000]), 0u8..3, 0u8..2);
    (parts, prop::collection::vec(scale, 1..40), prop::collection::vec(any::<u8>(), 1..10), any::<u64>())
        .prop_map(|((bits, group, order, zero_offset), scales, zeros, seed)| AnyGrid {
            bits,
            group,
            order,
            zero_offset,
            scales,
            zeros,
            seed,
        })
}

fn packed_bits() -> impl Strategy<Value = Option<u8>> {
    prop::sample::select(vec![Some(2), Some(3), Some(4), Some(8)])
}

fn any_bits() -> impl Strategy<Value = Option<u8>> {
    prop::sample::select(vec![None, Some(2), Some(3), Some(4), Some(8)])
}

/// Codes around the middle, as those of weights are, and a few of any kind.
fn codes(count: usize, bits: Option<u8>, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mask = u8::MAX >> (8 - bits.unwrap_or(8));
    let middle = bits.map_or(0, |bits| 1u8 << (bits - 1));
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
    given: Given<'a>,
}

impl Case<'_> {
    fn decode(&self, codec: &Codec, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
        // What a workspace or the output holds must not matter.
        let mut workspace =
            Workspace { fine: vec![0xa5; 9000], shifts: vec![0x5a; 9000], ..Workspace::default() };
        let mut out = vec![0xc3; self.raw.len()];
        codec.decode(stored, self.cols, self.given, &mut workspace, &mut out).map(|()| out)
    }

    /// Decodes what was encoded, by a codec read from its head; then each of some damaged chunks, which may decode to anything or not.
    fn check(&self, encoding: Encoding, dtype: Dtype, seed: u64) -> Result<bool, TestCaseError> {
        let array = StoredArray {
            key: "tensor:x".parse().unwrap(),
            dtype,
            shape: Vec::new(),
            hash: None,
            mantissa: self.codec.mantissa(),
            grid: Grid {
                cols: self.cols as u64,
                rows_per_chunk: 1,
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

fn any_quantised() -> qstore_container::Quantised {
    qstore_container::Quantised { codes: refer("codes"), grid: QuantGrid::LlmInt8 { scale: refer("scale") } }
}

fn pack(codes: &[u8], bits: Option<u8>) -> Vec<u8> {
    let Some(bits) = bits else { return codes.to_vec() };
    let mut words = vec![0; codes.len() * usize::from(bits) / 8];
    pack_codes(codes, bits, &mut words);
    words
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn codes_given_codes(
        own in any_grid(any_bits()), given in any_grid(any_bits()), rows in 1usize..9, cols in 1usize..13, first_row in 0usize..3,
        seed in any::<u64>(), close in any::<bool>(), wide in any::<bool>(),
    ) {
        let cols = cols * 32;
        let predictor = Predictor::new(own.open(rows + first_row, cols), given.open(rows + first_row, cols));
        let given_codes = codes(rows * cols, given.bits, seed);
        let given_of = GivenCodes { codes: &given_codes, first_row, predictor: &predictor };
        let mut workspace = Workspace::default();
        let mut raw = pack(&codes(rows * cols, own.bits, seed ^ 1), own.bits);
        if close {
            // What is expected, and a few off by one: a chunk that shrinks.
            let zeros = pack(&vec![0; rows * cols], own.bits);
            let off = shifts(&zeros, given_of, &mut workspace).unwrap();
            let mask = u8::MAX >> (8 - own.bits.unwrap_or(8));
            let near: Vec<u8> = off.iter().enumerate().map(|(i, off)| off.wrapping_neg().wrapping_add(u8::from(i % 7 == 0)) & mask).collect();
            raw = pack(&near, own.bits);
        }
        let symbols = shifts(&raw, given_of, &mut workspace).unwrap();
        if close {
            prop_assert!(symbols.iter().enumerate().all(|(i, shift)| i % 7 == 0 || *shift == 0), "the expected codes are not within the bits");
        }
        let fit = fit(&symbols, cols);
        let codec = Codec::CodeResidual(CodeResidual::new(fit.tables, layout(wide)).unwrap());
        let words = own.bits.map_or(cols, |bits| cols * usize::from(bits) / 32);
        let case = Case { codec, wide, classifier: fit.classifier, raw: &raw, cols: words, given: Given::Codes(given_of) };
        let encoding = Encoding::CodeResidual { given: any_quantised(), own: any_quantised().grid };
        let dtype = if own.bits.is_some() { Dtype::I32 } else { Dtype::I8 };
        let shrank = case.check(encoding, dtype, seed)?;
        prop_assert!(shrank || !close || raw.len() < 1500, "{} bytes", raw.len());
        // One code less, or more, is a mistake of the caller that is an error.
        let fewer = GivenCodes { codes: &given_codes[1..], ..given_of };
        prop_assert!(shifts(&raw, fewer, &mut workspace).is_none());
        let mut out = vec![0; raw.len()];
        prop_assert!(case.codec.decode(&[0; 900], words, Given::Codes(fewer), &mut workspace, &mut out).is_err());
        prop_assert!(case.codec.decode(&[0; 900], words, Given::Nothing, &mut workspace, &mut out).is_err());
    }

    #[test]
    fn floats_given_codes(
        grid in any_grid(any_bits()), rows in 1usize..9, cols in 1usize..300, first_row in 0usize..3, steps in prop::sample::select(vec![1u8, 2, 4, 8, 16]),
        kind in 0usize..4, seed in any::<u64>(), noise in 0u8..4, wide in any::<bool>(),
    ) {
        let (float, dtype) = [(FloatKind::Bf16, Dtype::BF16), (FloatKind::F16, Dtype::F16), (FloatKind::F32, Dtype::F32), (FloatKind::ShortF16, Dtype::F16)][kind];
        // Strides are shared sizes: small groups ask for columns that they divide.
        let cols = if grid.group == 8 { cols } else { cols.next_multiple_of(32) };
        let opened = grid.open(rows + first_row, cols);
        let of = |row: usize, column: usize| {
            let run = opened.runs().into_iter().find(|run| (run.start..run.end).contains(&column)).unwrap();
            opened.of(row, run.group)
        };
        let given_codes = codes(rows * cols, grid.bits, seed);
        let mut state = seed;
        let mut raw = Vec::new();
        for (index, code) in given_codes.iter().enumerate() {
            let (scale, zero) = of(first_row + index / cols, index % cols);
            let code = if grid.bits.is_some() { f32::from(*code) } else { f32::from(code.cast_signed()) };
            let off = f32::from(u16::try_from(next(&mut state) % 1024).unwrap()) / 512.0 - 1.0;
            let value = scale * (code - f32::from(zero) + off);
            let bits = match float {
                FloatKind::Bf16 => u32::from(half::bf16::from_f32(value).to_bits()),
                FloatKind::F16 => u32::from(half::f16::from_f32(value).to_bits()),
                FloatKind::ShortF16 => u32::from(half::f16::from_f32(value).to_bits()) & !7,
                FloatKind::F32 => value.to_bits(),
            };
            // Anything at all now and then: not numbers, infinities, zeros of both signs, subnormals.
            let odd = next(&mut state);
            let odd_bits = [0x7fc1_7fc1u32, 0xff80_fc00, 0x8000_8000, 0x0001_0001, 0x7f80_7c00, 0, odd as u32][usize::try_from(odd % 7).unwrap()];
            let bits = if odd / 7 % 64 < u64::from(noise) { odd_bits } else { bits };
            raw.extend(&bits.to_le_bytes()[..float.width()]);
        }
        let Some(step_grid) = StepGrid::new(opened, steps, float) else {
            prop_assert!(grid.group < 32 || grid.group % 32 != 0 || cols % 32 != 0);
            return Ok(());
        };
        let given_of = GivenSteps { codes: &given_codes, first_row, grid: &step_grid };
        let parts = split(&raw, given_of).unwrap();
        let mut zeros = [0; 256];
        parts.count_zeros(given_of, &mut zeros);
        let fit = fit(&parts.shifts, cols);
        let residual = StepResidual::new(float, fit.tables, SymbolTable::from_histogram(&zeros), layout(wide)).unwrap();
        let case = Case { codec: Codec::StepResidual(residual), wide, classifier: fit.classifier, raw: &raw, cols, given: Given::Steps(given_of) };
        let encoding = Encoding::StepResidual { given: any_quantised(), steps, transposed: false };
        case.check(encoding, dtype, seed)?;
        let fewer = GivenSteps { codes: &given_codes[1..], ..given_of };
        prop_assert!(split(&raw, fewer).is_none());
        let mut out = vec![0; raw.len()];
        let mut chunk = vec![0; 900];
        prop_assert!(case.codec.decode(&chunk, cols, Given::Steps(fewer), &mut Workspace::default(), &mut out).is_err());
        chunk[..4].fill(0xff);
        prop_assert!(case.codec.decode(&chunk, cols, case.given, &mut Workspace::default(), &mut out).is_err());
    }

    #[test]
    fn packed_codes(bits in packed_bits(), rows in 1usize..20, cols in 1usize..20, seed in any::<u64>(), wide in any::<bool>()) {
        let cols = cols * 32;
        let mut codes = codes(rows * cols, bits, seed);
        codes.iter_mut().enumerate().filter(|(at, _)| at % 4 != 0).for_each(|(_, code)| *code = 1);
        let raw = pack(&codes, bits);
        let bits = bits.unwrap();
        let words = cols * usize::from(bits) / 32;
        let symbols = Symbols::of(bits);
        let fit = symbols.with(&raw, &mut Vec::new(), |all| fit(all, symbols.cols(words)));
        let codec = Codec::Packed(Packed::new(bits, fit.tables, layout(wide)).unwrap());
        let case = Case { codec, wide, classifier: fit.classifier, raw: &raw, cols: words, given: Given::Nothing };
        let shrank = case.check(Encoding::Packed { bits }, Dtype::I32, seed)?;
        prop_assert!(shrank || raw.len() < 3000, "{} bytes", raw.len());
    }
}

/// What a code of 4 bits lets expect of codes of 8 bits, by hand.
#[test]
fn expected_codes_are_rounded_values() {
    let grid = |bits, scale, zero| AnyGrid {
        bits: Some(bits),
        group: 1000,
        order: 0,
        zero_offset: 0,
        scales: vec![scale],
        zeros: vec![zero],
        seed: 0,
    };
    let (own, given) = (grid(8, 0.5, 100), grid(4, 4.0, 7));
    let predictor = Predictor::new(own.open(1, 16), given.open(1, 16));
    let given_codes: Vec<u8> = (0..16).collect();
    let of = GivenCodes { codes: &given_codes, first_row: 0, predictor: &predictor };
    let off = shifts(&[0; 16], of, &mut Workspace::default()).unwrap();
    let expected: Vec<u8> = off.iter().map(|off| off.wrapping_neg()).collect();
    // 4 * (code - 7) = 0.5 * (expected - 100)
    assert_eq!(expected, [44, 52, 60, 68, 76, 84, 92, 100, 108, 116, 124, 132, 140, 148, 156, 164]);
    // A tie goes to the even code; what is beyond the codes is cut.
    let (own, given) = (grid(4, 2.0, 8), grid(8, 1.0, 128));
    let predictor = Predictor::new(own.open(1, 16), given.open(1, 16));
    let given_codes = [128, 127, 129, 125, 131, 126, 130, 255, 0, 142, 143, 112, 113, 124, 132, 128];
    let of = GivenCodes { codes: &given_codes, first_row: 0, predictor: &predictor };
    let off = shifts(&[0; 8], of, &mut Workspace::default()).unwrap();
    let expected: Vec<u8> = off.iter().map(|off| off.wrapping_neg()).collect();
    assert_eq!(expected, [8, 8, 8, 6, 10, 7, 9, 15, 0, 15, 15, 0, 0, 6, 10, 8]);
}
