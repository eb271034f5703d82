//! Floats of a row: the definition, pass by pass over the lanes of a block, so that compilers make vector code of it.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "magnitudes are below 2^15, and halves of states"
)]
#![allow(clippy::needless_range_loop, reason = "a lane is a place in several arrays")]

use super::super::lanes::{Slots, slot_of};
use super::super::scalar::{Advance, Put};
use super::super::{Intervals, SLOTS, greater, integer, lesser, number};
use super::SIGN;
use super::grid::Grid;
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WordReader, WordWriter};

/// The sign bit of binary32.
pub(super) const SIGN_BIT: u32 = 1 << 31;
/// The part of the greatest magnitude of an interval that its least one must reach for it to be narrow.
pub(super) const LEAST_PART: f32 = 0.125;
/// How many binades below the greatest magnitude of a wide interval floats are near zero.
pub(super) const BINADES: u32 = 3;
/// What is less is near zero: what is told apart beyond that is no less than 2^-124, of which there is a reciprocal.
pub(super) const LEAST: f32 = f32::from_bits(27 << 23);
/// The bound of an interval of less, all of which is near zero: no power of two, as others are.
pub(super) const ALL_NEAR_ZERO: f32 = 3.0;

/// The floats of one interval, which is mirrored if it reaches farther below zero than above.
#[derive(Clone, Copy)]
pub(super) struct Floats<G> {
    grid: G,
    /// Where the first slot is, and the first one behind all.
    begin: f32,
    end: f32,
    /// Slots of as much as 1, rounded to whole ones when they are asked for.
    density: f32,
    /// Lesser magnitudes are near zero; 0 of a narrow interval.
    pub(super) near_zero: f32,
    /// The greatest magnitude.
    pub(super) to: f32,
    /// The sign bit if it is mirrored.
    pub(super) mirror: u32,
    /// Whether what is near zero may have either sign.
    pub(super) both_signs: bool,
}

/// What has slots of its own.
#[derive(Clone, Copy)]
struct Float {
    magnitude: u32,
    /// As it is mirrored.
    sign: u32,
    /// Whether it is all that is near zero.
    is_near_zero: bool,
}

impl<G: Grid> Floats<G> {
    #[inline(always)]
    pub(super) fn of(grid: G, lo: f32, hi: f32) -> Self {
        // Bits of floats that are not negative ascend as they do.
        let [low, high] = [lo, hi].map(|end| (end.to_bits() & !SIGN_BIT).cast_signed());
        let (least, most) = if low < high { (low, high) } else { (high, low) };
        let [from, to] = [least, most].map(|bits| f32::from_bits(bits.cast_unsigned()));
        let mirror = hi.to_bits() & SIGN_BIT | u32::from(low > high) << 31;
        let both_signs = (lo.to_bits() ^ hi.to_bits()) & SIGN_BIT != 0;
        let few = to * LEAST_PART <= from;
        let is_tiny = |bits: i32| bits < LEAST.to_bits().cast_signed();
        let wide = both_signs | !few | is_tiny(least);
        let first = grid.from(from);
        let (last, first) = (grid.to(to), if both_signs { 0 } else { first });
        let last = if last > first { last } else { first };
        let begin = if both_signs { -grid.value(grid.to(from) + 1) } else { grid.value(first) };
        let end = grid.value(last + 1);
        let power = (most.cast_unsigned() & 0x7f80_0000).saturating_sub(BINADES << 23);
        let near_zero = grid.value(grid.from(f32::from_bits(power)));
        let near_zero = if wide & (begin < near_zero) { near_zero } else { 0.0 };
        let all = wide & (is_tiny(most) | (grid.value(last) < near_zero));
        let [begin, end, near_zero] =
            if all { [1.0, grid.value(grid.to(1.0) + 1), ALL_NEAR_ZERO] } else { [begin, end, near_zero] };
        let both_signs = both_signs | all;
        Self { grid, begin, end, density: SLOTS / (end - begin), near_zero, to, mirror, both_signs }
    }

    /// What a number is.
    #[inline(always)]
    fn float(self, number: f32) -> Float {
        let magnitude = f32::from_bits(number.to_bits() & !SIGN_BIT);
        let is_near_zero = magnitude < self.near_zero;
        Float { magnitude: self.grid.to(magnitude), sign: number.to_bits() & SIGN_BIT, is_near_zero }
    }

    /// Between which numbers a float has its slots.
    #[inline(always)]
    fn edges(self, float: Float) -> [f32; 2] {
        let signed = |value: f32| f32::from_bits(value.to_bits() | float.sign);
        let [near, far] = [float.magnitude, float.magnitude + 1].map(|of| signed(self.grid.value(of)));
        let edges = if float.sign == 0 { [near, far] } else { [far, near] };
        if float.is_near_zero { [-self.near_zero, self.near_zero] } else { edges }
    }

    /// The slots of a float: the first one, and the first that is not.
    #[inline(always)]
    fn slots(self, float: Float) -> [f32; 2] {
        let slot = |edge: f32| lesser(greater((edge - self.begin) * self.density, 0.0), SLOTS);
        self.edges(float).map(|edge| integer(slot(edge)))
    }

    /// Which float has a slot, or the one before or after that, by rounding.
    #[inline(always)]
    fn near(self, slot: f32) -> Float {
        self.float(self.begin + (slot + 0.5) * ((self.end - self.begin) * (1.0 / SLOTS)))
    }

    /// Which float has a slot.
    fn at(self, slot: f32) -> Float {
        let mut float = self.near(slot);
        // It is one of those beside, by rounding.
        for _ in 0..4 {
            let ([first, end], [below, above]) = (self.slots(float), self.edges(float));
            float = match (slot < first, slot < end) {
                (true, _) => self.float(below.next_down()),
                (false, true) => break,
                (false, false) => self.float(above.next_up()),
            };
        }
        float
    }

    /// The bits of a float; 0 for what is near zero.
    #[inline(always)]
    fn bits(self, float: Float) -> u32 {
        let bits = float.magnitude | (float.sign ^ self.mirror) >> 16;
        if float.is_near_zero { 0 } else { bits }
    }

    /// Where a float of 16 bits is.
    #[inline(always)]
    pub(super) fn locate(self, bits: u16) -> Found {
        let sign = (u32::from(bits & SIGN) << 16) ^ self.mirror;
        let magnitude = u32::from(bits & !SIGN);
        let all = self.near_zero == ALL_NEAR_ZERO;
        let is_near_zero = (self.grid.value(magnitude) < self.near_zero) | all;
        let [below, above] = self.edges(Float { magnitude, sign, is_near_zero: false });
        let within = !is_near_zero & (self.begin <= below) & (above <= self.end);
        let float = Float { magnitude, sign, is_near_zero };
        Found { float, near_zero: is_near_zero & (self.both_signs | (sign == 0)), within }
    }

    /// The slots of a float; of one that is not in the interval those of its last one.
    #[inline(always)]
    fn slots_of(self, found: Found) -> [f32; 2] {
        let last = self.float(self.end.next_down());
        self.slots(if found.near_zero | found.within { found.float } else { last })
    }

    /// The float of 16 bits that has a slot, whether it is near zero instead, and its slots.
    pub(super) fn decode(self, slot: f32) -> (u16, bool, [u32; 2]) {
        let float = self.at(slot);
        (self.bits(float) as u16, float.is_near_zero, self.slots(float).map(number))
    }
}

/// Where a float is in its interval.
#[derive(Clone, Copy)]
pub(super) struct Found {
    float: Float,
    /// Among those near zero.
    pub(super) near_zero: bool,
    /// Among the others.
    pub(super) within: bool,
}

/// Decodes the floats of a row; `near_zero` gets the columns of those near zero, of which it decodes no more.
#[inline(always)]
pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    grid: impl Grid,
    intervals: Intervals,
    out: &mut [Half],
    near_zero: &mut dyn FnMut(usize),
    advance: impl Advance,
) -> Result<(), DecodeError> {
    let mut slots = Slots::NONE;
    let (blocks, rest) = out.as_chunks_mut();
    let ends = intervals.lo.as_chunks().0.iter().zip(intervals.hi.as_chunks().0);
    for (number, (out, (lo, hi))) in blocks.iter_mut().zip(ends).enumerate() {
        let set = states.set(number);
        find(grid, [lo, hi], set, out, &mut slots, &mut |lane| near_zero(number * LANES + lane));
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
    }
    if !rest.is_empty() {
        let start = blocks.len() * LANES;
        let (set, mut values) = (states.set(blocks.len()), [[0; 2]; LANES]);
        let [lo, hi] = intervals.rest(start);
        find(grid, [&lo, &hi], set, &mut values, &mut slots, &mut |lane| near_zero(start + lane));
        let used = advance(set, &slots, words.window()?);
        words.skip(used);
        rest.copy_from_slice(&values[..rest.len()]);
    }
    Ok(())
}

/// The float of its interval that has the slot of each state, and its slots; `near_zero` gets the lanes of those that
/// are.
#[inline(always)]
fn find(
    grid: impl Grid,
    [lo, hi]: [&[f32; LANES]; 2],
    set: &[u32; LANES],
    values: &mut [Half; LANES],
    found: &mut Slots,
    near_zero: &mut dyn FnMut(usize),
) {
    let (mut some, mut missed) = (0, 0);
    let mut lanes = [[0; 16]; 4];
    for (quarter, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let [lo, hi] = [lo, hi].map(|ends| &ends.as_chunks::<16>().0[quarter]);
        let states = &set.as_chunks::<16>().0[quarter];
        let firsts = &mut found.first.as_chunks_mut::<16>().0[quarter];
        let ends = &mut found.end.as_chunks_mut::<16>().0[quarter];
        let mut bits = [0; 16];
        for lane in 0..16 {
            let (floats, slot) = (Floats::of(grid, lo[lane], hi[lane]), slot_of(states[lane]));
            let float = floats.near(slot);
            let [first, end] = floats.slots(float);
            missed |= u32::from(slot < first) | u32::from(end <= slot);
            lanes[quarter][lane] = u32::from(float.is_near_zero);
            some |= u32::from(float.is_near_zero);
            bits[lane] = floats.bits(float);
            (firsts[lane], ends[lane]) = (number(first), number(end));
        }
        for lane in 0..16 {
            values[lane] = (bits[lane] as u16).to_le_bytes();
        }
    }
    if missed != 0 {
        some |= search(grid, [lo, hi], set, values, found, lanes.as_flattened_mut());
    }
    if some != 0 {
        let lanes = lanes.as_flattened().iter().enumerate();
        lanes.filter(|(_, is_one)| **is_one != 0).for_each(|(lane, _)| near_zero(lane));
    }
}

/// Finds the floats that were looked for beside their places, their slots, and which of them are near zero; returns
/// whether any is.
#[cold]
#[inline(never)]
fn search(
    grid: impl Grid,
    [lo, hi]: [&[f32; LANES]; 2],
    set: &[u32; LANES],
    values: &mut [Half; LANES],
    found: &mut Slots,
    near_zero: &mut [u32],
) -> u32 {
    for lane in 0..LANES {
        if !(found.first[lane]..found.end[lane]).contains(&(set[lane] & 0xffff)) {
            let (value, is_near_zero, slots) =
                Floats::of(grid, lo[lane], hi[lane]).decode(slot_of(set[lane]));
            values[lane] = value.to_le_bytes();
            near_zero[lane] = u32::from(is_near_zero);
            [found.first[lane], found.end[lane]] = slots;
        }
    }
    near_zero.iter().fold(0, |any, one| any | one)
}

/// Codes the floats of a row, its last one first, of those near zero no more than that. `outside` gets the columns of
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

/// The slots of floats; `outside` gets those that are not in their intervals.
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
        let at = floats.locate(u16::from_le_bytes(values[lane]));
        missed[lane] = u8::from(!at.near_zero & !at.within);
        let [first, end] = floats.slots_of(at);
        (found.first[lane], found.end[lane]) = (number(first), number(end));
    }
    if missed != [0; LANES] {
        (0..LANES).filter(|lane| missed[*lane] != 0).for_each(outside);
    }
}
