//! 8 lanes a register, eight registers a block.

#![allow(clippy::cast_possible_wrap, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    __m256i, _mm_packus_epi16, _mm_packus_epi32, _mm256_add_epi32, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmpeq_epi32, _mm256_extracti128_si256,
    _mm256_movemask_ps, _mm256_mullo_epi32, _mm256_or_si256, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_slli_epi32, _mm256_srli_epi32,
};

use super::{Framed, scalar};
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader};
use crate::table::TABLE_BITS;
use crate::x86::avx2::{Slots, load_8_lanes, store_8_lanes, wide_words_for};
use crate::x86::store_16;

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    table: &Framed,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    // The lanes stay in memory between blocks: there are twice as many as there are registers anyway, and slots are read from there.
    let mut slots = [Slots::of(states.set(0)), Slots::of(states.set(1))];
    let both = states.sets().len() - 1;
    let last = blocks.len();
    for (number, block) in blocks.iter_mut().enumerate() {
        let slots = &mut slots[number & both & 1];
        let used = decode_block(states.set(number), slots, words.window()?, table, block);
        words.skip(used);
    }
    if !rest.is_empty() {
        let used = scalar::decode_block(states.set(last), words.window()?, &table.slots, rest);
        words.skip(used);
    }
    Ok(())
}

/// Decodes a symbol in each lane; returns how many words were read.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block(
    set: &mut [u32; LANES],
    slots: &mut Slots,
    window: &[u8; WINDOW],
    table: &Framed,
    out: &mut [u8; LANES],
) -> usize {
    let quarters = set.as_chunks_mut().0;
    let out = out.as_chunks_mut().0;
    let wanting = decode_quarter::<0>(&mut quarters[0], slots, window, table, 0, &mut out[0]);
    let wanting = decode_quarter::<1>(&mut quarters[1], slots, window, table, wanting, &mut out[1]);
    let wanting = decode_quarter::<2>(&mut quarters[2], slots, window, table, wanting, &mut out[2]);
    let wanting = decode_quarter::<3>(&mut quarters[3], slots, window, table, wanting, &mut out[3]);
    wanting.count_ones() as usize
}

/// Decodes a symbol in each of 16 lanes. `wanting` are the lanes that needed a word, to which it adds its own.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_quarter<const QUARTER: usize>(
    states: &mut [u32; 16],
    slots: &mut Slots,
    window: &[u8; WINDOW],
    table: &Framed,
    wanting: u64,
    out: &mut [u8; 16],
) -> u64 {
    let entries = slots.entries(table, QUARTER);
    let eighths = states.as_chunks_mut::<8>().0;
    let (low, wanting) = next(load_8_lanes(&eighths[0]), entries[0], window, wanting, 2 * QUARTER);
    let (high, wanting) = next(load_8_lanes(&eighths[1]), entries[1], window, wanting, 2 * QUARTER + 1);
    store_8_lanes(&mut eighths[0], low);
    store_8_lanes(&mut eighths[1], high);
    slots.set(QUARTER, [low, high]);
    let [low, high] = entries.map(|entries| {
        let symbols = _mm256_and_si256(entries, _mm256_set1_epi32(0xff));
        _mm_packus_epi32(_mm256_castsi256_si128(symbols), _mm256_extracti128_si256::<1>(symbols))
    });
    store_16(out, _mm_packus_epi16(low, high));
    wanting
}

/// The next states of 8 lanes, given their slots' entries.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn next(
    state: __m256i,
    entries: __m256i,
    window: &[u8; WINDOW],
    wanting: u64,
    eighth: usize,
) -> (__m256i, u64) {
    let frequency = _mm256_and_si256(_mm256_srli_epi32::<8>(entries), _mm256_set1_epi32(0xfff));
    let offset = _mm256_srli_epi32::<20>(entries);
    let product = _mm256_mullo_epi32(frequency, _mm256_srli_epi32::<{ TABLE_BITS as i32 }>(state));
    let next = _mm256_add_epi32(product, offset);
    let want = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(next), _mm256_setzero_si256());
    let set = _mm256_movemask_ps(_mm256_castsi256_ps(want)) as u8;
    let read = wide_words_for(window, wanting, eighth, set);
    let next = _mm256_blendv_epi8(next, _mm256_slli_epi32::<16>(next), want);
    (_mm256_or_si256(next, read), wanting | u64::from(set) << (8 * eighth))
}
