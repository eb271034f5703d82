//! 16 lanes a register: BF16 and the high halves of binary32.

#![allow(clippy::cast_possible_wrap, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _CMP_LE_OQ, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_andnot_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
    _mm512_cmpeq_epi32_mask, _mm512_cmpgt_epi32_mask, _mm512_cmple_epi32_mask, _mm512_cmplt_epi32_mask,
    _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_div_ps, _mm512_fmadd_ps, _mm512_mask_mov_epi32,
    _mm512_mask_set1_epi32, _mm512_maskz_mov_epi32, _mm512_maskz_srli_epi32, _mm512_max_epi32,
    _mm512_min_epi32, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_sub_epi32, _mm512_sub_ps, _mm512_test_epi32_mask,
    _mm512_xor_si512,
};
use std::array::from_mut;

use super::super::avx512::{BELOW_MIDDLE, END_SLOT, FIRST_SLOT, SHARES, advance, load, slots_of};
use super::super::{Intervals, SLOT_BITS};
use super::grid::{Cut, Grid as _};
use super::rows::{ALL_NEAR_ZERO, BINADES, LEAST, LEAST_PART};
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};
use crate::symbols::avx512::put;
use crate::x86::avx512::{load_lanes, load_words, store_lanes, store_words};

/// The bits of binary32 that a magnitude of 16 bits has, and what takes one to the next.
const MAGNITUDE: i32 = 0x7fff_0000;
const NEXT: i32 = 1 << 16;
const SIGN_BIT: i32 = i32::MIN;

/// The floats of 16 intervals; see [`super::rows::Floats`]. Magnitudes are bits of binary32.
#[derive(Clone, Copy)]
struct Floats {
    begin: __m512,
    end: __m512,
    width: __m512,
    density: __m512,
    near_zero: __m512i,
    mirror: __m512i,
    both_signs: __mmask16,
}

impl Floats {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn of(cut: __m512i, lo: __m512, hi: __m512) -> Self {
        let (lo, hi) = (_mm512_castps_si512(lo), _mm512_castps_si512(hi));
        let (sign, high_bits) = (_mm512_set1_epi32(SIGN_BIT), _mm512_set1_epi32(MAGNITUDE));
        let [low, high] = [lo, hi].map(|end| _mm512_andnot_si512(sign, end));
        // Bits of floats that are not negative ascend as they do.
        let (least, most) = (_mm512_min_epi32(low, high), _mm512_max_epi32(low, high));
        let part = _mm512_mul_ps(_mm512_castsi512_ps(most), _mm512_set1_ps(LEAST_PART));
        let few = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(part, _mm512_castsi512_ps(least));
        let both_signs = _mm512_test_epi32_mask(_mm512_xor_si512(lo, hi), sign);
        let tiny = _mm512_castps_si512(_mm512_set1_ps(LEAST));
        let wide = both_signs | !few | _mm512_cmplt_epi32_mask(least, tiny);
        let first = _mm512_and_si512(_mm512_add_epi32(least, cut), high_bits);
        let next = _mm512_set1_epi32(NEXT);
        // Of both signs the end of the last float below zero.
        let below = _mm512_or_si512(_mm512_add_epi32(_mm512_and_si512(least, high_bits), next), sign);
        let begin = _mm512_mask_mov_epi32(first, both_signs, below);
        let last = _mm512_max_epi32(_mm512_and_si512(most, high_bits), begin);
        let end = _mm512_add_epi32(last, next);
        let power = _mm512_and_si512(most, _mm512_set1_epi32(0x7f80_0000));
        let near_zero = _mm512_sub_epi32(power, _mm512_set1_epi32((BINADES << 23).cast_signed()));
        let has_near_zero = wide & _mm512_cmplt_epi32_mask(begin, near_zero);
        let near_zero = _mm512_maskz_mov_epi32(has_near_zero, near_zero);
        let mirror = _mm512_and_si512(hi, sign);
        let mirror = _mm512_mask_mov_epi32(mirror, _mm512_cmpgt_epi32_mask(low, high), sign);
        let all = wide & _mm512_cmplt_epi32_mask(most, tiny);
        let of = |begin, end, near_zero, both_signs| {
            let (begin, end) = (_mm512_castsi512_ps(begin), _mm512_castsi512_ps(end));
            let width = _mm512_sub_ps(end, begin);
            let density = _mm512_div_ps(_mm512_set1_ps(1.0), width);
            Self { begin, end, width, density, near_zero, mirror, both_signs }
        };
        if all == 0 {
            return of(begin, end, near_zero, both_signs);
        }
        let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
        let begin = _mm512_mask_mov_epi32(begin, all, one);
        let end = _mm512_mask_mov_epi32(end, all, _mm512_add_epi32(one, next));
        let beyond = _mm512_castps_si512(_mm512_set1_ps(ALL_NEAR_ZERO));
        of(begin, end, _mm512_mask_mov_epi32(near_zero, all, beyond), both_signs | all)
    }

    /// Where the slots of floats with these bits begin and end, or of all that is near zero, in either order.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn edges(self, magnitude: __m512i, sign: __m512i, near_zero: __mmask16) -> [__m512; 2] {
        let near = _mm512_or_si512(magnitude, sign);
        let far = _mm512_add_epi32(near, _mm512_set1_epi32(NEXT));
        let near = _mm512_mask_mov_epi32(near, near_zero, self.near_zero);
        let below_zero = _mm512_or_si512(self.near_zero, _mm512_set1_epi32(SIGN_BIT));
        [near, _mm512_mask_mov_epi32(far, near_zero, below_zero)].map(|edge| _mm512_castsi512_ps(edge))
    }

    /// The slots between two edges, in either order: the first one, and the first that is not.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn slots(self, edges: [__m512; 2]) -> [__m512i; 2] {
        let [a, b] = edges.map(|edge| {
            let share = _mm512_mul_ps(_mm512_sub_ps(edge, self.begin), self.density);
            _mm512_castps_si512(_mm512_add_ps(share, _mm512_set1_ps(SHARES)))
        });
        // Bits of positive floats ascend as these do, and those of negative ones are below them as signed integers.
        let first = _mm512_max_epi32(_mm512_min_epi32(a, b), _mm512_set1_epi32(FIRST_SLOT));
        [first, _mm512_min_epi32(_mm512_max_epi32(a, b), _mm512_set1_epi32(END_SLOT))]
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    cut: Cut,
    intervals: Intervals,
    out: &mut [Half],
    near_zero: &mut dyn FnMut(usize),
) -> Result<(), DecodeError> {
    let mut sets = [load_lanes(states.set(0)), load_lanes(states.set(1))];
    let both = states.sets().len() == 2;
    let (blocks, rest) = out.as_chunks_mut();
    let (lo, hi) = (intervals.lo.as_chunks().0, intervals.hi.as_chunks().0);
    // In pairs of a block of each set, without a choice between the sets: so they stay in registers.
    let whole = blocks.len();
    let (pairs, odd) = blocks.as_chunks_mut::<2>();
    let ends = lo.as_chunks::<2>().0.iter().zip(hi.as_chunks::<2>().0);
    for (number, ([first, second], (lo, hi))) in pairs.iter_mut().zip(ends).enumerate() {
        let (listed, used) = decode_block(&mut sets[0], words.window()?, cut, &lo[0], &hi[0], first);
        words.skip(used);
        each_lane(listed, |lane| near_zero(2 * number * LANES + lane));
        let set = if both { &mut sets[1] } else { &mut sets[0] };
        let (listed, used) = decode_block(set, words.window()?, cut, &lo[1], &hi[1], second);
        words.skip(used);
        each_lane(listed, |lane| near_zero((2 * number + 1) * LANES + lane));
    }
    if let ([out], Some(lo), Some(hi)) = (odd, lo.last(), hi.last()) {
        let (listed, used) = decode_block(&mut sets[0], words.window()?, cut, lo, hi, out);
        words.skip(used);
        each_lane(listed, |lane| near_zero((whole - 1) * LANES + lane));
    }
    if !rest.is_empty() {
        let [lo, hi] = intervals.rest(whole * LANES);
        let mut values = [[0; 2]; LANES];
        let set = if both && whole % 2 == 1 { &mut sets[1] } else { &mut sets[0] };
        let (listed, used) = decode_block(set, words.window()?, cut, &lo, &hi, &mut values);
        words.skip(used);
        rest.copy_from_slice(&values[..rest.len()]);
        each_lane(listed, |lane| near_zero(whole * LANES + lane));
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

/// Decodes a float in each lane; returns the lanes of those near zero and how many words were read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block(
    lanes: &mut [__m512i; 4],
    window: &[u8; WINDOW],
    cut: Cut,
    lo: &[f32; LANES],
    hi: &[f32; LANES],
    out: &mut [Half; LANES],
) -> (u64, usize) {
    let none = _mm512_setzero_si512();
    let (mut values, mut found, mut listed, mut missed) = ([none; 4], [[none; 2]; 4], 0, 0);
    let add = _mm512_set1_epi32(cut.0.cast_signed());
    for quarter in 0..4 {
        let part = |ends: &[f32; LANES]| load(&ends.as_chunks().0[quarter]);
        let floats = Floats::of(add, part(lo), part(hi));
        let slot = slots_of(lanes[quarter]);
        let share = _mm512_sub_ps(_mm512_castsi512_ps(slot), _mm512_set1_ps(BELOW_MIDDLE));
        // Where to look first may be rounded in any way.
        let place = _mm512_castps_si512(_mm512_fmadd_ps(share, floats.width, floats.begin));
        let magnitude = _mm512_and_si512(place, _mm512_set1_epi32(MAGNITUDE));
        let sign = _mm512_and_si512(place, _mm512_set1_epi32(SIGN_BIT));
        let near_zero = _mm512_cmplt_epi32_mask(magnitude, floats.near_zero);
        let slots = floats.slots(floats.edges(magnitude, sign, near_zero));
        let lacking = _mm512_cmplt_epi32_mask(slot, slots[0]) | _mm512_cmple_epi32_mask(slots[1], slot);
        missed |= u64::from(lacking) << (16 * quarter);
        found[quarter] = [_mm512_sub_epi32(slot, slots[0]), _mm512_sub_epi32(slots[1], slots[0])];
        let value = _mm512_or_si512(magnitude, _mm512_xor_si512(sign, floats.mirror));
        values[quarter] = _mm512_maskz_srli_epi32::<16>(!near_zero, value);
        listed |= u64::from(near_zero) << (16 * quarter);
    }
    if missed != 0 {
        search((missed, lanes), cut, [lo, hi], (&mut values, &mut found, &mut listed));
    }
    let mut used = 0;
    for (quarter, out) in out.as_flattened_mut().as_chunks_mut::<32>().0.iter_mut().enumerate() {
        lanes[quarter] = advance(lanes[quarter], found[quarter], window, &mut used);
        store_words(out, _mm512_cvtepi32_epi16(values[quarter]), 16);
    }
    (listed, used)
}

/// Finds the floats that are beside where they were looked for, by rounding.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn search(
    (missed, lanes): (u64, &[__m512i; 4]),
    cut: Cut,
    [lo, hi]: [&[f32; LANES]; 2],
    (values, found, listed): (&mut [__m512i; 4], &mut [[__m512i; 2]; 4], &mut u64),
) {
    let mut states = [0; LANES];
    store_lanes(&mut states, *lanes);
    each_lane(missed, |lane| {
        let slot = states[lane] & 0xffff;
        let floats = super::rows::Floats::of(cut, lo[lane], hi[lane]);
        let (value, is_near_zero, [first, end]) = floats.decode(f32::from(slot as u16));
        let (quarter, mask) = (lane / 16, 1 << (lane % 16));
        let put = |to: &mut __m512i, value: u32| {
            *to = _mm512_mask_set1_epi32(*to, mask, value.cast_signed());
        };
        put(&mut values[quarter], value.into());
        put(&mut found[quarter][0], slot.wrapping_sub(first));
        put(&mut found[quarter][1], end - first);
        *listed = *listed & !(1 << lane) | u64::from(is_near_zero) << lane;
    });
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

/// Codes a float in each lane, of those near zero no more than that; returns the lanes of those that are not in their
/// intervals.
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
        let value = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_words(values)));
        let value = _mm512_xor_si512(value, floats.mirror);
        let magnitude = _mm512_and_si512(value, _mm512_set1_epi32(MAGNITUDE));
        let sign = _mm512_and_si512(value, _mm512_set1_epi32(SIGN_BIT));
        let near_zero = _mm512_cmplt_epi32_mask(magnitude, floats.near_zero);
        let beyond = _mm512_castps_si512(_mm512_set1_ps(ALL_NEAR_ZERO));
        let near_zero = near_zero | _mm512_cmpeq_epi32_mask(floats.near_zero, beyond);
        let has_sign = floats.both_signs | !_mm512_test_epi32_mask(sign, sign);
        let edges = floats.edges(magnitude, sign, 0);
        let within = edges.iter().fold(!near_zero, |within, edge| {
            let behind = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(floats.begin, *edge);
            within & behind & _mm512_cmp_ps_mask::<_CMP_LE_OQ>(*edge, floats.end)
        });
        let near_zero = near_zero & has_sign;
        // The last one in place of those that are not in the interval.
        let last = _mm512_sub_epi32(_mm512_castps_si512(floats.end), _mm512_set1_epi32(NEXT));
        let fits = within | near_zero;
        let magnitude = _mm512_mask_mov_epi32(last, fits, magnitude);
        let [first, end] =
            floats.slots(floats.edges(magnitude, _mm512_maskz_mov_epi32(fits, sign), near_zero));
        firsts[quarter] = _mm512_sub_epi32(first, _mm512_set1_epi32(FIRST_SLOT));
        frequencies[quarter] = _mm512_sub_epi32(end, first);
        missed |= u64::from(!fits) << (16 * quarter);
    }
    put::<SLOT_BITS, 1>(from_mut(lanes), words, &[frequencies], !0, |_, quarter, offset| {
        _mm512_add_epi32(firsts[quarter], offset)
    });
    missed
}
