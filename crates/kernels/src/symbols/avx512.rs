//! 16 lanes a register, four registers a block.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::needless_range_loop,
    reason = "parts of masks, and constants of intrinsics; registers side by side"
)]

use std::arch::x86_64::{
    __m512i, __mmask16, _mm512_add_epi32, _mm512_and_si512, _mm512_cmpge_epu32_mask, _mm512_cmplt_epu32_mask,
    _mm512_cvtepi32_epi16, _mm512_cvtepu16_epi32, _mm512_cvtepu32_ps, _mm512_cvttps_epu32, _mm512_fnmadd_ps,
    _mm512_mask_add_epi32, _mm512_mask_mov_epi32, _mm512_mask_or_epi32, _mm512_mask_srli_epi32,
    _mm512_mask_sub_epi32, _mm512_maskz_compress_epi32, _mm512_maskz_expand_epi32, _mm512_movepi8_mask,
    _mm512_mul_ps, _mm512_mullo_epi32, _mm512_rcp14_ps, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_sub_epi32,
};
use std::array::from_mut;
use std::ops::Range;

use super::EncodeTable;
use crate::error::DecodeError;
use crate::slots::SLOTS;
use crate::stream::{LANES, LOWER, States, WINDOW, WordReader, WordWriter};
use crate::table::TABLE_BITS;
use crate::x86::avx512::{
    Plane256, count16, gather, in_order, interleave, load, load_16_words, load_lanes, store_lanes,
    store_low_bytes, store_words, to_floats, widen,
};

const WHOLE: u64 = u64::MAX;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    table: &[u32; SLOTS],
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let last = blocks.len();
    for (number, block) in blocks.iter_mut().enumerate() {
        let set = states.set(number);
        let mut lanes = load_lanes(set);
        let used = decode_block(&mut lanes, words.window()?, table, block, WHOLE);
        words.skip(used);
        store_lanes(set, lanes);
    }
    if !rest.is_empty() {
        let set = states.set(last);
        let (mut lanes, mut block) = (load_lanes(set), [0; LANES]);
        let used = decode_block(&mut lanes, words.window()?, table, &mut block, first_lanes(rest.len()));
        words.skip(used);
        store_lanes(set, lanes);
        rest.copy_from_slice(&block[..rest.len()]);
    }
    Ok(())
}

/// The mask of lanes 0 to `count - 1`, of 64.
fn first_lanes(count: usize) -> u64 {
    (1u64 << count).wrapping_sub(1)
}

/// Decodes a symbol in each lane of `active`; returns how many words were read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block(
    lanes: &mut [__m512i; 4],
    window: &[u8; WINDOW],
    table: &[u32; SLOTS],
    out: &mut [u8; LANES],
    active: u64,
) -> usize {
    let low12 = _mm512_set1_epi32(0xfff);
    let lower = _mm512_set1_epi32(LOWER as i32);
    let quarters: &mut [[u8; 16]] = out.as_chunks_mut().0;
    let mut used = 0;
    for (quarter, (state, out)) in lanes.iter_mut().zip(quarters).enumerate() {
        let active = (active >> (16 * quarter)) as __mmask16;
        let slot = gather(table, *state);
        let frequency = _mm512_and_si512(_mm512_srli_epi32::<8>(slot), low12);
        let offset = _mm512_srli_epi32::<20>(slot);
        let product = _mm512_mullo_epi32(frequency, _mm512_srli_epi32::<TABLE_BITS>(*state));
        let next = _mm512_add_epi32(product, offset);
        let renormalise = _mm512_cmplt_epu32_mask(next, lower) & active;
        let read = _mm512_cvtepu16_epi32(load_16_words(window, used));
        let read = _mm512_maskz_expand_epi32(renormalise, read);
        let next = _mm512_mask_or_epi32(next, renormalise, _mm512_slli_epi32::<16>(next), read);
        *state = _mm512_mask_mov_epi32(*state, active, next);
        used += count16(renormalise);
        store_low_bytes(out, slot);
    }
    used
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    table: &EncodeTable,
    symbols: &[u8],
    lacking: &mut dyn FnMut(Range<usize>),
) {
    let planes = table.planes.each_ref().map(|plane| Plane256::load(plane));
    let tables = (&planes, table.slots.as_deref());
    let (blocks, rest) = symbols.as_chunks::<LANES>();
    let mut sets = [load_lanes(states.set(0)), load_lanes(states.set(1))];
    let both = states.sets().len() == 2;
    if !rest.is_empty() {
        // What pads the block is not coded, but must not count as missing either.
        let mut block = [rest[0]; LANES];
        block[..rest.len()].copy_from_slice(rest);
        let lanes = from_mut(&mut sets[usize::from(both) & blocks.len()]);
        if encode_blocks(lanes, words, tables, [&block], first_lanes(rest.len())) {
            lacking(blocks.len() * LANES..symbols.len());
        }
    }
    // In pairs of a block of each set.
    let (pairs, odd) = blocks.as_chunks::<2>();
    if let [block] = odd
        && encode_blocks(from_mut(&mut sets[0]), words, tables, [block], WHOLE)
    {
        lacking((blocks.len() - 1) * LANES..blocks.len() * LANES);
    }
    for (number, [first, second]) in pairs.iter().enumerate().rev() {
        let missing = if both {
            encode_blocks(&mut sets, words, tables, [first, second], WHOLE)
        } else {
            let lanes = from_mut(&mut sets[0]);
            encode_blocks(lanes, words, tables, [second], WHOLE)
                | encode_blocks(lanes, words, tables, [first], WHOLE)
        };
        if missing {
            lacking(2 * number * LANES..2 * (number + 1) * LANES);
        }
    }
    store_lanes(states.set(0), sets[0]);
    if both {
        store_lanes(states.set(1), sets[1]);
    }
}

/// Codes a symbol in each lane of `active` of blocks that use different sets of lanes; returns whether the table lacks
/// one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_blocks<const BLOCKS: usize>(
    lanes: &mut [[__m512i; 4]; BLOCKS],
    words: &mut WordWriter,
    (planes, slots): (&[Plane256; 4], Option<&[u32; SLOTS]>),
    blocks: [&[u8; LANES]; BLOCKS],
    active: u64,
) -> bool {
    let [mut starts, mut frequencies] = [[[_mm512_setzero_si512(); 4]; BLOCKS]; 2];
    let mut missing = 0;
    for block in 0..BLOCKS {
        let symbols = in_order(load(blocks[block]));
        let upper = _mm512_movepi8_mask(symbols);
        let start = interleave(planes[0].look_up(symbols, upper), planes[1].look_up(symbols, upper));
        let top = planes[3].look_up(symbols, upper);
        let frequency = interleave(planes[2].look_up(symbols, upper), top);
        let low12 = _mm512_set1_epi16(0xfff);
        starts[block] = widen_both(start);
        frequencies[block] =
            widen_both([_mm512_and_si512(frequency[0], low12), _mm512_and_si512(frequency[1], low12)]);
        // The top byte's sign is the flag.
        missing |= _mm512_movepi8_mask(top);
    }
    put::<TABLE_BITS, BLOCKS>(lanes, words, &frequencies, active, |block, quarter, offset| {
        let place = _mm512_add_epi32(starts[block][quarter], offset);
        slots.map_or(place, |slots| gather(slots, place))
    });
    missing != 0
}

/// 64 lanes of 16 bits in four registers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn widen_both(halves: [__m512i; 2]) -> [__m512i; 4] {
    let ([a, b], [c, d]) = (widen(halves[0]), widen(halves[1]));
    [a, b, c, d]
}

/// Codes a symbol in each lane of `active` of blocks that use different sets of lanes; see [`crate::stream::put`].
/// Frequencies are at least 1 and at most `2^BITS`; what has all slots leaves a state as it was. `slot` gets the block,
/// the quarter of its lanes and the symbols' numbers.
// Q: why step by step for all blocks? Every step waits for the one before it, and a processor does not look far enough
// ahead to find the next block's by itself: so it takes a quarter longer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn put<const BITS: u32, const BLOCKS: usize>(
    states: &mut [[__m512i; 4]; BLOCKS],
    words: &mut WordWriter,
    frequencies: &[[__m512i; 4]; BLOCKS],
    active: u64,
    slot: impl Fn(usize, usize, __m512i) -> __m512i,
) {
    let [mut shifted, mut quotients] = [[[_mm512_setzero_si512(); 4]; BLOCKS]; 2];
    for block in (0..BLOCKS).rev() {
        for quarter in (0..4).rev() {
            let state = states[block][quarter];
            let top =
                if BITS == 12 { _mm512_srli_epi32::<20>(state) } else { _mm512_srli_epi32::<16>(state) };
            let renormalise = _mm512_cmpge_epu32_mask(top, frequencies[block][quarter])
                & (active >> (16 * quarter)) as __mmask16;
            let count = renormalise.count_ones();
            let put = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(renormalise, state));
            store_words(words.place(count as usize), put, count);
            shifted[block][quarter] = _mm512_mask_srli_epi32::<16>(state, renormalise, state);
        }
    }
    for block in 0..BLOCKS {
        for quarter in 0..4 {
            // The quotient has at most 20 bits. Its estimate is made a little too small on purpose, by 2^-21 of it,
            // which is more than all roundings together and less than one: so it is right or one too small.
            let divisor = to_floats(frequencies[block][quarter]);
            let estimate = _mm512_rcp14_ps(divisor);
            let error = _mm512_fnmadd_ps(divisor, estimate, _mm512_set1_ps(2.0 - 1.0 / 2_097_152.0));
            let inverse = _mm512_mul_ps(estimate, error);
            let product = _mm512_mul_ps(_mm512_cvtepu32_ps(shifted[block][quarter]), inverse);
            quotients[block][quarter] = _mm512_cvttps_epu32(product);
        }
    }
    for block in 0..BLOCKS {
        for quarter in 0..4 {
            let (frequency, quotient) = (frequencies[block][quarter], quotients[block][quarter]);
            let rest = _mm512_sub_epi32(shifted[block][quarter], _mm512_mullo_epi32(quotient, frequency));
            let under = _mm512_cmpge_epu32_mask(rest, frequency);
            let quotient = _mm512_mask_add_epi32(quotient, under, quotient, _mm512_set1_epi32(1));
            let rest = _mm512_mask_sub_epi32(rest, under, rest, frequency);
            let high = if BITS == 12 {
                _mm512_slli_epi32::<12>(quotient)
            } else {
                _mm512_slli_epi32::<16>(quotient)
            };
            let next = _mm512_add_epi32(high, slot(block, quarter, rest));
            let active = (active >> (16 * quarter)) as __mmask16;
            let state = &mut states[block][quarter];
            *state = _mm512_mask_mov_epi32(*state, active, next);
        }
    }
}
