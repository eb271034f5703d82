//! Coders of codes given codes, and of floats given codes, on codes, values and weights of any kind: also of formats
//! that nobody has yet.

use proptest::prelude::*;
use qstore_container::{
    ArrayRef, Axis, CodeLayout, ColumnGroups, Dequantization, Dtype, Factor, Field, Inverse, Levels,
    MiniFloat, Number, Numbers, Packing, QuantMatrix, Rounded, Rule, Scale, View, Zero, ZeroCodes,
};
use qstore_kernels::{ClassFit, Classifier, Histograms, Layout, Rows, code_bucket};

use super::not_symbols::NotSymbols;
use super::*;
use crate::quant::{Dequantizer, HeldArray, words_of_codes};

mod chains;
mod near;
mod refine;
mod rounded;

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
        CodeLayout { packing, ..CodeLayout::default() }
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
            shape: vec![(self.raw.len() / (self.cols * dtype.bitsize() / 8)) as u64, self.cols as u64],
            hash: None,
            mantissa: self.codec.mantissa(),
            chunk: ChunkShape {
                rows: 1,
                cols: self.cols as u64,
                lanes: if self.wide { Lanes::Wide } else { Lanes::Narrow },
            },
            encoding,
        };
        let head = self.codec.head().unwrap_or_default();
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
        let NotSymbols { exceptions, states } = not_symbols(&array, &stored).unwrap();
        prop_assert!(exceptions + states <= stored.len() as u64 && states.is_multiple_of(256));
        prop_assert_eq!(states == 0, matches!(self.codec, Codec::Raw | Codec::Zstd(_) | Codec::Near(_)));
        prop_assert!(states == 0 || not_symbols(&array, &stored[..200]).is_err());
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
