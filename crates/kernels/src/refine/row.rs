//! A row of weights: their intervals, and how their codes are scaled.

use super::weight::Weight;
use super::{Intervals, LEAST_SCALE, WIDEST};
use crate::stream::LANES;

/// How many weights a scale is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Each {
    /// One.
    Weight,
    /// 16, counted from the first one on.
    Sixteen,
}

/// What the codes of some weights of a row stand for: `(level - zero) * scale`.
#[derive(Debug, Clone, Copy)]
pub struct Scaled<'a> {
    pub(super) scales: &'a [f32],
    /// Of each scale the reciprocal, or what is near: it says where to look for a code first.
    pub(super) inverses: &'a [f32],
    /// The levels that stand for 0.
    pub(super) zeros: &'a [f32],
    pub(super) each: Each,
}

impl<'a> Scaled<'a> {
    /// Scales from [`LEAST_SCALE`] on, the reciprocal of each (anything near will do; it says where to look first), and
    /// the levels that stand for 0, up to [`WIDEST`]. `None` if these are no such numbers, or not as many of each.
    #[must_use]
    pub fn new(scales: &'a [f32], inverses: &'a [f32], zeros: &'a [f32], each: Each) -> Option<Self> {
        let as_many = inverses.len() == scales.len() && zeros.len() == scales.len();
        // Without an end before the last one, so that compilers make vector code of it.
        let good = |good, scale: &f32| good & (*scale >= LEAST_SCALE) & (*scale < f32::INFINITY);
        let good = scales.iter().fold(as_many, good);
        let good = zeros.iter().fold(good, |good, zero| good & (zero.abs() <= WIDEST));
        good.then_some(Self { scales, inverses, zeros, each })
    }

    /// What is for the weights behind so many blocks.
    pub(super) fn after_blocks(self, number: usize) -> Self {
        let first = match self.each {
            Each::Weight => number * LANES,
            Each::Sixteen => number * (LANES / 16),
        };
        let of = |all: &'a [f32]| all.get(first..).unwrap_or_default();
        let [scales, inverses, zeros] = [self.scales, self.inverses, self.zeros].map(of);
        Self { scales, inverses, zeros, each: self.each }
    }

    /// Scale and zero-point of a weight.
    pub(super) fn of(self, column: usize) -> [f32; 2] {
        let index = match self.each {
            Each::Weight => column,
            Each::Sixteen => column / 16,
        };
        [self.scales[index], self.zeros[index]]
    }

    /// Whether it is for so many weights.
    pub(super) fn is_for(self, weights: usize) -> bool {
        let count = match self.each {
            Each::Weight => weights,
            Each::Sixteen => weights.div_ceil(16),
        };
        self.scales.len() == count
    }
}

/// A row, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) intervals: Intervals<'a>,
    pub(super) scaled: Scaled<'a>,
}

/// Sixteens of a block.
pub(super) const SIXTEENS: usize = LANES / 16;

/// A whole block of a row, with as many scales as weights, or one for each 16.
pub(super) struct Block<'a, const N: usize> {
    pub(super) lo: &'a [f32; LANES],
    pub(super) hi: &'a [f32; LANES],
    pub(super) scales: &'a [f32; N],
    pub(super) inverses: &'a [f32; N],
    pub(super) zeros: &'a [f32; N],
}

impl<'a, const N: usize> Block<'a, N> {
    #[inline(always)]
    pub(super) fn of(row: Row<'a>, number: usize) -> Self {
        let Row { intervals, scaled } = row;
        Self {
            lo: &intervals.lo.as_chunks().0[number],
            hi: &intervals.hi.as_chunks().0[number],
            scales: &scaled.scales.as_chunks().0[number],
            inverses: &scaled.inverses.as_chunks().0[number],
            zeros: &scaled.zeros.as_chunks().0[number],
        }
    }

    pub(super) fn weight(&self, lane: usize) -> Weight {
        let index = lane * N / LANES;
        Weight::new([self.lo[lane], self.hi[lane]], self.scales[index], self.zeros[index])
    }
}

/// Of numbers of the weights of a block, or of each 16 of them, those of a quarter.
#[inline(always)]
pub(super) fn of_quarter<const N: usize>(of: &[f32; N], quarter: usize) -> [f32; 16] {
    if N == LANES { of.as_chunks().0[quarter] } else { [of[quarter]; 16] }
}

/// The last block of a row that is no whole one, filled up with weights whose last rank has all slots.
pub(super) struct PaddedBlock {
    lo: [f32; LANES],
    hi: [f32; LANES],
    scales: [f32; LANES],
    inverses: [f32; LANES],
    zeros: [f32; LANES],
}

impl PaddedBlock {
    /// Of block number `number`.
    pub(super) fn of(row: Row, number: usize) -> Self {
        let [lo, hi] = row.intervals.rest(number * LANES);
        let scaled = row.scaled.after_blocks(number);
        let len = row.intervals.lo.len() - number * LANES;
        let fill = |of: &[f32], with: f32| {
            let mut all = [with; LANES];
            match scaled.each {
                Each::Weight => all[..len].copy_from_slice(of),
                Each::Sixteen => {
                    all[..len].chunks_mut(16).zip(of).for_each(|(all, value)| all.fill(*value));
                }
            }
            all
        };
        // Every edge lies far below the intervals that are filled in; the last rank is where one looks first.
        let [scales, inverses] = [scaled.scales, scaled.inverses].map(|of| fill(of, 1.0));
        Self { lo, hi, scales, inverses, zeros: fill(scaled.zeros, WIDEST) }
    }

    pub(super) fn block(&self) -> Block<'_, LANES> {
        let Self { lo, hi, scales, inverses, zeros } = self;
        Block { lo, hi, scales, inverses, zeros }
    }
}
