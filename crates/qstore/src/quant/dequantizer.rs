//! What the codes of a matrix stand for, opened.

use qstore_checkpoint::in_bf16;
use qstore_container::{Dequantization, Inverse, Rule, Zero};

use super::columns::Columns;
use super::levels::{LevelKind, LevelTable};
use super::numbers::Arrays;
use super::open_error::OpenError;
use super::tiles::{Tiles, size_in_memory, too_large};

/// Levels, scales and zero-points of a matrix: a scale and a zero-point for each group of columns of each tile of rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dequantizer {
    rows: usize,
    columns: Columns,
    /// Rows that share their scales.
    tile_rows: usize,
    /// Tiles of rows.
    tiles: usize,
    levels: LevelTable,
    /// The scale of each group of each tile before it is divided by `over`; those of a tile together.
    scales: Vec<f32>,
    /// A constant that scales are divided by last, or 1.
    over: f32,
    zeros: Zeros,
    rule: Option<Rule>,
}

/// Zero-points, in the order of the scales.
#[derive(Debug, Clone, PartialEq)]
enum Zeros {
    /// The same for all.
    One(i16),
    /// Integers.
    Each(Vec<i16>),
    /// Numbers of a level.
    Real(Vec<f32>),
}

/// Scales and zero-points of one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowValues<'a> {
    scales: &'a [f32],
    over: f32,
    zeros: RowZeros<'a>,
}

#[derive(Debug, Clone, Copy)]
enum RowZeros<'a> {
    One(i16),
    Each(&'a [i16]),
    Real(&'a [f32]),
}

impl RowValues<'_> {
    /// The scale of a group.
    pub(crate) fn scale(&self, group: usize) -> f32 {
        let scale = self.scales[group];
        if self.over.to_bits() == 1f32.to_bits() { scale } else { scale / self.over }
    }

    /// The scale of a group before it is divided by a constant.
    pub(super) fn undivided(&self, group: usize) -> f32 {
        self.scales[group]
    }

    /// The level that stands for 0 in a group.
    pub(crate) fn zero(&self, group: usize) -> f32 {
        match self.zeros {
            RowZeros::One(zero) => f32::from(zero),
            RowZeros::Each(zeros) => f32::from(zeros[group]),
            RowZeros::Real(zeros) => zeros[group],
        }
    }

    /// The same as a byte, modulo 256, where levels and zero-points are integers.
    pub(crate) fn zero_byte(&self, group: usize) -> u8 {
        let zero = match self.zeros {
            RowZeros::One(zero) => zero,
            RowZeros::Each(zeros) => zeros[group],
            RowZeros::Real(_) => 0,
        };
        zero.to_le_bytes()[0]
    }
}

impl Dequantizer {
    /// Opens what codes of `bits` bits of a matrix of this shape stand for, which are in `arrays`.
    pub(crate) fn open<A>(
        values: &Dequantization<A>,
        [rows, cols]: [u64; 2],
        bits: u8,
        arrays: &impl Arrays<A>,
    ) -> Result<Self, OpenError> {
        values.check(bits)?;
        if rows == 0 || cols == 0 || rows.checked_mul(cols).is_none() {
            return Err(too_large().into());
        }
        let tiles = Tiles::of(values, [rows, cols], arrays)?;
        let (mut scales, over) = tiles.scales(values, arrays)?;
        let inverse = values.rule.map(|rule| rule.inverse);
        if inverse == Some(Inverse::ReciprocalBf16) {
            scales.iter_mut().for_each(|scale| *scale = 1.0 / in_bf16(1.0 / *scale));
        }
        let zeros = match &values.zero {
            Zero::None => Zeros::One(0),
            Zero::Constant(level) => Zeros::One(*level),
            Zero::Codes(codes) => Zeros::Each(tiles.zero_codes(codes, arrays)?),
            Zero::Bias(numbers) => {
                let biases = tiles.numbers(numbers, arrays, "zero")?;
                if inverse == Some(Inverse::Anchored) {
                    scales.iter_mut().zip(&biases).for_each(|(scale, bias)| *scale = anchored(*scale, *bias));
                }
                let zero = |(bias, scale): (f32, &f32)| -bias / (scale / over);
                Zeros::Real(biases.into_iter().zip(&scales).map(zero).collect())
            }
        };
        Ok(Self {
            rows: size_in_memory(rows)?,
            tile_rows: size_in_memory(tiles.tile_rows())?,
            tiles: size_in_memory(tiles.count())?,
            columns: tiles.into_columns(),
            levels: LevelTable::new(&values.levels, bits),
            scales,
            over,
            zeros,
            rule: values.rule,
        })
    }

    /// The same for a matrix of another shape: its first rows and columns, or with more of what the last ones have.
    pub(crate) fn resized(mut self, [rows, cols]: [usize; 2]) -> Self {
        self.rows = rows;
        self.columns.resize(cols);
        self
    }

    /// The same of which it is not known how floats became codes.
    #[cfg(test)]
    pub(crate) fn without_rule(self) -> Self {
        Self { rule: None, ..self }
    }

    /// Columns of the matrix.
    pub(crate) fn cols(&self) -> usize {
        self.columns.len()
    }

    /// The groups of its columns.
    pub(crate) fn columns(&self) -> &Columns {
        &self.columns
    }

    /// What its codes stand for before they are scaled.
    pub(crate) fn levels(&self) -> &LevelTable {
        &self.levels
    }

    /// How floats became codes, where that is known, and what scales are divided by last.
    pub(crate) fn rule(&self) -> Option<(Rule, f32)> {
        Some((self.rule?, self.over))
    }

    /// What scales are divided by last.
    pub(super) fn over(&self) -> f32 {
        self.over
    }

    /// Scales and zero-points of a row.
    pub(crate) fn row(&self, row: usize) -> RowValues<'_> {
        let groups = self.columns.groups();
        let first = (row / self.tile_rows).min(self.tiles - 1) * groups;
        // There is one for each group of each tile.
        let of_row = first..first + groups;
        let zeros = match &self.zeros {
            Zeros::One(zero) => RowZeros::One(*zero),
            Zeros::Each(zeros) => RowZeros::Each(&zeros[of_row.clone()]),
            Zeros::Real(zeros) => RowZeros::Real(&zeros[of_row.clone()]),
        };
        RowValues { scales: &self.scales[of_row], over: self.over, zeros }
    }

    /// What the first codes of a row stand for.
    pub(crate) fn values_of(&self, row: usize, codes: &[u8]) -> Vec<f32> {
        let row = self.row(row);
        let value =
            |(code, group): (&u8, usize)| row.scale(group) * (self.levels.value(*code) - row.zero(group));
        codes.iter().zip(self.columns.of_each()).map(value).collect()
    }

    /// How far weights of a row lie off the levels of their codes, in levels; to the other side where scales are
    /// negative.
    pub(crate) fn off_levels(&self, row: usize, codes: &[u8], weights: &[f32]) -> Vec<f32> {
        let row = self.row(row);
        let each = codes.iter().zip(weights).zip(self.columns.of_each());
        let off = |((code, weight), group): ((&u8, &f32), usize)| {
            let off = weight / row.scale(group) + row.zero(group) - self.levels.value(*code);
            if row.scale(group) < 0.0 { -off } else { off }
        };
        each.map(off).collect()
    }

    /// How many rows have the same scales and zero-points, and how many such tiles of rows there are.
    pub(crate) fn tiling(&self) -> (usize, usize) {
        (self.tile_rows, self.tiles)
    }

    /// The scale of a group of a tile before it is divided by a constant.
    pub(crate) fn undivided(&self, tile: usize, group: usize) -> f32 {
        self.scales[tile * self.columns.groups() + group]
    }

    /// Whether levels and zero-points are integers.
    pub(crate) fn is_integer(&self) -> bool {
        self.levels.is_integer() && !matches!(self.zeros, Zeros::Real(_))
    }

    /// Whether scales of some groups are negative.
    pub(crate) fn has_negative_scales(&self) -> bool {
        self.scales.iter().any(|scale| scale / self.over < 0.0)
    }

    /// Whether level 0 stands for 0 everywhere.
    pub(crate) fn has_no_zeros(&self) -> bool {
        self.zeros == Zeros::One(0)
    }

    /// Whether every zero-point is the middle of the codes.
    pub(crate) fn is_symmetric(&self) -> bool {
        let middle = match self.levels.kind() {
            LevelKind::Unsigned => 1 << (self.levels.bits() - 1),
            _ => 0,
        };
        match &self.zeros {
            Zeros::One(zero) => *zero == middle,
            Zeros::Each(zeros) => zeros.iter().all(|zero| *zero == middle),
            Zeros::Real(_) => false,
        }
    }

    /// A code of the last row and column that stands for 0, or nearly.
    pub(crate) fn zero_code(&self) -> u8 {
        let last = self.columns.runs().last().map_or(0, |run| run.group);
        let mut rank = [self.levels.nearest_rank(self.row(self.rows.saturating_sub(1)).zero(last))];
        self.levels.to_codes(&mut rank);
        rank[0]
    }

    /// By how much the levels of the codes of the first rows exceed their zero-points on average.
    pub(crate) fn mean_off(&self, codes: &[u8]) -> f64 {
        let runs = self.columns.runs();
        let mut sum = 0.0;
        for (row, codes) in codes.chunks_exact(self.cols().max(1)).enumerate() {
            let row = self.row(row);
            for run in &runs {
                let zero = f64::from(row.zero(run.group));
                sum += codes[run.start..run.end]
                    .iter()
                    .map(|code| f64::from(self.levels.value(*code)) - zero)
                    .sum::<f64>();
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let count = codes.len().max(1) as f64;
        sum / count
    }
}

/// The scale by which a bias is a whole number of steps, if the bias is one or more of them.
fn anchored(scale: f32, bias: f32) -> f32 {
    let exact = bias / (bias / scale).round_ties_even();
    if exact.is_normal() { exact } else { scale }
}

#[cfg(test)]
mod tests;
