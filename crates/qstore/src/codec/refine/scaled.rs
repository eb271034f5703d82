//! Scales and zero-points of the weights of a row.

use std::ops::Range;

use qstore_container::Rounded;
use qstore_kernels::{DecodeError, Each, LEAST_SCALE, Scaled, WIDEST};

use super::factors::Factors;
use crate::quant::{ColumnRun, Dequantizer, Ranking, Scaling};

/// What the codes of a matrix stand for, row by row.
#[derive(Debug)]
pub(super) struct Scalings {
    pub(super) values: Dequantizer,
    pub(super) ranking: Ranking,
    runs: Vec<ColumnRun>,
    /// Rows and columns that have codes.
    there: [usize; 2],
    has_negative: bool,
}

/// The scales of some columns of one row.
#[derive(Debug)]
pub(super) struct RowScales {
    each: Each,
    scales: Vec<f32>,
    inverses: Vec<f32>,
    zeros: Vec<f32>,
    /// Columns whose ranks are counted from the last one down, from the first of these columns on.
    mirrored: Vec<Range<usize>>,
    row: Option<usize>,
}

impl Scalings {
    /// `None` for levels that kernels do not take.
    pub(super) fn new(values: Dequantizer, there: [usize; 2]) -> Option<Self> {
        let result = values.rule().map_or(Rounded::F32, |(rule, _)| rule.result);
        let ranking = Ranking::new(values.levels(), result)?;
        let (runs, has_negative) = (values.columns().runs(), values.has_negative_scales());
        Some(Self { runs, has_negative, ranking, values, there })
    }

    /// Levels at which the outermost bins end, as kernels take them.
    pub(super) fn ends(&self, ends: [f32; 2]) -> [f32; 2] {
        self.ranking.ends(ends, self.has_negative)
    }

    /// The runs of columns with one scale that are among `columns`, counted from the first of these on; of those that
    /// have no codes without a group.
    fn runs_of(&self, columns: &Range<usize>) -> impl Iterator<Item = (Range<usize>, Option<usize>)> {
        let from = self.runs.partition_point(|run| run.end <= columns.start);
        let (first, end) = (columns.start, columns.end);
        let there = self.there[1].clamp(first, end);
        let runs = self.runs[from..].iter().take_while(move |run| run.start < there);
        let of_run = move |run: &ColumnRun| {
            (run.start.max(first) - first..run.end.min(there) - first, Some(run.group))
        };
        let rest = (there < end).then_some((there - first..end - first, None));
        runs.map(of_run).chain(rest)
    }

    /// Room for the scales of columns `columns` of a row.
    pub(super) fn room(&self, columns: &Range<usize>) -> RowScales {
        let by_sixteen = self.runs_of(columns).all(|(run, _)| run.start.is_multiple_of(16));
        let each = if by_sixteen { Each::Sixteen } else { Each::Weight };
        let numbers = if by_sixteen { columns.len().div_ceil(16) } else { columns.len() };
        let numbers = || vec![0.0; numbers];
        RowScales {
            each,
            scales: numbers(),
            inverses: numbers(),
            zeros: numbers(),
            mirrored: Vec::new(),
            row: None,
        }
    }

    /// Makes `row` that of row `number`.
    pub(super) fn fill(&self, row: &mut RowScales, number: usize, columns: &Range<usize>) {
        if row.row == Some(number) {
            return;
        }
        row.row = Some(number);
        row.mirrored.clear();
        let values = self.values.row(number);
        let is_there = number < self.there[0];
        for (run, group) in self.runs_of(columns) {
            let group = group.filter(|_| is_there);
            let of = group.map_or(Scaling::NOTHING, |group| self.ranking.scaling(&values, group));
            if of.mirrored {
                row.mirrored.push(run.clone());
            }
            let run = match row.each {
                Each::Weight => run,
                Each::Sixteen => run.start / 16..run.end.div_ceil(16),
            };
            row.scales[run.clone()].fill(of.scale);
            row.inverses[run.clone()].fill(1.0 / of.scale);
            row.zeros[run].fill(of.zero);
        }
    }

    /// Ranks of the codes of columns `columns` of a row that was filled.
    pub(super) fn ranks(&self, row: &RowScales, columns: &Range<usize>, codes: &[u8], ranks: &mut [u8]) {
        self.ranking.ranks(codes, ranks);
        row.mirrored_in(columns).for_each(|columns| self.ranking.mirror(&mut ranks[columns]));
    }

    /// Turns the ranks of a whole row that was filled into codes.
    pub(super) fn to_codes(&self, row: &RowScales, ranks: &mut [u8]) {
        row.mirrored.iter().for_each(|columns| self.ranking.mirror(&mut ranks[columns.clone()]));
        self.ranking.to_codes(ranks);
    }
}

impl RowScales {
    /// Those of some of its columns, the first of which 16 divides.
    pub(super) fn part(&self, columns: &Range<usize>) -> Result<Scaled<'_>, DecodeError> {
        let range = match self.each {
            Each::Weight => columns.clone(),
            Each::Sixteen => columns.start / 16..columns.end.div_ceil(16),
        };
        let [scales, inverses, zeros] = [&self.scales, &self.inverses, &self.zeros]
            .map(|numbers| numbers.get(range.clone()).unwrap_or_default());
        Scaled::new(scales, inverses, zeros, self.each).ok_or(DecodeError::Corrupt("scales of other columns"))
    }

    /// What of `columns` is counted from the last rank down, from the first of them on.
    fn mirrored_in(&self, columns: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (first, end) = (columns.start, columns.end);
        let runs = self.mirrored.iter().filter(move |run| run.start < end && run.end > first);
        runs.map(move |run| run.start.max(first) - first..run.end.min(end) - first)
    }
}

/// Scales of the weights of one row, and the levels of their codes as zero-points.
pub(super) struct Moved {
    /// Of each column.
    scales: Vec<f32>,
    zeros: Vec<f32>,
    /// -1 where scales are negative: distances are then those to the other side. Else 1.
    signs: Vec<f32>,
    row: Option<usize>,
    /// Of the columns that were asked for last: zero-points less levels, and ranks.
    part: Vec<f32>,
    ranks: Vec<u8>,
}

/// A zero-point, if kernels take it; else one of which nothing is told.
fn taken(zero: f32) -> f32 {
    if zero.abs() <= WIDEST { zero } else { Scaling::NOTHING.zero }
}

impl Moved {
    /// Room for a row of so many columns.
    pub(super) fn new(cols: usize) -> Self {
        let [scales, zeros, signs] = [vec![0.0; cols], vec![0.0; cols], vec![1.0; cols]];
        Self { scales, zeros, signs, row: None, part: Vec::new(), ranks: Vec::new() }
    }

    /// Makes it that of row `number`, whose scales are multiplied with these factors.
    pub(super) fn fill(
        &mut self,
        of: &Scalings,
        number: usize,
        columns: &Range<usize>,
        factors: Option<&Factors>,
    ) {
        if self.row == Some(number) {
            return;
        }
        self.row = Some(number);
        let values = of.values.row(number);
        for (run, group) in of.runs_of(columns) {
            let group = group.filter(|_| number < of.there[0]);
            let scaled = group.map(|group| (values.scale(group), values.zero(group)));
            let usable = scaled.filter(|(scale, _)| scale.is_finite());
            let (scale, zero) = usable.unwrap_or((Scaling::NOTHING.scale, Scaling::NOTHING.zero));
            let scales = &mut self.scales[run.clone()];
            scales.fill(scale.abs());
            if let Some(factors) = factors.filter(|_| usable.is_some()) {
                let (of_columns, of_row) = factors.of_row(number, columns.start + run.start);
                scales
                    .iter_mut()
                    .zip(of_columns)
                    .for_each(|(scale, factor)| *scale = *scale * factor * of_row);
            }
            scales.iter_mut().for_each(|scale| *scale = scale.clamp(LEAST_SCALE, f32::MAX));
            self.zeros[run.clone()].fill(zero);
            self.signs[run].fill(if scale < 0.0 { -1.0 } else { 1.0 });
        }
    }

    /// The zero-points less the levels of codes in these columns.
    fn find_part(&mut self, of: &Scalings, columns: &Range<usize>, codes: &[u8]) {
        self.part.resize(codes.len(), 0.0);
        self.ranks.resize(codes.len(), 0);
        let of_each = self.zeros[columns.clone()].iter().zip(&self.signs[columns.clone()]);
        let each = self.part.iter_mut().zip(of_each);
        let levels = of.values.levels();
        if levels.is_integer() {
            // By ranks, so that compilers make vector code of it.
            of.ranking.ranks(codes, &mut self.ranks);
            let base = of.ranking.base();
            let off = |zero: f32, rank: u8| zero - (f32::from(rank) - base);
            let ranked = each.zip(&self.ranks);
            ranked.for_each(|((part, (zero, sign)), rank)| *part = taken(off(*zero, *rank) * sign));
        } else {
            let coded = each.zip(codes);
            coded.for_each(|((part, (zero, sign)), code)| {
                *part = taken((zero - levels.value(*code)) * sign);
            });
        }
    }

    /// Those of some columns, which have these codes.
    pub(super) fn part(
        &mut self,
        of: &Scalings,
        columns: &Range<usize>,
        codes: &[u8],
    ) -> Result<Scaled<'_>, DecodeError> {
        self.find_part(of, columns, codes);
        let scales = &self.scales[columns.clone()];
        // Nobody looks for a rank here, which is what reciprocals are for.
        let scaled = Scaled::new(scales, scales, &self.part, Each::Weight);
        scaled.ok_or(DecodeError::Corrupt("scales of other columns"))
    }

    /// Scale and zero-point of each of the weights of a whole row, which have these codes.
    pub(super) fn of_row(&mut self, of: &Scalings, codes: &[u8]) -> impl Iterator<Item = (f32, f32)> {
        self.find_part(of, &(0..codes.len()), codes);
        self.scales.iter().copied().zip(self.part.iter().copied())
    }
}
