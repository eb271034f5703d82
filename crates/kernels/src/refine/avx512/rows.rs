//! Codes of a row.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cmpge_epi32_mask, _mm512_cmpgt_epi32_mask, _mm512_cmple_epi32_mask, _mm512_cmplt_epi32_mask,
    _mm512_cvtepu8_epi32, _mm512_div_ps, _mm512_fmadd_ps, _mm512_mask_cmple_epi32_mask,
    _mm512_mask_cmplt_epi32_mask, _mm512_mask_max_epi32, _mm512_mask_min_epi32, _mm512_mask_set1_epi32,
    _mm512_max_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_sub_epi32, _mm512_sub_ps,
};
use std::array::from_mut;

use super::super::levels::{EdgeKind, Edges, Levels, RoundedFloats};
use super::super::row::{Block, PaddedBlock, Row, SIXTEENS};
use super::super::{ABOVE, INTEGER, NARROWEST, SLOT_BITS, SLOTS, number};
use super::edges::{EdgeRegisters, FLOATS, INTEGERS, ROUNDED_FLOATS, ROUNDED_INTEGERS, TABLE};
use super::{BELOW_MIDDLE, END_SLOT, FIRST_SLOT, SHARES, advance, is_sixteen, load, slots_of, store};
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};
use crate::symbols::avx512::put;
use crate::x86::avx512::{load_lanes, store_lanes, store_low_bytes};
use crate::x86::load_16;

/// Edges, in registers as well.
type Ranks<'a, L> = (&'a EdgeRegisters, L);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(in super::super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    edges: &Edges,
    row: Row,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    match &edges.kind {
        EdgeKind::Integers => decode_by::<INTEGERS>((edges, edges.as_integers()), states, words, row, out),
        EdgeKind::Floats(floats) => decode_by::<FLOATS>((edges, *floats), states, words, row, out),
        EdgeKind::RoundedIntegers(rounded) => {
            let ranks = (edges, edges.as_rounded(*rounded));
            decode_by::<ROUNDED_INTEGERS>(ranks, states, words, row, out)
        }
        EdgeKind::RoundedFloats(floats, rounded) => {
            let ranks = (edges, RoundedFloats(*floats, *rounded));
            decode_by::<ROUNDED_FLOATS>(ranks, states, words, row, out)
        }
        EdgeKind::Table(table) => decode_by::<TABLE>((edges, edges.as_table(table)), states, words, row, out),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_by<const KIND: u8>(
    (edges, levels): (&Edges, impl Levels),
    states: &mut States,
    words: &mut WordReader,
    row: Row,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let ranks = (&EdgeRegisters::new::<KIND>(edges), levels);
    if is_sixteen(row.scaled) {
        decode_scaled::<KIND, SIXTEENS>(ranks, states, words, row, out)
    } else {
        decode_scaled::<KIND, LANES>(ranks, states, words, row, out)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_scaled<const KIND: u8, const N: usize>(
    ranks: Ranks<impl Levels>,
    states: &mut States,
    words: &mut WordReader,
    row: Row,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let mut sets = [load_lanes(states.set(0)), load_lanes(states.set(1))];
    let both = states.sets().len() == 2;
    let (blocks, rest) = out.as_chunks_mut();
    // In pairs of a block of each set, without a choice between the sets: so they stay in registers.
    let whole = blocks.len();
    let (pairs, odd) = blocks.as_chunks_mut::<2>();
    for (number, [first, second]) in pairs.iter_mut().enumerate() {
        let block = Block::<N>::of(row, 2 * number);
        let used = decode_block::<KIND, N>(ranks, &mut sets[0], words.window()?, &block, first);
        words.skip(used);
        let block = Block::<N>::of(row, 2 * number + 1);
        let set = if both { &mut sets[1] } else { &mut sets[0] };
        let used = decode_block::<KIND, N>(ranks, set, words.window()?, &block, second);
        words.skip(used);
    }
    if let [out] = odd {
        let block = Block::<N>::of(row, whole - 1);
        let used = decode_block::<KIND, N>(ranks, &mut sets[0], words.window()?, &block, out);
        words.skip(used);
    }
    if !rest.is_empty() {
        let (filled, mut all) = (PaddedBlock::of(row, whole), [0; LANES]);
        let block = filled.block();
        let set = if both && whole % 2 == 1 { &mut sets[1] } else { &mut sets[0] };
        let used = decode_block::<KIND, LANES>(ranks, set, words.window()?, &block, &mut all);
        words.skip(used);
        rest.copy_from_slice(&all[..rest.len()]);
    }
    store_lanes(states.set(0), sets[0]);
    if both {
        store_lanes(states.set(1), sets[1]);
    }
    Ok(())
}

/// Of the numbers of a block those of a quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn of_quarter<const N: usize>(of: &[f32; N], quarter: usize) -> __m512 {
    if N == LANES { load(&of.as_chunks().0[quarter]) } else { _mm512_set1_ps(of[quarter]) }
}

/// What is known of 16 weights, and how their codes are scaled.
#[derive(Clone, Copy)]
struct Weights {
    lo: __m512,
    width: __m512,
    density: __m512,
    scale: __m512,
    zero: __m512,
}

impl Weights {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn of<const N: usize>(block: &Block<N>, quarter: usize) -> Self {
        let [lo, hi] = [block.lo, block.hi].map(|ends| load(&ends.as_chunks().0[quarter]));
        let width = _mm512_sub_ps(hi, lo);
        let widest = _mm512_max_ps(width, _mm512_set1_ps(NARROWEST));
        let density = _mm512_div_ps(_mm512_set1_ps(1.0), widest);
        let [scale, zero] = [block.scales, block.zeros].map(|of| of_quarter(of, quarter));
        Self { lo, width, density, scale, zero }
    }

    /// Where to look first for the ranks that have slots, above [`ABOVE`]; it may be rounded in any way.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn look<const KIND: u8>(self, edges: &EdgeRegisters, inverse: __m512, slot: __m512i) -> __m512 {
        let share = _mm512_sub_ps(_mm512_castsi512_ps(slot), _mm512_set1_ps(BELOW_MIDDLE));
        let middle = _mm512_fmadd_ps(share, self.width, self.lo);
        edges.near::<KIND>(_mm512_fmadd_ps(middle, inverse, self.zero))
    }

    /// The first slots behind edges, but for those beyond all slots.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn slot(self, edge: __m512) -> __m512i {
        let edge = _mm512_mul_ps(_mm512_sub_ps(edge, self.zero), self.scale);
        let share = _mm512_mul_ps(_mm512_sub_ps(edge, self.lo), self.density);
        _mm512_castps_si512(_mm512_add_ps(share, _mm512_set1_ps(SHARES)))
    }

    /// The slots of ranks above [`ABOVE`]: the first one, and the first that is not.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn slots<const KIND: u8>(self, edges: &EdgeRegisters, rank: __m512) -> [__m512i; 2] {
        let [below, above] = edges.around::<KIND>(rank);
        let (below, above) = (self.slot(below), self.slot(above));
        let rank = _mm512_castps_si512(rank);
        let some = _mm512_cmpgt_epi32_mask(rank, _mm512_set1_epi32(ABOVE));
        let more = _mm512_cmplt_epi32_mask(rank, edges.last_above);
        let (first, end) = (_mm512_set1_epi32(FIRST_SLOT), _mm512_set1_epi32(END_SLOT));
        // Bits of positive floats ascend as these do, and those of negative ones are below them as signed integers. A
        // rank whose first slot is behind all, or whose last one before all, has none: that shows without a change.
        [_mm512_mask_max_epi32(first, some, below, first), _mm512_mask_min_epi32(end, more, above, end)]
    }
}

/// Decodes a rank in each lane of a block; returns how many words were read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block<const KIND: u8, const N: usize>(
    (edges, levels): Ranks<impl Levels>,
    lanes: &mut [__m512i; 4],
    window: &[u8; WINDOW],
    block: &Block<N>,
    out: &mut [u8; LANES],
) -> usize {
    let (mut ranks, mut found) = ([_mm512_setzero_ps(); 4], [[_mm512_setzero_si512(); 2]; 4]);
    let mut all_found = !0;
    for quarter in 0..4 {
        let weights = Weights::of(block, quarter);
        let slot = slots_of(lanes[quarter]);
        ranks[quarter] = weights.look::<KIND>(edges, of_quarter(block.inverses, quarter), slot);
        let [first, end] = weights.slots::<KIND>(edges, ranks[quarter]);
        found[quarter] = [_mm512_sub_epi32(slot, first), _mm512_sub_epi32(end, first)];
        all_found = _mm512_mask_cmple_epi32_mask(all_found, first, slot);
        all_found = _mm512_mask_cmplt_epi32_mask(all_found, slot, end);
    }
    if all_found != !0 {
        return decode_searching::<KIND, N>((edges, levels), lanes, window, block, out);
    }
    let mut used = 0;
    for (quarter, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        lanes[quarter] = advance(lanes[quarter], found[quarter], window, &mut used);
        store_low_bytes(out, _mm512_castps_si512(ranks[quarter]));
    }
    used
}

/// The same where a rank is not where it was looked for first. A function of its own, that finds everything anew: what
/// it needs takes no registers from the other one.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_searching<const KIND: u8, const N: usize>(
    (edges, levels): Ranks<impl Levels>,
    lanes: &mut [__m512i; 4],
    window: &[u8; WINDOW],
    block: &Block<N>,
    out: &mut [u8; LANES],
) -> usize {
    let magic = _mm512_set1_ps(INTEGER);
    let mut used = 0;
    for (quarter, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let weights = Weights::of(block, quarter);
        let slot = slots_of(lanes[quarter]);
        let rank = weights.look::<KIND>(edges, of_quarter(block.inverses, quarter), slot);
        let [first, end] = weights.slots::<KIND>(edges, rank);
        let missed = _mm512_cmplt_epi32_mask(slot, first) | _mm512_cmple_epi32_mask(end, slot);
        let (mut ranks, mut slots) = ([0.0; 16], [0.0; 16]);
        store(&mut ranks, _mm512_sub_ps(rank, magic));
        let shares = _mm512_sub_ps(_mm512_castsi512_ps(slot), _mm512_set1_ps(SHARES));
        store(&mut slots, _mm512_mul_ps(shares, _mm512_set1_ps(SLOTS)));
        for lane in (0..16).filter(|lane| missed >> lane & 1 != 0) {
            ranks[lane] = block.weight(16 * quarter + lane).rank_of(levels, ranks[lane], slots[lane]);
        }
        let rank = _mm512_add_ps(load(&ranks), magic);
        let [first, end] = weights.slots::<KIND>(edges, rank);
        let found = [_mm512_sub_epi32(slot, first), _mm512_sub_epi32(end, first)];
        lanes[quarter] = advance(lanes[quarter], found, window, &mut used);
        store_low_bytes(out, _mm512_castps_si512(rank));
    }
    used
}

/// Codes the ranks of a row, its last one first.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(in super::super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    edges: &Edges,
    row: Row,
    ranks: &[u8],
    outside: &mut dyn FnMut(usize),
) {
    match &edges.kind {
        EdgeKind::Integers => {
            encode_by::<INTEGERS>((edges, edges.as_integers()), states, words, row, ranks, outside);
        }
        EdgeKind::Floats(floats) => {
            encode_by::<FLOATS>((edges, *floats), states, words, row, ranks, outside);
        }
        EdgeKind::RoundedIntegers(rounded) => {
            let ranks_by = (edges, edges.as_rounded(*rounded));
            encode_by::<ROUNDED_INTEGERS>(ranks_by, states, words, row, ranks, outside);
        }
        EdgeKind::RoundedFloats(floats, rounded) => {
            let ranks_by = (edges, RoundedFloats(*floats, *rounded));
            encode_by::<ROUNDED_FLOATS>(ranks_by, states, words, row, ranks, outside);
        }
        EdgeKind::Table(table) => {
            encode_by::<TABLE>((edges, edges.as_table(table)), states, words, row, ranks, outside);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_by<const KIND: u8>(
    (edges, levels): (&Edges, impl Levels),
    states: &mut States,
    words: &mut WordWriter,
    row: Row,
    ranks: &[u8],
    outside: &mut dyn FnMut(usize),
) {
    let edges = (&EdgeRegisters::new::<KIND>(edges), levels);
    let mut sets = [load_lanes(states.set(0)), load_lanes(states.set(1))];
    let both = usize::from(states.sets().len() == 2);
    let (blocks, rest) = ranks.as_chunks();
    if !rest.is_empty() {
        let filled = PaddedBlock::of(row, blocks.len());
        let mut all = [edges.1.last_byte(); LANES];
        all[..rest.len()].copy_from_slice(rest);
        let block = filled.block();
        let mut outside = |lane| outside(blocks.len() * LANES + lane);
        let lanes = &mut sets[blocks.len() & both];
        encode_block::<KIND, LANES>(edges, lanes, words, &block, &all, &mut outside);
    }
    for (number, ranks) in blocks.iter().enumerate().rev() {
        let lanes = &mut sets[number & both];
        let mut outside = |lane| outside(number * LANES + lane);
        if is_sixteen(row.scaled) {
            let block = Block::<SIXTEENS>::of(row, number);
            encode_block::<KIND, SIXTEENS>(edges, lanes, words, &block, ranks, &mut outside);
        } else {
            let block = Block::<LANES>::of(row, number);
            encode_block::<KIND, LANES>(edges, lanes, words, &block, ranks, &mut outside);
        }
    }
    store_lanes(states.set(0), sets[0]);
    if both == 1 {
        store_lanes(states.set(1), sets[1]);
    }
}

/// Codes a rank in each lane of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_block<const KIND: u8, const N: usize>(
    (edges, levels): Ranks<impl Levels>,
    lanes: &mut [__m512i; 4],
    words: &mut WordWriter,
    block: &Block<N>,
    ranks: &[u8; LANES],
    outside: &mut dyn FnMut(usize),
) {
    let none = _mm512_setzero_si512();
    let (mut first, mut frequency, mut missed) = ([none; 4], [none; 4], 0u64);
    for (quarter, ranks) in ranks.as_chunks().0.iter().enumerate() {
        let weights = Weights::of(block, quarter);
        let rank = _mm512_or_si512(_mm512_cvtepu8_epi32(load_16(ranks)), _mm512_set1_epi32(ABOVE));
        let rank = _mm512_castsi512_ps(rank);
        let [begin, end] = weights.slots::<KIND>(edges, rank);
        let lacking = _mm512_cmpge_epi32_mask(begin, end)
            | _mm512_cmpgt_epi32_mask(_mm512_castps_si512(rank), edges.last_above);
        missed |= u64::from(lacking) << (16 * quarter);
        first[quarter] = _mm512_sub_epi32(begin, _mm512_set1_epi32(FIRST_SLOT));
        frequency[quarter] = _mm512_sub_epi32(end, begin);
    }
    while missed != 0 {
        let lane = missed.trailing_zeros() as usize;
        missed &= missed - 1;
        outside(lane);
        let [begin, end] = block.weight(lane).middle_slots(levels).map(number);
        let (quarter, mask) = (lane / 16, 1 << (lane % 16));
        first[quarter] = _mm512_mask_set1_epi32(first[quarter], mask, begin as i32);
        frequency[quarter] = _mm512_mask_set1_epi32(frequency[quarter], mask, (end - begin) as i32);
    }
    put::<SLOT_BITS, 1>(from_mut(lanes), words, &[frequency], !0, |_, quarter, offset| {
        _mm512_add_epi32(first[quarter], offset)
    });
}
