//! Intervals, scales, states and words of any numbers: every backend does what the definition does, and what is decoded
//! of them is restored.

use std::ops::Range;

use proptest::prelude::*;

use super::super::*;
use super::{ALL_KINDS, Kind, Quantiser, any_kind, llm_like};
use crate::{Backend, DecodeError, Half, Layout, Scratch, SymbolTable};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_states_and_words_decode_alike_and_what_is_decoded_is_restored(
        numbers in proptest::collection::vec(any::<[u32; 5]>(), 1..300),
        noise in proptest::collection::vec(any::<u8>(), 512..2000),
        kind in any_kind(),
        grid in proptest::sample::select(&[FloatGrid::Bf16, FloatGrid::F16][..]),
    ) {
        let inputs = &mut AnyNumbers::of(&numbers);
        let len = numbers.len();
        let levels = Quantiser::new(kind, &[1.0], 1, 1, 0.0).levels;
        // No exceptions, states that are legal, and more words than are read.
        let mut codes = vec![0; 4];
        codes.extend(&noise[..512]);
        codes[4..].chunks_exact_mut(4).for_each(|state| state[3] |= 1);
        codes.extend(noise.iter().cycle().take(2 * len + 128));
        let mut ranks = Vec::new();
        for backend in Backend::available() {
            let coder = CodeRefiner::new(levels.clone(), Layout::Wide).on(backend);
            let mut out = vec![0; len];
            // It does not end as it should, but has decoded all by then.
            prop_assert!(coder.decode(&codes, len, inputs, &mut out).is_err());
            let coded = coder.encode(&out, len, inputs, &mut Scratch::default()).unwrap();
            prop_assert_eq!(coded[..4].as_array(), Some(&[0; 4]), "{} has exceptions", backend);
            let mut back = vec![0; len];
            coder.decode(&coded, len, inputs, &mut back).unwrap();
            prop_assert_eq!(&back, &out);
            ranks.push((out, coded));
        }
        prop_assert!(ranks.windows(2).all(|pair| pair[0] == pair[1]));
        // The same of floats: states of what was encoded, damaged.
        let table = SymbolTable::from_histogram(&[1; 256]);
        let values: Vec<Half> = inputs.lo.iter().map(|lo| {
            let [.., low, high] = lo.to_le_bytes();
            [low, high]
        }).collect();
        let mut floats = Vec::new();
        for backend in Backend::available() {
            let coder = FloatRefiner::new(grid, table.clone(), Layout::Wide).on(backend);
            let coded = coder.encode(&values, len, inputs, &mut Scratch::default());
            let decoded = coded.as_ref().ok().map(|coded| {
                let mut back = vec![[0; 2]; len];
                coder.decode(coded, len, inputs, &mut back).unwrap();
                assert!(back == values);
                let mut damaged = coded.clone();
                damaged[12..524].chunks_exact_mut(4).zip(&noise).for_each(|(state, byte)| state[1] ^= byte);
                // More words than are read: where they end, backends stop in other places.
                damaged.extend(noise.iter().cycle().take(2 * len + 128));
                let _ = coder.decode(&damaged, len, inputs, &mut back);
                back
            });
            floats.push((coded, decoded));
        }
        prop_assert!(floats.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn bins_of_any_ranks_are_alike(
        numbers in proptest::collection::vec((any::<[u32; 5]>(), any::<u8>()), 1..300),
        kind in any_kind(),
        first in any::<bool>(),
    ) {
        let (numbers, ranks): (Vec<_>, Vec<_>) = numbers.into_iter().unzip();
        let inputs = AnyNumbers::of(&numbers);
        let edges = &Quantiser::new(kind, &[1.0], 1, 1, 0.0).levels;
        let make = if first { Bins::begin } else { Bins::narrow };
        let made = Backend::available().into_iter().map(|backend| {
            let (mut lo, mut hi) = (inputs.lo.clone(), inputs.hi.clone());
            let bins = Bins { edges, ends: [-3.0, 300.0], ranks: &ranks, scaled: inputs.scaled(0..ranks.len()) };
            make(&bins, backend, &mut lo, &mut hi).unwrap();
            assert!(bins.begin(backend, &mut lo[1..], &mut hi).is_err());
            for ((lo, hi), (before, after)) in lo.iter().zip(&hi).zip(inputs.lo.iter().zip(&inputs.hi)) {
                assert!(lo <= hi && (first || before <= lo && hi <= after));
            }
            (lo, hi)
        }).collect::<Vec<_>>();
        prop_assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

/// Intervals and scales of any numbers that there may be.
struct AnyNumbers {
    lo: Vec<f32>,
    hi: Vec<f32>,
    scales: Vec<f32>,
    inverses: Vec<f32>,
    zeros: Vec<f32>,
}

impl AnyNumbers {
    fn of(bits: &[[u32; 5]]) -> Self {
        let number = |bits: u32| {
            let number = Some(f32::from_bits(bits)).filter(|number| number.is_finite()).unwrap_or(1.0);
            number.clamp(-WIDEST, WIDEST)
        };
        let all =
            |of: &dyn Fn([f32; 5]) -> f32| bits.iter().map(|bits| of(bits.map(number))).collect::<Vec<_>>();
        let scales = all(&|numbers| numbers[2].abs().max(LEAST_SCALE));
        Self {
            lo: all(&|numbers| numbers[0].min(numbers[1])),
            hi: all(&|numbers| numbers[0].max(numbers[1])),
            // Where one looks first does not matter.
            inverses: scales
                .iter()
                .zip(bits)
                .map(|(scale, bits)| if bits[3] % 3 == 0 { 0.0 } else { 1.0 / scale })
                .collect(),
            scales,
            zeros: all(&|numbers| if numbers[3] > 0.0 { numbers[4] } else { numbers[4] % 256.0 }),
        }
    }

    fn scaled(&self, cols: Range<usize>) -> Scaled<'_> {
        let [scales, inverses, zeros] =
            [&self.scales, &self.inverses, &self.zeros].map(|of| &of[cols.clone()]);
        Scaled::new(scales, inverses, zeros, Each::Weight).unwrap()
    }
}

impl CodeInputs for AnyNumbers {
    fn part(&mut self, _: usize, cols: Range<usize>) -> Result<(Intervals<'_>, Scaled<'_>), DecodeError> {
        let intervals = Intervals { lo: &self.lo[cols.clone()], hi: &self.hi[cols.clone()] };
        Ok((intervals, self.scaled(cols)))
    }
}

impl FloatInputs for AnyNumbers {
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<Intervals<'_>, DecodeError> {
        Ok(CodeInputs::part(self, row, cols)?.0)
    }
}

/// Groups of zeros have a scale that makes their bins as narrow as can be: the level that stands for 0 costs nothing.
#[test]
fn a_point_has_the_code_whose_bin_it_is_in() {
    for backend in Backend::available() {
        let (numbers, zeros) = (vec![LEAST_SCALE; 100], vec![8.0; 100]);
        let mut inputs = AnyNumbers {
            lo: vec![0.0; 100],
            hi: vec![0.0; 100],
            inverses: vec![1.0 / LEAST_SCALE; 100],
            scales: numbers,
            zeros,
        };
        let coder = CodeRefiner::new(Edges::integers(16).unwrap(), Layout::Narrow).on(backend);
        let chunk = coder.encode(&[8; 100], 100, &mut inputs, &mut Scratch::default()).unwrap();
        assert_eq!(chunk.len(), 4 + 256);
        let mut back = [0; 100];
        coder.decode(&chunk, 100, &mut inputs, &mut back).unwrap();
        assert_eq!(back, [8; 100]);
    }
    let bad = [f32::NAN, f32::INFINITY, 0.0, -1.0, LEAST_SCALE / 2.0];
    assert!(bad.iter().all(|scale| Scaled::new(&[*scale], &[1.0], &[0.0], Each::Weight).is_none()));
    let bad = [f32::NAN, f32::NEG_INFINITY, 2.0 * WIDEST];
    assert!(bad.iter().all(|zero| Scaled::new(&[1.0], &[1.0], &[*zero], Each::Weight).is_none()));
    assert!(Scaled::new(&[1.0], &[1.0], &[], Each::Weight).is_none());
}

/// Numbers from 0 to 2^32 - 1, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
}

/// Such as a reader has: intervals of codes of 4 bits, and of the float that is sought scales and zero-points.
fn such_as_there_are(kind: Kind, len: usize, random: &mut Random) -> (AnyNumbers, Edges) {
    let weights = llm_like(len, len);
    let given = Quantiser::new(Kind::Even(16), &weights, len, 64, 0.0);
    let own = Quantiser::new(kind, &weights, len, 128, (random.next() % 3) as f32 - 1.0);
    let (mut lo, mut hi) = (vec![0.0; len], vec![0.0; len]);
    let each = |of: &Quantiser, numbers: &[f32]| (0..len).map(|at| numbers[of.of(at)]).collect::<Vec<_>>();
    let (scales, zeros) = (each(&given, &given.scales), each(&given, &given.zeros));
    let ranks = given.ranks(&weights, 1.0);
    let scaled = Scaled::new(&scales, &scales, &zeros, Each::Weight).unwrap();
    let bins = Bins { edges: &given.levels, ends: given.ends, ranks: &ranks, scaled };
    bins.begin(Backend::SCALAR, &mut lo, &mut hi).unwrap();
    let scales = each(&own, &own.scales);
    let inverses = scales.iter().map(|scale| 1.0 / scale).collect();
    (AnyNumbers { lo, hi, scales, inverses, zeros: each(&own, &own.zeros) }, own.levels)
}

#[test]
fn ten_million_states_are_decoded_alike() {
    let mut random = Random(5);
    let (len, rounds) = (1 << 14, 68);
    for kind in ALL_KINDS {
        let (usual, edges) = such_as_there_are(kind, len, &mut random);
        let any: Vec<[u32; 5]> = (0..len).map(|_| std::array::from_fn(|_| random.next())).collect();
        for (mut inputs, rounds) in [(usual, rounds), (AnyNumbers::of(&any), 1)] {
            for _ in 0..rounds {
                let noise: Vec<u8> = (0..len / 2 + 512).flat_map(|_| random.next().to_le_bytes()).collect();
                let mut codes = vec![0; 4];
                codes.extend(&noise[..512]);
                codes[4..].chunks_exact_mut(4).for_each(|state| state[3] |= 1);
                codes.extend(&noise[512..]);
                let decoded = Backend::available().into_iter().map(|backend| {
                    let mut out = vec![0; len];
                    let coder = CodeRefiner::new(edges.clone(), Layout::Wide).on(backend);
                    assert!(coder.decode(&codes, len, &mut inputs, &mut out).is_err(), "words are left over");
                    out
                });
                let decoded: Vec<_> = decoded.collect();
                assert!(decoded.windows(2).all(|pair| pair[0] == pair[1]), "{kind:?}");
                assert!(decoded[0].iter().any(|rank| *rank != decoded[0][0]), "{kind:?} tells nothing");
            }
        }
    }
}

#[test]
fn ten_million_states_of_floats_are_decoded_alike() {
    let mut random = Random(6);
    let (len, rounds) = (1 << 14, 154);
    let table = SymbolTable::from_histogram(&[1; 256]);
    for grid in [FloatGrid::Bf16, FloatGrid::HighHalf, FloatGrid::F16, FloatGrid::ShortF16] {
        let (mut usual, _) = such_as_there_are(Kind::Even(16), len, &mut random);
        // None is wide: what is so is listed behind.
        for (lo, hi) in usual.lo.iter_mut().zip(&mut usual.hi) {
            let [least, most] = [lo.abs().min(hi.abs()).max(1e-4), lo.abs().max(hi.abs())];
            let most = most.clamp(least, 8.0 * least);
            (*lo, *hi) = if *hi > 0.0 { (least, most) } else { (-most, -least) };
        }
        for _ in 0..rounds {
            let noise: Vec<u8> = (0..len / 2 + 512).flat_map(|_| random.next().to_le_bytes()).collect();
            let mut chunk = vec![0; 12];
            chunk.extend(&noise[..512]);
            chunk[12..].chunks_exact_mut(4).for_each(|state| state[3] |= 1);
            chunk.extend(&noise[512..]);
            let decoded = Backend::available().into_iter().map(|backend| {
                let mut out = vec![[0; 2]; len];
                let coder = FloatRefiner::new(grid, table.clone(), Layout::Wide).on(backend);
                assert!(coder.decode(&chunk, len, &mut usual, &mut out).is_err(), "words are left over");
                out
            });
            let decoded: Vec<_> = decoded.collect();
            assert!(decoded.windows(2).all(|pair| pair[0] == pair[1]), "{grid:?}");
            assert!(decoded[0].iter().all(|value| *value != [0; 2]), "{grid:?} has wide intervals");
        }
    }
}
