//! 16 lanes a register.
//!
//! Ranks are kept as floats with [`INTEGER`] added, slots as shares of all of them with [`SHARES`] added: then their low
//! bits are the rank or the slot, and no conversion is needed. Dividing by the number of slots rounds nothing.

#![allow(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "constants of intrinsics; ranks are below 256"
)]

mod edges;
mod narrow;
mod rows;

use std::arch::x86_64::{
    __m512, __m512i, _mm512_add_epi32, _mm512_cmplt_epu32_mask, _mm512_cvtepu16_epi32, _mm512_loadu_ps,
    _mm512_mask_or_epi32, _mm512_maskz_expand_epi32, _mm512_mullo_epi32, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_ternarylogic_epi32,
};

use super::row::Scaled;
use super::{Each, SLOT_BITS, SLOTS};
use crate::stream::{LOWER, WINDOW};
use crate::x86::avx512::{count16, load_16_words};

pub(super) use narrow::narrow;
pub(super) use rows::{decode_row, encode_row};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
#[allow(unsafe_code, reason = "a load, see below")]
pub(super) fn load(values: &[f32; 16]) -> __m512 {
    // SAFETY: 64 bytes are readable.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
#[allow(unsafe_code, reason = "a store, see below")]
fn store(to: &mut [f32; 16], values: __m512) {
    // SAFETY: 64 bytes are writable.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) };
}

/// Of numbers of each weight, or of each 16, those of the 16 from weight `16 * number` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn of_sixteen<const SIXTEEN: bool>(of: &[f32], number: usize) -> __m512 {
    if SIXTEEN { _mm512_set1_ps(of[number]) } else { load(&of.as_chunks().0[number]) }
}

/// Added to a share of all slots it leaves the slot, rounded half to even, in the low bits.
pub(super) const SHARES: f32 = 128.0;
/// The bits of [`SHARES`]: the first slot, and the first one behind all.
pub(super) const FIRST_SLOT: i32 = SHARES.to_bits().cast_signed();
pub(super) const END_SLOT: i32 = FIRST_SLOT + (1 << SLOT_BITS);
/// Taken from a slot it leaves the share of all slots below its middle.
pub(super) const BELOW_MIDDLE: f32 = SHARES - 0.5 / SLOTS;

/// The slots of 16 states, from [`FIRST_SLOT`] on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn slots_of(states: __m512i) -> __m512i {
    /// Of three operands: the first, and the second where the third has ones.
    const OR_AND: i32 = 0b1111_1000;
    let (first, low) = (_mm512_set1_epi32(FIRST_SLOT), _mm512_set1_epi32(0xffff));
    _mm512_ternarylogic_epi32::<OR_AND>(first, states, low)
}

/// States after what has so many slots, filled up from the window, of which `used` words have been read. `offset` is
/// the number of the state's slot among them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn advance(
    states: __m512i,
    [offset, frequency]: [__m512i; 2],
    window: &[u8; WINDOW],
    used: &mut usize,
) -> __m512i {
    let high = _mm512_srli_epi32::<16>(states);
    let next = _mm512_add_epi32(_mm512_mullo_epi32(frequency, high), offset);
    let low = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(LOWER as i32));
    let more = _mm512_maskz_expand_epi32(low, _mm512_cvtepu16_epi32(load_16_words(window, *used)));
    *used += count16(low);
    _mm512_mask_or_epi32(next, low, _mm512_slli_epi32::<16>(next), more)
}

/// Which way scales lie, for functions that are made for each.
fn is_sixteen(scaled: Scaled) -> bool {
    scaled.each == Each::Sixteen
}
