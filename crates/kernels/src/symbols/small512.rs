//! Encoding with alias tables none of whose frequencies takes more than a byte, as those of 8-bit codes: 32 lanes a
//! register, states kept as halves.
//!
//! Q: why not as all others? Halves put as many lanes again into a register, and a division in three steps of 8 bits
//! takes no longer than one of floats.

#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "parts of masks, and constants of intrinsics; registers side by side"
)]

use std::arch::x86_64::{
    __m512i, __mmask32, _mm512_add_epi16, _mm512_and_si512, _mm512_cmpge_epu16_mask, _mm512_mask_mov_epi16,
    _mm512_mask_sub_epi16, _mm512_maskz_compress_epi16, _mm512_min_epu16, _mm512_movepi8_mask,
    _mm512_mulhi_epu16, _mm512_mullo_epi16, _mm512_or_si512, _mm512_set1_epi16, _mm512_setzero_si512,
    _mm512_slli_epi16, _mm512_srli_epi16, _mm512_sub_epi16,
};
use std::array::from_mut;
use std::ops::Range;

use super::SmallPlanes;
use crate::slots::SLOTS;
use crate::stream::{LANES, States, WordWriter};
use crate::x86::avx512::{
    Halves, Plane256, count32, gather_words, in_order, interleave, load, store_32_words,
};

struct Planes {
    start: [Plane256; 2],
    frequency: Plane256,
    factor: [Plane256; 2],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    (table, slots): (&SmallPlanes, &[u32; SLOTS]),
    symbols: &[u8],
    lacking: &mut dyn FnMut(Range<usize>),
) {
    let planes = Planes {
        start: [Plane256::load(&table.start[0]), Plane256::load(&table.start[1])],
        frequency: Plane256::load(&table.frequency),
        factor: [Plane256::load(&table.factor[0]), Plane256::load(&table.factor[1])],
    };
    let tables = (&planes, slots);
    // The two sets of lanes; alias tables come with two.
    let mut lanes = [Halves::load(states.set(0)), Halves::load(states.set(1))];
    let (blocks, rest) = symbols.as_chunks::<LANES>();
    if !rest.is_empty() {
        // What pads the block is not coded, but must not count as missing either.
        let mut block = [rest[0]; LANES];
        block[..rest.len()].copy_from_slice(rest);
        let active = u64::MAX >> (LANES - rest.len());
        let lanes = &mut lanes[blocks.len() % 2];
        if encode_blocks(from_mut(lanes), words, tables, [&block], active) {
            lacking(blocks.len() * LANES..symbols.len());
        }
    }
    let (pairs, odd) = blocks.as_chunks::<2>();
    if let [block] = odd
        && encode_blocks(from_mut(&mut lanes[0]), words, tables, [block], u64::MAX)
    {
        lacking((blocks.len() - 1) * LANES..blocks.len() * LANES);
    }
    for (number, [first, second]) in pairs.iter().enumerate().rev() {
        if encode_blocks(&mut lanes, words, tables, [first, second], u64::MAX) {
            lacking(2 * number * LANES..2 * (number + 1) * LANES);
        }
    }
    lanes[0].store(states.set(0));
    lanes[1].store(states.set(1));
}

/// Codes a symbol in each lane of `active` of blocks that use different sets of lanes; returns whether the table lacks
/// one.
// Q: why step by step for all blocks? Every step waits for the one before it, and a processor does not look far enough
// ahead to find the next block's by itself: so it takes a third longer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_blocks<const BLOCKS: usize>(
    lanes: &mut [Halves; BLOCKS],
    words: &mut WordWriter,
    (planes, slots): (&Planes, &[u32; SLOTS]),
    blocks: [&[u8; LANES]; BLOCKS],
    active: u64,
) -> bool {
    let active = [active as __mmask32, (active >> 32) as __mmask32];
    let none = _mm512_setzero_si512();
    let [mut start, mut frequency, mut factor] = [[[none; 2]; BLOCKS]; 3];
    let mut missing = 0;
    for block in 0..BLOCKS {
        let symbols = in_order(load(blocks[block]));
        let upper = _mm512_movepi8_mask(symbols);
        let top = planes.start[1].look_up(symbols, upper);
        start[block] = interleave(planes.start[0].look_up(symbols, upper), top);
        frequency[block] = interleave(planes.frequency.look_up(symbols, upper), none);
        factor[block] =
            interleave(planes.factor[0].look_up(symbols, upper), planes.factor[1].look_up(symbols, upper));
        // The top byte's sign is the flag.
        missing |= _mm512_movepi8_mask(top);
    }

    let [mut low, mut rest] = [[[none; 2]; BLOCKS]; 2];
    for block in (0..BLOCKS).rev() {
        for half in [1, 0] {
            let (state_low, state_high) = (lanes[block].low[half], lanes[block].high[half]);
            // A state is too high if its upper 12 bits are not below the frequency.
            let top = _mm512_srli_epi16::<4>(state_high);
            let renormalise = _mm512_cmpge_epu16_mask(top, frequency[block][half]) & active[half];
            let count = count32(renormalise);
            store_32_words(words.place(count), _mm512_maskz_compress_epi16(renormalise, state_low), count);
            low[block][half] = _mm512_mask_mov_epi16(state_low, renormalise, state_high);
            rest[block][half] = _mm512_mask_mov_epi16(state_high, renormalise, none);
        }
    }

    // Now the high half is below 16 times the frequency, and each rest below the frequency, which is a byte: all that
    // is divided has 16 bits.
    let mut quotient = [[[none; 2]; BLOCKS]; 3];
    for step in 0..3 {
        for block in 0..BLOCKS {
            for half in 0..2 {
                let (low, above) = (low[block][half], _mm512_slli_epi16::<8>(rest[block][half]));
                let number = match step {
                    0 => rest[block][half],
                    1 => _mm512_or_si512(above, _mm512_srli_epi16::<8>(low)),
                    _ => _mm512_or_si512(above, _mm512_and_si512(low, _mm512_set1_epi16(0xff))),
                };
                (quotient[step][block][half], rest[block][half]) =
                    divide(number, frequency[block][half], factor[block][half]);
            }
        }
    }

    for block in 0..BLOCKS {
        for half in 0..2 {
            // The flag in the start's top bit does no harm: of an index the low 12 bits count.
            let slot = gather_words(slots, _mm512_add_epi16(start[block][half], rest[block][half]));
            // The next state is the quotient, of 4, 8 and 8 bits, and 12 bits of slot.
            let [first, second, third] = quotient.map(|quotient| quotient[block][half]);
            let low = _mm512_or_si512(_mm512_slli_epi16::<12>(third), slot);
            let high = _mm512_or_si512(
                _mm512_or_si512(_mm512_slli_epi16::<12>(first), _mm512_slli_epi16::<4>(second)),
                _mm512_srli_epi16::<4>(third),
            );
            let lanes = &mut lanes[block];
            lanes.low[half] = _mm512_mask_mov_epi16(lanes.low[half], active[half], low);
            lanes.high[half] = _mm512_mask_mov_epi16(lanes.high[half], active[half], high);
        }
    }
    missing != 0
}

/// Quotients and rests; `factor` is `2^16 / frequency` rounded down, but at most `2^16 - 1`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn divide(number: __m512i, frequency: __m512i, factor: __m512i) -> (__m512i, __m512i) {
    // Right or one too small, as the factor lacks at most 1 and the number is below 2^16.
    let quotient = _mm512_mulhi_epu16(number, factor);
    let rest = _mm512_sub_epi16(number, _mm512_mullo_epi16(quotient, frequency));
    let more = _mm512_cmpge_epu16_mask(rest, frequency);
    // The smaller one: less than nothing is much in these.
    let rest = _mm512_min_epu16(rest, _mm512_sub_epi16(rest, frequency));
    (_mm512_mask_sub_epi16(quotient, more, quotient, _mm512_set1_epi16(-1)), rest)
}
