//! What codes say of their weights.

use std::arch::x86_64::{
    __m512, _CMP_LE_OQ, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cmpgt_epi32_mask,
    _mm512_cmple_epi32_mask, _mm512_cmplt_epi32_mask, _mm512_cvtepu8_epi32, _mm512_mask_mov_ps,
    _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_sub_ps,
};

use super::super::intervals::{self, Bins};
use super::super::levels::EdgeKind;
use super::super::{ABOVE, WIDEST};
use super::edges::{EdgeRegisters, FLOATS, INTEGERS, ROUNDED_FLOATS, ROUNDED_INTEGERS, TABLE};
use super::{is_sixteen, load, of_sixteen, store};
use crate::stream::LANES;
use crate::x86::load_16;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(in super::super) fn narrow<const FIRST: bool>(bins: Bins, lo: &mut [f32], hi: &mut [f32]) {
    let whole = lo.len() / LANES;
    let ((lo, lo_rest), (hi, hi_rest)) = (lo.split_at_mut(whole * LANES), hi.split_at_mut(whole * LANES));
    match (&bins.edges.kind, is_sixteen(bins.scaled)) {
        (EdgeKind::Integers, true) => by_kind::<INTEGERS, true, FIRST>(bins, lo, hi),
        (EdgeKind::Integers, false) => by_kind::<INTEGERS, false, FIRST>(bins, lo, hi),
        (EdgeKind::Floats(_), true) => by_kind::<FLOATS, true, FIRST>(bins, lo, hi),
        (EdgeKind::Floats(_), false) => by_kind::<FLOATS, false, FIRST>(bins, lo, hi),
        (EdgeKind::RoundedIntegers(_), true) => by_kind::<ROUNDED_INTEGERS, true, FIRST>(bins, lo, hi),
        (EdgeKind::RoundedIntegers(_), false) => by_kind::<ROUNDED_INTEGERS, false, FIRST>(bins, lo, hi),
        (EdgeKind::RoundedFloats(..), true) => by_kind::<ROUNDED_FLOATS, true, FIRST>(bins, lo, hi),
        (EdgeKind::RoundedFloats(..), false) => by_kind::<ROUNDED_FLOATS, false, FIRST>(bins, lo, hi),
        (EdgeKind::Table(_), true) => by_kind::<TABLE, true, FIRST>(bins, lo, hi),
        (EdgeKind::Table(_), false) => by_kind::<TABLE, false, FIRST>(bins, lo, hi),
    }
    if !lo_rest.is_empty() {
        intervals::portable::<FIRST>(bins.after_blocks(whole), lo_rest, hi_rest);
    }
}

/// 16 weights at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn by_kind<const KIND: u8, const SIXTEEN: bool, const FIRST: bool>(
    bins: Bins,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    let Bins { ranks, scaled, .. } = bins;
    let edges = EdgeRegisters::new::<KIND>(bins.edges);
    let (zeroth, ends) = (_mm512_set1_epi32(ABOVE), bins.ends.map(|end| _mm512_set1_ps(end)));
    let sixteens = lo.as_chunks_mut().0.iter_mut().zip(hi.as_chunks_mut().0);
    for (number, (ranks, (lo, hi))) in ranks.as_chunks().0.iter().zip(sixteens).enumerate() {
        let scale = of_sixteen::<SIXTEEN>(scaled.scales, number);
        let zero = of_sixteen::<SIXTEEN>(scaled.zeros, number);
        let rank = _mm512_or_si512(_mm512_cvtepu8_epi32(load_16(ranks)), zeroth);
        let [below, above] = edges.around::<KIND>(_mm512_castsi512_ps(rank));
        let some = _mm512_cmpgt_epi32_mask(rank, zeroth);
        let more = _mm512_cmplt_epi32_mask(rank, edges.last_above);
        let below = _mm512_mask_mov_ps(ends[0], some, below);
        let above = _mm512_mask_mov_ps(ends[1], more, above);
        let (from, to) =
            if FIRST { (_mm512_set1_ps(-WIDEST), _mm512_set1_ps(WIDEST)) } else { (load(lo), load(hi)) };
        let scaled = |edge: __m512| _mm512_mul_ps(_mm512_sub_ps(edge, zero), scale);
        let (least, most) = (_mm512_max_ps(scaled(below), from), _mm512_min_ps(scaled(above), to));
        // A rank that there is not tells nothing.
        let meets =
            _mm512_cmp_ps_mask::<_CMP_LE_OQ>(least, most) & _mm512_cmple_epi32_mask(rank, edges.last_above);
        store(lo, _mm512_mask_mov_ps(from, meets, least));
        store(hi, _mm512_mask_mov_ps(to, meets, most));
    }
}
