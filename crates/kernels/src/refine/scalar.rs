//! Codes of a row: the definition, pass by pass over the lanes of a block, so that compilers make vector code of it.

#![allow(clippy::cast_possible_truncation, reason = "ranks are below 256, and halves of states")]
#![allow(clippy::needless_range_loop, reason = "a lane is a place in several arrays")]

use super::lanes::{Slots, slot_of};
use super::levels::{EdgeKind, Edges, Levels, RoundedFloats};
use super::row::{Block, Each, PaddedBlock, Row, SIXTEENS, of_quarter};
use super::weight::Weight;
use super::{SLOTS, greater, lesser, number};
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};

/// What takes states on to the next ones; see [`super::lanes::advance`].
pub(super) trait Advance: Fn(&mut [u32; LANES], &Slots, &[u8; WINDOW]) -> usize + Copy {}
impl<F: Fn(&mut [u32; LANES], &Slots, &[u8; WINDOW]) -> usize + Copy> Advance for F {}

/// What takes states back to those before; see [`super::lanes::put_all`].
pub(super) trait Put: Fn(&mut [u32; LANES], &mut WordWriter, &Slots) + Copy {}
impl<F: Fn(&mut [u32; LANES], &mut WordWriter, &Slots) + Copy> Put for F {}

#[inline(always)]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    edges: &Edges,
    row: Row,
    out: &mut [u8],
    advance: impl Advance,
) -> Result<(), DecodeError> {
    match &edges.kind {
        EdgeKind::Integers => decode_by(edges.as_integers(), states, words, row, out, advance),
        EdgeKind::Floats(floats) => decode_by(*floats, states, words, row, out, advance),
        EdgeKind::RoundedIntegers(rounded) => {
            decode_by(edges.as_rounded(*rounded), states, words, row, out, advance)
        }
        EdgeKind::RoundedFloats(floats, rounded) => {
            decode_by(RoundedFloats(*floats, *rounded), states, words, row, out, advance)
        }
        EdgeKind::Table(table) => decode_by(edges.as_table(table), states, words, row, out, advance),
    }
}

#[inline(always)]
fn decode_by(
    levels: impl Levels,
    states: &mut States,
    words: &mut WordReader,
    row: Row,
    out: &mut [u8],
    advance: impl Advance,
) -> Result<(), DecodeError> {
    match row.scaled.each {
        Each::Weight => decode_scaled::<LANES>(levels, states, words, row, out, advance),
        Each::Sixteen => decode_scaled::<SIXTEENS>(levels, states, words, row, out, advance),
    }
}

#[inline(always)]
fn decode_scaled<const N: usize>(
    levels: impl Levels,
    states: &mut States,
    words: &mut WordReader,
    row: Row,
    out: &mut [u8],
    advance: impl Advance,
) -> Result<(), DecodeError> {
    let mut slots = Slots::NONE;
    let (blocks, rest) = out.as_chunks_mut();
    for (number, out) in blocks.iter_mut().enumerate() {
        let set = states.set(number);
        find(levels, &Block::<N>::of(row, number), set, out, &mut slots);
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
    }
    if !rest.is_empty() {
        let (set, mut ranks) = (states.set(blocks.len()), [0; LANES]);
        find(levels, &PaddedBlock::of(row, blocks.len()).block(), set, &mut ranks, &mut slots);
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
        rest.copy_from_slice(&ranks[..rest.len()]);
    }
    Ok(())
}

/// The rank that has the slot of each state, and its slots.
#[inline(always)]
fn find<const N: usize>(
    levels: impl Levels,
    block: &Block<N>,
    set: &[u32; LANES],
    ranks: &mut [u8; LANES],
    found: &mut Slots,
) {
    let mut missed = 0;
    for (quarter, ranks) in ranks.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let [lo, hi] = [block.lo, block.hi].map(|ends| &ends.as_chunks::<16>().0[quarter]);
        let [scales, zeros] = [block.scales, block.zeros].map(|of| of_quarter(of, quarter));
        let inverses = of_quarter(block.inverses, quarter);
        let states = &set.as_chunks::<16>().0[quarter];
        let firsts = &mut found.first.as_chunks_mut::<16>().0[quarter];
        let ends = &mut found.end.as_chunks_mut::<16>().0[quarter];
        let mut rank = [0f32; 16];
        for lane in 0..16 {
            let (lo, slot) = (lo[lane], slot_of(states[lane]));
            // Where to look first: rounding may lead to the rank beside.
            let middle = lo + (slot + 0.5) * ((hi[lane] - lo) * (1.0 / SLOTS));
            let near = levels.near(middle * inverses[lane] + zeros[lane]);
            rank[lane] = lesser(greater(near, 0.0), levels.last());
            let weight = Weight::new([lo, hi[lane]], scales[lane], zeros[lane]);
            let [first, end] = weight.slots(levels, rank[lane]);
            missed |= u32::from(slot < first) | u32::from(end <= slot);
            (firsts[lane], ends[lane]) = (number(first), number(end));
        }
        for lane in 0..16 {
            ranks[lane] = number(rank[lane]) as u8;
        }
    }
    if missed != 0 {
        search(levels, block, set, ranks, found);
    }
}

/// Finds the ranks that were looked for in the wrong place, and their slots.
#[cold]
#[inline(never)]
pub(super) fn search<const N: usize>(
    levels: impl Levels,
    block: &Block<N>,
    set: &[u32; LANES],
    ranks: &mut [u8; LANES],
    found: &mut Slots,
) {
    for lane in 0..LANES {
        let slot = set[lane] & 0xffff;
        if !(found.first[lane]..found.end[lane]).contains(&slot) {
            let weight = block.weight(lane);
            let rank = weight.rank_of(levels, f32::from(ranks[lane]), slot_of(set[lane]));
            ranks[lane] = number(rank) as u8;
            [found.first[lane], found.end[lane]] = weight.slots(levels, rank).map(number);
        }
    }
}

#[inline(always)]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    edges: &Edges,
    row: Row,
    ranks: &[u8],
    outside: &mut dyn FnMut(usize),
    put: impl Put,
) {
    match &edges.kind {
        EdgeKind::Integers => encode_by(edges.as_integers(), states, words, row, ranks, outside, put),
        EdgeKind::Floats(floats) => encode_by(*floats, states, words, row, ranks, outside, put),
        EdgeKind::RoundedIntegers(rounded) => {
            encode_by(edges.as_rounded(*rounded), states, words, row, ranks, outside, put);
        }
        EdgeKind::RoundedFloats(floats, rounded) => {
            encode_by(RoundedFloats(*floats, *rounded), states, words, row, ranks, outside, put);
        }
        EdgeKind::Table(table) => encode_by(edges.as_table(table), states, words, row, ranks, outside, put),
    }
}

#[inline(always)]
fn encode_by(
    levels: impl Levels,
    states: &mut States,
    words: &mut WordWriter,
    row: Row,
    ranks: &[u8],
    outside: &mut dyn FnMut(usize),
    put: impl Put,
) {
    match row.scaled.each {
        Each::Weight => encode_scaled::<LANES>(levels, states, words, row, ranks, outside, put),
        Each::Sixteen => encode_scaled::<SIXTEENS>(levels, states, words, row, ranks, outside, put),
    }
}

#[inline(always)]
fn encode_scaled<const N: usize>(
    levels: impl Levels,
    states: &mut States,
    words: &mut WordWriter,
    row: Row,
    ranks: &[u8],
    outside: &mut dyn FnMut(usize),
    put: impl Put,
) {
    let mut slots = Slots::NONE;
    let (blocks, rest) = ranks.as_chunks();
    if !rest.is_empty() {
        let mut all = [levels.last_byte(); LANES];
        all[..rest.len()].copy_from_slice(rest);
        let mut outside = |lane| outside(blocks.len() * LANES + lane);
        let filled = PaddedBlock::of(row, blocks.len());
        slots_of(levels, &filled.block(), &all, &mut slots, &mut outside);
        put(states.set(blocks.len()), words, &slots);
    }
    for (number, ranks) in blocks.iter().enumerate().rev() {
        let mut outside = |lane| outside(number * LANES + lane);
        slots_of(levels, &Block::<N>::of(row, number), ranks, &mut slots, &mut outside);
        put(states.set(number), words, &slots);
    }
}

/// The slots of ranks; of those that have none, which `outside` gets, those of others in their place.
#[inline(always)]
fn slots_of<const N: usize>(
    levels: impl Levels,
    block: &Block<N>,
    ranks: &[u8; LANES],
    found: &mut Slots,
    outside: &mut dyn FnMut(usize),
) {
    let mut missed = 0;
    for (quarter, ranks) in ranks.as_chunks::<16>().0.iter().enumerate() {
        let [lo, hi] = [block.lo, block.hi].map(|ends| &ends.as_chunks::<16>().0[quarter]);
        let [scales, zeros] = [block.scales, block.zeros].map(|of| of_quarter(of, quarter));
        let firsts = &mut found.first.as_chunks_mut::<16>().0[quarter];
        let ends = &mut found.end.as_chunks_mut::<16>().0[quarter];
        for lane in 0..16 {
            let rank = f32::from(ranks[lane]);
            let weight = Weight::new([lo[lane], hi[lane]], scales[lane], zeros[lane]);
            let [first, end] = weight.slots(levels, rank);
            missed |= u32::from(levels.last() < rank) | u32::from(end <= first);
            (firsts[lane], ends[lane]) = (number(first), number(end));
        }
    }
    if missed != 0 {
        for lane in 0..LANES {
            if levels.last() < f32::from(ranks[lane]) || found.end[lane] <= found.first[lane] {
                outside(lane);
                [found.first[lane], found.end[lane]] = block.weight(lane).middle_slots(levels).map(number);
            }
        }
    }
}
