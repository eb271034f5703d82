//! The codes that weights are rounded to.

use std::ops::Range;

use qstore_checkpoint::in_f16;
use qstore_container::{Inverse, MiniFloat, Rounded, Rule};
use qstore_kernels::{Backend, CodeRange, RoundRun, add_rounded, nearest_byte};

use super::columns::ColumnRun;
use super::dequantizer::Dequantizer;
use super::levels::{LevelKind, LevelTable, mini_magnitude, top};
use super::quantizer::{Divide, cast, inverse};

/// What codes of one matrix stand for, read from weights to codes: by its rule, or where none is known by division.
#[derive(Debug)]
pub(crate) struct Rounder {
    own: Dequantizer,
    runs: Vec<ColumnRun>,
}

/// What stands for a rule that is not known.
const PLAIN: Rule = Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::F32 };

impl Rounder {
    pub(crate) fn new(own: Dequantizer) -> Self {
        Self { runs: own.columns().runs(), own }
    }

    /// The levels of its codes.
    pub(crate) fn levels(&self) -> &LevelTable {
        self.own.levels()
    }

    /// Adds to `out`, modulo 256, the rank of the code that each of the weights in columns `columns` of a row is
    /// rounded to. `value` reads a weight.
    pub(crate) fn add_expected<W: Copy>(
        &self,
        row: usize,
        columns: &Range<usize>,
        (weights, value): (&[W], impl Fn(W) -> f32 + Copy),
        out: &mut [u8],
    ) {
        let (rule, over) = self.own.rule().unwrap_or((PLAIN, self.own.over()));
        let values = self.own.row(row);
        let from = self.runs.partition_point(|run| run.end <= columns.start);
        let within = self.runs[from..].iter().take_while(|run| run.start < columns.end);
        let mut divides = false;
        let runs: Vec<RoundRun> = within
            .map(|run| {
                let scale = match inverse(rule.inverse, values.undivided(run.group), over) {
                    Divide::By(scale) => {
                        divides = true;
                        scale
                    }
                    Divide::Times(factor) => factor,
                };
                let len = run.end.min(columns.end) - run.start.max(columns.start);
                RoundRun { len, scale, zero: values.zero(run.group) }
            })
            .collect();
        // Each a loop of its own: a choice within it would keep compilers from making vector code.
        match (divides, rule.weights, rule.result) {
            (true, Rounded::F32, Rounded::F32) => self.add(&runs, weights, |w, scale| value(w) / scale, out),
            (false, Rounded::F32, Rounded::F32) => {
                self.add(&runs, weights, |w, factor| value(w) * factor, out)
            }
            (false, Rounded::F16, Rounded::F32) => {
                self.add(&runs, weights, |w, factor| in_f16(value(w)) * factor, out);
            }
            (true, of, to) => self.add(&runs, weights, |w, scale| cast(to, cast(of, value(w)) / scale), out),
            (false, of, to) => {
                self.add(&runs, weights, |w, factor| cast(to, cast(of, value(w)) * factor), out)
            }
        }
    }

    fn add<W: Copy>(
        &self,
        runs: &[RoundRun],
        weights: &[W],
        level: impl Fn(W, f32) -> f32 + Copy,
        out: &mut [u8],
    ) {
        let levels = self.own.levels();
        let backend = Backend::best();
        match levels.kind() {
            LevelKind::Unsigned | LevelKind::Signed { .. } => {
                let range = levels.range();
                add_rounded(backend, runs, weights, level, |x| nearest_byte(x, range), out);
            }
            LevelKind::Float(MiniFloat::E4m3) => {
                add_rounded(backend, runs, weights, level, |x| nearest_mini(MiniFloat::E4m3, x), out);
            }
            LevelKind::Float(MiniFloat::E5m2) => {
                add_rounded(backend, runs, weights, level, |x| nearest_mini(MiniFloat::E5m2, x), out);
            }
            LevelKind::Float(MiniFloat::E2m1) => {
                add_rounded(backend, runs, weights, level, |x| nearest_mini(MiniFloat::E2m1, x), out);
            }
            LevelKind::Table => {
                add_rounded(backend, runs, weights, level, |x| levels.nearest_rank(x), out);
            }
        }
    }
}

/// The rank of the float that is nearest to a level, the even one of two.
#[inline(always)]
fn nearest_mini(float: MiniFloat, level: f32) -> u8 {
    let range = CodeRange { least: 0.0, most: f32::from(top(float)) };
    let magnitude = nearest_byte(mini_magnitude(float, level.abs()), range);
    if level < 0.0 { !magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_rounded_as_levels_say() {
        for float in [MiniFloat::E4m3, MiniFloat::E5m2, MiniFloat::E2m1] {
            let levels = LevelTable::new(&qstore_container::Levels::Float(float), float.bits());
            for step in -30_000i16..30_000 {
                let level = f32::from(step) * 0.013;
                assert_eq!(nearest_mini(float, level), levels.nearest_rank(level), "{float:?} {level}");
            }
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -0.0] {
                assert_eq!(nearest_mini(float, odd), levels.nearest_rank(odd), "{float:?} {odd}");
            }
        }
    }
}
