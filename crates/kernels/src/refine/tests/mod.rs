//! Chains of made-up quantisers: each is restored, and takes about what entropy says.

mod numbers;

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::{Backend, DecodeError, Half, Layout, Scratch, SymbolTable};

/// A quantiser of a matrix: a scale and a zero-point for each group of columns of each row.
#[derive(Debug, Clone)]
struct Quantiser {
    levels: Edges,
    values: Vec<f32>,
    cols: usize,
    group: usize,
    scales: Vec<f32>,
    zeros: Vec<f32>,
    ends: [f32; 2],
}

/// What kinds there are.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Even(usize),
    Float(u32, u32, u32),
    Table,
    /// Of weights that were rounded to BF16 first.
    RoundedEven(usize),
    RoundedFloat(u32, u32, u32),
}

const NF4: [f32; 16] = [
    -1.0, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0.0, 0.08, 0.161, 0.246, 0.338, 0.441, 0.563,
    0.723, 1.0,
];

impl Quantiser {
    fn new(kind: Kind, weights: &[f32], cols: usize, group: usize, shift: f32) -> Self {
        let (levels, values) = match kind {
            Kind::Even(count) | Kind::RoundedEven(count) => {
                (Edges::integers(count).unwrap(), (0..count).map(|rank| rank as f32).collect::<Vec<_>>())
            }
            Kind::Float(bits, mantissa, bias) | Kind::RoundedFloat(bits, mantissa, bias) => {
                let half = 1u32 << (bits - 1);
                let value = |m: u32| {
                    let (e, f) = ((m >> mantissa).cast_signed(), (m & ((1 << mantissa) - 1)) as f32);
                    let one = (1u32 << mantissa) as f32;
                    if e == 0 {
                        f / one * 2f32.powi(1 - bias.cast_signed())
                    } else {
                        (1.0 + f / one) * 2f32.powi(e - bias.cast_signed())
                    }
                };
                let negative = (0..half).rev().map(|m| -value(m));
                let values = negative.chain((0..half).map(value)).collect();
                (Edges::floats(bits, mantissa, bias).unwrap(), values)
            }
            Kind::Table => (Edges::table(&NF4).unwrap(), NF4.to_vec()),
        };
        let even = matches!(kind, Kind::Even(_) | Kind::RoundedEven(_));
        let levels = match kind {
            Kind::RoundedEven(count) => levels.of_rounded(1.0 / 256.0, (count / 2) as f32).unwrap(),
            Kind::RoundedFloat(..) => levels.of_rounded(1.0 / 256.0, 0.0).unwrap(),
            _ => levels,
        };
        let reach = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        for row in weights.chunks(cols) {
            for group in row.chunks(group) {
                let most = group.iter().fold(0f32, |most, weight| most.max(weight.abs()));
                let half = if even { (values.len() as f32 - 1.0) / 2.0 } else { reach };
                scales.push(if most.is_finite() { (most / half).max(LEAST_SCALE) } else { 1.0 });
                zeros.push(if even { (half + shift).round() } else { 0.0 });
            }
        }
        let mut made = Self { levels, values, cols, group, scales, zeros, ends: [0.0; 2] };
        let level = |(at, weight): (usize, &f32)| weight / made.scales[made.of(at)] + made.zeros[made.of(at)];
        let all: Vec<f32> = weights.iter().enumerate().map(level).filter(|level| level.is_finite()).collect();
        let [least, most] = [f32::min, f32::max].map(|of| all.iter().copied().fold(0.0, of));
        // A little more, for what dividing and multiplying round.
        made.ends = [least - least.abs() * 1e-6, most + most.abs() * 1e-6];
        made
    }

    fn of(&self, at: usize) -> usize {
        (at / self.cols) * self.cols.div_ceil(self.group) + at % self.cols / self.group
    }

    /// The nearest level of each weight; `factor` makes its rule wrong.
    fn ranks(&self, weights: &[f32], factor: f32) -> Vec<u8> {
        let rank = |(at, weight): (usize, &f32)| {
            let level = weight / self.scales[self.of(at)] * factor + self.zeros[self.of(at)];
            let nearer = |a: &usize, b: &usize| {
                (self.values[*a] - level).abs().total_cmp(&(self.values[*b] - level).abs())
            };
            // Of two zeros the one of the weight's sign.
            let least = (0..self.values.len()).min_by(nearer).unwrap();
            let twin = self.values.iter().rposition(|value| *value == self.values[least]).unwrap();
            u8::try_from(if level.is_sign_negative() { least } else { twin }).unwrap()
        };
        weights.iter().enumerate().map(rank).collect()
    }
}

/// Scales and zero-points of some weights, of each or, where groups allow it, of 16.
struct Expanded([Vec<f32>; 3], Each);

impl Expanded {
    fn of(quantiser: &Quantiser, row: usize, cols: Range<usize>) -> Self {
        let sixteen = quantiser.group.is_multiple_of(16);
        let (each, step) = if sixteen { (Each::Sixteen, 16) } else { (Each::Weight, 1) };
        let of = |of: &[f32]| -> Vec<f32> {
            cols.clone().step_by(step).map(|column| of[quantiser.of(row * quantiser.cols + column)]).collect()
        };
        let scales = of(&quantiser.scales);
        let inverses = scales.iter().map(|scale| 1.0 / scale).collect();
        Self([scales, inverses, of(&quantiser.zeros)], each)
    }

    fn scaled(&self) -> Scaled<'_> {
        let [scales, inverses, zeros] = &self.0;
        Scaled::new(scales, inverses, zeros, self.1).unwrap()
    }
}

/// What weights are given: quantisers and their ranks, from the lowest on.
struct Given<'a> {
    backend: Backend,
    given: Vec<(&'a Quantiser, &'a [u8])>,
    own: Option<&'a Quantiser>,
    cols: usize,
    lo: Vec<f32>,
    hi: Vec<f32>,
    expanded: Expanded,
}

impl<'a> Given<'a> {
    fn new(given: Vec<(&'a Quantiser, &'a [u8])>, own: Option<&'a Quantiser>, cols: usize) -> Self {
        let expanded = Expanded([const { Vec::new() }; 3], Each::Weight);
        Self { backend: Backend::best(), given, own, cols, lo: Vec::new(), hi: Vec::new(), expanded }
    }

    fn narrow(&mut self, row: usize, cols: Range<usize>) {
        self.lo = vec![0.0; cols.len()];
        self.hi = vec![0.0; cols.len()];
        for (number, (quantiser, ranks)) in self.given.iter().enumerate() {
            let expanded = Expanded::of(quantiser, row, cols.clone());
            let ranks = &ranks[row * self.cols + cols.start..row * self.cols + cols.end];
            let bins =
                Bins { edges: &quantiser.levels, ends: quantiser.ends, ranks, scaled: expanded.scaled() };
            let make = if number == 0 { Bins::begin } else { Bins::narrow };
            make(&bins, self.backend, &mut self.lo, &mut self.hi).unwrap();
        }
    }
}

impl CodeInputs for Given<'_> {
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<(Intervals<'_>, Scaled<'_>), DecodeError> {
        self.narrow(row, cols.clone());
        self.expanded = Expanded::of(self.own.unwrap(), row, cols);
        Ok((Intervals { lo: &self.lo, hi: &self.hi }, self.expanded.scaled()))
    }
}

impl FloatInputs for Given<'_> {
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<Intervals<'_>, DecodeError> {
        self.narrow(row, cols);
        Ok(Intervals { lo: &self.lo, hi: &self.hi })
    }
}

/// Codes and decodes a chain on every backend; returns the bytes of each level.
fn round_trip(
    chain: &[(Quantiser, Vec<u8>)],
    grid: FloatGrid,
    values: &[Half],
    cols: usize,
    layout: Layout,
) -> Vec<Option<usize>> {
    let mut sizes = Vec::new();
    for level in 1..=chain.len() {
        let given: Vec<_> = chain[..level].iter().map(|(of, ranks)| (of, &ranks[..])).collect();
        if let Some((own, ranks)) = chain.get(level) {
            let mut chunks = Vec::new();
            for backend in Backend::available() {
                let coder = CodeRefiner::new(own.levels.clone(), layout).on(backend);
                let mut given = Given { backend, ..Given::new(given.clone(), Some(own), cols) };
                let chunk = coder.encode(ranks, cols, &mut given, &mut Scratch::default());
                if let Ok(chunk) = &chunk {
                    let mut back = vec![0; ranks.len()];
                    coder.decode(chunk, cols, &mut given, &mut back).unwrap();
                    assert!(back == *ranks, "{backend}, level {level}");
                }
                chunks.push(chunk);
            }
            assert!(chunks.windows(2).all(|pair| pair[0] == pair[1]), "backends differ at level {level}");
            sizes.push(chunks.pop().unwrap().ok().map(|chunk| chunk.len()));
            continue;
        }
        let mut histogram = [0; 256];
        let mut inputs = Given::new(given.clone(), None, cols);
        FloatRefiner::count_near_zero(grid, values, cols, &mut inputs, &mut histogram).unwrap();
        let table = SymbolTable::from_histogram(&histogram);
        let mut chunks = Vec::new();
        for backend in Backend::available() {
            let coder = FloatRefiner::new(grid, table.clone(), layout).on(backend);
            let mut given = Given { backend, ..Given::new(given.clone(), None, cols) };
            let chunk = coder.encode(values, cols, &mut given, &mut Scratch::default());
            if let Ok(chunk) = &chunk {
                let mut back = vec![[0; 2]; values.len()];
                coder.decode(chunk, cols, &mut given, &mut back).unwrap();
                assert!(back == values, "{backend}");
            }
            chunks.push(chunk);
        }
        assert!(chunks.windows(2).all(|pair| pair[0] == pair[1]), "backends differ for floats");
        sizes.push(chunks.pop().unwrap().ok().map(|chunk| chunk.len()));
    }
    sizes
}

fn bf16(weights: &[f32]) -> (Vec<f32>, Vec<Half>) {
    let bits = |weight: &f32| ((weight.to_bits() + 0x7fff + (weight.to_bits() >> 16 & 1)) >> 16) as u16;
    let bits: Vec<u16> = weights.iter().map(bits).collect();
    let values = bits.iter().map(|bits| bits.to_le_bytes()).collect();
    (bits.iter().map(|bits| f32::from_bits(u32::from(*bits) << 16)).collect(), values)
}

/// Weights as linear layers have them: rows of different spread, bell-shaped.
fn llm_like(count: usize, cols: usize) -> Vec<f32> {
    let mut seed = 1u64;
    let mut uniform = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1u64 << 24) as f32
    };
    let bell = |at: usize| {
        let spread = 0.02 + 0.002 * (at / cols % 7) as f32;
        ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * spread
    };
    (0..count).map(bell).collect()
}

const ALL_KINDS: [Kind; 14] = [
    Kind::Even(4),
    Kind::Even(8),
    Kind::Even(16),
    Kind::Table,
    Kind::Float(4, 1, 1),
    Kind::Even(64),
    Kind::Float(8, 3, 7),
    Kind::Float(8, 2, 15),
    Kind::Even(256),
    Kind::RoundedEven(16),
    Kind::RoundedEven(30),
    Kind::RoundedEven(256),
    Kind::RoundedFloat(8, 3, 7),
    Kind::RoundedFloat(8, 2, 15),
];

#[test]
fn a_chain_takes_about_what_the_weights_alone_take() {
    let cols = 512;
    let (weights, values) = bf16(&llm_like(1 << 19, cols));
    let kinds = [
        Kind::Even(4),
        Kind::Even(8),
        Kind::Table,
        Kind::Float(4, 1, 1),
        Kind::Float(8, 3, 7),
        Kind::Even(256),
    ];
    let groups = [64, 32, 64, 16, 512, 512];
    let chain: Vec<_> = kinds
        .into_iter()
        .zip(groups)
        .map(|(kind, group)| {
            let quantiser = Quantiser::new(kind, &weights, cols, group, 0.0);
            let ranks = quantiser.ranks(&weights, 1.0);
            (quantiser, ranks)
        })
        .collect();
    let sizes = round_trip(&chain, FloatGrid::Bf16, &values, cols, Layout::Wide);
    let bits = |bytes: f64| bytes * 8.0 / weights.len() as f64;
    let entropy = |counts: &[u64]| {
        let total: u64 = counts.iter().sum();
        let of = |count: &u64| -(*count as f64 / total as f64) * (*count as f64 / total as f64).log2();
        counts.iter().filter(|count| **count > 0).map(of).sum::<f64>()
    };
    let mut counts = vec![0u64; 1 << 16];
    values.iter().for_each(|value| counts[usize::from(u16::from_le_bytes(*value))] += 1);
    let mut first = [0u64; 256];
    chain[0].1.iter().for_each(|rank| first[usize::from(*rank)] += 1);
    let each: Vec<f64> = sizes.iter().map(|size| bits(size.unwrap() as f64)).collect();
    let sum = entropy(&first) + each.iter().sum::<f64>();
    assert!(sum < entropy(&counts) + 0.25, "{each:?}: {sum} of {}", entropy(&counts));
}

/// What fills up the last block of a row must not be taken for weights of it.
#[test]
fn short_rows_of_extreme_levels_are_restored() {
    struct Fixed([Vec<f32>; 5]);
    impl CodeInputs for Fixed {
        fn part(&mut self, _: usize, cols: Range<usize>) -> Result<(Intervals<'_>, Scaled<'_>), DecodeError> {
            let [lo, hi, scales, inverses, zeros] = self.0.each_ref().map(|of| &of[..cols.len()]);
            Ok((Intervals { lo, hi }, Scaled::new(scales, inverses, zeros, Each::Weight).unwrap()))
        }
    }
    let tables = [[-WIDEST, WIDEST], [-WIDEST, -WIDEST], [WIDEST, WIDEST], [0.0, 1e-38]];
    for edges in tables.iter().filter_map(|table| Edges::table(table)).chain(Edges::integers(2)) {
        for backend in Backend::available() {
            for cols in [1, 5, 15, 17, 63, 65, 127, 129] {
                let mut inputs = Fixed([-1.0, 1.0, 0.5, 2.0, 0.5].map(|number| vec![number; cols]));
                let coder = CodeRefiner::new(edges.clone(), Layout::Wide).on(backend);
                let mut coded = 0;
                for most in [0, 1] {
                    let rank = |at: usize| if at % 9 == 8 { 1 - most } else { most };
                    let ranks: Vec<u8> = (0..3 * cols).map(rank).collect();
                    // Where most are exceptions, it would not shrink.
                    let Ok(chunk) = coder.encode(&ranks, cols, &mut inputs, &mut Scratch::default()) else {
                        continue;
                    };
                    let mut back = vec![9; ranks.len()];
                    coder.decode(&chunk, cols, &mut inputs, &mut back).unwrap();
                    assert_eq!(back, ranks, "{backend} {edges:?} {cols}");
                    coded += 1;
                }
                assert!(coded > 0, "{backend} {edges:?} {cols}");
            }
        }
    }
    assert_eq!(Edges::table(&[f32::NEG_INFINITY, 0.0]), None);
}

fn any_kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(&ALL_KINDS[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_chain_is_restored(
        levels in proptest::collection::vec((any_kind(), 1usize..80, -3.0f32..3.0, 0.5f32..1.5), 1..5),
        bits in proptest::collection::vec(any::<u16>(), 1..900),
        small in any::<bool>(),
        cols in 1usize..300,
        wide in any::<bool>(),
        grid in proptest::sample::select(&[FloatGrid::Bf16, FloatGrid::HighHalf, FloatGrid::F16, FloatGrid::ShortF16][..]),
    ) {
        // All patterns, or such as weights have.
        let bits: Vec<u16> = bits.into_iter().map(|bits| if small { bits & 0x83ff | 0x3c00 } else { bits }).collect();
        let weights: Vec<f32> = bits.iter().map(|bits| f32::from_bits(u32::from(*bits) << 16)).collect();
        let values: Vec<Half> = bits.iter().map(|bits| bits.to_le_bytes()).collect();
        let chain: Vec<_> = levels.into_iter().map(|(kind, group, shift, factor)| {
            let quantiser = Quantiser::new(kind, &weights, cols, group, shift);
            let ranks = quantiser.ranks(&weights, factor);
            (quantiser, ranks)
        }).collect();
        let layout = if wide { Layout::Wide } else { Layout::Narrow };
        round_trip(&chain, grid, &values, cols, layout);
    }
}
