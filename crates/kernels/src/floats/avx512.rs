//! 32 floats a register.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "parts of masks, and constants of intrinsics"
)]

use std::arch::x86_64::{
    _mm_cvtsi32_si128, _mm512_and_si512, _mm512_castsi512_si256, _mm512_cvtepu8_epi16,
    _mm512_extracti64x4_epi64, _mm512_maskz_add_epi16, _mm512_or_si512, _mm512_permutexvar_epi8,
    _mm512_set1_epi16, _mm512_shrdv_epi16, _mm512_sll_epi16, _mm512_test_epi16_mask,
};

use super::scalar;
use crate::Half;
use crate::split::SplitWindow;
use crate::stream::LANES;
use crate::x86::avx512::{load, load_front, store};

/// Where a register's worth of bits lies among its bytes: for each of 32 elements the four bytes from its first bit on,
/// and how far into them.
struct Places {
    low: [u8; 64],
    high: [u8; 64],
    shift: [u8; 64],
}

impl Places {
    fn new(width: usize) -> Self {
        let mut places = Self { low: [0; 64], high: [0; 64], shift: [0; 64] };
        for element in 0..32 {
            let bit = element * width;
            for byte in 0..2 {
                // The last bit is at most number 32 * 15 - 1, in byte 59.
                places.low[2 * element + byte] = ((bit / 8 + byte) & 63) as u8;
                places.high[2 * element + byte] = ((bit / 8 + 2 + byte) & 63) as u8;
            }
            places.shift[2 * element] = (bit % 8) as u8;
        }
        places
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn join(window: SplitWindow, symbols: &[u8], plane: &[u8], out: &mut [Half]) {
    let width = window.plane_width() as usize;
    let places = Places::new(width);
    let (low_place, high_place, shift) = (load(&places.low), load(&places.high), load(&places.shift));
    let raw_mask = _mm512_set1_epi16(((1i32 << window.shift()) - 1) as i16);
    let sign_mask = _mm512_set1_epi16(i16::MIN);
    let magnitude_mask = _mm512_set1_epi16(i16::MAX);
    // Added to a symbol other than 0 this yields its high part, modulo 2^16.
    let base = _mm512_set1_epi16(window.base().wrapping_sub(1).cast_signed());
    let up = _mm_cvtsi32_si128(window.shift().cast_signed());
    let to_sign = _mm_cvtsi32_si128(15 - window.shift().cast_signed());

    let (blocks, rest) = symbols.as_chunks::<LANES>();
    let (outs, out_rest) = out.as_chunks_mut::<LANES>();
    let (planes, plane_rest) = plane.split_at((blocks.len() * 8 * width).min(plane.len()));
    for ((symbols, bits), out) in blocks.iter().zip(planes.chunks_exact(8 * width)).zip(outs) {
        let symbols = load(symbols);
        let symbols = [_mm512_castsi512_si256(symbols), _mm512_extracti64x4_epi64::<1>(symbols)];
        let halves =
            out.as_flattened_mut().as_chunks_mut::<64>().0.iter_mut().zip(bits.chunks_exact(4 * width));
        for ((out, bits), symbols) in halves.zip(symbols) {
            let bits = load_front(bits);
            let low = _mm512_permutexvar_epi8(low_place, bits);
            let high = _mm512_permutexvar_epi8(high_place, bits);
            // Bits beyond the element's own are cut off below.
            let raw = _mm512_shrdv_epi16(low, high, shift);
            let symbol = _mm512_cvtepu8_epi16(symbols);
            let high = _mm512_maskz_add_epi16(_mm512_test_epi16_mask(symbol, symbol), symbol, base);
            let high = _mm512_and_si512(_mm512_sll_epi16(high, up), magnitude_mask);
            let sign = _mm512_and_si512(_mm512_sll_epi16(raw, to_sign), sign_mask);
            let value = _mm512_or_si512(_mm512_or_si512(high, sign), _mm512_and_si512(raw, raw_mask));
            store(out, value);
        }
    }
    scalar::join(window, rest, plane_rest, out_rest);
}
