//! 256-bit loads, stores and gathers.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_blend_epi32, _mm_loadu_si128, _mm_packus_epi32, _mm_shuffle_epi8,
    _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi128_si256, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_i32gather_epi32, _mm256_inserti128_si256,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_movemask_ps, _mm256_packus_epi32, _mm256_permute2x128_si256,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi32, _mm256_storeu_si256,
    _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
};

use super::{load_16, store_16};
use crate::slots::{Framed, SLOTS};
use crate::stream::{LANES, WINDOW, WordWriter};

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

/// 8 states.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_8_lanes(lanes: &[u32; 8]) -> __m256i {
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

/// 8 floats.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn load_8_floats(floats: &[f32; 8]) -> __m256 {
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_ps(floats.as_ptr()) }
}

/// Puts 8 states back.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn store_8_lanes(lanes: &mut [u32; 8], value: __m256i) {
    // SAFETY: 32 bytes are writable.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), value) }
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

/// The slots of 64 states: their low bits. Nothing but [`set`](Self::set) writes others than 0, so each is below
/// [`SLOTS`].
pub(crate) struct Slots([[[u16; 8]; 2]; 4]);

impl Slots {
    /// Of states that are all 0.
    pub(crate) fn none() -> Self {
        Self([[[0; 8]; 2]; 4])
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn of(set: &[u32; LANES]) -> Self {
        let mut slots = Self::none();
        for (quarter, pair) in load_lanes(set).as_chunks::<2>().0.iter().enumerate() {
            slots.set(quarter, *pair);
        }
        slots
    }

    /// Those of a quarter of the states. Packed as they come: of both registers the low halves, then the high ones.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn set(&mut self, quarter: usize, states: [__m256i; 2]) {
        const { assert!(SLOTS == 1 << 12) };
        let [low, high] = states.map(|states| _mm256_and_si256(states, _mm256_set1_epi32(0xfff)));
        let slots = _mm256_packus_epi32(low, high);
        // SAFETY: a quarter is 32 writable bytes.
        unsafe { _mm256_storeu_si256(self.0[quarter].as_mut_ptr().cast(), slots) }
    }

    /// The entries of a quarter's slots.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(crate) fn entries(&self, table: &Framed, quarter: usize) -> [__m256i; 2] {
        let eight = |at: usize| {
            let (low, high) = (self.four(table, quarter, 0, at), self.four(table, quarter, 1, at));
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
        };
        [eight(0), eight(4)]
    }

    /// The entries of four slots of half a quarter, from number `at` on.
    // Q: why not the gather instruction? On the processors that have AVX2 and no more it takes longer than eight loads.
    // And why loads of four entries of which one is wanted? A blend takes its operand from memory, which inserting an
    // entry into a register does in two steps.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn four(&self, table: &Framed, quarter: usize, half: usize, at: usize) -> __m128i {
        let slots = &self.0[quarter][half];
        let first = std::ptr::from_ref(table).cast::<u32>();
        let [a, b, c, d] = [0, 1, 2, 3].map(|place| Framed::BEFORE + usize::from(slots[at + place]) - place);
        // SAFETY: each loads four entries from `slot - place` on, counted from the first slot's. A slot is below
        // `SLOTS` and a place at most 3, so these are all in the table with its 3 entries before the first slot's and 3
        // after the last one's.
        unsafe {
            let [a, b, c, d] =
                [first.add(a).cast(), first.add(b).cast(), first.add(c).cast(), first.add(d).cast()];
            let low = _mm_blend_epi32::<0b0010>(_mm_loadu_si128(a), _mm_loadu_si128(b));
            let high = _mm_blend_epi32::<0b1000>(_mm_loadu_si128(c), _mm_loadu_si128(d));
            _mm_blend_epi32::<0b1100>(low, high)
        }
    }
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

/// The states of a set as their halves of 16 bits, 16 lanes a register: of each 32 lanes the first and third 8 in one,
/// the second and fourth in the next, as unpacking bytes leaves them.
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

/// For each set of 8 lanes the bytes of the words that go to them, one word of two bytes for each lane of the set, and
/// zeros for the others.
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

/// For each set of 8 lanes the bytes of the words that go to them, one word of two bytes for each lane of the set,
/// widened to four.
static WIDE_PLACES: [[u8; 32]; 256] = wide_places();

const fn wide_places() -> [[u8; 32]; 256] {
    let mut places = [[0x80; 32]; 256];
    let mut set = 0;
    while set < 256 {
        let mut lane = 0;
        while lane < 8 {
            places[set][4 * lane] = WORD_PLACES[set][2 * lane];
            places[set][4 * lane + 1] = WORD_PLACES[set][2 * lane + 1];
            lane += 1;
        }
        set += 1;
    }
    places
}

/// The words for those of an eighth of a block that are in `set`, in their lanes of 32 bits, and zeros in the other
/// lanes. `before` are the lanes of the block that have taken words.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn wide_words_for(window: &[u8; WINDOW], before: u64, eighth: usize, set: u8) -> __m256i {
    _mm256_shuffle_epi8(load_twice(words_of(window, before, eighth)), load(&WIDE_PLACES[usize::from(set)]))
}

/// The lanes, of 8, whose top bit is set.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn marked(lanes: __m256i) -> u8 {
    _mm256_movemask_ps(_mm256_castsi256_ps(lanes)) as u8
}

/// For each set of 8 lanes the bytes of their words, one after another at the end.
static ENDS: [[u8; 16]; 256] = ends();

const fn ends() -> [[u8; 16]; 256] {
    let mut ends = [[0x80; 16]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut word) = (8, 8);
        while lane > 0 {
            lane -= 1;
            if set >> lane & 1 == 1 {
                word -= 1;
                ends[set][2 * word] = 2 * lane as u8;
                ends[set][2 * word + 1] = 2 * lane as u8 + 1;
            }
        }
        set += 1;
    }
    ends
}

/// Puts the low words of those of 8 states that are in `set` in front of `words`.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn put_words(words: &mut WordWriter, states: __m256i, set: u8) {
    let low = _mm256_and_si256(states, _mm256_set1_epi32(0xffff));
    let low = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
    let put = _mm_shuffle_epi8(low, load_16(&ENDS[usize::from(set)]));
    if let Some(place) = words.place_at_end(set.count_ones() as usize).first_chunk_mut() {
        store_16(place, put);
    }
}

/// The table's entries at `indices`, of which only the low bits count: `N` is a power of two. For encoders, whose
/// indices come in registers; loads as in [`Slots::entries`] were not tried there.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(crate) fn gather<const N: usize>(table: &[u32; N], indices: __m256i) -> __m256i {
    const { assert!(N.is_power_of_two() && N <= 1 << 16) };
    let indices = _mm256_and_si256(indices, _mm256_set1_epi32((N - 1) as i32));
    // SAFETY: every index is below `N`.
    unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), indices) }
}
