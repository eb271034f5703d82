//! Which floats a quantiser that rounds turns into which code.

use qstore_checkpoint::{FloatKind, in_bf16, in_f16};
use qstore_container::{Inverse, MiniFloat, Rounded, Rule};
use qstore_kernels::BinTable;

use super::edges::{bins_of, rounded};
use super::levels::{LevelKind, LevelTable, mini_level, mini_magnitude};

/// A quantiser of one matrix, whose groups differ in their scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quantizer {
    rounding: Rounding,
    levels: BinLevels,
    float: FloatKind,
    /// The last bin that there is.
    last: u8,
    /// What ends the last bin: the first that rounds to more than this.
    beyond: f32,
}

/// How a weight is brought to levels.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rounding {
    /// By a rule, of scales that are divided by a constant last.
    Rule(Rule, f32),
    /// By multiplication with the quotient of this and the scale.
    Subdivided(f32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BinLevels {
    Integers,
    Floats(MiniFloat),
}

impl Quantizer {
    /// That of codes at these levels, of floats of kind `float`; `over` is what scales are divided by last, or 1.
    /// `None` where codes of one sign have no bins.
    pub(crate) fn new(rule: Rule, over: f32, levels: &LevelTable, float: FloatKind) -> Option<Self> {
        let kind = match levels.kind() {
            LevelKind::Signed { .. } => BinLevels::Integers,
            LevelKind::Float(mini) => BinLevels::Floats(mini),
            LevelKind::Unsigned | LevelKind::Table => return None,
        };
        let last = levels.last_bin();
        Some(Self {
            rounding: Rounding::Rule(rule, over),
            levels: kind,
            float,
            last,
            beyond: f32::from(last),
        })
    }

    /// What counts weights in subdivisions of a scale, of which there are `per_scale`. Where zero-points are not in the
    /// middle of codes, these reach farther to one side.
    pub(crate) fn subdivided(per_scale: f32, symmetric: bool, float: FloatKind) -> Self {
        let beyond = if symmetric { 128.0 } else { 175.0 };
        Self {
            rounding: Rounding::Subdivided(per_scale),
            levels: BinLevels::Integers,
            float,
            last: 127,
            beyond,
        }
    }

    /// The floats of each bin, for a scale before it is divided.
    pub(crate) fn bins(&self, scale: f32) -> BinTable {
        let step = match self.rounding {
            Rounding::Rule(_, over) => scale / over,
            Rounding::Subdivided(per_scale) => scale / per_scale,
        };
        match self.levels {
            BinLevels::Integers => self.bins_with(scale, |bin| (bin - 0.5) * step, rounded),
            BinLevels::Floats(mini) => {
                let middle = |bin: f32| {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 128")]
                    let bin = bin as u32;
                    let (below, at) = (mini_level(mini, bin.saturating_sub(1)), mini_level(mini, bin));
                    (below + at) * 0.5 * step
                };
                self.bins_with(scale, middle, |level| mini_magnitude(mini, level))
            }
        }
    }

    #[inline(always)]
    fn bins_with(&self, scale: f32, edge: impl Fn(f32) -> f32, round: impl Fn(f32) -> f32) -> BinTable {
        let (float, beyond) = (self.float, self.beyond);
        match self.rounding {
            Rounding::Subdivided(per_scale) => {
                let factor = per_scale / scale;
                let code = |magnitude: u32| round(float.value(magnitude) * factor);
                bins_of(float, self.last, edge, code, beyond)
            }
            Rounding::Rule(rule, over) => {
                let inverse = inverse(rule.inverse, scale, over);
                // Each a loop of its own: choosing within the loop took half as long again.
                match (rule.weights, rule.result) {
                    (Rounded::F16, Rounded::F32) => {
                        let code = |magnitude: u32| round(inverse.apply(in_f16(float.value(magnitude))));
                        bins_of(float, self.last, edge, code, beyond)
                    }
                    (Rounded::F32, Rounded::F32) => {
                        let code = |magnitude: u32| round(inverse.apply(float.value(magnitude)));
                        bins_of(float, self.last, edge, code, beyond)
                    }
                    (weights, result) => {
                        let of = |value: f32| inverse.apply(cast(weights, value));
                        let code = |magnitude: u32| round(cast(result, of(float.value(magnitude))));
                        bins_of(float, self.last, edge, code, beyond)
                    }
                }
            }
        }
    }

    /// What weights are multiplied with to be counted in subdivisions.
    pub(crate) fn factor(per_scale: f32, scale: f32) -> f32 {
        per_scale / scale
    }
}

/// How weights are divided by a scale.
#[derive(Debug, Clone, Copy)]
pub(super) enum Divide {
    By(f32),
    Times(f32),
}

impl Divide {
    #[inline(always)]
    fn apply(self, value: f32) -> f32 {
        match self {
            Self::By(scale) => value / scale,
            Self::Times(factor) => value * factor,
        }
    }
}

pub(super) fn inverse(inverse: Inverse, scale: f32, over: f32) -> Divide {
    let reciprocal = 1.0 / scale;
    match inverse {
        Inverse::Division | Inverse::Anchored => Divide::By(scale / over),
        Inverse::Reciprocal => Divide::Times(reciprocal * over),
        Inverse::ReciprocalUp => Divide::Times(reciprocal.next_up() * over),
        Inverse::ReciprocalDown => Divide::Times(reciprocal.next_down() * over),
        Inverse::Quotient => Divide::Times(over / scale),
        Inverse::ReciprocalBf16 => Divide::Times(in_bf16(reciprocal) * over),
    }
}

#[inline(always)]
pub(super) fn cast(to: Rounded, value: f32) -> f32 {
    match to {
        Rounded::F32 => value,
        Rounded::F16 => in_f16(value),
        Rounded::Bf16 => in_bf16(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_container::Levels;
    use qstore_kernels::{Half, Layout, ResidualCoder, Rows, Scratch, SymbolTable};

    const INVERSES: [Inverse; 7] = [
        Inverse::Division,
        Inverse::Reciprocal,
        Inverse::ReciprocalUp,
        Inverse::ReciprocalDown,
        Inverse::Quotient,
        Inverse::ReciprocalBf16,
        Inverse::Anchored,
    ];

    fn level_tables() -> Vec<LevelTable> {
        let floats = [MiniFloat::E4m3, MiniFloat::E5m2, MiniFloat::E2m1];
        let mut all: Vec<_> =
            floats.iter().map(|float| LevelTable::new(&Levels::Float(*float), float.bits())).collect();
        all.extend([2, 4, 8].map(|bits| LevelTable::new(&Levels::Signed, bits)));
        all.extend([3, 8].map(|bits| LevelTable::new(&Levels::Offset, bits)));
        all
    }

    /// Every magnitude that the quantiser has a code for, with its bin, by the definition.
    fn whole_row(
        rule: Rule,
        over: f32,
        scale: f32,
        levels: &LevelTable,
        float: FloatKind,
    ) -> (Vec<u8>, Vec<u16>) {
        let round_to = |to: Rounded, value: f32| match to {
            Rounded::F32 => value,
            Rounded::F16 => half::f16::from_f32(value).to_f32(),
            Rounded::Bf16 => half::bf16::from_f32(value).to_f32(),
        };
        let level = |value: f32| {
            let weight = round_to(rule.weights, value);
            let factor = match rule.inverse {
                Inverse::Division | Inverse::Anchored => {
                    return round_to(rule.result, weight / (scale / over));
                }
                Inverse::Reciprocal => (1.0 / scale) * over,
                Inverse::ReciprocalUp => (1.0 / scale).next_up() * over,
                Inverse::ReciprocalDown => (1.0 / scale).next_down() * over,
                Inverse::Quotient => over / scale,
                Inverse::ReciprocalBf16 => round_to(Rounded::Bf16, 1.0 / scale) * over,
            };
            round_to(rule.result, weight * factor)
        };
        let last = f32::from(levels.last_bin());
        (0..float.infinity())
            .filter_map(|magnitude| {
                let bin = match levels.kind() {
                    LevelKind::Float(mini) => mini_magnitude(mini, level(float.value(magnitude))),
                    _ => level(float.value(magnitude)).round_ties_even(),
                };
                (bin <= last).then_some((bin as u8, magnitude as u16))
            })
            .unzip()
    }

    #[test]
    fn no_weight_of_a_16_bit_float_falls_outside_its_bin() {
        let mut zero = [0u64; 256];
        zero[..140].fill(1);
        for float in [FloatKind::Bf16, FloatKind::F16] {
            let coder =
                ResidualCoder::new(float.mantissa_bits(), SymbolTable::from_histogram(&zero), Layout::Narrow)
                    .unwrap();
            for levels in level_tables() {
                for (index, inverse) in INVERSES.into_iter().enumerate() {
                    let casts = [Rounded::F32, Rounded::F16, Rounded::Bf16];
                    let rule =
                        Rule { weights: casts[index % 2], inverse, result: casts[index.div_ceil(2) % 3] };
                    for (scale, over) in
                        [(0.05, 1.0), (0.117_187_5, 127.0), (1.0, 1.0), (0.001, 127.0), (3.1e-5, 1.0)]
                    {
                        let (bins, values) = whole_row(rule, over, scale, &levels, float);
                        let table = Quantizer::new(rule, over, &levels, float).unwrap().bins(scale);
                        let values: Vec<Half> = values.iter().map(|value| value.to_le_bytes()).collect();
                        let rows = Rows::new(values.len(), values.len());
                        let chunk = coder.encode(&bins, &values, rows, &[&table], &mut Scratch::default());
                        let exceptions =
                            chunk.map(|chunk| u32::from_le_bytes(chunk[..4].try_into().unwrap()));
                        assert_eq!(
                            exceptions,
                            Ok(0),
                            "{float:?} {rule:?} {scale} {over} {:?}",
                            levels.kind()
                        );
                    }
                }
            }
        }
    }

    /// What scales there are decides size alone: bins of any are made.
    #[test]
    fn any_scale_has_bins() {
        let odd = [
            0.0,
            -0.0,
            -1.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE,
            1e-45,
            -1e-40,
            f32::MAX,
        ];
        for scale in odd {
            for float in [FloatKind::Bf16, FloatKind::F16, FloatKind::ShortF16, FloatKind::F32] {
                for levels in level_tables() {
                    for inverse in INVERSES {
                        let rule = Rule { weights: Rounded::F16, inverse, result: Rounded::Bf16 };
                        let _ = Quantizer::new(rule, 127.0, &levels, float).unwrap().bins(scale);
                    }
                }
                for per_scale in [1.0 / 256.0, 1.0, 8.0, 128.0] {
                    let _ = Quantizer::subdivided(per_scale, true, float).bins(scale);
                    let _ = Quantizer::subdivided(per_scale, false, float).bins(scale);
                }
            }
        }
    }
}
