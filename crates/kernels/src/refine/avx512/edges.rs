//! Edges in registers.

use std::arch::x86_64::{
    __m128i, __m512, __m512i, _CMP_GT_OQ, _CMP_LT_OQ, _mm_cvtsi32_si128, _mm_setzero_si128, _mm512_add_epi32,
    _mm512_add_ps, _mm512_and_si512, _mm512_andnot_si512, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cmp_ps_mask, _mm512_cvtepi32_ps, _mm512_mask_add_epi32, _mm512_mask_mov_ps, _mm512_mask_sub_ps,
    _mm512_max_epi32, _mm512_max_ps, _mm512_min_epi32, _mm512_mul_ps, _mm512_permutexvar_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_sll_epi32,
    _mm512_slli_epi32, _mm512_srl_epi32, _mm512_sub_epi32, _mm512_sub_ps, _mm512_ternarylogic_epi32,
    _mm512_xor_si512,
};

use super::super::ABOVE;
use super::super::INTEGER;
use super::super::levels::{EdgeKind, Edges};
use super::load;

/// Kinds of edges, for functions that are made for each.
pub(super) const INTEGERS: u8 = 0;
pub(super) const FLOATS: u8 = 1;
pub(super) const TABLE: u8 = 2;
pub(super) const ROUNDED_INTEGERS: u8 = 3;
pub(super) const ROUNDED_FLOATS: u8 = 4;

/// See [`Edges`].
#[derive(Clone, Copy)]
pub(super) struct EdgeRegisters {
    /// The last rank, above [`ABOVE`].
    pub(super) last_above: __m512i,
    /// Half of the ranks of floats.
    half: __m512,
    /// What shifts mantissas into place: those of edges, and those of levels.
    shifts: [__m128i; 2],
    /// An exponent of 0, as it is of binary32.
    exponents: __m512i,
    /// The least normal edge as an integer, and what one is of those below it.
    normal: __m512,
    unit: __m512,
    /// The least normal level, and how many of those below it make 1.
    least: __m512,
    units: __m512,
    /// The edge below each rank of a table.
    table: __m512,
    /// Of weights that were rounded before: half of the distance between numbers, as a part of their power of two; what
    /// is added to an integer level to make it its rank, and the last bit of that as a sign.
    half_ulp: __m512,
    base: __m512,
    odd: __m512i,
}

impl EdgeRegisters {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn new<const KIND: u8>(edges: &Edges) -> Self {
        let none = Self {
            last_above: _mm512_castps_si512(_mm512_set1_ps(edges.last() + INTEGER)),
            half: _mm512_setzero_ps(),
            shifts: [_mm_setzero_si128(); 2],
            exponents: _mm512_setzero_si512(),
            normal: _mm512_setzero_ps(),
            unit: _mm512_setzero_ps(),
            least: _mm512_setzero_ps(),
            units: _mm512_setzero_ps(),
            table: _mm512_setzero_ps(),
            half_ulp: _mm512_setzero_ps(),
            base: _mm512_setzero_ps(),
            odd: _mm512_setzero_si512(),
        };
        let none = match &edges.kind {
            EdgeKind::RoundedIntegers(rounded) | EdgeKind::RoundedFloats(_, rounded) => Self {
                half_ulp: _mm512_set1_ps(rounded.half_ulp),
                base: _mm512_set1_ps(rounded.base),
                odd: _mm512_set1_epi32((rounded.odd << 31) as i32),
                ..none
            },
            _ => none,
        };
        match (KIND, &edges.kind) {
            (FLOATS, EdgeKind::Floats(floats)) | (ROUNDED_FLOATS, EdgeKind::RoundedFloats(floats, _)) => {
                Self {
                    half: _mm512_set1_ps(floats.half),
                    shifts: [22 - floats.mantissa, 23 - floats.mantissa]
                        .map(|bits| _mm_cvtsi32_si128(bits as i32)),
                    exponents: _mm512_set1_epi32(((127 - floats.bias) << 23) as i32),
                    normal: _mm512_set1_ps((2u32 << floats.mantissa) as f32),
                    unit: _mm512_set1_ps(floats.float(1, floats.mantissa + 1)),
                    least: _mm512_set1_ps(f32::from_bits((128 - floats.bias) << 23)),
                    units: _mm512_set1_ps(1.0 / floats.float(1, floats.mantissa)),
                    ..none
                }
            }
            (TABLE, EdgeKind::Table(edges)) => {
                let mut table = [0.0; 16];
                table[1..].copy_from_slice(&edges[..]);
                Self { table: load(&table), ..none }
            }
            _ => none,
        }
    }

    /// The edges below and above ranks, which are above [`ABOVE`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn around<const KIND: u8>(&self, rank: __m512) -> [__m512; 2] {
        let one = _mm512_set1_ps(1.0);
        match KIND {
            INTEGERS => {
                let edge = _mm512_sub_ps(rank, _mm512_set1_ps(INTEGER - 0.5));
                [_mm512_sub_ps(edge, one), edge]
            }
            FLOATS | ROUNDED_FLOATS => {
                let rank = _mm512_sub_ps(rank, _mm512_set1_ps(INTEGER));
                [self.edge::<KIND>(rank), self.edge::<KIND>(_mm512_add_ps(rank, one))]
            }
            ROUNDED_INTEGERS => {
                let odd = _mm512_xor_si512(_mm512_slli_epi32::<31>(_mm512_castps_si512(rank)), self.odd);
                let above = _mm512_sub_ps(rank, _mm512_set1_ps(INTEGER - 0.5));
                let above = _mm512_sub_ps(above, self.base);
                let below = self.moved(_mm512_sub_ps(above, one), odd);
                let above = self.moved(above, _mm512_xor_si512(odd, _mm512_set1_epi32(i32::MIN)));
                [_mm512_add_ps(below, self.base), _mm512_add_ps(above, self.base)]
            }
            _ => [rank, _mm512_add_ps(rank, one)]
                .map(|rank| _mm512_permutexvar_ps(_mm512_castps_si512(rank), self.table)),
        }
    }

    /// Middles between two levels, moved up where the upper one is odd, as its sign bit says, or else down.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn moved(&self, middle: __m512, odd: __m512i) -> __m512 {
        let power = _mm512_and_si512(_mm512_castps_si512(middle), _mm512_set1_epi32(0x7f80_0000));
        let step = _mm512_mul_ps(_mm512_castsi512_ps(power), self.half_ulp);
        let even = _mm512_andnot_si512(odd, _mm512_set1_epi32(i32::MIN));
        _mm512_add_ps(middle, _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(step), even)))
    }

    /// The edges of floats below ranks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn edge<const KIND: u8>(&self, rank: __m512) -> __m512 {
        /// Of three operands: the first where the second has ones, and the third.
        const AND_OR: i32 = 0b1110_1010;
        let from_zero = _mm512_sub_ps(rank, self.half);
        let distance = magnitude(from_zero);
        let odd = _mm512_sub_ps(_mm512_add_ps(distance, distance), _mm512_set1_ps(1.0));
        let odd = _mm512_max_ps(odd, _mm512_setzero_ps());
        let bits = _mm512_castps_si512(_mm512_add_ps(odd, _mm512_set1_ps(INTEGER)));
        let bits = _mm512_and_si512(bits, _mm512_set1_epi32(0x7f_ffff));
        let normal = _mm512_add_epi32(_mm512_sll_epi32(bits, self.shifts[0]), self.exponents);
        let small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(odd, self.normal);
        let of_small = _mm512_mul_ps(odd, self.unit);
        let edge = _mm512_mask_mov_ps(_mm512_castsi512_ps(normal), small, of_small);
        let edge = if KIND == ROUNDED_FLOATS {
            // Of 2k - 1 the second bit says that k is even.
            let odd = _mm512_slli_epi32::<30>(_mm512_xor_si512(bits, _mm512_set1_epi32(2)));
            self.moved(edge, odd)
        } else {
            edge
        };
        // Edges have no sign yet.
        _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<AND_OR>(
            _mm512_castps_si512(from_zero),
            _mm512_set1_epi32(i32::MIN),
            _mm512_castps_si512(edge),
        ))
    }

    /// Ranks whose levels are near these, among those that there are; above [`ABOVE`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn near<const KIND: u8>(&self, level: __m512) -> __m512 {
        let rank = match KIND {
            INTEGERS | ROUNDED_INTEGERS => level,
            FLOATS | ROUNDED_FLOATS => {
                let distance = magnitude(level);
                let half = _mm512_sll_epi32(_mm512_set1_epi32(1), self.shifts[0]);
                let bits = _mm512_sub_epi32(_mm512_castps_si512(distance), self.exponents);
                let normal = _mm512_srl_epi32(_mm512_add_epi32(bits, half), self.shifts[1]);
                let small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(distance, self.least);
                let of_small = _mm512_mul_ps(distance, self.units);
                let from_zero = _mm512_mask_mov_ps(_mm512_cvtepi32_ps(normal), small, of_small);
                let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(level, _mm512_setzero_ps());
                let above = _mm512_add_ps(self.half, from_zero);
                let below = _mm512_sub_ps(self.half, _mm512_set1_ps(1.0));
                _mm512_mask_sub_ps(above, negative, below, from_zero)
            }
            _ => {
                let mut rank = _mm512_setzero_si512();
                for step in [8, 4, 2, 1] {
                    let next = _mm512_add_epi32(rank, _mm512_set1_epi32(step));
                    let edge = _mm512_permutexvar_ps(next, self.table);
                    let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(level, edge);
                    rank = _mm512_mask_add_epi32(rank, above, rank, _mm512_set1_epi32(step));
                }
                _mm512_cvtepi32_ps(rank)
            }
        };
        // Bits of positive floats ascend as these do, and those of negative ones are below them as signed integers.
        let bits = _mm512_castps_si512(_mm512_add_ps(rank, _mm512_set1_ps(INTEGER)));
        let bits = _mm512_max_epi32(bits, _mm512_set1_epi32(ABOVE));
        _mm512_castsi512_ps(_mm512_min_epi32(bits, self.last_above))
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn magnitude(value: __m512) -> __m512 {
    let bits = _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(i32::MAX));
    _mm512_castsi512_ps(bits)
}
