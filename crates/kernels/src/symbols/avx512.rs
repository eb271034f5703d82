//! 16 lanes a register, four registers a block.

use std::arch::x86_64::{
    __m512i, __mmask16, _mm512_add_epi32, _mm512_and_si512, _mm512_cmpge_epu32_mask, _mm512_cmplt_epi32_mask,
    _mm512_cmplt_epu32_mask, _mm512_cvtepi32_epi16, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32,
    _mm512_cvtepu32_ps, _mm512_cvttps_epu32, _mm512_fnmadd_ps, _mm512_mask_add_epi32, _mm512_mask_mov_epi32,
    _mm512_mask_or_epi32, _mm512_mask_srli_epi32, _mm512_mask_sub_epi32, _mm512_maskz_compress_epi32,
    _mm512_maskz_expand_epi32, _mm512_mul_ps, _mm512_mullo_epi32, _mm512_or_si512, _mm512_rcp14_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi32,
    _mm512_sub_epi32, _mm512_test_epi32_mask,
};

use super::{EncodeTable, MISSING, SLOTS};
use crate::error::DecodeError;
use crate::stream::{LANES, LOWER, States, WINDOW, WordReader, WordWriter};
use crate::table::TABLE_BITS;
use crate::x86::avx512::{
    count16, gather, load_16_words, load_lanes, store_lanes, store_low_bytes, store_words,
};
use crate::x86::load_16;

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
) -> bool {
    let mut seen = _mm512_setzero_si512();
    let (blocks, rest) = symbols.as_chunks::<LANES>();
    if !rest.is_empty() {
        // What pads the block is not coded, but must not count as missing either.
        let mut block = [rest[0]; LANES];
        block[..rest.len()].copy_from_slice(rest);
        let active = first_lanes(rest.len());
        encode_block(states.set(blocks.len()), words, table, &block, active, &mut seen);
    }
    for (number, block) in blocks.iter().enumerate().rev() {
        encode_block(states.set(number), words, table, block, WHOLE, &mut seen);
    }
    _mm512_test_epi32_mask(seen, _mm512_set1_epi32(MISSING.cast_signed())) != 0
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_block(
    set: &mut [u32; LANES],
    words: &mut WordWriter,
    table: &EncodeTable,
    symbols: &[u8; LANES],
    active: u64,
    seen: &mut __m512i,
) {
    let low12 = _mm512_set1_epi32(0xfff);
    let quarters: &[[u8; 16]] = symbols.as_chunks().0;
    let mut lanes = load_lanes(set);
    for (quarter, (state, symbols)) in lanes.iter_mut().zip(quarters).enumerate().rev() {
        let active = (active >> (16 * quarter)) as __mmask16;
        let entry = gather(&table.entries, _mm512_cvtepu8_epi32(load_16(symbols)));
        *seen = _mm512_or_si512(*seen, entry);
        let start = _mm512_and_si512(entry, low12);
        let frequency = _mm512_and_si512(_mm512_srli_epi32::<12>(entry), low12);
        *state = put::<TABLE_BITS>(*state, words, frequency, active, |offset| {
            let place = _mm512_add_epi32(start, offset);
            table.slots.as_ref().map_or(place, |slots| gather(slots, place))
        });
    }
    store_lanes(set, lanes);
}

/// Codes a symbol in each lane of `active`; see [`crate::stream::put`]. Frequencies are at least 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn put<const BITS: u32>(
    state: __m512i,
    words: &mut WordWriter,
    frequency: __m512i,
    active: __mmask16,
    slot: impl FnOnce(__m512i) -> __m512i,
) -> __m512i {
    let top = if BITS == 12 { _mm512_srli_epi32::<20>(state) } else { _mm512_srli_epi32::<16>(state) };
    let renormalise = _mm512_cmpge_epu32_mask(top, frequency) & active;
    let count = renormalise.count_ones();
    let put = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(renormalise, state));
    store_words(words.place(count as usize), put, count);
    let shifted = _mm512_mask_srli_epi32::<16>(state, renormalise, state);

    // The quotient has at most 20 bits and the estimate of it 22 good ones, so it is off by one at most. A remainder's sign tells.
    let divisor = crate::x86::avx512::to_floats(frequency);
    let estimate = _mm512_rcp14_ps(divisor);
    let error = _mm512_fnmadd_ps(divisor, estimate, _mm512_set1_ps(2.0));
    let inverse = _mm512_mul_ps(estimate, error);
    let quotient = _mm512_cvttps_epu32(_mm512_mul_ps(_mm512_cvtepu32_ps(shifted), inverse));
    let rest = _mm512_sub_epi32(shifted, _mm512_mullo_epi32(quotient, frequency));
    let one = _mm512_set1_epi32(1);
    let over = _mm512_cmplt_epi32_mask(rest, _mm512_setzero_si512());
    let quotient = _mm512_mask_sub_epi32(quotient, over, quotient, one);
    let rest = _mm512_mask_add_epi32(rest, over, rest, frequency);
    let under = _mm512_cmpge_epu32_mask(rest, frequency);
    let quotient = _mm512_mask_add_epi32(quotient, under, quotient, one);
    let rest = _mm512_mask_sub_epi32(rest, under, rest, frequency);

    let high = if BITS == 12 { _mm512_slli_epi32::<12>(quotient) } else { _mm512_slli_epi32::<16>(quotient) };
    let next = _mm512_add_epi32(high, slot(rest));
    _mm512_mask_mov_epi32(state, active, next)
}
