//! Floats of a row: the definition, pass by pass over the lanes of a block, so that compilers make vector code of it.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "magnitudes are below 2^15, and halves of states"
)]
#![allow(clippy::needless_range_loop, reason = "a lane is a place in several arrays")]

use super::super::lanes::{Slots, slot_of};
use super::super::scalar::{Advance, Put};
use super::super::{Intervals, SLOTS, greater, integer, number};
use super::SIGN;
use super::grid::Grid;
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WordReader, WordWriter};

/// The sign bit of binary32.
const SIGN_BIT: u32 = 1 << 31;
/// The part of the greatest magnitude of an interval that its least one must reach for all floats of it to be taken for
/// equally likely.
pub(super) const LEAST_PART: f32 = 0.125;

/// The floats of one interval.
#[derive(Clone, Copy)]
pub(super) struct Floats {
    /// The least magnitude.
    first: u32,
    /// How many there are; 1 where the interval is wide.
    count: f32,
    /// Slots of each, rounded to whole ones when they are asked for.
    density: f32,
    /// The sign bit of all of them.
    sign: u32,
    /// Whether it reaches over too many binades, or has both signs.
    pub(super) wide: bool,
}

impl Floats {
    #[inline(always)]
    pub(super) fn of(grid: impl Grid, lo: f32, hi: f32) -> Self {
        // Bits of floats that are not negative ascend as they do.
        let [low, high] = [lo, hi].map(|end| (end.to_bits() & !SIGN_BIT).cast_signed());
        let (least, most) = if low < high { (low, high) } else { (high, low) };
        let [from, to] = [least, most].map(|bits| f32::from_bits(bits.cast_unsigned()));
        let both_signs = (lo.to_bits() ^ hi.to_bits()) & SIGN_BIT != 0;
        let few = to * LEAST_PART <= from;
        let wide = both_signs | !few | (least == 0);
        let (first, last) = (grid.from(from), grid.to(to));
        let count = if (last > first) & !wide { last - first + 1 } else { 1 };
        let sign = hi.to_bits() >> 16 & u32::from(SIGN);
        let count = count.cast_signed() as f32;
        Self { first, count, density: SLOTS / count, sign, wide }
    }

    /// The slots of float number `index`: the first one, and the first that is not.
    #[inline(always)]
    fn slots(self, index: f32) -> [f32; 2] {
        [integer(index * self.density), integer((index + 1.0) * self.density)]
    }

    /// Which float has a slot, or the one before or after that, by rounding.
    #[inline(always)]
    fn near(self, slot: f32) -> f32 {
        integer(greater((slot + 0.5) * (self.count * (1.0 / SLOTS)) - 0.5, 0.0))
    }

    /// Which float has a slot.
    #[cold]
    fn index_of(self, slot: f32) -> f32 {
        let near = self.near(slot);
        let [first, end] = self.slots(near);
        match (slot < first, slot < end) {
            (true, _) => near - 1.0,
            (false, true) => near,
            (false, false) => near + 1.0,
        }
    }
}

/// Decodes the floats of a row; `wide` gets the columns of those whose intervals are wide, of which it decodes nothing.
#[inline(always)]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    grid: impl Grid,
    intervals: Intervals,
    out: &mut [Half],
    wide: &mut dyn FnMut(usize),
    advance: impl Advance,
) -> Result<(), DecodeError> {
    let mut slots = Slots::NONE;
    let (blocks, rest) = out.as_chunks_mut();
    let ends = intervals.lo.as_chunks().0.iter().zip(intervals.hi.as_chunks().0);
    for (number, (out, (lo, hi))) in blocks.iter_mut().zip(ends).enumerate() {
        let set = states.set(number);
        find(grid, [lo, hi], set, out, &mut slots, &mut |lane| wide(number * LANES + lane));
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
    }
    if !rest.is_empty() {
        let start = blocks.len() * LANES;
        let (set, mut values) = (states.set(blocks.len()), [[0; 2]; LANES]);
        let [lo, hi] = intervals.rest(start);
        find(grid, [&lo, &hi], set, &mut values, &mut slots, &mut |lane| wide(start + lane));
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
        rest.copy_from_slice(&values[..rest.len()]);
    }
    Ok(())
}

/// The float of its interval that has the slot of each state, and its slots; `wide` gets the lanes of wide intervals.
#[inline(always)]
fn find(
    grid: impl Grid,
    [lo, hi]: [&[f32; LANES]; 2],
    set: &[u32; LANES],
    values: &mut [Half; LANES],
    found: &mut Slots,
    wide: &mut dyn FnMut(usize),
) {
    let (mut is_wide, mut missed) = (0, 0);
    let mut wide_lanes = [[0; 16]; 4];
    for (quarter, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let [lo, hi] = [lo, hi].map(|ends| &ends.as_chunks::<16>().0[quarter]);
        let states = &set.as_chunks::<16>().0[quarter];
        let firsts = &mut found.first.as_chunks_mut::<16>().0[quarter];
        let ends = &mut found.end.as_chunks_mut::<16>().0[quarter];
        let mut bits = [0; 16];
        for lane in 0..16 {
            let (floats, slot) = (Floats::of(grid, lo[lane], hi[lane]), slot_of(states[lane]));
            let index = floats.near(slot);
            let [first, end] = floats.slots(index);
            missed |= u32::from(slot < first) | u32::from(end <= slot);
            wide_lanes[quarter][lane] = u32::from(floats.wide);
            is_wide |= u32::from(floats.wide);
            bits[lane] = (floats.first + number(index)) | floats.sign;
            (firsts[lane], ends[lane]) = (number(first), number(end));
        }
        for lane in 0..16 {
            values[lane] = (bits[lane] as u16).to_le_bytes();
        }
    }
    if missed != 0 {
        search(grid, [lo, hi], set, values, found);
    }
    if is_wide != 0 {
        let lanes = wide_lanes.as_flattened().iter().enumerate();
        lanes.filter(|(_, is_wide)| **is_wide != 0).for_each(|(lane, _)| wide(lane));
    }
}

/// Finds the floats that were looked for beside their places, and their slots.
#[cold]
#[inline(never)]
fn search(
    grid: impl Grid,
    [lo, hi]: [&[f32; LANES]; 2],
    set: &[u32; LANES],
    values: &mut [Half; LANES],
    found: &mut Slots,
) {
    for lane in 0..LANES {
        if !(found.first[lane]..found.end[lane]).contains(&(set[lane] & 0xffff)) {
            let floats = Floats::of(grid, lo[lane], hi[lane]);
            let index = floats.index_of(slot_of(set[lane]));
            values[lane] = (((floats.first + number(index)) | floats.sign) as u16).to_le_bytes();
            [found.first[lane], found.end[lane]] = floats.slots(index).map(number);
        }
    }
}

/// Codes the floats of a row, its last one first, but those whose intervals are wide. `outside` gets the columns of
/// those that are not in their intervals.
#[inline(always)]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    grid: impl Grid,
    intervals: Intervals,
    values: &[Half],
    outside: &mut dyn FnMut(usize),
    put: impl Put,
) {
    let mut slots = Slots::NONE;
    let (blocks, rest) = values.as_chunks();
    if !rest.is_empty() {
        let start = blocks.len() * LANES;
        let [lo, hi] = intervals.rest(start);
        // The one float that there is.
        let mut all = [(grid.to(1.0) as u16).to_le_bytes(); LANES];
        all[..rest.len()].copy_from_slice(rest);
        let set = states.set(blocks.len());
        slots_of(grid, [&lo, &hi], &all, &mut slots, &mut |lane| outside(start + lane));
        put(set, words, &slots);
    }
    let ends = intervals.lo.as_chunks().0.iter().zip(intervals.hi.as_chunks().0);
    for (number, (values, (lo, hi))) in blocks.iter().zip(ends).enumerate().rev() {
        let set = states.set(number);
        let mut outside = |lane| outside(number * LANES + lane);
        slots_of(grid, [lo, hi], values, &mut slots, &mut outside);
        put(set, words, &slots);
    }
}

/// The slots of floats; `outside` gets those that are not in their intervals. These have those of others in their
/// place, and floats of wide intervals have all.
#[inline(always)]
fn slots_of(
    grid: impl Grid,
    [lo, hi]: [&[f32; LANES]; 2],
    values: &[Half; LANES],
    found: &mut Slots,
    outside: &mut dyn FnMut(usize),
) {
    let mut missed = [0u8; LANES];
    for lane in 0..LANES {
        let floats = Floats::of(grid, lo[lane], hi[lane]);
        // Of another sign it has an index beyond all.
        let value = u32::from(u16::from_le_bytes(values[lane])) ^ floats.sign;
        let index = value.wrapping_sub(floats.first).cast_signed() as f32;
        let fits = value >= floats.first && index < floats.count;
        missed[lane] = u8::from(!fits && !floats.wide);
        let [first, end] = floats.slots(if fits && !floats.wide { index } else { 0.0 });
        (found.first[lane], found.end[lane]) = (number(first), number(end));
    }
    if missed != [0; LANES] {
        (0..LANES).filter(|lane| missed[*lane] != 0).for_each(outside);
    }
}
