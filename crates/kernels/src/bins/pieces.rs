//! Tables of bins looked up by shuffles of 16 bytes.
//!
//! Q: why differences? An index less 16 times a piece's number is negative in pieces above its own; there a byte
//! shuffle yields 0. In all pieces up to its own the shuffle takes the same place, and the differences add up to that
//! of its own piece. So nothing has to be selected.

use std::arch::x86_64::{
    __m256i, _mm256_abs_epi8, _mm256_add_epi8, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_min_epu8,
    _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_srli_epi16, _mm256_sub_epi8, _mm256_xor_si256,
};

use super::BinTable;
use super::table::Planes;
use crate::x86::avx2::{load, load_twice, store};

/// `N` bytes of each of 16 entries, each entry twice: once for each half of a register.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Piece<const N: usize>([[u8; 32]; N]);

/// `N` bytes of each entry of a table, in pieces of 16 entries. Of each piece but the first there is the difference
/// (XOR) from the one before.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn pieces<const N: usize, const P: usize>(planes: [&[[u8; 16]]; N]) -> [Piece<N>; P] {
    let mut pieces = [Piece([[0; 32]; N]); P];
    for (byte, plane) in planes.into_iter().enumerate() {
        let mut before = _mm256_setzero_si256();
        for (piece, entries) in pieces.iter_mut().zip(plane) {
            let entries = load_twice(entries);
            store(&mut piece.0[byte], _mm256_xor_si256(entries, before));
            before = entries;
        }
    }
    pieces
}

/// What is to be known of 64 codes: bytes of their bins.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) lo: [[__m256i; 2]; 2],
    pub(super) frequency: [[__m256i; 2]; 2],
    pub(super) factor: [[__m256i; 2]; 2],
    pub(super) shift: [__m256i; 2],
}

/// The tables of a row.
pub(super) struct Tables<const N: usize> {
    bins: [Piece<N>; 8],
    classes: Classes,
}

/// Both bytes of `lo` and of the frequency.
pub(super) const EDGES: usize = 4;
/// And the factor, of tables that are not wide.
pub(super) const NARROW: usize = 5;
/// And its other byte and the shift.
pub(super) const WIDE: usize = 7;
/// The low byte of `lo`; and the class of the bin's width with, above it, how much the high byte of `lo` is above the
/// lowest.
pub(super) const CLASSES: usize = 2;

impl<const N: usize> Tables<N> {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn of(table: &BinTable) -> Self {
        let Planes { lo, frequency, factor, shift, .. } = &table.planes;
        let planes = [&lo[0], &lo[1], &frequency[0], &frequency[1], &factor[0], &factor[1], shift];
        let planes = std::array::from_fn(|byte| planes[byte].as_chunks().0);
        Self { bins: pieces(planes), classes: Classes { widths: [Piece([[0; 32]; 3]); 2], lowest: 0 } }
    }
}

/// The widths of a table that is not wide. Most tables have some fifteen of them, so that the class of a bin takes five
/// bits.
// Q: why? The frequency and the factor follow from the width: three bytes of a bin become three of a class, for which
// there are two pieces and not eight.
struct Classes {
    /// Both bytes of the frequency, and the factor.
    widths: [Piece<3>; 2],
    /// The lowest high byte of `lo`.
    lowest: u8,
}

impl Tables<CLASSES> {
    /// `None` if there are too many widths, or too large a range of bins.
    // It takes as long as some 200 weights, so nothing here waits for what another bin came to.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn by_class(table: &BinTable) -> Option<Self> {
        let Planes { lo, frequency, factor, wide, .. } = &table.planes;
        // No code has bin 0.
        let (mut low, mut high) = (u8::MAX, 0);
        for &lo in &lo[1][1..] {
            (low, high) = (low.min(lo), high.max(lo));
        }
        if *wide || high - low > 7 {
            return None;
        }
        // A bin of each width.
        let mut bin_of = [0u8; 256];
        for bin in 1..128u8 {
            bin_of[usize::from(factor[0][usize::from(bin)])] = bin;
        }
        // Class 0 is that of codes of 0.
        let (mut class_of, mut class) = ([0; 256], 0);
        let mut widths = [[0; 32]; 3];
        for (part, bins) in bin_of.as_chunks::<32>().0.iter().enumerate() {
            let absent = _mm256_cmpeq_epi8(load(bins), _mm256_setzero_si256());
            let mut present = !_mm256_movemask_epi8(absent).cast_unsigned();
            while present != 0 {
                let width = 32 * part + present.trailing_zeros() as usize;
                let bin = usize::from(bin_of[width] % 128);
                class += 1;
                class_of[width] = class;
                *widths[0].get_mut(usize::from(class))? = frequency[0][bin];
                *widths[1].get_mut(usize::from(class))? = frequency[1][bin];
                *widths[2].get_mut(usize::from(class))? = factor[0][bin];
                present &= present - 1;
            }
        }
        let mut bins = [0; 128];
        for ((bin, width), lo) in bins.iter_mut().zip(&factor[0]).zip(&lo[1]) {
            *bin = class_of[usize::from(*width)] | lo.wrapping_sub(low) << 5;
        }
        let widths = widths.each_ref().map(|width| width.as_chunks().0);
        Some(Self {
            bins: pieces([lo[0].as_chunks().0, bins.as_chunks().0]),
            classes: Classes { widths: pieces(widths), lowest: low },
        })
    }
}

impl<const N: usize> Tables<N> {
    /// The same, and how many pieces there are is hidden: so that the loop over them stays one. All at once do not fit
    /// into registers.
    pub(super) fn hidden(&self) -> Hidden<'_, N> {
        Hidden { bins: std::hint::black_box(&self.bins[..]), classes: &self.classes }
    }
}

/// See [`Tables::hidden`].
pub(super) struct Hidden<'a, const N: usize> {
    bins: &'a [Piece<N>],
    classes: &'a Classes,
}

impl<const N: usize> Hidden<'_, N> {
    /// Looks 64 codes up. Of codes of 0, frequency, factor and shift are 0.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn look_up(&self, codes: [__m256i; 2]) -> Found {
        let none = [_mm256_setzero_si256(); 2];
        let found = look_up(self.bins, [index_of(codes[0]), index_of(codes[1])]);
        let byte = |byte: usize| if byte < N { found[byte] } else { none };
        if N > CLASSES {
            return Found {
                lo: [byte(0), byte(1)],
                frequency: [byte(2), byte(3)],
                factor: [byte(4), byte(5)],
                shift: byte(6),
            };
        }
        let [low, high] = byte(1);
        let class = [class_of(low), class_of(high)];
        let [frequency_low, frequency_high, factor] = look_up(&self.classes.widths, class);
        let lowest = _mm256_set1_epi8(self.classes.lowest.cast_signed());
        let high = [above(low, lowest), above(high, lowest)];
        Found {
            lo: [byte(0), high],
            frequency: [frequency_low, frequency_high],
            factor: [factor, none],
            shift: none,
        }
    }
}

/// The bins of 32 codes; of codes of 0 what makes all bytes 0.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn index_of(codes: __m256i) -> __m256i {
    let bin = _mm256_min_epu8(_mm256_abs_epi8(codes), _mm256_set1_epi8(127));
    _mm256_or_si256(bin, _mm256_cmpeq_epi8(codes, _mm256_setzero_si256()))
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn class_of(bins: __m256i) -> __m256i {
    _mm256_and_si256(bins, _mm256_set1_epi8(31))
}

/// The high byte of `lo`.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn above(bins: __m256i, lowest: __m256i) -> __m256i {
    _mm256_add_epi8(_mm256_and_si256(_mm256_srli_epi16::<5>(bins), _mm256_set1_epi8(7)), lowest)
}

/// The bytes of each of 64 entries, and zeros for an index of 255.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn look_up<const N: usize>(pieces: &[Piece<N>], mut index: [__m256i; 2]) -> [[__m256i; 2]; N] {
    let mut found = [[_mm256_setzero_si256(); 2]; N];
    for piece in pieces {
        for (found, bytes) in found.iter_mut().zip(&piece.0) {
            let bytes = load(bytes);
            for (found, index) in found.iter_mut().zip(index) {
                *found = _mm256_xor_si256(*found, _mm256_shuffle_epi8(bytes, index));
            }
        }
        index = index.map(|index| _mm256_sub_epi8(index, _mm256_set1_epi8(16)));
    }
    found
}
