//! What codes say of their weights.

use std::arch::x86_64::{
    __m512, _CMP_GT_OQ, _CMP_LE_OQ, _CMP_LT_OQ, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32,
    _mm512_mask_mov_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_sub_ps,
};

use super::super::levels::{EdgeKind, Edges};
use super::super::row::Scaled;
use super::super::{WIDEST, intervals};
use super::edges::{FLOATS, INTEGERS, Opened, TABLE};
use super::{is_sixteen, load, of_sixteen, store};
use crate::stream::LANES;
use crate::x86::load_16;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(in super::super) fn narrow<const FIRST: bool>(
    edges: &Edges,
    ends: [f32; 2],
    ranks: &[u8],
    scaled: Scaled,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    if !scaled.is_for(ranks.len()) || lo.len() != ranks.len() || hi.len() != ranks.len() {
        return intervals::portable::<FIRST>(edges, ends, ranks, scaled, lo, hi);
    }
    let whole = ranks.len() - ranks.len() % LANES;
    let (blocks, rest) = ranks.split_at(whole);
    let ((lo, lo_rest), (hi, hi_rest)) = (lo.split_at_mut(whole), hi.split_at_mut(whole));
    let inputs = (&Opened::new(edges), ends, scaled);
    match (&edges.kind, is_sixteen(scaled)) {
        (EdgeKind::Integers, true) => by_kind::<INTEGERS, true, FIRST>(inputs, blocks, lo, hi),
        (EdgeKind::Integers, false) => by_kind::<INTEGERS, false, FIRST>(inputs, blocks, lo, hi),
        (EdgeKind::Floats(_), true) => by_kind::<FLOATS, true, FIRST>(inputs, blocks, lo, hi),
        (EdgeKind::Floats(_), false) => by_kind::<FLOATS, false, FIRST>(inputs, blocks, lo, hi),
        (EdgeKind::Table(_), true) => by_kind::<TABLE, true, FIRST>(inputs, blocks, lo, hi),
        (EdgeKind::Table(_), false) => by_kind::<TABLE, false, FIRST>(inputs, blocks, lo, hi),
    }
    if !rest.is_empty() {
        let scaled = scaled.after_blocks(whole / LANES);
        intervals::portable::<FIRST>(edges, ends, rest, scaled, lo_rest, hi_rest);
    }
}

/// 16 weights at a time, as many as there are whole ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn by_kind<const KIND: u8, const SIXTEEN: bool, const FIRST: bool>(
    (edges, ends, scaled): (&Opened, [f32; 2], Scaled),
    ranks: &[u8],
    lo: &mut [f32],
    hi: &mut [f32],
) {
    let ends = ends.map(|end| _mm512_set1_ps(end));
    let sixteens = lo.as_chunks_mut().0.iter_mut().zip(hi.as_chunks_mut().0);
    for (number, (ranks, (lo, hi))) in ranks.as_chunks().0.iter().zip(sixteens).enumerate() {
        let scale = of_sixteen::<SIXTEEN>(scaled.scales, number);
        let zero = of_sixteen::<SIXTEEN>(scaled.zeros, number);
        let rank = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16(ranks)));
        let [below, above] = edges.around::<KIND>(rank);
        let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(rank, _mm512_setzero_ps());
        let more = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(rank, edges.last);
        let below = _mm512_mask_mov_ps(ends[0], some, below);
        let above = _mm512_mask_mov_ps(ends[1], more, above);
        let (from, to) =
            if FIRST { (_mm512_set1_ps(-WIDEST), _mm512_set1_ps(WIDEST)) } else { (load(lo), load(hi)) };
        let scaled = |edge: __m512| _mm512_mul_ps(_mm512_sub_ps(edge, zero), scale);
        let (least, most) = (_mm512_max_ps(scaled(below), from), _mm512_min_ps(scaled(above), to));
        let meets = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(least, most);
        store(lo, _mm512_mask_mov_ps(from, meets, least));
        store(hi, _mm512_mask_mov_ps(to, meets, most));
    }
}
