//! Alias tables with 512-bit registers: 32 lanes each, states kept as halves of 16 bits, every lookup a permutation of
//! bytes.
//!
//! Q: why not gather from a table of all slots? On Zen 4 the gathers alone took 0.37 ns a symbol, and all of this takes
//! 0.27, or 0.23 without high bytes (`qstore bench --kernels`).

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "parts of masks, and constants of intrinsics"
)]

use std::arch::x86_64::{
    __mmask32, _mm512_add_epi16, _mm512_and_si512, _mm512_cmpge_epu8_mask, _mm512_cmplt_epu16_mask,
    _mm512_mask_add_epi8, _mm512_mask_add_epi16, _mm512_mask_blend_epi8, _mm512_mask_expand_epi16,
    _mm512_mask_mov_epi16, _mm512_mask_testn_epi16_mask, _mm512_maskz_mov_epi8, _mm512_movepi8_mask,
    _mm512_mulhi_epu16, _mm512_mullo_epi16, _mm512_packus_epi16, _mm512_permutexvar_epi64, _mm512_set1_epi16,
    _mm512_setr_epi64, _mm512_setzero_si512, _mm512_slli_epi16, _mm512_srli_epi16,
};

use super::AliasPlanes;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader};
use crate::x86::avx512::{Halves, Plane256, count32, interleave, load_32_words, store};

struct Planes {
    own: Plane256,
    other: Plane256,
    adjust: [Plane256; 2],
    frequency: [Plane256; 2],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    table: &AliasPlanes,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    if table.large {
        decode_row_of::<true>(states, words, table, out)
    } else {
        decode_row_of::<false>(states, words, table, out)
    }
}

/// `LARGE`: some symbol has 256 slots or more. If none has, as of 8-bit codes, frequencies and offsets are bytes: a
/// third of the lookups less.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_row_of<const LARGE: bool>(
    states: &mut States,
    words: &mut WordReader,
    table: &AliasPlanes,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let planes = Planes {
        own: Plane256::load(&table.own),
        other: Plane256::load(&table.other),
        adjust: [Plane256::load(&table.adjust[0]), Plane256::load(&table.adjust[1])],
        frequency: [Plane256::load(&table.frequency[0]), Plane256::load(&table.frequency[1])],
    };
    // The two sets of lanes; alias tables come with two.
    let mut lanes = [Halves::load(states.set(0)), Halves::load(states.set(1))];
    let mut pairs = out.chunks_exact_mut(2 * LANES);
    for pair in &mut pairs {
        // No loop over the sets: so they stay in registers.
        if let [first, second] = pair.as_chunks_mut::<LANES>().0 {
            let used = decode_block::<LARGE>(&mut lanes[0], words.window()?, &planes, first, u64::MAX);
            words.skip(used);
            let used = decode_block::<LARGE>(&mut lanes[1], words.window()?, &planes, second, u64::MAX);
            words.skip(used);
        }
    }
    for (lanes, rest) in lanes.iter_mut().zip(pairs.into_remainder().chunks_mut(LANES)) {
        let mut block = [0; LANES];
        let active = u64::MAX >> (LANES - rest.len());
        let used = decode_block::<LARGE>(lanes, words.window()?, &planes, &mut block, active);
        words.skip(used);
        rest.copy_from_slice(&block[..rest.len()]);
    }
    lanes[0].store(states.set(0));
    lanes[1].store(states.set(1));
    Ok(())
}

/// Decodes a symbol in each lane of `active`; returns how many words were read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block<const LARGE: bool>(
    lanes: &mut Halves,
    window: &[u8; WINDOW],
    planes: &Planes,
    out: &mut [u8; LANES],
    active: u64,
) -> usize {
    // Packing and unpacking work on each 128 bits by themselves: together they leave every lane where it was.
    let [a, b] = lanes.low;
    let low_byte = _mm512_set1_epi16(0xff);
    let low_four = _mm512_set1_epi16(0xf);
    let place = [_mm512_and_si512(a, low_four), _mm512_and_si512(b, low_four)];
    let bucket = _mm512_packus_epi16(
        _mm512_and_si512(_mm512_srli_epi16::<4>(a), low_byte),
        _mm512_and_si512(_mm512_srli_epi16::<4>(b), low_byte),
    );
    let upper = _mm512_movepi8_mask(bucket);
    let own = planes.own.look_up(bucket, upper);
    let places = _mm512_packus_epi16(place[0], place[1]);
    let is_other = _mm512_cmpge_epu8_mask(places, own);
    let symbol = _mm512_mask_blend_epi8(is_other, bucket, planes.other.look_up(bucket, upper));
    let none = _mm512_setzero_si512();
    let adjust = planes.adjust[0].look_up(bucket, upper);
    let offset = if LARGE {
        let adjust = interleave(
            _mm512_maskz_mov_epi8(is_other, adjust),
            _mm512_maskz_mov_epi8(is_other, planes.adjust[1].look_up(bucket, upper)),
        );
        [_mm512_add_epi16(place[0], adjust[0]), _mm512_add_epi16(place[1], adjust[1])]
    } else {
        interleave(_mm512_mask_add_epi8(places, is_other, places, adjust), none)
    };
    let upper = _mm512_movepi8_mask(symbol);
    let frequency_high = if LARGE { planes.frequency[1].look_up(symbol, upper) } else { none };
    let frequency = interleave(planes.frequency[0].look_up(symbol, upper), frequency_high);

    let one = _mm512_set1_epi16(1);
    let mut used = 0;
    for half in 0..2 {
        let active = (active >> (32 * half)) as __mmask32;
        let (low, high) = (lanes.low[half], lanes.high[half]);
        let (frequency, offset) = (frequency[half], offset[half]);
        // The next state is frequency * (state >> 12) + offset. With state >> 12 = 16 * high + (low >> 12) that is the
        // product of 16 * frequency and high, and a rest of at most 4095 * 15 + 4094 < 2^16.
        let rest = _mm512_add_epi16(_mm512_mullo_epi16(frequency, _mm512_srli_epi16::<12>(low)), offset);
        let sixteen = _mm512_slli_epi16::<4>(frequency);
        let next_low = _mm512_add_epi16(_mm512_mullo_epi16(sixteen, high), rest);
        let carry = _mm512_cmplt_epu16_mask(next_low, rest);
        let upper = _mm512_mulhi_epu16(sixteen, high);
        let next_high = _mm512_mask_add_epi16(upper, carry, upper, one);
        let renormalise = _mm512_mask_testn_epi16_mask(active, next_high, next_high);
        let filled_low = _mm512_mask_expand_epi16(next_low, renormalise, load_32_words(window, used));
        let filled_high = _mm512_mask_mov_epi16(next_high, renormalise, next_low);
        lanes.low[half] = _mm512_mask_mov_epi16(low, active, filled_low);
        lanes.high[half] = _mm512_mask_mov_epi16(high, active, filled_high);
        used += count32(renormalise);
    }
    store(out, _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), symbol));
    used
}
