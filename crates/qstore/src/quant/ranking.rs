//! The levels of codes in ascending order.

use qstore_kernels::{Edges, LEAST_SCALE, WIDEST};

use super::dequantizer::RowValues;
use super::levels::{LevelKind, LevelTable, mini_level};

/// Ascending ranks of codes, as coders that are given intervals number them. Those of integers are levels from 0 on;
/// floats of few bits have theirs in the order of sign and magnitude, each bit pattern counting as a number.
#[derive(Debug, Clone)]
pub(crate) struct Ranking {
    edges: Edges,
    rank_of_code: Box<[u8; 256]>,
    code_of_rank: Box<[u8; 256]>,
    last: u8,
    /// What is added to a level to make it one of the edges.
    offset: f32,
    /// The least two levels and the greatest two.
    outer: [[f32; 2]; 2],
    /// What the edges of a rank and of the one as far from the other end add up to; `None` if that is not the same for
    /// all.
    mirror: Option<f32>,
}

/// What a code of a rank stands for: `(level - zero) * scale`, all of it numbers that kernels take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scaling {
    pub(crate) scale: f32,
    pub(crate) zero: f32,
    /// Whether the scale was negative: ranks are then counted from the last one down.
    pub(crate) mirrored: bool,
}

impl Scaling {
    /// That of weights of which codes tell nothing: every edge is beyond all numbers.
    pub(crate) const NOTHING: Self = Self { scale: 4.0, zero: WIDEST, mirrored: false };
}

impl Ranking {
    /// `None` for tables of more levels than coders take.
    pub(crate) fn new(levels: &LevelTable) -> Option<Self> {
        let codes = 1usize << levels.bits();
        let half = f32::from(1u16 << (levels.bits() - 1));
        let (edges, offset) = match levels.kind() {
            LevelKind::Unsigned => (Edges::integers(codes)?, 0.0),
            LevelKind::Signed { .. } => (Edges::integers(codes)?, half),
            LevelKind::Float(float) => {
                (Edges::floats(levels.bits().into(), float.mantissa_bits(), float.bias())?, 0.0)
            }
            LevelKind::Table => (Edges::table(&levels.ascending())?, 0.0),
        };
        let last = u8::MAX >> (8 - levels.bits());
        let half = 1u8 << (levels.bits() - 1);
        let (mut rank_of_code, mut code_of_rank) = (Box::new([u8::MAX; 256]), Box::new([0; 256]));
        for code in 0..=last {
            let mut rank = [code];
            levels.to_ranks(&mut rank);
            let rank = match levels.kind() {
                LevelKind::Unsigned | LevelKind::Table => rank[0],
                LevelKind::Signed { .. } | LevelKind::Float(_) => rank[0].wrapping_add(half),
            };
            rank_of_code[usize::from(code)] = rank;
            code_of_rank[usize::from(rank)] = code;
        }
        let mirror = match levels.kind() {
            LevelKind::Unsigned | LevelKind::Signed { .. } => Some(f32::from(last)),
            LevelKind::Float(_) => Some(0.0),
            LevelKind::Table => None,
        };
        let outer = match levels.kind() {
            LevelKind::Unsigned | LevelKind::Signed { .. } => {
                let [least, most] = [-offset, f32::from(last) - offset];
                [[least, least + 1.0], [most - 1.0, most]]
            }
            LevelKind::Float(float) => {
                let top = u32::from(last >> 1);
                let [below, most] = [top - 1, top].map(|magnitude| mini_level(float, magnitude));
                [[-most, -below], [below, most]]
            }
            LevelKind::Table => {
                let levels = levels.ascending();
                [[levels[0], levels[1]], [levels[levels.len() - 2], levels[levels.len() - 1]]]
            }
        };
        Some(Self { edges, rank_of_code, code_of_rank, last, offset, outer, mirror })
    }

    /// The edges between ranks.
    pub(crate) fn edges(&self) -> &Edges {
        &self.edges
    }

    /// Where the outermost bins may end: so many steps beyond the outermost levels.
    pub(crate) fn beyond(&self, steps: f32) -> [f32; 2] {
        let [[least, second], [last_but_one, most]] = self.outer;
        [least - (second - least) * steps, most + (most - last_but_one) * steps]
    }

    /// The levels at which the outermost bins end, as some of the edges. With negative scales either could be the other.
    pub(crate) fn ends(&self, ends: [f32; 2], has_negative: bool) -> [f32; 2] {
        let [least, most] = ends.map(|end| end + self.offset);
        match self.mirror.filter(|_| has_negative) {
            Some(sum) => [least.min(sum - most), most.max(sum - least)],
            None => [least, most],
        }
    }

    /// What codes of a group of a row stand for.
    pub(crate) fn scaling(&self, row: &RowValues, group: usize) -> Scaling {
        let (scale, zero) = (row.scale(group), row.zero(group) + self.offset);
        let mirrored = scale < 0.0;
        let zero = if mirrored { self.mirror.map(|sum| sum - zero) } else { Some(zero) };
        match zero.filter(|zero| scale.is_finite() && zero.abs() <= WIDEST) {
            Some(zero) => Scaling { scale: scale.abs().max(LEAST_SCALE), zero, mirrored },
            None => Scaling::NOTHING,
        }
    }

    /// Ranks of codes.
    pub(crate) fn ranks(&self, codes: &[u8], ranks: &mut [u8]) {
        ranks.iter_mut().zip(codes).for_each(|(rank, code)| *rank = self.rank_of_code[usize::from(*code)]);
    }

    /// Inverse of [`ranks`](Self::ranks); what is no rank becomes any code.
    pub(crate) fn to_codes(&self, ranks: &mut [u8]) {
        ranks.iter_mut().for_each(|rank| *rank = self.code_of_rank[usize::from(*rank)]);
    }

    /// Counts ranks from the last one down; what is no rank stays so.
    pub(crate) fn mirror(&self, ranks: &mut [u8]) {
        let last = self.last;
        ranks.iter_mut().for_each(|rank| *rank = if *rank <= last { last - *rank } else { *rank });
    }
}
