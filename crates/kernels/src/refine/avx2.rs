//! 8 lanes a register: codes of integers, and how the states of a block take what has been found. All else is the
//! portable code, compiled for these instructions.

#![allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_packus_epi16, _mm_packus_epi32, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_blendv_epi8, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cmpeq_epi32, _mm256_cmpgt_epi32, _mm256_div_ps, _mm256_extracti128_si256, _mm256_max_epi32,
    _mm256_max_ps, _mm256_min_epi32, _mm256_mul_ps, _mm256_mullo_epi32, _mm256_or_si256, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_sub_epi32,
    _mm256_sub_ps, _mm256_xor_si256,
};

use super::lanes::Slots;
use super::levels::{Integers, Levels};
use super::row::{Block, Each, PaddedBlock, Row, SIXTEENS};
use super::{ABOVE, INTEGER, NARROWEST, SLOT_BITS, SLOTS, scalar};
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};
use crate::symbols::avx2::put;
use crate::x86::avx2::{load_8_floats, load_8_lanes, marked, store_8_lanes, wide_words_for};
use crate::x86::store_16;

/// Decodes the ranks of integers of a row; see [`scalar::decode_row`].
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_integers(
    states: &mut States,
    words: &mut WordReader,
    levels: Integers,
    row: Row,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    match row.scaled.each {
        Each::Weight => decode_scaled::<LANES>(states, words, levels, row, out),
        Each::Sixteen => decode_scaled::<SIXTEENS>(states, words, levels, row, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_scaled<const N: usize>(
    states: &mut States,
    words: &mut WordReader,
    levels: Integers,
    row: Row,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let mut slots = Slots::NONE;
    let (blocks, rest) = out.as_chunks_mut();
    for (number, out) in blocks.iter_mut().enumerate() {
        let set = states.set(number);
        find(levels, &Block::<N>::of(row, number), set, out, &mut slots);
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
    }
    if !rest.is_empty() {
        let (set, mut ranks) = (states.set(blocks.len()), [0; LANES]);
        find(levels, &PaddedBlock::of(row, blocks.len()).block(), set, &mut ranks, &mut slots);
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
        rest.copy_from_slice(&ranks[..rest.len()]);
    }
    Ok(())
}

/// The rank that has the slot of each state, and its slots.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn find<const N: usize>(
    levels: Integers,
    block: &Block<N>,
    set: &[u32; LANES],
    ranks: &mut [u8; LANES],
    found: &mut Slots,
) {
    let last = _mm256_castps_si256(_mm256_set1_ps(levels.last() + INTEGER));
    let mut missed = _mm256_setzero_si256();
    let all = found.first.as_chunks_mut::<16>().0.iter_mut().zip(found.end.as_chunks_mut::<16>().0);
    let states = set.as_chunks::<16>().0.iter().zip(ranks.as_chunks_mut::<16>().0);
    for (quarter, ((states, ranks), (firsts, ends))) in states.zip(all).enumerate() {
        let mut halves = [_mm256_setzero_si256(); 2];
        for (half, packed) in halves.iter_mut().enumerate() {
            let eighth = 2 * quarter + half;
            let state = load_8_lanes(&states.as_chunks().0[half]);
            let slot = _mm256_and_si256(state, _mm256_set1_epi32(0xffff));
            let slot = _mm256_or_si256(slot, _mm256_set1_epi32(ABOVE));
            let weights = Weights::of(block, eighth);
            let rank = weights.near(slot, of_eighth(block.inverses, eighth), last);
            let [first, end] = weights.slots(rank, last);
            let before = _mm256_cmpgt_epi32(first, slot);
            let within = _mm256_cmpgt_epi32(end, slot);
            let outside = _mm256_xor_si256(within, _mm256_set1_epi32(-1));
            missed = _mm256_or_si256(missed, _mm256_or_si256(before, outside));
            store_8_lanes(
                &mut firsts.as_chunks_mut().0[half],
                _mm256_sub_epi32(first, _mm256_set1_epi32(ABOVE)),
            );
            store_8_lanes(&mut ends.as_chunks_mut().0[half], _mm256_sub_epi32(end, _mm256_set1_epi32(ABOVE)));
            *packed = _mm256_and_si256(rank, _mm256_set1_epi32(0xff));
        }
        let [low, high] = halves.map(|half| narrow(half));
        store_16(ranks, _mm_packus_epi16(low, high));
    }
    if marked(missed) != 0 {
        scalar::search(levels, block, set, ranks, found);
    }
}

/// 8 numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn narrow(numbers: __m256i) -> __m128i {
    _mm_packus_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers))
}

/// Of the numbers of a block those of an eighth.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn of_eighth<const N: usize>(of: &[f32; N], eighth: usize) -> __m256 {
    if N == LANES { load_8_floats(&of.as_chunks().0[eighth]) } else { _mm256_set1_ps(of[eighth / 2]) }
}

/// What is known of 8 weights, and how their codes are scaled.
#[derive(Clone, Copy)]
struct Weights {
    lo: __m256,
    width: __m256,
    density: __m256,
    scale: __m256,
    zero: __m256,
}

impl Weights {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn of<const N: usize>(block: &Block<N>, eighth: usize) -> Self {
        let [lo, hi] = [block.lo, block.hi].map(|ends| load_8_floats(&ends.as_chunks().0[eighth]));
        let width = _mm256_sub_ps(hi, lo);
        let widest = _mm256_max_ps(width, _mm256_set1_ps(NARROWEST));
        let density = _mm256_div_ps(_mm256_set1_ps(SLOTS), widest);
        let [scale, zero] = [block.scales, block.zeros].map(|of| of_eighth(of, eighth));
        Self { lo, width, density, scale, zero }
    }

    /// Ranks that have these slots, or those beside, above [`ABOVE`].
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn near(self, slot: __m256i, inverse: __m256, last: __m256i) -> __m256i {
        let place = _mm256_sub_ps(_mm256_castsi256_ps(slot), _mm256_set1_ps(INTEGER - 0.5));
        let unit = _mm256_mul_ps(self.width, _mm256_set1_ps(1.0 / SLOTS));
        let middle = _mm256_add_ps(_mm256_mul_ps(place, unit), self.lo);
        let level = _mm256_add_ps(_mm256_mul_ps(middle, inverse), self.zero);
        let rank = _mm256_castps_si256(_mm256_add_ps(level, _mm256_set1_ps(INTEGER)));
        // Bits of positive floats ascend as these do, and those of negative ones are below them as signed integers.
        _mm256_min_epi32(_mm256_max_epi32(rank, _mm256_set1_epi32(ABOVE)), last)
    }

    /// The first slots behind edges, above [`ABOVE`], but for those beyond all slots.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn slot(self, edge: __m256) -> __m256i {
        let edge = _mm256_mul_ps(_mm256_sub_ps(edge, self.zero), self.scale);
        let slot = _mm256_mul_ps(_mm256_sub_ps(edge, self.lo), self.density);
        _mm256_castps_si256(_mm256_add_ps(slot, _mm256_set1_ps(INTEGER)))
    }

    /// The slots of ranks above [`ABOVE`]: the first one, and the first that is not, likewise.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn slots(self, rank: __m256i, last: __m256i) -> [__m256i; 2] {
        let number = _mm256_sub_ps(_mm256_castsi256_ps(rank), _mm256_set1_ps(INTEGER));
        let half = _mm256_set1_ps(0.5);
        let below = self.slot(_mm256_sub_ps(number, half));
        let above = self.slot(_mm256_add_ps(number, half));
        let (none, all) = (_mm256_set1_epi32(ABOVE), _mm256_set1_epi32(ABOVE + (1 << SLOT_BITS)));
        let some = _mm256_cmpgt_epi32(rank, none);
        let more = _mm256_cmpgt_epi32(last, rank);
        // A first slot may lie behind all of them: then the rank has none.
        let first = _mm256_blendv_epi8(none, _mm256_max_epi32(below, none), some);
        let end = _mm256_max_epi32(_mm256_min_epi32(above, all), none);
        [first, _mm256_blendv_epi8(all, end, more)]
    }
}

/// See [`super::lanes::advance`].
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn advance(set: &mut [u32; LANES], slots: &Slots, window: &[u8; WINDOW]) -> usize {
    let mut wanting = 0u64;
    let all = slots.first.as_chunks().0.iter().zip(slots.end.as_chunks().0);
    for (eighth, (states, (first, end))) in set.as_chunks_mut().0.iter_mut().zip(all).enumerate() {
        let (state, first, end) = (load_8_lanes(states), load_8_lanes(first), load_8_lanes(end));
        let slot = _mm256_and_si256(state, _mm256_set1_epi32(0xffff));
        let product = _mm256_mullo_epi32(_mm256_sub_epi32(end, first), _mm256_srli_epi32::<16>(state));
        let next = _mm256_add_epi32(product, _mm256_sub_epi32(slot, first));
        let want = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(next), _mm256_setzero_si256());
        let lanes = marked(want);
        let read = wide_words_for(window, wanting, eighth, lanes);
        let next = _mm256_blendv_epi8(next, _mm256_slli_epi32::<16>(next), want);
        store_8_lanes(states, _mm256_or_si256(next, read));
        wanting |= u64::from(lanes) << (8 * eighth);
    }
    wanting.count_ones() as usize
}

/// See [`super::lanes::put_all`].
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn put_all(set: &mut [u32; LANES], words: &mut WordWriter, slots: &Slots) {
    let all = slots.first.as_chunks().0.iter().zip(slots.end.as_chunks().0);
    for (states, (first, end)) in set.as_chunks_mut().0.iter_mut().zip(all).rev() {
        let (first, end) = (load_8_lanes(first), load_8_lanes(end));
        let active = _mm256_set1_epi32(-1);
        let frequency = _mm256_sub_epi32(end, first);
        let (high, offset) = put::<{ SLOT_BITS as i32 }>(load_8_lanes(states), words, frequency, active);
        store_8_lanes(states, _mm256_add_epi32(high, _mm256_add_epi32(first, offset)));
    }
}
