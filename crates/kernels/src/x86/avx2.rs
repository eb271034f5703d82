//! 256-bit loads, stores and gathers.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi32_si128, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_insert_epi32,
    _mm_loadu_si128, _mm256_and_si256, _mm256_blendv_epi8, _mm256_broadcastsi128_si256,
    _mm256_castsi128_si256, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmpeq_epi32,
    _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32, _mm256_extracti128_si256, _mm256_inserti128_si256,
    _mm256_loadu_si256, _mm256_movemask_ps, _mm256_or_si256, _mm256_packus_epi32, _mm256_permute2x128_si256,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
};

use super::{load_8, load_16};
use crate::stream::{LANES, WINDOW};

/// The states of all lanes, 8 a register.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_lanes(lanes: &[u32; LANES]) -> [__m256i; 8] {
    let eighths: &[[u32; 8]] = lanes.as_chunks().0;
    // SAFETY: each eighth is 32 readable bytes.
    [0, 1, 2, 3, 4, 5, 6, 7].map(|i| unsafe { _mm256_loadu_si256(eighths[i].as_ptr().cast()) })
}

/// Puts the states back.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store_lanes(lanes: &mut [u32; LANES], values: [__m256i; 8]) {
    let eighths: &mut [[u32; 8]] = lanes.as_chunks_mut().0;
    for (eighth, value) in eighths.iter_mut().zip(values) {
        // SAFETY: the eighth is 32 writable bytes.
        unsafe { _mm256_storeu_si256(eighth.as_mut_ptr().cast(), value) }
    }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Stores 32 bytes.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store(bytes: &mut [u8; 32], value: __m256i) {
    // SAFETY: 32 bytes are writable.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}

/// 8 words of a window after the first `used`, of which there are at most 56: seven eighths of a block.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn load_8_words(window: &[u8; WINDOW], used: usize) -> __m128i {
    let words = &window[2 * used..2 * used + 16];
    // SAFETY: 16 bytes are readable.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

/// The table's entries at `indices`, of which only the low bits count: `N` is a power of two.
// Q: why not the gather instruction? On the processors that have AVX2 and no more, it takes longer than eight loads.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn gather<const N: usize>(table: &[u32; N], indices: __m256i) -> __m256i {
    const { assert!(N.is_power_of_two() && N <= 1 << 16) };
    let entry = |index: u64| table[index as usize % N].cast_signed();
    let four = |indices: __m128i| {
        let (low, high) =
            (_mm_cvtsi128_si64(indices).cast_unsigned(), _mm_extract_epi64::<1>(indices).cast_unsigned());
        let entries = _mm_cvtsi32_si128(entry(low));
        let entries = _mm_insert_epi32::<1>(entries, entry(low >> 32));
        let entries = _mm_insert_epi32::<2>(entries, entry(high));
        _mm_insert_epi32::<3>(entries, entry(high >> 32))
    };
    let low = four(_mm256_castsi256_si128(indices));
    let high = four(_mm256_extracti128_si256::<1>(indices));
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
}

/// For each set of 8 lanes, where the next words go: lane `j`, if it is in the set, takes the word whose number is how many lanes of the set lie below `j`.
static PLACES: [[u8; 8]; 256] = places();

const fn places() -> [[u8; 8]; 256] {
    let mut places = [[0; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < 8 {
            if set >> lane & 1 == 1 {
                places[set][lane] = word;
                word += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    places
}

/// The permutation that hands words to the lanes of `set`.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn places_of(set: u8) -> __m256i {
    _mm256_cvtepu8_epi32(load_8(&PLACES[usize::from(set)]))
}

/// Fills up those of 8 states that are too low.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn refill(next: __m256i, window: &[u8; WINDOW], used: &mut usize) -> __m256i {
    let low = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(next), _mm256_setzero_si256());
    let set = _mm256_movemask_ps(_mm256_castsi256_ps(low)) as u8;
    let words = _mm256_cvtepu16_epi32(load_8_words(window, *used));
    let words = _mm256_permutevar8x32_epi32(words, places_of(set));
    *used += set.count_ones() as usize;
    let filled = _mm256_or_si256(_mm256_slli_epi32::<16>(next), words);
    _mm256_blendv_epi8(next, filled, low)
}

/// 16 bytes, in both halves.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_twice(bytes: &[u8; 16]) -> __m256i {
    _mm256_broadcastsi128_si256(load_16(bytes))
}

/// Two times 16 bytes.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn load_two(low: &[u8; 16], high: &[u8; 16]) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load_16(low)), load_16(high))
}

/// The states of a set as their halves of 16 bits, 16 lanes a register: of each 32 lanes the first and third 8 in one, the second and fourth in the
/// next, as unpacking bytes leaves them.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    pub(crate) low: [__m256i; 4],
    pub(crate) high: [__m256i; 4],
}

impl Halves {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn load(set: &[u32; LANES]) -> Self {
        let lanes = load_lanes(set);
        let join = |a, b| {
            _mm256_packus_epi32(
                _mm256_permute2x128_si256::<0x20>(a, b),
                _mm256_permute2x128_si256::<0x31>(a, b),
            )
        };
        let all = |lanes: [__m256i; 8]| {
            [
                join(lanes[0], lanes[2]),
                join(lanes[1], lanes[3]),
                join(lanes[4], lanes[6]),
                join(lanes[5], lanes[7]),
            ]
        };
        let low16 = _mm256_set1_epi32(0xffff);
        Self {
            low: all(lanes.map(|lane| _mm256_and_si256(lane, low16))),
            high: all(lanes.map(|lane| _mm256_srli_epi32::<16>(lane))),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn store(&self, set: &mut [u32; LANES]) {
        let mut lanes = [_mm256_setzero_si256(); 8];
        for (register, (&low, &high)) in self.low.iter().zip(&self.high).enumerate() {
            let (a, b) = (_mm256_unpacklo_epi16(low, high), _mm256_unpackhi_epi16(low, high));
            let first = register / 2 * 4 + register % 2;
            lanes[first] = _mm256_permute2x128_si256::<0x20>(a, b);
            lanes[first + 2] = _mm256_permute2x128_si256::<0x31>(a, b);
        }
        store_lanes(set, lanes);
    }
}

/// For each set of 8 lanes the bytes of the words that go to them, one word of two bytes for each lane of the set, and zeros for the others.
static WORD_PLACES: [[u8; 16]; 256] = word_places();

const fn word_places() -> [[u8; 16]; 256] {
    let mut places = [[0x80; 16]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < 8 {
            if set >> lane & 1 == 1 {
                places[set][2 * lane] = 2 * word;
                places[set][2 * lane + 1] = 2 * word + 1;
                word += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    places
}

/// 8 words of a window from the first that is not used by the eighths of `set` below this one.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn words_of(window: &[u8; WINDOW], set: u64, eighth: usize) -> &[u8; 16] {
    let used = (set & ((1 << (8 * (eighth % 8))) - 1)).count_ones() as usize;
    // SAFETY: at most 56 bits are counted, so the 16 bytes end by 128, the length of a window.
    unsafe { &*window.as_ptr().add(2 * used).cast() }
}

/// The words for two eighths of a block of which `set` wants words, in their lanes, and zeros in the other lanes.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn words_for(window: &[u8; WINDOW], set: u64, eighths: [usize; 2]) -> __m256i {
    let [low, high] = eighths.map(|eighth| words_of(window, set, eighth));
    let places = eighths.map(|eighth| &WORD_PLACES[usize::from((set >> (8 * (eighth % 8))) as u8)]);
    _mm256_shuffle_epi8(load_two(low, high), load_two(places[0], places[1]))
}
