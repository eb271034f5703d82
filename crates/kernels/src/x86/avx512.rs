//! 512-bit loads, stores and gathers.

use std::arch::x86_64::{
    __m256i, __m512, __m512i, __mmask16, __mmask32, _mm_storeu_si128, _mm256_loadu_si256,
    _mm256_mask_storeu_epi16, _mm512_and_si512, _mm512_castsi256_si512, _mm512_castsi512_si256,
    _mm512_cvtepi32_epi8, _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32,
    _mm512_extracti64x4_epi64, _mm512_i32gather_epi32, _mm512_inserti64x4, _mm512_loadu_si512,
    _mm512_mask_blend_epi8, _mm512_mask_storeu_epi16, _mm512_maskz_loadu_epi8, _mm512_or_si512,
    _mm512_permutex2var_epi8, _mm512_permutexvar_epi64, _mm512_set1_epi32, _mm512_setr_epi64,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_unpackhi_epi8,
    _mm512_unpacklo_epi8,
};

use crate::stream::{LANES, WINDOW};

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are readable; the instruction asks for no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Stores 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store(bytes: &mut [u8; 64], value: __m512i) {
    // SAFETY: 64 bytes are writable; the instruction asks for no alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}

/// The states of all lanes, 16 a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_lanes(lanes: &[u32; LANES]) -> [__m512i; 4] {
    let quarters: &[[u32; 16]] = lanes.as_chunks().0;
    // SAFETY: each quarter is 64 readable bytes.
    [0, 1, 2, 3].map(|i| unsafe { _mm512_loadu_si512(quarters[i].as_ptr().cast()) })
}

/// Puts the states back.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store_lanes(lanes: &mut [u32; LANES], values: [__m512i; 4]) {
    let quarters: &mut [[u32; 16]] = lanes.as_chunks_mut().0;
    for (quarter, value) in quarters.iter_mut().zip(values) {
        // SAFETY: the quarter is 64 writable bytes.
        unsafe { _mm512_storeu_si512(quarter.as_mut_ptr().cast(), value) }
    }
}

/// 16 words of a window after the first `used`, of which there are at most 48: three quarters of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_16_words(window: &[u8; WINDOW], used: usize) -> __m256i {
    let words = &window[2 * used..2 * used + 32];
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// 32 words of a window after the first `used`, of which there are at most 32: half of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_32_words(window: &[u8; WINDOW], used: usize) -> __m512i {
    let words = &window[2 * used..2 * used + 64];
    // SAFETY: 64 bytes are readable.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// The table's entries at `indices`, of which only the low bits count: `N` is a power of two.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn gather<const N: usize>(table: &[u32; N], indices: __m512i) -> __m512i {
    const { assert!(N.is_power_of_two() && N <= 1 << 16) };
    let indices = _mm512_and_si512(indices, _mm512_set1_epi32((N - 1) as i32));
    // SAFETY: every index is below `N`.
    unsafe { _mm512_i32gather_epi32::<4>(indices, table.as_ptr().cast()) }
}

/// As [`gather`], of 32 indices and entries of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn gather_words<const N: usize>(table: &[u32; N], indices: __m512i) -> __m512i {
    let [low, high] = widen(indices);
    _mm512_inserti64x4::<1>(
        _mm512_castsi256_si512(_mm512_cvtepi32_epi16(gather(table, low))),
        _mm512_cvtepi32_epi16(gather(table, high)),
    )
}

/// Stores the low byte of each of 16 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store_low_bytes(bytes: &mut [u8; 16], lanes: __m512i) {
    // SAFETY: 16 bytes are writable.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(lanes)) }
}

/// Stores the first `count` (at most 16) words of `words` at the front of `place`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store_words(place: &mut [u8], words: __m256i, count: u32) {
    let place = &mut place[..32];
    let mask = ((1u32 << count) - 1) as __mmask16;
    // SAFETY: 32 bytes are writable, and of 16 words no more than that are written.
    unsafe { _mm256_mask_storeu_epi16(place.as_mut_ptr().cast(), mask, words) }
}

/// Stores the first `count` (at most 32) words of `words` at the front of `place`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store_32_words(place: &mut [u8], words: __m512i, count: usize) {
    let place = &mut place[..64];
    let mask = ((1u64 << count) - 1) as __mmask32;
    // SAFETY: 64 bytes are writable, and of 32 words no more than that are written.
    unsafe { _mm512_mask_storeu_epi16(place.as_mut_ptr().cast(), mask, words) }
}

/// 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_words(words: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// How many lanes a mask has.
#[inline]
pub(crate) fn count16(mask: __mmask16) -> usize {
    mask.count_ones() as usize
}

/// How many lanes a mask has.
#[inline]
pub(crate) fn count32(mask: __mmask32) -> usize {
    mask.count_ones() as usize
}

/// Whole numbers below 2^24 as floats, exactly.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn to_floats(numbers: __m512i) -> __m512 {
    _mm512_cvtepi32_ps(numbers)
}

/// Up to 64 bytes, and zeros after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_front(bytes: &[u8]) -> __m512i {
    let mask = (!0u64).checked_shr(64u32.saturating_sub(bytes.len() as u32)).unwrap_or(0);
    // SAFETY: the mask has no more bits than there are bytes, and what it leaves out is not read.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}

/// The states of all lanes as their low and high 16 bits, 32 lanes a register.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    pub(crate) low: [__m512i; 2],
    pub(crate) high: [__m512i; 2],
}

impl Halves {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn load(set: &[u32; LANES]) -> Self {
        let lanes = load_lanes(set);
        let join = |a, b| {
            _mm512_inserti64x4::<1>(
                _mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                _mm512_cvtepi32_epi16(b),
            )
        };
        let upper = lanes.map(|lane| _mm512_srli_epi32::<16>(lane));
        Self {
            low: [join(lanes[0], lanes[1]), join(lanes[2], lanes[3])],
            high: [join(upper[0], upper[1]), join(upper[2], upper[3])],
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn store(&self, set: &mut [u32; LANES]) {
        let mut lanes = [_mm512_setzero_si512(); 4];
        for (pair, (&low, &high)) in
            lanes.as_chunks_mut::<2>().0.iter_mut().zip(self.low.iter().zip(&self.high))
        {
            let high = widen(high).map(|high| _mm512_slli_epi32::<16>(high));
            let low = widen(low);
            *pair = [_mm512_or_si512(low[0], high[0]), _mm512_or_si512(low[1], high[1])];
        }
        store_lanes(set, lanes);
    }
}

/// 32 lanes of 16 bits in two registers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn widen(lanes: __m512i) -> [__m512i; 2] {
    [
        _mm512_cvtepu16_epi32(_mm512_castsi512_si256(lanes)),
        _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(lanes)),
    ]
}

/// A table of 256 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Plane256([__m512i; 4]);

impl Plane256 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn load(bytes: &[u8; 256]) -> Self {
        let quarters: &[[u8; 64]] = bytes.as_chunks().0;
        Self([load(&quarters[0]), load(&quarters[1]), load(&quarters[2]), load(&quarters[3])])
    }

    /// The entry of each index; `upper` tells which indices have their top bit set.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn look_up(&self, indices: __m512i, upper: u64) -> __m512i {
        let below = _mm512_permutex2var_epi8(self.0[0], indices, self.0[1]);
        let above = _mm512_permutex2var_epi8(self.0[2], indices, self.0[3]);
        _mm512_mask_blend_epi8(upper, below, above)
    }
}

/// A half of each of 64 bytes, widened to 16 bits with another 64 bytes above them: the even or the odd groups of
/// eight. [`in_order`] makes of these the first and second half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn interleave(low: __m512i, high: __m512i) -> [__m512i; 2] {
    [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
}

/// Sorts bytes so that interleaving yields the first 32 and the last 32 in their order: it works on each 128 bits by
/// themselves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn in_order(bytes: __m512i) -> __m512i {
    _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), bytes)
}
