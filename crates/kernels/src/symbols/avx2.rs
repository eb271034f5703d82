//! 8 lanes a register, eight registers a block.

#![allow(clippy::cast_possible_wrap, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    __m256i, _mm_packus_epi16, _mm_packus_epi32, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps,
    _mm256_and_si256, _mm256_andnot_si256, _mm256_blendv_epi8, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cmpeq_epi32, _mm256_cmpgt_epi32, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_cvttps_epi32, _mm256_div_ps, _mm256_extracti128_si256, _mm256_mullo_epi32, _mm256_or_si256,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srai_epi32,
    _mm256_srli_epi32, _mm256_sub_epi32, _mm256_sub_ps,
};
use std::ops::Range;

use super::{EncodeTable, scalar};
use crate::error::DecodeError;
use crate::slots::{Framed, SLOTS};
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};
use crate::table::TABLE_BITS;
use crate::x86::avx2::{Slots, gather, load_8_lanes, marked, put_words, store_8_lanes, wide_words_for};
use crate::x86::{load_8, store_16};

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    table: &Framed,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    // The lanes stay in memory between blocks: there are twice as many as there are registers anyway, and slots are
    // read from there.
    let both = states.sets().len() - 1;
    let last = blocks.len();
    let mut slots =
        [Slots::of(states.set(0)), if last > 1 { Slots::of(states.set(1)) } else { Slots::none() }];
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
    let set = marked(want);
    let read = wide_words_for(window, wanting, eighth, set);
    let next = _mm256_blendv_epi8(next, _mm256_slli_epi32::<16>(next), want);
    (_mm256_or_si256(next, read), wanting | u64::from(set) << (8 * eighth))
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    table: &EncodeTable,
    symbols: &[u8],
    lacking: &mut dyn FnMut(Range<usize>),
) {
    let slots = table.slots.as_deref();
    let (blocks, rest) = symbols.as_chunks::<LANES>();
    if !rest.is_empty() {
        // What pads the block is not coded, but must not count as missing either.
        let (mut block, mut active) = ([rest[0]; LANES], [0; LANES]);
        block[..rest.len()].copy_from_slice(rest);
        active[..rest.len()].fill(0xff);
        let set = states.set(blocks.len());
        if encode_block(set, words, &table.entries, slots, &block, &active) {
            lacking(blocks.len() * LANES..symbols.len());
        }
    }
    for (number, block) in blocks.iter().enumerate().rev() {
        let set = states.set(number);
        if encode_block(set, words, &table.entries, slots, block, &[0xff; LANES]) {
            lacking(number * LANES..(number + 1) * LANES);
        }
    }
}

/// Codes a symbol in each lane of `active`; returns whether the table lacks one.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_block(
    set: &mut [u32; LANES],
    words: &mut WordWriter,
    entries: &[u32; 256],
    slots: Option<&[u32; SLOTS]>,
    symbols: &[u8; LANES],
    active: &[u8; LANES],
) -> bool {
    let low12 = _mm256_set1_epi32(0xfff);
    let mut seen = _mm256_setzero_si256();
    let eighths = symbols.as_chunks().0.iter().zip(active.as_chunks().0);
    for (state, (symbols, active)) in set.as_chunks_mut().0.iter_mut().zip(eighths).rev() {
        let entry = gather(entries, _mm256_cvtepu8_epi32(load_8(symbols)));
        seen = _mm256_or_si256(seen, entry);
        let frequency = _mm256_and_si256(_mm256_srli_epi32::<16>(entry), low12);
        let active = _mm256_cvtepi8_epi32(load_8(active));
        let old = load_8_lanes(state);
        let (high, offset) = put::<{ TABLE_BITS as i32 }>(old, words, frequency, active);
        let place = _mm256_add_epi32(_mm256_and_si256(entry, low12), offset);
        let slot = match slots {
            Some(slots) => gather(slots, place),
            None => place,
        };
        store_8_lanes(state, _mm256_blendv_epi8(old, _mm256_add_epi32(high, slot), active));
    }
    // The sign of an entry is the flag.
    marked(seen) != 0
}

/// Makes room for a symbol in each lane of `active`, whose frequencies are at least 1 and at most `2^BITS`; see
/// [`crate::stream::put`]. What has all slots leaves a state as it was.
/// Returns the next states but for their slots, and the offsets of these.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn put<const BITS: i32>(
    state: __m256i,
    words: &mut WordWriter,
    frequency: __m256i,
    active: __m256i,
) -> (__m256i, __m256i) {
    let top = if BITS == 12 { _mm256_srli_epi32::<20>(state) } else { _mm256_srli_epi32::<16>(state) };
    let full = _mm256_andnot_si256(_mm256_cmpgt_epi32(frequency, top), active);
    put_words(words, state, marked(full));
    let state = _mm256_blendv_epi8(state, _mm256_srli_epi32::<16>(state), full);

    // The quotient has at most 20 bits. Converting the state, dividing and subtracting make its estimate wrong by less
    // than 3/16 (a state of 2^31 or more has a divisor of 2^11 at least; of 16 bits, the quotient has as many, and the
    // divisor is 2^15). Less 1/4 it lies between the quotient and one
    // below: cut to an integer it is right or one too small.
    let signed = _mm256_cvtepi32_ps(state);
    let upper = _mm256_and_ps(_mm256_castsi256_ps(_mm256_srai_epi32::<31>(state)), _mm256_set1_ps(TWO_32));
    let estimate = _mm256_div_ps(_mm256_add_ps(signed, upper), _mm256_cvtepi32_ps(frequency));
    let quotient = _mm256_cvttps_epi32(_mm256_sub_ps(estimate, _mm256_set1_ps(0.25)));
    let rest = _mm256_sub_epi32(state, _mm256_mullo_epi32(quotient, frequency));
    let right = _mm256_cmpgt_epi32(frequency, rest);
    let quotient = _mm256_add_epi32(_mm256_add_epi32(quotient, _mm256_set1_epi32(1)), right);
    let rest = _mm256_sub_epi32(rest, _mm256_andnot_si256(right, frequency));
    let high = if BITS == 12 { _mm256_slli_epi32::<12>(quotient) } else { _mm256_slli_epi32::<16>(quotient) };
    (high, rest)
}

const TWO_32: f32 = 4_294_967_296.0;
