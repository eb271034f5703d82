//! How the states of a block take what has been found: 8 lanes a register. To find it, the portable code is compiled
//! for these instructions.

#![allow(clippy::cast_possible_wrap, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    _mm256_add_epi32, _mm256_and_si256, _mm256_blendv_epi8, _mm256_cmpeq_epi32, _mm256_mullo_epi32,
    _mm256_or_si256, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_sub_epi32,
};

use super::SLOT_BITS;
use super::lanes::Slots;
use crate::stream::{LANES, WINDOW, WordWriter};
use crate::symbols::avx2::put;
use crate::x86::avx2::{load_8_lanes, marked, store_8_lanes, wide_words_for};

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
