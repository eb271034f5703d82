//! Memory accesses of the x86 backends, each with its bounds in its types. All else that they do is safe.

#![allow(unsafe_code, reason = "see the argument at each block")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "masks and constants of intrinsics"
)]

pub(crate) mod avx2;
pub(crate) mod avx512;

use std::arch::x86_64::{__m128i, _mm_loadl_epi64, _mm_loadu_si128, _mm_storeu_si128};

/// 8 bytes, and 8 zeros. Every x86-64 processor has the instruction.
#[inline]
pub(crate) fn load_8(bytes: &[u8; 8]) -> __m128i {
    // SAFETY: 8 bytes are readable.
    unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) }
}

/// 16 bytes.
#[inline]
pub(crate) fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes are readable.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Stores 16 bytes.
#[inline]
pub(crate) fn store_16(bytes: &mut [u8; 16], value: __m128i) {
    // SAFETY: 16 bytes are writable.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
