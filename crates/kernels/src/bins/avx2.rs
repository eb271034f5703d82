//! 16 lanes a register. States are kept as their two halves of 16 bits: the low half is the slot, the product of
//! frequency and high half comes as two halves as well, and a state needs a word exactly when its high half is 0.

#![allow(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "constants of intrinsics, and masks")]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256, _mm256_blendv_epi8,
    _mm256_cmpeq_epi8, _mm256_cmpeq_epi16, _mm256_cvtepi16_epi32, _mm256_cvtepu16_epi32,
    _mm256_extracti128_si256, _mm256_max_epu16, _mm256_min_epu16, _mm256_movemask_epi8, _mm256_mulhi_epu16,
    _mm256_mullo_epi16, _mm256_or_si256, _mm256_packs_epi16, _mm256_permute2x128_si256, _mm256_set1_epi16,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srai_epi16, _mm256_sub_epi16, _mm256_subs_epu16,
    _mm256_unpackhi_epi8, _mm256_unpacklo_epi8, _mm256_xor_si256,
};

use super::pieces::{EDGES, Hidden, NARROW, Tables, WIDE};
use super::{BinTable, MAGNITUDE, RESIDUAL_BITS, SIGN, StreamInputs};
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};
use crate::symbols::avx2::put;
use crate::x86::avx2::{Halves, load, load_8_lanes, load_twice, store, store_8_lanes, words_for};

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode(
    states: &mut States,
    words: &mut WordReader,
    given: &StreamInputs,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    let mut sets = [Halves::load(states.set(0)), Halves::load(states.set(1))];
    let both = states.sets().len() - 1;
    let mut zeros = given.zeros;
    for (table, range) in given.bins.iter().zip(given.rows.iter()) {
        // The values of later rows may be overwritten.
        let (codes, out) = (&given.codes[range.clone()], &mut out[range.start..]);
        let by_class = if codes.len() < LONG { None } else { Tables::by_class(table) };
        if let Some(tables) = by_class {
            decode_row(&mut sets, both, words, &tables, codes, &mut zeros, out)?;
        } else if table.planes.wide {
            decode_row(&mut sets, both, words, &Tables::<WIDE>::of(table), codes, &mut zeros, out)?;
        } else {
            decode_row(&mut sets, both, words, &Tables::<NARROW>::of(table), codes, &mut zeros, out)?;
        }
    }
    for (set, lanes) in states.sets_mut().iter_mut().zip(&sets) {
        lanes.store(set);
    }
    Ok(())
}

/// Weights of a row for which it pays to find the classes of bins.
const LONG: usize = 1024;

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_row<const N: usize>(
    sets: &mut [Halves; 2],
    both: usize,
    words: &mut WordReader,
    tables: &Tables<N>,
    codes: &[u8],
    zeros: &mut &[Half],
    out: &mut [Half],
) -> Result<(), DecodeError> {
    let tables = tables.hidden();
    let (mut last_codes, mut last_values) = ([0; LANES], [[0; 2]; ROOM]);
    let mut out = out;
    for (number, codes) in codes.chunks(LANES).enumerate() {
        let length = codes.len();
        // Lanes with codes of 0 keep their states, so these fill up the last block.
        if length < LANES {
            last_codes[..length].copy_from_slice(codes);
        }
        let codes = codes.first_chunk().unwrap_or(&last_codes);
        let has_room = out.len() >= ROOM;
        let values = out.first_chunk_mut().unwrap_or(&mut last_values);
        let used = decode_block(&mut sets[number & both & 1], words.window()?, &tables, codes, values);
        words.skip(used);
        place_zeros(zeros_of(codes) & u64::MAX >> (LANES - length), zeros, values);
        if !has_room {
            out[..length].copy_from_slice(&last_values[..length]);
        }
        out = &mut out[length..];
    }
    Ok(())
}

/// Values of a block, and one more that may be overwritten, like the rest of a last block: it is the first of the next
/// block.
const ROOM: usize = LANES + 1;

/// The lanes whose codes are 0.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn zeros_of(codes: &[u8; LANES]) -> u64 {
    let mut set = 0;
    for (half, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        let zero = _mm256_movemask_epi8(_mm256_cmpeq_epi8(load(codes), _mm256_setzero_si256()));
        set |= u64::from(zero.cast_unsigned()) << (32 * half);
    }
    set
}

/// Puts the values of codes of 0 in their places.
// Q: why four at once? Most blocks have fewer, and how many is at random: a loop for each block would be left too late
// or too early in half of them.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn place_zeros(set: u64, zeros: &mut &[Half], out: &mut [Half; ROOM]) {
    let mut left = set;
    // Behind the last one there is slack.
    let Some(front) = zeros.first_chunk::<4>() else { return };
    for value in front {
        // Where there is none, in the place behind the block.
        out[left.trailing_zeros() as usize] = *value;
        left &= left.wrapping_sub(1);
    }
    let mut next = 4;
    while left != 0 {
        let Some(value) = zeros.get(next) else { return };
        out[left.trailing_zeros() as usize] = *value;
        left &= left - 1;
        next += 1;
    }
    *zeros = zeros.get(set.count_ones() as usize..).unwrap_or_default();
}

/// Decodes a value in each lane whose code is not 0; returns how many words were read.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block<const N: usize>(
    lanes: &mut Halves,
    window: &[u8; WINDOW],
    tables: &Hidden<N>,
    codes: &[u8; LANES],
    out: &mut [Half; ROOM],
) -> usize {
    let none = _mm256_setzero_si256();
    let codes = codes.as_chunks::<32>().0;
    let codes = [load(&codes[0]), load(&codes[1])];
    let zero = codes.map(|codes| _mm256_cmpeq_epi8(codes, none));
    let found = tables.look_up(codes);
    let mut next = [Next { low: none, high: none, want: none, value: none }; 4];
    for half in 0..2 {
        let lo = unpack(found.lo[0][half], found.lo[1][half]);
        let frequency = unpack(found.frequency[0][half], found.frequency[1][half]);
        let factor = unpack(found.factor[0][half], found.factor[1][half]);
        let shift = shifts(found.shift[half]);
        // In the high bytes: there their signs are those of the values.
        let codes = unpack(none, codes[half]);
        let zero = unpack(zero[half], zero[half]);
        for i in 0..2 {
            let at = 2 * half + i;
            let shift = (N == WIDE).then_some(shift[i]);
            next[at] = step(
                (lanes.low[at], lanes.high[at]),
                (lo[i], frequency[i], factor[i], shift),
                codes[i],
                zero[i],
            );
        }
    }
    let set_of = |a: Next, b: Next| {
        u64::from(_mm256_movemask_epi8(_mm256_packs_epi16(a.want, b.want)).cast_unsigned())
    };
    let set = set_of(next[0], next[1]) | set_of(next[2], next[3]) << 32;
    for (at, eighths) in [[0, 2], [1, 3], [4, 6], [5, 7]].into_iter().enumerate() {
        let Next { low, high, want, .. } = next[at];
        lanes.low[at] = _mm256_blendv_epi8(low, words_for(window, set, eighths), want);
        lanes.high[at] = _mm256_blendv_epi8(high, low, want);
    }
    let out = out.as_flattened_mut().as_chunks_mut::<32>().0;
    store(&mut out[0], _mm256_permute2x128_si256::<0x20>(next[0].value, next[1].value));
    store(&mut out[1], _mm256_permute2x128_si256::<0x31>(next[0].value, next[1].value));
    store(&mut out[2], _mm256_permute2x128_si256::<0x20>(next[2].value, next[3].value));
    store(&mut out[3], _mm256_permute2x128_si256::<0x31>(next[2].value, next[3].value));
    set.count_ones() as usize
}

/// What 16 lanes come to.
#[derive(Clone, Copy)]
struct Next {
    low: __m256i,
    high: __m256i,
    /// The lanes that need a word.
    want: __m256i,
    value: __m256i,
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn step(
    (state, upper): (__m256i, __m256i),
    (lo, frequency, factor, shift): (__m256i, __m256i, __m256i, Option<__m256i>),
    codes: __m256i,
    zero: __m256i,
) -> Next {
    // The slot divided by the frequency: the estimate or one more.
    let mut place = _mm256_mulhi_epu16(state, factor);
    if let Some(shift) = shift {
        place = _mm256_mulhi_epu16(place, shift);
    }
    let offset = _mm256_sub_epi16(state, _mm256_mullo_epi16(place, frequency));
    // The smaller one: less than nothing is much in these.
    let less = _mm256_sub_epi16(offset, frequency);
    let offset = _mm256_min_epu16(offset, less);
    let place = _mm256_sub_epi16(place, _mm256_cmpeq_epi16(offset, less));
    // The next state, frequency * high + offset, in halves. Of codes of 0, whose frequency is 0 here, the offset is the
    // low half.
    let product = _mm256_mullo_epi16(frequency, upper);
    let low = _mm256_add_epi16(product, offset);
    // A sum below one of its terms has overflown.
    let carry = _mm256_min_epu16(_mm256_subs_epu16(offset, low), _mm256_set1_epi16(1));
    let high = _mm256_add_epi16(_mm256_mulhi_epu16(frequency, upper), carry);
    let high = _mm256_blendv_epi8(high, upper, zero);
    let want = _mm256_cmpeq_epi16(high, _mm256_setzero_si256());

    // Of the sum 15 bits, and the code's sign.
    let sum = _mm256_and_si256(_mm256_add_epi16(lo, place), _mm256_set1_epi16(MAGNITUDE.cast_signed()));
    let sign = _mm256_and_si256(codes, _mm256_set1_epi16(SIGN.cast_signed()));
    Next { low, high, want, value: _mm256_or_si256(sum, sign) }
}

/// 2^(16 - shift), which is what to multiply by for the high half to be the shifted number, and 0 for a shift of 0.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn shifts(shift: __m256i) -> [__m256i; 2] {
    let low = load_twice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 64, 32, 16, 8, 4, 2]);
    let high = load_twice(&[0, 128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0]);
    unpack(_mm256_shuffle_epi8(low, shift), _mm256_shuffle_epi8(high, shift))
}

/// Bytes to 16 bits: the first and third 8, and the second and fourth.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn unpack(low: __m256i, high: __m256i) -> [__m256i; 2] {
    [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)]
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    table: &BinTable,
    codes: &[u8],
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    let tables = Tables::of(table);
    let tables = tables.hidden();
    let (mut last_codes, mut last_values) = ([0; LANES], [[0; 2]; LANES]);
    let blocks = codes.chunks(LANES).zip(values.chunks(LANES)).enumerate();
    for (number, (codes, values)) in blocks.rev() {
        // Codes of 0 are passed over, so these fill up the last block.
        if codes.len() < LANES {
            last_codes[..codes.len()].copy_from_slice(codes);
            last_values[..values.len()].copy_from_slice(values);
        }
        let codes = codes.first_chunk().unwrap_or(&last_codes);
        let values = values.first_chunk().unwrap_or(&last_values);
        let mut missed = encode_block(states.set(number), words, &tables, codes, values);
        while missed != 0 {
            outside(number * LANES + missed.trailing_zeros() as usize);
            missed &= missed - 1;
        }
    }
}

/// Codes a value in each lane whose code is not 0; returns the lanes of those that are not in their bins.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_block(
    set: &mut [u32; LANES],
    words: &mut WordWriter,
    tables: &Hidden<EDGES>,
    codes: &[u8; LANES],
    values: &[Half; LANES],
) -> u64 {
    let none = _mm256_setzero_si256();
    let codes = codes.as_chunks::<32>().0;
    let codes = [load(&codes[0]), load(&codes[1])];
    let found = tables.look_up(codes);
    let values = values.as_flattened().as_chunks::<32>().0;
    let (halves, _) = set.as_chunks_mut::<32>();
    let mut missed = 0;
    for half in [1, 0] {
        let lo = unpack(found.lo[0][half], found.lo[1][half]);
        let frequency = unpack(found.frequency[0][half], found.frequency[1][half]);
        let codes = unpack(none, codes[half]);
        let (a, b) = (load(&values[2 * half]), load(&values[2 * half + 1]));
        let values = [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)];
        let first = starts(values[0], codes[0], lo[0], frequency[0]);
        let second = starts(values[1], codes[1], lo[1], frequency[1]);
        let set = _mm256_movemask_epi8(_mm256_packs_epi16(first.missed, second.missed)).cast_unsigned();
        missed |= u64::from(set) << (32 * half);
        let eighths = halves[half].as_chunks_mut::<8>().0;
        encode_eighth::<1>(&mut eighths[3], words, frequency[1], second);
        encode_eighth::<1>(&mut eighths[2], words, frequency[0], first);
        encode_eighth::<0>(&mut eighths[1], words, frequency[1], second);
        encode_eighth::<0>(&mut eighths[0], words, frequency[0], first);
    }
    missed
}

/// Where the slots of 16 values begin.
#[derive(Clone, Copy)]
struct Starts {
    start: __m256i,
    /// The lanes whose codes are not 0.
    active: __m256i,
    /// Those of them whose values are not in their bins.
    missed: __m256i,
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn starts(values: __m256i, codes: __m256i, lo: __m256i, frequency: __m256i) -> Starts {
    let none = _mm256_setzero_si256();
    let magnitude = _mm256_and_si256(values, _mm256_set1_epi16(MAGNITUDE.cast_signed()));
    let reaches = _mm256_cmpeq_epi16(_mm256_max_epu16(magnitude, lo), magnitude);
    let place = _mm256_sub_epi16(magnitude, lo);
    let start = _mm256_mullo_epi16(place, frequency);
    let over = _mm256_mulhi_epu16(place, frequency);
    // The place's interval ends by 2^16: start <= 2^16 - frequency, which in 16 bits is -frequency, as no frequency is
    // 0.
    let ends = _mm256_cmpeq_epi16(_mm256_min_epu16(start, _mm256_sub_epi16(none, frequency)), start);
    let fits = _mm256_and_si256(_mm256_and_si256(reaches, ends), _mm256_cmpeq_epi16(over, none));
    let other_sign = _mm256_srai_epi16::<15>(_mm256_xor_si256(values, codes));
    let fits = _mm256_andnot_si256(other_sign, fits);
    let zero = _mm256_cmpeq_epi16(codes, none);
    let active = _mm256_cmpeq_epi16(zero, none);
    Starts { start: _mm256_and_si256(start, fits), active, missed: _mm256_andnot_si256(fits, active) }
}

/// Codes the low or the high half of 16 values.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_eighth<const HALF: i32>(
    state: &mut [u32; 8],
    words: &mut WordWriter,
    frequency: __m256i,
    starts: Starts,
) {
    let frequency = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<HALF>(frequency));
    let start = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<HALF>(starts.start));
    let active = _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<HALF>(starts.active));
    let old = load_8_lanes(state);
    let (high, offset) = put::<{ RESIDUAL_BITS as i32 }>(old, words, frequency, active);
    let next = _mm256_add_epi32(high, _mm256_add_epi32(start, offset));
    store_8_lanes(state, _mm256_blendv_epi8(old, next, active));
}
