//! The levels of codes in ascending order.

use qstore_container::Rounded;
use qstore_kernels::{Edges, LEAST_SCALE, WIDEST};

use super::dequantizer::RowValues;
use super::levels::{LevelKind, LevelTable, mini_level};

/// Ascending ranks of codes, as coders that are given intervals number them. Those of integers are levels from 0 on;
/// floats of few bits have theirs in the order of sign and magnitude, each bit pattern counting as a number.
#[derive(Debug, Clone)]
pub(crate) struct Ranking {
    edges: Edges,
    order: Order,
    last: u8,
    /// What is added to a level to make it one of the edges.
    offset: f32,
    /// The least two levels and the greatest two.
    outer: [[f32; 2]; 2],
    /// What the edges of a rank and of the one as far from the other end add up to; `None` if that is not the same for
    /// all.
    mirror: Option<f32>,
}

/// How ranks follow from codes.
#[derive(Debug, Clone)]
enum Order {
    /// These bits are turned over, of codes with the highest bit and of those without.
    Flips { half: u8, with: u8, without: u8 },
    /// The rank of each code, and the code of each rank.
    Table { ranks: Box<[u8; 256]>, codes: Box<[u8; 256]> },
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
    /// Of codes whose weights were rounded to `result` before they were rounded to levels. `None` for tables of more
    /// levels than coders take.
    pub(crate) fn new(levels: &LevelTable, result: Rounded) -> Option<Self> {
        let last = match levels.between() {
            Some([least, most]) => most.wrapping_sub(least).cast_unsigned(),
            None => u8::MAX >> (8 - levels.bits()),
        };
        let codes = usize::from(last) + 1;
        let half = f32::from(1u16 << (levels.bits() - 1));
        let (edges, offset) = match levels.kind() {
            LevelKind::Signed { .. } if let Some([least, _]) = levels.between() => {
                (Edges::integers(codes)?, -f32::from(least))
            }
            LevelKind::Unsigned => (Edges::integers(codes)?, 0.0),
            LevelKind::Signed { .. } => (Edges::integers(codes)?, half),
            LevelKind::Float(float) => {
                (Edges::floats(levels.bits().into(), float.mantissa_bits(), float.bias())?, 0.0)
            }
            LevelKind::Table => (Edges::table(&levels.ascending())?, 0.0),
        };
        let half = 1u8 << (levels.bits() - 1);
        let order = match levels.kind() {
            // Codes of other levels have the ranks behind the last.
            LevelKind::Signed { .. } if let Some([least, _]) = levels.between() => {
                let (mut ranks, mut codes) = (Box::new([0; 256]), Box::new([0; 256]));
                for code in 0..=u8::MAX {
                    let rank = code.wrapping_sub(least.cast_unsigned());
                    (ranks[usize::from(code)], codes[usize::from(rank)]) = (rank, code);
                }
                Order::Table { ranks, codes }
            }
            LevelKind::Unsigned | LevelKind::Signed { plain: false } => {
                Order::Flips { half, with: 0, without: 0 }
            }
            LevelKind::Signed { plain: true } => Order::Flips { half, with: half, without: half },
            // Magnitudes of negative ones descend.
            LevelKind::Float(_) => Order::Flips { half, with: last, without: half },
            LevelKind::Table => {
                let (mut ranks, mut codes) = (Box::new([u8::MAX; 256]), Box::new([0; 256]));
                for code in 0..=last {
                    let mut rank = [code];
                    levels.to_ranks(&mut rank);
                    ranks[usize::from(code)] = rank[0];
                    codes[usize::from(rank[0])] = code;
                }
                Order::Table { ranks, codes }
            }
        };
        let mirror = match levels.kind() {
            LevelKind::Unsigned | LevelKind::Signed { .. } => Some(f32::from(last)),
            LevelKind::Float(_) => Some(0.0),
            LevelKind::Table => None,
        };
        // Half of the distance between two numbers of such a type, as a part of their power of two.
        let half_ulp = match result {
            Rounded::F32 => None,
            Rounded::F16 => Some(1.0 / 2048.0),
            Rounded::Bf16 => Some(1.0 / 256.0),
        };
        let moved = half_ulp.and_then(|half_ulp| edges.of_rounded(half_ulp, offset));
        let mirror = mirror.filter(|_| moved.is_none());
        let edges = moved.unwrap_or(edges);
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
        Some(Self { edges, order, last, offset, outer, mirror })
    }

    /// The edges between ranks.
    pub(crate) fn edges(&self) -> &Edges {
        &self.edges
    }

    /// What is added to an integer level to get its rank.
    pub(crate) fn base(&self) -> f32 {
        self.offset
    }

    /// Where the outermost bins may end: so many steps beyond the outermost levels.
    pub(crate) fn beyond(&self, steps: f32) -> [f32; 2] {
        let [[least, second], [last_but_one, most]] = self.outer;
        [least - (second - least) * steps, most + (most - last_but_one) * steps]
    }

    /// The levels at which the outermost bins end, as some of the edges. With negative scales either could be the
    /// other.
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
        match &self.order {
            &Order::Flips { half, with, without } => {
                // Without a choice between addresses, so that compilers make vector code of it.
                let rank = |code: u8| code ^ without ^ (all_if(code & half != 0) & (with ^ without));
                ranks.iter_mut().zip(codes).for_each(|(to, code)| *to = rank(*code));
            }
            Order::Table { ranks: of_codes, .. } => {
                ranks.iter_mut().zip(codes).for_each(|(to, code)| *to = of_codes[usize::from(*code)]);
            }
        }
    }

    /// Inverse of [`ranks`](Self::ranks); what is no rank becomes any code.
    pub(crate) fn to_codes(&self, ranks: &mut [u8]) {
        match &self.order {
            &Order::Flips { half, with, without } => {
                // Turned over, the highest bit says the opposite.
                let (set, clear) = if without & half == 0 { (with, without) } else { (without, with) };
                let last = self.last;
                let code = |rank: u8| (rank ^ clear ^ (all_if(rank & half != 0) & (set ^ clear))) & last;
                ranks.iter_mut().for_each(|rank| *rank = code(*rank));
            }
            Order::Table { codes, .. } => {
                ranks.iter_mut().for_each(|rank| *rank = codes[usize::from(*rank)]);
            }
        }
    }

    /// Counts ranks from the last one down; what is no rank stays so.
    pub(crate) fn mirror(&self, ranks: &mut [u8]) {
        let last = self.last;
        ranks.iter_mut().for_each(|rank| *rank = if *rank <= last { last - *rank } else { *rank });
    }
}

/// All bits, or none.
fn all_if(condition: bool) -> u8 {
    if condition { u8::MAX } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::levels::mini_magnitude;
    use crate::quant::quantizer::cast;
    use qstore_container::{Levels, MiniFloat};

    #[test]
    fn ranks_ascend_as_levels_do() {
        let table = [-1.0, 4.0, 0.25, -0.5].map(|level: f32| level.try_into().unwrap());
        let mut all = vec![
            (Levels::Float(MiniFloat::E4m3), 8),
            (Levels::Float(MiniFloat::E5m2), 8),
            (Levels::Float(MiniFloat::E2m1), 4),
            (Levels::Table(table.to_vec()), 2),
        ];
        for bits in 1..=8 {
            all.extend([Levels::Unsigned, Levels::Signed, Levels::Offset].map(|levels| (levels, bits)));
        }
        for (levels, bits) in all {
            let table = LevelTable::new(&levels, bits);
            let ranking = Ranking::new(&table, Rounded::F32).unwrap();
            let codes: Vec<u8> = (0..=u8::MAX >> (8 - bits)).collect();
            let mut ranks = vec![0; codes.len()];
            ranking.ranks(&codes, &mut ranks);
            let mut by_rank: Vec<_> =
                ranks.iter().zip(&codes).map(|(rank, code)| (*rank, table.value(*code))).collect();
            by_rank.sort_by_key(|(rank, _)| *rank);
            assert!(by_rank.iter().map(|(rank, _)| *rank).eq(codes.iter().copied()), "{levels:?} {bits}");
            let values: Vec<f32> =
                by_rank.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).collect();
            assert!(values.is_sorted(), "{levels:?} {bits}");
            if table.is_integer() {
                assert!(by_rank.iter().all(|(rank, value)| f32::from(*rank) == value + ranking.offset));
            }
            ranking.to_codes(&mut ranks);
            assert_eq!(ranks, codes, "{levels:?} {bits}");
        }
    }

    /// Weights belong to the rank that rounding them first leads to.
    #[test]
    fn edges_are_where_rounding_first_has_them() {
        let floats = [(MiniFloat::E2m1, 4), (MiniFloat::E4m3, 8), (MiniFloat::E5m2, 8)]
            .map(|(float, bits)| (Levels::Float(float), bits));
        let integers = [1, 2, 3, 4, 5, 8]
            .into_iter()
            .flat_map(|bits| [Levels::Unsigned, Levels::Signed, Levels::Offset].map(|levels| (levels, bits)));
        for (levels, bits) in integers.chain(floats) {
            let table = LevelTable::new(&levels, bits);
            for result in [Rounded::Bf16, Rounded::F16] {
                let ranking = Ranking::new(&table, result).unwrap();
                let code = |level: f32| match table.kind() {
                    LevelKind::Float(float) => {
                        let magnitude = mini_magnitude(float, level.abs()) as u8;
                        let magnitude = magnitude.min(ranking.last >> 1);
                        if level < 0.0 { magnitude | (ranking.last ^ ranking.last >> 1) } else { magnitude }
                    }
                    _ => {
                        let distance = |code: &u8| (table.value(*code) - level.round_ties_even()).abs();
                        (0..=ranking.last).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
                    }
                };
                let mut rank = [0];
                for step in -40_000..40_000 {
                    // Beyond 128 integers are all numbers of BF16 that there are.
                    let weight = step as f32 / if step % 3 == 0 { 320.0 } else { 4000.0 };
                    if levels == Levels::Unsigned && bits == 8 && weight > 127.0 {
                        continue;
                    }
                    ranking.ranks(&[code(cast(result, weight))], &mut rank);
                    let below = ranking.edges.below(rank[0]).unwrap_or(f32::NEG_INFINITY);
                    let above = ranking.edges.below(rank[0].wrapping_add(1)).unwrap_or(f32::INFINITY);
                    let at = weight + ranking.offset;
                    assert!(
                        below <= at && at <= above,
                        "{levels:?} {bits} {result:?} {weight}: {below} {above}"
                    );
                }
                assert_ne!(ranking.edges, Ranking::new(&table, Rounded::F32).unwrap().edges);
            }
        }
    }

    /// Codes of fewer levels than they have bits for keep ranks of their own, beyond the last.
    #[test]
    fn levels_between_two_have_edges_of_their_own() {
        let table = LevelTable::new(&Levels::Between([-8, 7]), 8);
        let ranking = Ranking::new(&table, Rounded::Bf16).unwrap();
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let mut ranks = vec![0; 256];
        ranking.ranks(&codes, &mut ranks);
        let rank = |level: i8| ranks[usize::from(level.cast_unsigned())];
        assert_eq!([-8, 0, 7, 8, -9].map(rank), [0, 8, 15, 16, 255]);
        assert_eq!(ranking.beyond(0.5), [-8.5, 7.5]);
        let four_bits = Ranking::new(&LevelTable::new(&Levels::Offset, 4), Rounded::Bf16).unwrap();
        assert_eq!(ranking.edges, four_bits.edges);
        assert!(table.has_all(&[7, 0, 0xf8]) && !table.has_all(&[8]));
        ranking.to_codes(&mut ranks);
        assert_eq!(ranks, codes);
    }

    #[test]
    fn ends_lie_beyond_the_outermost_levels() {
        let ranking = |levels, bits| Ranking::new(&LevelTable::new(&levels, bits), Rounded::F32).unwrap();
        assert_eq!(ranking(Levels::Signed, 8).beyond(0.5), [-128.5, 127.5]);
        assert_eq!(ranking(Levels::Unsigned, 4).beyond(0.0), [0.0, 15.0]);
        assert_eq!(ranking(Levels::Float(MiniFloat::E2m1), 4).beyond(0.5), [-7.0, 7.0]);
        // Of negative scales either end could be the other.
        assert_eq!(ranking(Levels::Unsigned, 4).ends([-0.5, 20.0], true), [-5.0, 20.0]);
        assert_eq!(ranking(Levels::Signed, 4).ends([-8.5, 7.0], false), [-0.5, 15.0]);
    }
}
