//! What codes stand for before they are scaled.

use qstore_container::{Levels, MiniFloat};
use qstore_kernels::{CodeRange, LevelOf, nearest_byte};

/// The levels of codes, opened.
///
/// A *rank* is a byte that says which level of all a code is, in the order of levels modulo 256: codes that stand for
/// levels next to each other have ranks next to each other, whatever their bits. Those of integers are the integers
/// themselves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LevelTable {
    bits: u8,
    kind: LevelKind,
    /// The integers that a quantiser has, if not all that codes could stand for.
    between: Option<[i8; 2]>,
    /// The level of each code.
    values: Box<[f32; 256]>,
    rank_of_code: Box<[u8; 256]>,
    code_of_rank: Box<[u8; 256]>,
    /// Levels in ascending order, and the rank of each; of tables alone.
    sorted: Vec<(f32, u8)>,
}

/// What kind of levels they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LevelKind {
    /// From 0 on.
    Unsigned,
    /// Around 0. In two's complement if `plain`, else with an offset.
    Signed { plain: bool },
    /// Floats.
    Float(MiniFloat),
    /// Of a table.
    Table,
}

impl LevelTable {
    /// Those of codes of `bits` bits, for which plans have checked them.
    pub(crate) fn new(levels: &Levels, bits: u8) -> Self {
        let (kind, table) = match levels {
            Levels::Unsigned => (LevelKind::Unsigned, &[][..]),
            Levels::Signed | Levels::Between(_) => (LevelKind::Signed { plain: true }, &[][..]),
            Levels::Offset => (LevelKind::Signed { plain: false }, &[][..]),
            Levels::Float(float) => (LevelKind::Float(*float), &[][..]),
            Levels::Table(table) => (LevelKind::Table, &table[..]),
        };
        let mut opened = Self {
            bits,
            kind,
            between: match levels {
                Levels::Between(between) => Some(*between),
                _ => None,
            },
            values: Box::new([0.0; 256]),
            rank_of_code: Box::new([0; 256]),
            code_of_rank: Box::new([0; 256]),
            sorted: Vec::new(),
        };
        let most = u8::MAX >> (8 - bits);
        if kind == LevelKind::Table {
            opened.sorted = (0..=most).map(|code| (table[usize::from(code)].get(), code)).collect();
            opened.sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        for code in 0..=most {
            let (value, rank) = match kind {
                LevelKind::Unsigned => (f32::from(code), code),
                LevelKind::Signed { plain } => {
                    let sign = 1 << (bits - 1);
                    // Either way the highest bit is worth less than it would be alone.
                    let code = if plain { code ^ sign } else { code };
                    let level = code.wrapping_sub(sign);
                    (f32::from(level.cast_signed()), level)
                }
                LevelKind::Float(float) => {
                    let (negative, magnitude) = (code >> (bits - 1) == 1, code & (most >> 1));
                    (mini_value(float, code), if negative { !magnitude } else { magnitude })
                }
                LevelKind::Table => {
                    let rank = opened.sorted.iter().position(|(_, of)| *of == code).unwrap_or(0);
                    (table[usize::from(code)].get(), u8::try_from(rank).unwrap_or(u8::MAX))
                }
            };
            opened.values[usize::from(code)] = value;
            opened.rank_of_code[usize::from(code)] = rank;
            opened.code_of_rank[usize::from(rank)] = code;
        }
        opened
    }

    /// Bits of a code.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    pub(crate) fn kind(&self) -> LevelKind {
        self.kind
    }

    /// The integers that a quantiser has, if not all that codes could stand for.
    pub(crate) fn between(&self) -> Option<[i8; 2]> {
        self.between
    }

    /// The level of a code.
    pub(crate) fn value(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }

    /// Whether levels are integers.
    pub(crate) fn is_integer(&self) -> bool {
        matches!(self.kind, LevelKind::Unsigned | LevelKind::Signed { .. })
    }

    /// The levels of a table in ascending order, those of its codes' ranks.
    pub(crate) fn ascending(&self) -> Vec<f32> {
        self.sorted.iter().map(|(level, _)| *level).collect()
    }

    /// The greatest magnitude of a level that is a number.
    pub(crate) fn magnitude(&self) -> f32 {
        self.values.iter().map(|value| value.abs()).filter(|value| value.is_finite()).fold(0.0, f32::max)
    }

    /// How kernels find levels.
    pub(crate) fn level_of(&self) -> LevelOf<'_> {
        match self.kind {
            LevelKind::Unsigned => LevelOf::Unsigned,
            LevelKind::Signed { plain: true } if self.bits == 8 => LevelOf::Signed,
            _ => LevelOf::Table(&self.values),
        }
    }

    /// Whether a quantiser has a level for each of these codes.
    pub(crate) fn has_all(&self, codes: &[u8]) -> bool {
        let is_within =
            |[least, most]: [i8; 2]| codes.iter().all(|code| (least..=most).contains(&code.cast_signed()));
        self.between.is_none_or(is_within)
    }

    /// The integers that levels are, cut to those that a symmetric quantiser of a whole byte has.
    pub(crate) fn range(&self) -> CodeRange {
        let half = f32::from(1u8 << (self.bits - 1));
        if let Some([least, most]) = self.between {
            return CodeRange { least: least.into(), most: most.into() };
        }
        match self.kind {
            LevelKind::Unsigned => CodeRange { least: 0.0, most: 2.0 * half - 1.0 },
            LevelKind::Signed { plain: true } => CodeRange { least: 1.0 - half, most: half - 1.0 },
            _ => CodeRange { least: -half, most: half - 1.0 },
        }
    }

    /// Turns codes into ranks; other bits of the bytes are 0.
    pub(crate) fn to_ranks(&self, codes: &mut [u8]) {
        if !self.ranks_are_codes() {
            codes.iter_mut().for_each(|code| *code = self.rank_of_code[usize::from(*code)]);
        }
    }

    /// Inverse of [`to_ranks`](Self::to_ranks); what is no rank becomes any code.
    pub(crate) fn to_codes(&self, ranks: &mut [u8]) {
        if self.ranks_are_codes() {
            if self.bits < 8 {
                ranks.iter_mut().for_each(|rank| *rank &= u8::MAX >> (8 - self.bits));
            }
        } else {
            ranks.iter_mut().for_each(|rank| *rank = self.code_of_rank[usize::from(*rank)]);
        }
    }

    /// Whether the rank of every code is the code itself.
    pub(crate) fn ranks_are_codes(&self) -> bool {
        match self.kind {
            LevelKind::Unsigned => true,
            LevelKind::Signed { plain } => plain && self.bits == 8,
            LevelKind::Float(_) | LevelKind::Table => false,
        }
    }

    /// The rank of the level that is nearest to `level`: of two the one with the even code of floats, the lower one of
    /// a table; of no number any.
    pub(crate) fn nearest_rank(&self, level: f32) -> u8 {
        match self.kind {
            LevelKind::Unsigned | LevelKind::Signed { .. } => nearest_byte(level, self.range()),
            LevelKind::Float(float) => {
                let most = f32::from(top(float));
                let magnitude = mini_magnitude(float, level.abs());
                let magnitude = nearest_byte(magnitude, CodeRange { least: 0.0, most });
                if level < 0.0 { !magnitude } else { magnitude }
            }
            LevelKind::Table => {
                let above = self.sorted.partition_point(|(value, _)| *value < level);
                let at = match (
                    above.checked_sub(1).and_then(|below| self.sorted.get(below)),
                    self.sorted.get(above),
                ) {
                    (Some((below, _)), Some((value, _))) if value - level < level - below => above,
                    (None, _) => above,
                    _ => above - 1,
                };
                u8::try_from(at).unwrap_or(u8::MAX)
            }
        }
    }

    /// For each code the number of its bin among those of either sign, as a signed byte; `None` where bins are not
    /// symmetric.
    pub(crate) fn bins(&self) -> Option<[u8; 256]> {
        if self.between.is_some() {
            return None;
        }
        let mut bins = [0; 256];
        for (bin, rank) in bins.iter_mut().zip(self.rank_of_code.iter()) {
            *bin = match self.kind {
                LevelKind::Signed { .. } => *rank,
                // -0 shares the bin of 0.
                LevelKind::Float(_) if rank.cast_signed() < 0 => rank.wrapping_add(1),
                LevelKind::Float(_) => *rank,
                LevelKind::Unsigned | LevelKind::Table => return None,
            };
        }
        Some(bins)
    }

    /// The greatest number of a bin.
    pub(crate) fn last_bin(&self) -> u8 {
        match self.kind {
            LevelKind::Float(float) => top(float),
            _ => u8::MAX >> (9 - self.bits).min(7),
        }
    }
}

/// The greatest magnitude that is a number.
#[inline(always)]
pub(super) fn top(float: MiniFloat) -> u8 {
    match float {
        MiniFloat::E4m3 => 0x7e,
        MiniFloat::E5m2 => 0x7b,
        MiniFloat::E2m1 => 7,
    }
}

/// The value of a code.
pub(super) fn mini_value(float: MiniFloat, code: u8) -> f32 {
    let sign = code >> (float.bits() - 1) & 1;
    let magnitude = u32::from(code & (u8::MAX >> (9 - float.bits())));
    let is_number = match float {
        MiniFloat::E4m3 => magnitude < 0x7f,
        MiniFloat::E5m2 => magnitude <= 0x7c,
        MiniFloat::E2m1 => true,
    };
    let value = match (float, magnitude) {
        (MiniFloat::E5m2, 0x7c) => f32::INFINITY,
        _ if is_number => mini_level(float, magnitude),
        _ => f32::NAN,
    };
    if sign == 1 { -value } else { value }
}

/// The value that a magnitude has, or would have if all were numbers.
pub(super) fn mini_level(float: MiniFloat, magnitude: u32) -> f32 {
    let (bits, bias) = (float.mantissa_bits(), float.bias());
    let exponent = magnitude >> bits;
    if exponent == 0 {
        // A subnormal is a multiple of the least one.
        let least = f32::from_bits((128 - bias - bits) << 23);
        #[expect(clippy::cast_precision_loss, reason = "below 8")]
        return magnitude as f32 * least;
    }
    f32::from_bits((magnitude << (23 - bits)) + ((127 - bias) << 23))
}

/// The magnitude that a value of no sign is rounded to, half to even, as if there were no greatest; NaN of what is no
/// number.
#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
pub(super) fn mini_magnitude(float: MiniFloat, value: f32) -> f32 {
    // Between 2^23 and 2^24, values of FP32 are whole numbers.
    const WHOLE: f32 = 12_582_912.0;
    let (mantissa, bias) = (float.mantissa_bits(), float.bias());
    let shift = 23 - mantissa;
    let bits = value.to_bits();
    let odd = bits >> shift & 1;
    let rounded = (bits.saturating_add((1 << (shift - 1)) - 1 + odd)) >> shift;
    let normal = rounded.wrapping_sub((127 - bias) << mantissa).cast_signed() as f32;
    // One over the least subnormal: multiples of it are whole numbers.
    let subnormal = value * f32::from_bits((126 + bias + mantissa) << 23) + WHOLE - WHOLE;
    let least_normal = f32::from_bits((128 - bias) << 23);
    if value.is_nan() {
        value
    } else if value < least_normal {
        subnormal
    } else {
        normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_levels() -> Vec<(Levels, u8)> {
        let table = [-1.0, -0.5, 0.0, 0.1, 0.2, 0.25, 0.5, 3.0f32].map(|level| level.try_into().unwrap());
        let mut unsorted = table;
        unsorted.reverse();
        unsorted.swap(0, 5);
        let mut all = vec![
            (Levels::Float(MiniFloat::E4m3), 8),
            (Levels::Float(MiniFloat::E5m2), 8),
            (Levels::Float(MiniFloat::E2m1), 4),
            (Levels::Table(table.to_vec()), 3),
            (Levels::Table(unsorted.to_vec()), 3),
        ];
        for bits in 1..=8 {
            all.extend([Levels::Unsigned, Levels::Signed, Levels::Offset].map(|levels| (levels, bits)));
        }
        all
    }

    #[test]
    fn codes_and_ranks_are_one_to_one_and_ranks_ascend() {
        for (levels, bits) in all_levels() {
            let table = LevelTable::new(&levels, bits);
            let codes: Vec<u8> = (0..=u8::MAX >> (8 - bits)).collect();
            let mut ranks = codes.clone();
            table.to_ranks(&mut ranks);
            let mut back = ranks.clone();
            table.to_codes(&mut back);
            assert_eq!(back, codes, "{levels:?} {bits}");
            let mut by_rank: Vec<(i16, f32)> = ranks
                .iter()
                .zip(&codes)
                .map(|(rank, code)| match table.kind() {
                    LevelKind::Unsigned | LevelKind::Table => (i16::from(*rank), table.value(*code)),
                    _ => (i16::from(rank.cast_signed()), table.value(*code)),
                })
                .filter(|(_, value)| value.is_finite())
                .collect();
            by_rank.sort_by_key(|(rank, _)| *rank);
            assert!(by_rank.is_sorted_by(|a, b| a.1 <= b.1), "{levels:?} {bits}");
        }
    }

    #[test]
    fn every_level_is_nearest_to_itself() {
        for (levels, bits) in all_levels() {
            let table = LevelTable::new(&levels, bits);
            for code in 0..=u8::MAX >> (8 - bits) {
                let value = table.value(code);
                let mut rank = [code];
                table.to_ranks(&mut rank);
                // Of -0 there is no telling; the least of a whole range of signed ones is none of a symmetric
                // quantiser.
                if value.is_finite() && value != 0.0 && value >= table.range().least
                    || matches!(levels, Levels::Table(_))
                {
                    assert_eq!(table.nearest_rank(value), rank[0], "{levels:?} {bits} {value}");
                }
                for near in [value.next_up(), value.next_down()] {
                    let _ = table.nearest_rank(near);
                }
            }
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45] {
                let _ = table.nearest_rank(odd);
            }
        }
    }

    #[test]
    fn small_floats_by_hand() {
        let e4m3 = |code| mini_value(MiniFloat::E4m3, code);
        assert_eq!(
            [e4m3(0x7e), e4m3(0xfe), e4m3(0x38), e4m3(0x08), e4m3(0x07)],
            [448.0, -448.0, 1.0, 0.015625, 0.013671875]
        );
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert_eq!(
            (0..8).map(|code| mini_value(MiniFloat::E2m1, code)).collect::<Vec<_>>(),
            [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
        );
        assert_eq!(mini_value(MiniFloat::E5m2, 0x7b), 57344.0);
        assert_eq!(mini_value(MiniFloat::E5m2, 0xfc), f32::NEG_INFINITY);
        // Halfway between two levels, and just beside.
        for float in [MiniFloat::E4m3, MiniFloat::E5m2, MiniFloat::E2m1] {
            for magnitude in 0..u32::from(top(float)) {
                let (low, high) = (mini_level(float, magnitude), mini_level(float, magnitude + 1));
                let middle = low + (high - low) / 2.0;
                let even = if magnitude % 2 == 0 { magnitude } else { magnitude + 1 };
                assert_eq!(mini_magnitude(float, middle), even as f32);
                assert_eq!(mini_magnitude(float, middle.next_up()), magnitude as f32 + 1.0);
                assert_eq!(mini_magnitude(float, middle.next_down()), magnitude as f32);
            }
        }
        assert!(mini_magnitude(MiniFloat::E4m3, f32::INFINITY) > 127.0);
        assert!(mini_magnitude(MiniFloat::E4m3, f32::NAN).is_nan());
    }
}
