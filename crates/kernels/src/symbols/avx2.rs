//! 8 lanes a register, eight registers a block.

#![allow(clippy::cast_possible_wrap, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    __m256i, _mm_packus_epi16, _mm_packus_epi32, _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_mullo_epi32, _mm256_set1_epi32, _mm256_srli_epi32,
};

use super::{SLOTS, scalar};
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader};
use crate::table::TABLE_BITS;
use crate::x86::avx2::{gather, load_lanes, refill, store_lanes};
use crate::x86::store_16;

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    table: &[u32; SLOTS],
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    // The lanes stay in memory between blocks: there are twice as many as there are registers anyway.
    let last = blocks.len();
    for (number, block) in blocks.iter_mut().enumerate() {
        let set = states.set(number);
        let mut lanes = load_lanes(set);
        let used = decode_block(&mut lanes, words.window()?, table, block);
        words.skip(used);
        store_lanes(set, lanes);
    }
    if !rest.is_empty() {
        let used = scalar::decode_block(states.set(last), words.window()?, table, rest);
        words.skip(used);
    }
    Ok(())
}

/// Decodes a symbol in each lane; returns how many words were read.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block(
    lanes: &mut [__m256i; 8],
    window: &[u8; WINDOW],
    table: &[u32; SLOTS],
    out: &mut [u8; LANES],
) -> usize {
    let mut used = 0;
    for (pair, out) in lanes.as_chunks_mut::<2>().0.iter_mut().zip(out.as_chunks_mut::<16>().0) {
        let low = decode_eighth(&mut pair[0], window, table, &mut used);
        let high = decode_eighth(&mut pair[1], window, table, &mut used);
        let low = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
        let high = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high));
        store_16(out, _mm_packus_epi16(low, high));
    }
    used
}

/// Decodes a symbol in each of 8 lanes, and returns them in the low bytes of the lanes.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_eighth(
    state: &mut __m256i,
    window: &[u8; WINDOW],
    table: &[u32; SLOTS],
    used: &mut usize,
) -> __m256i {
    let slot = gather(table, *state);
    let frequency = _mm256_and_si256(_mm256_srli_epi32::<8>(slot), _mm256_set1_epi32(0xfff));
    let offset = _mm256_srli_epi32::<20>(slot);
    let product = _mm256_mullo_epi32(frequency, _mm256_srli_epi32::<{ TABLE_BITS as i32 }>(*state));
    *state = refill(_mm256_add_epi32(product, offset), window, used);
    _mm256_and_si256(slot, _mm256_set1_epi32(0xff))
}
