//! 16 lanes a register: BF16 and the high halves of binary32.

#![allow(clippy::cast_possible_wrap, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _CMP_LE_OQ, _CMP_LT_OQ, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cmpgt_epu32_mask,
    _mm512_cmple_epi32_mask, _mm512_cmplt_epi32_mask, _mm512_cmplt_epu32_mask, _mm512_cvtepi32_epi16,
    _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_div_ps, _mm512_fmsub_ps, _mm512_mask_add_ps,
    _mm512_mask_sub_epi32, _mm512_mask_sub_ps, _mm512_maskz_mov_ps, _mm512_max_epi32, _mm512_max_ps,
    _mm512_min_epi32, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_srli_epi32, _mm512_sub_epi32, _mm512_sub_ps, _mm512_test_epi32_mask,
    _mm512_testn_epi32_mask, _mm512_xor_si512,
};
use std::array::from_mut;

use super::super::avx512::{BELOW_MIDDLE, FIRST_SLOT, SHARES, advance, load, slots_of};
use super::super::{INTEGER, Intervals, SLOT_BITS};
use super::SIGN;
use super::grid::{Cut, Grid as _};
use super::rows::LEAST_PART;
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};
use crate::symbols::avx512::put;
use crate::x86::avx512::{load_lanes, load_words, store_lanes, store_words};

/// The floats of 16 intervals; see [`super::rows::Floats`].
#[derive(Clone, Copy)]
struct Floats {
    first: __m512i,
    count: __m512,
    density: __m512,
    sign: __m512i,
    wide: __mmask16,
}

impl Floats {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn of(cut: __m512i, lo: __m512, hi: __m512) -> Self {
        let (lo, hi) = (_mm512_castps_si512(lo), _mm512_castps_si512(hi));
        let magnitudes = [lo, hi].map(|end| _mm512_and_si512(end, _mm512_set1_epi32(i32::MAX)));
        // Bits of floats that are not negative ascend as they do.
        let least = _mm512_min_epi32(magnitudes[0], magnitudes[1]);
        let most = _mm512_max_epi32(magnitudes[0], magnitudes[1]);
        let part = _mm512_mul_ps(_mm512_castsi512_ps(most), _mm512_set1_ps(LEAST_PART));
        let near = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(part, _mm512_castsi512_ps(least));
        let both_signs = _mm512_test_epi32_mask(_mm512_xor_si512(lo, hi), _mm512_set1_epi32(i32::MIN));
        let wide = both_signs | !near | _mm512_testn_epi32_mask(least, least);
        let first = _mm512_srli_epi32::<16>(_mm512_add_epi32(least, cut));
        let last = _mm512_srli_epi32::<16>(most);
        let more = _mm512_cmpgt_epu32_mask(last, first) & !wide;
        // 1, and as many more as there are between.
        let one = _mm512_set1_epi32(1);
        let count = _mm512_mask_sub_epi32(one, more, one, _mm512_sub_epi32(first, last));
        let count = _mm512_cvtepi32_ps(count);
        let density = _mm512_div_ps(_mm512_set1_ps(1.0), count);
        let sign = _mm512_and_si512(_mm512_srli_epi32::<16>(hi), _mm512_set1_epi32(i32::from(SIGN)));
        Self { first, count, density, sign, wide }
    }

    /// The slots of float number `index`: the first one, and the first that is not.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn slots(self, index: __m512) -> [__m512i; 2] {
        let next = _mm512_add_ps(index, _mm512_set1_ps(1.0));
        [index, next].map(|index| {
            let share = _mm512_mul_ps(index, self.density);
            _mm512_castps_si512(_mm512_add_ps(share, _mm512_set1_ps(SHARES)))
        })
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    cut: Cut,
    intervals: Intervals,
    out: &mut [Half],
    wide: &mut dyn FnMut(usize),
) -> Result<(), DecodeError> {
    let cut = _mm512_set1_epi32(cut.0.cast_signed());
    let mut sets = [load_lanes(states.set(0)), load_lanes(states.set(1))];
    let both = states.sets().len() == 2;
    let (blocks, rest) = out.as_chunks_mut();
    let (lo, hi) = (intervals.lo.as_chunks().0, intervals.hi.as_chunks().0);
    // In pairs of a block of each set, without a choice between the sets: so they stay in registers.
    let whole = blocks.len();
    let (pairs, odd) = blocks.as_chunks_mut::<2>();
    let ends = lo.as_chunks::<2>().0.iter().zip(hi.as_chunks::<2>().0);
    for (number, ([first, second], (lo, hi))) in pairs.iter_mut().zip(ends).enumerate() {
        let (of_wide, used) = decode_block(&mut sets[0], words.window()?, cut, &lo[0], &hi[0], first);
        words.skip(used);
        each_lane(of_wide, |lane| wide(2 * number * LANES + lane));
        let set = if both { &mut sets[1] } else { &mut sets[0] };
        let (of_wide, used) = decode_block(set, words.window()?, cut, &lo[1], &hi[1], second);
        words.skip(used);
        each_lane(of_wide, |lane| wide((2 * number + 1) * LANES + lane));
    }
    if let ([out], Some(lo), Some(hi)) = (odd, lo.last(), hi.last()) {
        let (of_wide, used) = decode_block(&mut sets[0], words.window()?, cut, lo, hi, out);
        words.skip(used);
        each_lane(of_wide, |lane| wide((whole - 1) * LANES + lane));
    }
    if !rest.is_empty() {
        let [lo, hi] = intervals.rest(whole * LANES);
        let mut values = [[0; 2]; LANES];
        let set = if both && whole % 2 == 1 { &mut sets[1] } else { &mut sets[0] };
        let (of_wide, used) = decode_block(set, words.window()?, cut, &lo, &hi, &mut values);
        words.skip(used);
        rest.copy_from_slice(&values[..rest.len()]);
        each_lane(of_wide, |lane| wide(whole * LANES + lane));
    }
    store_lanes(states.set(0), sets[0]);
    if both {
        store_lanes(states.set(1), sets[1]);
    }
    Ok(())
}

/// Calls `work` with each lane that a mask has.
#[inline]
fn each_lane(mut lanes: u64, mut work: impl FnMut(usize)) {
    while lanes != 0 {
        work(lanes.trailing_zeros() as usize);
        lanes &= lanes - 1;
    }
}

/// Decodes a float in each lane; returns the lanes whose intervals are wide and how many words were read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block(
    lanes: &mut [__m512i; 4],
    window: &[u8; WINDOW],
    cut: __m512i,
    lo: &[f32; LANES],
    hi: &[f32; LANES],
    out: &mut [Half; LANES],
) -> (u64, usize) {
    let magic = _mm512_set1_ps(INTEGER);
    let none = _mm512_setzero_si512();
    let (mut values, mut found, mut wide) = ([none; 4], [[none; 2]; 4], 0);
    for quarter in 0..4 {
        let part = |ends: &[f32; LANES]| load(&ends.as_chunks().0[quarter]);
        let floats = Floats::of(cut, part(lo), part(hi));
        let slot = slots_of(lanes[quarter]);
        let share = _mm512_sub_ps(_mm512_castsi512_ps(slot), _mm512_set1_ps(BELOW_MIDDLE));
        // Where to look first may be rounded in any way.
        let index = _mm512_fmsub_ps(share, floats.count, _mm512_set1_ps(0.5));
        let index = _mm512_max_ps(index, _mm512_setzero_ps());
        let mut above = _mm512_add_ps(index, magic);
        let mut slots = floats.slots(_mm512_sub_ps(above, magic));
        let before = _mm512_cmplt_epi32_mask(slot, slots[0]);
        let behind = _mm512_cmple_epi32_mask(slots[1], slot);
        if before | behind != 0 {
            // By rounding it is the one before or after that.
            let one = _mm512_set1_ps(1.0);
            above = _mm512_mask_add_ps(_mm512_mask_sub_ps(above, before, above, one), behind, above, one);
            slots = floats.slots(_mm512_sub_ps(above, magic));
        }
        found[quarter] = [_mm512_sub_epi32(slot, slots[0]), _mm512_sub_epi32(slots[1], slots[0])];
        // Of the bits above the integer, only those are left out that a float of 16 bits has none of.
        let magnitude = _mm512_add_epi32(floats.first, _mm512_castps_si512(above));
        values[quarter] = _mm512_or_si512(magnitude, floats.sign);
        wide |= u64::from(floats.wide) << (16 * quarter);
    }
    let mut used = 0;
    for (quarter, out) in out.as_flattened_mut().as_chunks_mut::<32>().0.iter_mut().enumerate() {
        lanes[quarter] = advance(lanes[quarter], found[quarter], window, &mut used);
        store_words(out, _mm512_cvtepi32_epi16(values[quarter]), 16);
    }
    (wide, used)
}

/// Codes the floats of a row, its last one first; see [`super::rows::encode_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    cut: Cut,
    intervals: Intervals,
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    let add = _mm512_set1_epi32(cut.0.cast_signed());
    let mut sets = [load_lanes(states.set(0)), load_lanes(states.set(1))];
    let both = usize::from(states.sets().len() == 2);
    let (blocks, rest) = values.as_chunks();
    if !rest.is_empty() {
        let start = blocks.len() * LANES;
        let [lo, hi] = intervals.rest(start);
        // The one float that there is.
        let one = u16::try_from(cut.to(1.0)).unwrap_or_default();
        let mut all = [one.to_le_bytes(); LANES];
        all[..rest.len()].copy_from_slice(rest);
        let missed = encode_block(&mut sets[blocks.len() & both], words, add, &lo, &hi, &all);
        each_lane(missed, |lane| outside(start + lane));
    }
    let ends = intervals.lo.as_chunks().0.iter().zip(intervals.hi.as_chunks().0);
    for (number, (values, (lo, hi))) in blocks.iter().zip(ends).enumerate().rev() {
        let missed = encode_block(&mut sets[number & both], words, add, lo, hi, values);
        each_lane(missed, |lane| outside(number * LANES + lane));
    }
    store_lanes(states.set(0), sets[0]);
    if both == 1 {
        store_lanes(states.set(1), sets[1]);
    }
}

/// Codes a float in each lane whose interval is not wide; returns the lanes of those that are not in theirs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_block(
    lanes: &mut [__m512i; 4],
    words: &mut WordWriter,
    cut: __m512i,
    lo: &[f32; LANES],
    hi: &[f32; LANES],
    values: &[Half; LANES],
) -> u64 {
    let none = _mm512_setzero_si512();
    let (mut firsts, mut frequencies, mut missed) = ([none; 4], [none; 4], 0u64);
    for (quarter, values) in values.as_flattened().as_chunks::<32>().0.iter().enumerate() {
        let part = |ends: &[f32; LANES]| load(&ends.as_chunks().0[quarter]);
        let floats = Floats::of(cut, part(lo), part(hi));
        // Of another sign it has an index beyond all.
        let value = _mm512_xor_si512(_mm512_cvtepu16_epi32(load_words(values)), floats.sign);
        let below = _mm512_cmplt_epu32_mask(value, floats.first);
        let index = _mm512_cvtepi32_ps(_mm512_sub_epi32(value, floats.first));
        let fits = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(index, floats.count) & !below;
        let [first, end] = floats.slots(_mm512_maskz_mov_ps(fits & !floats.wide, index));
        firsts[quarter] = _mm512_sub_epi32(first, _mm512_set1_epi32(FIRST_SLOT));
        frequencies[quarter] = _mm512_sub_epi32(end, first);
        missed |= u64::from(!fits & !floats.wide) << (16 * quarter);
    }
    put::<SLOT_BITS, 1>(from_mut(lanes), words, &[frequencies], !0, |_, quarter, offset| {
        _mm512_add_epi32(firsts[quarter], offset)
    });
    missed
}
