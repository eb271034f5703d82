//! 8 lanes a register, eight registers a block. A slot is divided by its frequency in binary32: both have 16 bits, so the quotient is never so close
//! to the next integer that rounding reaches it.

#![allow(clippy::cast_possible_wrap, reason = "constants of intrinsics")]

use std::arch::x86_64::{
    __m256i, _mm256_abs_epi32, _mm256_add_epi32, _mm256_and_si256, _mm256_blendv_epi8, _mm256_cmpeq_epi8,
    _mm256_cmpeq_epi32, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvttps_epi32, _mm256_div_ps,
    _mm256_min_epi32, _mm256_movemask_epi8, _mm256_mullo_epi32, _mm256_or_si256, _mm256_packus_epi32,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_sub_epi32,
};

use super::{BinTable, Given, MAGNITUDE, RESIDUAL_BITS, scalar};
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader};
use crate::x86::avx2::{gather, load, load_lanes, refill, store, store_lanes};
use crate::x86::load_8;

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode(
    states: &mut States,
    words: &mut WordReader,
    given: &Given,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    let mut zeros = given.zeros;
    for (table, range) in given.bins.iter().zip(given.rows.iter()) {
        let (blocks, rest) = given.codes[range.clone()].as_chunks::<LANES>();
        let (outs, out_rest) = out[range].as_chunks_mut::<LANES>();
        for (number, (codes, out)) in blocks.iter().zip(outs).enumerate() {
            let set = states.set(number);
            let mut lanes = load_lanes(set);
            let used = decode_block(&mut lanes, words.window()?, table, codes, out);
            words.skip(used);
            store_lanes(set, lanes);
            place_zeros(codes, &mut zeros, out);
        }
        if !rest.is_empty() {
            let bins = scalar::Bins::of(table);
            let used = scalar::decode_block(states.set(blocks.len()), words.window()?, &bins, rest, out_rest);
            for (code, value) in rest.iter().zip(out_rest) {
                if let (0, Some((first, after))) = (*code, zeros.split_first()) {
                    (*value, zeros) = (*first, after);
                }
            }
            words.skip(used);
        }
    }
    Ok(())
}

/// Puts the values of codes of 0 in their places.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn place_zeros(codes: &[u8; LANES], zeros: &mut &[Half], out: &mut [Half; LANES]) {
    let mut set = 0u64;
    for (half, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        let zero = _mm256_movemask_epi8(_mm256_cmpeq_epi8(load(codes), _mm256_setzero_si256()));
        set |= u64::from(zero.cast_unsigned()) << (32 * half);
    }
    while set != 0 {
        if let Some((first, rest)) = zeros.split_first() {
            out[set.trailing_zeros() as usize % LANES] = *first;
            *zeros = rest;
        }
        set &= set - 1;
    }
}

/// Decodes a value in each lane whose code is not 0; returns how many words were read.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block(
    lanes: &mut [__m256i; 8],
    window: &[u8; WINDOW],
    table: &BinTable,
    codes: &[u8; LANES],
    out: &mut [Half; LANES],
) -> usize {
    let mut used = 0;
    let pairs = lanes.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks::<16>().0);
    for ((pair, codes), out) in pairs.zip(out.as_flattened_mut().as_chunks_mut::<32>().0) {
        let eighths = codes.as_chunks::<8>().0;
        let low = decode_eighth(&mut pair[0], window, table, &eighths[0], &mut used);
        let high = decode_eighth(&mut pair[1], window, table, &eighths[1], &mut used);
        // Packing works on each 128 bits by themselves.
        store(out, _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high)));
    }
    used
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_eighth(
    state: &mut __m256i,
    window: &[u8; WINDOW],
    table: &BinTable,
    codes: &[u8; 8],
    used: &mut usize,
) -> __m256i {
    let low16 = _mm256_set1_epi32(0xffff);
    let codes = _mm256_cvtepi8_epi32(load_8(codes));
    let bin = _mm256_min_epi32(_mm256_abs_epi32(codes), _mm256_set1_epi32(127));
    let edge = gather(&table.edges, bin);
    let frequency = _mm256_srli_epi32::<16>(edge);
    let slot = _mm256_and_si256(*state, low16);
    let quotient = _mm256_div_ps(_mm256_cvtepi32_ps(slot), _mm256_cvtepi32_ps(frequency));
    let place = _mm256_cvttps_epi32(quotient);
    let offset = _mm256_sub_epi32(slot, _mm256_mullo_epi32(place, frequency));
    let product = _mm256_mullo_epi32(frequency, _mm256_srli_epi32::<{ RESIDUAL_BITS as i32 }>(*state));
    // A lane whose code is 0 keeps its state, which never needs a word.
    let zero = _mm256_cmpeq_epi32(codes, _mm256_setzero_si256());
    let next = _mm256_blendv_epi8(_mm256_add_epi32(product, offset), *state, zero);
    *state = refill(next, window, used);
    let magnitude = _mm256_add_epi32(edge, place);
    let magnitude = _mm256_and_si256(magnitude, _mm256_set1_epi32(i32::from(MAGNITUDE.cast_signed())));
    // The sign bit of 32, put where that of 16 lies.
    let sign = _mm256_slli_epi32::<15>(_mm256_srli_epi32::<31>(codes));
    _mm256_or_si256(magnitude, sign)
}
