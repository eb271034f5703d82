//! The edges between the levels of a quantiser.

use super::{GREATEST_EDGE, greater, integer, number};

/// The levels of a quantiser in ascending order, and the edges between them: a weight belongs to the nearest level.
#[derive(Debug, Clone, PartialEq)]
pub struct Edges {
    pub(super) kind: EdgeKind,
    /// Ranks, 2 to 256.
    count: u16,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum EdgeKind {
    /// Rank `r` stands for `r`.
    Integers,
    /// Of floats of few bits.
    Floats(FewBits),
    /// Of integers and of floats, where weights were rounded before.
    RoundedIntegers(Rounded),
    RoundedFloats(FewBits, Rounded),
    /// The edge below each rank but the first; infinity where there are no more.
    Table(Box<[f32; 15]>),
}

impl Edges {
    /// Of integers: rank `r` stands for `r`. `None` unless there are 2 to 256.
    #[must_use]
    pub fn integers(count: usize) -> Option<Self> {
        Some(Self { kind: EdgeKind::Integers, count: checked(count, 256)? })
    }

    /// Of floats of `bits` bits, 3 to 8: a sign, an exponent that is biased by `bias`, and `mantissa` bits of mantissa.
    /// Each bit pattern counts as a number: rank `2^(bits - 1) + m` stands for the float of magnitude `m`, and the one
    /// as far below it for its negative, from -0 on. `None` where the parts do not fit.
    #[must_use]
    pub fn floats(bits: u32, mantissa: u32, bias: u32) -> Option<Self> {
        if !(3..=8).contains(&bits) || mantissa < 1 || mantissa + 2 > bits || bias > 30 {
            return None;
        }
        let count = checked(1 << bits, 256)?;
        let kind = EdgeKind::Floats(FewBits { mantissa, bias, half: f32::from(count) * 0.5 });
        Some(Self { kind, count })
    }

    /// Of levels in ascending order, 2 to 16 of them, not beyond half of [`WIDEST`](super::WIDEST). `None` for others.
    #[must_use]
    pub fn table(levels: &[f32]) -> Option<Self> {
        let count = checked(levels.len(), 16)?;
        if !levels.is_sorted() || !levels.iter().all(|level| level.abs() <= GREATEST_EDGE) {
            return None;
        }
        let mut edges = Box::new([f32::INFINITY; 15]);
        for (edge, pair) in edges.iter_mut().zip(levels.windows(2)) {
            *edge = (pair[0] + pair[1]) * 0.5;
        }
        Some(Self { kind: EdgeKind::Table(edges), count })
    }

    /// Stretches between these edges, in ascending order: 1 to 15 of them, not beyond half of
    /// [`WIDEST`](super::WIDEST). `None` for others.
    #[must_use]
    pub fn between(inner: &[f32]) -> Option<Self> {
        let count = checked(inner.len() + 1, 16)?;
        if !inner.is_sorted() || !inner.iter().all(|edge| edge.abs() <= GREATEST_EDGE) {
            return None;
        }
        let mut edges = Box::new([f32::INFINITY; 15]);
        edges[..inner.len()].copy_from_slice(inner);
        Some(Self { kind: EdgeKind::Table(edges), count })
    }

    /// The same for weights that were rounded to floats before they were rounded to levels: what lies between a middle
    /// and the float beside it becomes the middle, and that the even one of the two levels. Of these floats `half_ulp`
    /// is half of the distance between two, as a part of the power of two at or below them; integer levels are less by
    /// `base` than their ranks. `None` of tables and stretches, or for a base that is no integer below 2^16.
    #[must_use]
    pub fn of_rounded(&self, half_ulp: f32, base: f32) -> Option<Self> {
        let (whole, odd) = (integer(base.clamp(0.0, 65_535.0)), number(base.clamp(0.0, 65_535.0)) & 1);
        let rounded = Rounded { half_ulp, base, odd };
        let made = |kind| Self { kind, count: self.count };
        let made = match &self.kind {
            EdgeKind::Integers if whole == base => made(EdgeKind::RoundedIntegers(rounded)),
            EdgeKind::Floats(floats) => made(EdgeKind::RoundedFloats(*floats, rounded)),
            _ => return None,
        };
        if self.count > 16 {
            return Some(made);
        }
        // Of so few a table takes less time.
        let inner: Option<Vec<f32>> = (1..self.count).map(|rank| made.below(rank.try_into().ok()?)).collect();
        Self::between(&inner?)
    }

    /// The edge below a rank that is not the first.
    #[must_use]
    pub fn below(&self, rank: u8) -> Option<f32> {
        if rank == 0 || u16::from(rank) >= self.count {
            return None;
        }
        let rank = f32::from(rank);
        let [below, _] = match &self.kind {
            EdgeKind::Integers => self.as_integers().around(rank),
            EdgeKind::Floats(floats) => floats.around(rank),
            EdgeKind::RoundedIntegers(rounded) => self.as_rounded(*rounded).around(rank),
            EdgeKind::RoundedFloats(floats, rounded) => RoundedFloats(*floats, *rounded).around(rank),
            EdgeKind::Table(table) => self.as_table(table).around(rank),
        };
        Some(below)
    }

    /// Of a table or stretches, the edges between them.
    #[must_use]
    pub fn inner(&self) -> Option<&[f32]> {
        match &self.kind {
            EdgeKind::Table(edges) => Some(&edges[..usize::from(self.count) - 1]),
            _ => None,
        }
    }

    /// The last rank.
    pub(super) fn last(&self) -> f32 {
        f32::from(self.count - 1)
    }

    /// Those of integers.
    pub(super) fn as_integers(&self) -> Integers {
        Integers { last: self.last() }
    }

    /// Those of integers where weights were rounded before.
    pub(super) fn as_rounded(&self, rounded: Rounded) -> RoundedIntegers {
        RoundedIntegers { of: self.as_integers(), rounded }
    }

    /// Those of a table.
    pub(super) fn as_table<'a>(&self, edges: &'a [f32; 15]) -> Table<'a> {
        Table { edges, last: self.last() }
    }
}

fn checked(count: usize, most: usize) -> Option<u16> {
    u16::try_from(count).ok().filter(|_| (2..=most).contains(&count))
}

/// The levels of one kind, by rank.
pub(super) trait Levels: Copy {
    /// The last rank.
    fn last(self) -> f32;

    /// The same as a byte.
    #[allow(clippy::cast_possible_truncation, reason = "at most 255")]
    fn last_byte(self) -> u8 {
        number(self.last()) as u8
    }

    /// The edge below a rank, and the one above it; anything where there is none.
    fn around(self, rank: f32) -> [f32; 2];
    /// A rank whose level is near this one, or less than the first or more than the last.
    fn near(self, level: f32) -> f32;
}

/// Integers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Integers {
    last: f32,
}

impl Levels for Integers {
    #[inline(always)]
    fn last(self) -> f32 {
        self.last
    }

    #[inline(always)]
    fn around(self, rank: f32) -> [f32; 2] {
        [rank - 0.5, rank + 0.5]
    }

    #[inline(always)]
    fn near(self, level: f32) -> f32 {
        integer(level)
    }
}

/// What weights were rounded to before they were rounded to levels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rounded {
    /// Half of the distance between such floats, as a part of the power of two at or below them.
    pub(super) half_ulp: f32,
    /// What is added to an integer level to make it its rank.
    pub(super) base: f32,
    /// The last bit of that.
    pub(super) odd: u32,
}

impl Rounded {
    /// A middle between two levels, moved away from the upper one, or up to where that is no longer the nearer one: `odd`
    /// is the last bit of that level.
    #[inline(always)]
    fn moved(self, middle: f32, odd: u32) -> f32 {
        let power = f32::from_bits(middle.to_bits() & 0x7f80_0000);
        let step = power * self.half_ulp;
        middle + f32::from_bits(step.to_bits() ^ ((odd & 1 ^ 1) << 31))
    }
}

/// Integers of weights that were rounded before.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundedIntegers {
    of: Integers,
    rounded: Rounded,
}

impl RoundedIntegers {
    /// The edge below a rank.
    #[inline(always)]
    fn edge(self, rank: f32) -> f32 {
        let Rounded { base, odd, .. } = self.rounded;
        self.rounded.moved(rank - 0.5 - base, number(rank) ^ odd) + base
    }
}

impl Levels for RoundedIntegers {
    #[inline(always)]
    fn last(self) -> f32 {
        self.of.last()
    }

    #[inline(always)]
    fn around(self, rank: f32) -> [f32; 2] {
        [self.edge(rank), self.edge(rank + 1.0)]
    }

    #[inline(always)]
    fn near(self, level: f32) -> f32 {
        self.of.near(level)
    }
}

/// What the bits of a float of few bits are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FewBits {
    /// Bits of the mantissa.
    pub(super) mantissa: u32,
    /// What is added to exponents.
    pub(super) bias: u32,
    /// Half of the ranks.
    pub(super) half: f32,
}

impl FewBits {
    /// The float whose exponent and mantissa, of `mantissa` bits, are these bits.
    #[inline(always)]
    #[allow(clippy::cast_precision_loss, reason = "of small ones, which have few bits")]
    pub(super) fn float(self, bits: u32, mantissa: u32) -> f32 {
        let normal = f32::from_bits((bits << (23 - mantissa)).wrapping_add((127 - self.bias) << 23));
        let unit = f32::from_bits((128 - self.bias - mantissa) << 23);
        if bits >> mantissa == 0 { bits as f32 * unit } else { normal }
    }

    /// The edge below a rank.
    #[inline(always)]
    fn edge(self, rank: f32) -> f32 {
        let from_zero = rank - self.half;
        // Middles between floats are floats of one bit more, the odd ones. Between the zeros it is 0.
        let odd = number(greater(2.0 * from_zero.abs() - 1.0, 0.0));
        let edge = self.float(odd, self.mantissa + 1);
        if from_zero < 0.0 { -edge } else { edge }
    }
}

impl Levels for FewBits {
    #[inline(always)]
    fn last(self) -> f32 {
        self.half + (self.half - 1.0)
    }

    #[inline(always)]
    fn around(self, rank: f32) -> [f32; 2] {
        [self.edge(rank), self.edge(rank + 1.0)]
    }

    #[inline(always)]
    #[allow(clippy::cast_precision_loss, reason = "a rank")]
    fn near(self, level: f32) -> f32 {
        let magnitude = level.abs();
        let exponents = (127 - self.bias) << 23;
        let bits = magnitude.to_bits().wrapping_sub(exponents).wrapping_add(1 << (22 - self.mantissa));
        let normal = (bits >> (23 - self.mantissa)) as f32;
        let least = f32::from_bits((128 - self.bias) << 23);
        let small = integer(magnitude * (1.0 / self.float(1, self.mantissa)));
        let from_zero = if magnitude < least { small } else { normal };
        if level < 0.0 { self.half - 1.0 - from_zero } else { self.half + from_zero }
    }
}

/// Floats of few bits of weights that were rounded before.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundedFloats(pub(super) FewBits, pub(super) Rounded);

impl RoundedFloats {
    /// The edge below a rank.
    #[inline(always)]
    fn edge(self, rank: f32) -> f32 {
        let Self(floats, rounded) = self;
        let edge = rounded.moved(floats.edge(rank).abs(), number((rank - floats.half).abs()));
        if rank < floats.half { -edge } else { edge }
    }
}

impl Levels for RoundedFloats {
    #[inline(always)]
    fn last(self) -> f32 {
        self.0.last()
    }

    #[inline(always)]
    fn around(self, rank: f32) -> [f32; 2] {
        [self.edge(rank), self.edge(rank + 1.0)]
    }

    #[inline(always)]
    fn near(self, level: f32) -> f32 {
        self.0.near(level)
    }
}

/// Of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    edges: &'a [f32; 15],
    last: f32,
}

impl Levels for Table<'_> {
    #[inline(always)]
    fn last(self) -> f32 {
        self.last
    }

    #[inline(always)]
    fn around(self, rank: f32) -> [f32; 2] {
        let rank = number(rank) as usize;
        [self.edges[rank.saturating_sub(1) % 15], self.edges[rank % 15]]
    }

    #[inline(always)]
    fn near(self, level: f32) -> f32 {
        self.edges.iter().map(|edge| if level > *edge { 1.0 } else { 0.0 }).sum()
    }
}
