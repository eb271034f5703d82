//! Factors that columns, and rows, of weights were multiplied with before they were rounded (AWQ).
//!
//! They are in no file. A factor is right where it takes most weights of its column to the levels that their codes say:
//! each weight allows an interval of factors, and a place is sought that most intervals have.

use qstore_checkpoint::FloatKind;

use super::super::given::GivenGroup;
use super::super::matrix::{CodedMatrix, Part};
use super::super::unusable::Unusable;
use crate::codec::{Factors, values};

/// Weights of a column or row that are looked at.
const MOST: usize = 1024;
/// Steps off its level from which on a weight is no neighbour of the level's bin.
const OUTSIDE: f32 = 0.5 + 1.0 / 32.0;
/// The share of weights outside of their bins that may be left for factors to be worth it.
const LEFT: f64 = 0.75;
/// How often columns and rows are fitted in turn.
const TURNS: usize = 4;

/// Weights in steps of their scales, beside the levels that their codes say, less zero-points.
struct Steps {
    cols: usize,
    weights: Vec<f32>,
    levels: Vec<f32>,
}

/// What weights are multiplied with.
struct Fitted {
    columns: Vec<f32>,
    rows: Vec<f32>,
}

/// Finds the factors of a matrix of floats for which its parts, with the codes of the matrix that they are given as the
/// `index`th of `of`, leave far fewer weights outside of their codes' bins than there are without.
///
/// # Errors
/// The matrix cannot be read.
pub(super) fn find(
    matrix: &CodedMatrix,
    float: FloatKind,
    group: &GivenGroup,
    parts: &[Part],
    (index, of): (usize, usize),
) -> Result<Option<Factors>, Unusable> {
    let mut sample = Steps { cols: group.values.cols(), weights: Vec::new(), levels: Vec::new() };
    parts.iter().for_each(|part| sample.add(group, float, part, &part.codes_of(&[index], of)));
    let none = Fitted { columns: vec![1.0; sample.cols], rows: vec![1.0; sample.rows()] };
    let (before, by_columns) = (sample.outside(&none), sample.fit_columns(&none.rows));
    let mut both = Fitted { columns: by_columns.clone(), rows: none.rows.clone() };
    for _ in 0..TURNS {
        both.rows = sample.fit_rows(&both.columns);
        both.columns = sample.fit_columns(&both.rows);
    }
    let by_columns = Fitted { columns: by_columns, rows: none.rows };
    // Means come near: what does not help by then does not.
    let likely = |fitted: &Fitted| sample.outside(fitted) < before * LEFT;
    if !likely(&by_columns) && !likely(&both) {
        return Ok(None);
    }
    let by_columns = Fitted { columns: sample.cover_columns(&by_columns.rows), ..by_columns };
    for _ in 0..2 {
        both.columns = sample.cover_columns(&both.rows);
        both.rows = sample.cover_rows(&both.columns);
    }
    both.columns = sample.cover_columns(&both.rows);
    let left = [&by_columns, &both].map(|fitted| sample.outside(fitted));
    if left[0].min(left[1]) >= before * LEFT {
        return Ok(None);
    }
    let inverses = |of: &[f32]| of.iter().map(|factor| 1.0 / factor).collect::<Vec<_>>();
    if left[1] >= left[0] * LEFT {
        return Ok(Factors::new(&inverses(&by_columns.columns), None));
    }
    let columns = &both.columns;
    let rows = matrix.each_given(&group.codes()?, group.values.zero_code(), |part| {
        let mut steps = Steps { cols: sample.cols, weights: Vec::new(), levels: Vec::new() };
        steps.add(group, float, &part, &part.codes);
        steps.cover_rows(columns)
    })?;
    Ok(Factors::new(&inverses(columns), Some(&inverses(&rows.concat()))))
}

impl Steps {
    /// Adds the weights of a part, which has these codes.
    fn add(&mut self, group: &GivenGroup, float: FloatKind, part: &Part, codes: &[u8]) {
        let mut weights = vec![0.0; codes.len()];
        values(float, &part.raw, &mut weights);
        let none = vec![0.0; self.cols];
        let lines = codes.chunks(self.cols.max(1)).zip(weights.chunks(self.cols.max(1)));
        for (row, (codes, weights)) in (part.rows.start..).zip(lines) {
            let levels = group.values.off_levels(row, codes, &none).into_iter().map(|off| -off);
            let first = self.levels.len();
            self.levels.extend(levels);
            let off = group.values.off_levels(row, codes, weights);
            self.weights.extend(off.iter().zip(&self.levels[first..]).map(|(off, level)| off + level));
        }
    }

    fn rows(&self) -> usize {
        self.weights.len() / self.cols.max(1)
    }

    /// The share of weights that are outside of their bins.
    fn outside(&self, by: &Fitted) -> f64 {
        let lines = self.weights.chunks(self.cols.max(1)).zip(self.levels.chunks(self.cols.max(1)));
        let of_row = |((weights, levels), row): ((&[f32], &[f32]), &f32)| {
            let each = weights.iter().zip(levels).zip(&by.columns);
            each.filter(|((weight, level), factor)| (*weight * *factor * row - *level).abs() > OUTSIDE)
                .count()
        };
        let outside: usize = lines.zip(&by.rows).map(of_row).sum();
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = outside as f64 / self.weights.len().max(1) as f64;
        share
    }

    /// The weights of a column, each multiplied with its row's factor, with their levels.
    fn column(&self, column: usize, rows: &[f32]) -> impl Iterator<Item = (f32, f32)> {
        let step = rows.len().div_ceil(MOST).max(1);
        let places = (0..rows.len()).step_by(step).map(move |row| (row, row * self.cols + column));
        places.map(|(row, at)| (self.weights[at] * rows[row], self.levels[at]))
    }

    /// The same of a row.
    fn row(&self, row: usize, columns: &[f32]) -> impl Iterator<Item = (f32, f32)> {
        let step = columns.len().div_ceil(MOST).max(1);
        let places = (0..columns.len()).step_by(step).map(move |column| (column, row * self.cols + column));
        places.map(|(column, at)| (self.weights[at] * columns[column], self.levels[at]))
    }

    fn fit_columns(&self, rows: &[f32]) -> Vec<f32> {
        (0..self.cols).map(|column| fit(self.column(column, rows))).collect()
    }

    fn fit_rows(&self, columns: &[f32]) -> Vec<f32> {
        (0..self.rows()).map(|row| fit(self.row(row, columns))).collect()
    }

    fn cover_columns(&self, rows: &[f32]) -> Vec<f32> {
        (0..self.cols).map(|column| cover(self.column(column, rows))).collect()
    }

    fn cover_rows(&self, columns: &[f32]) -> Vec<f32> {
        (0..self.rows()).map(|row| cover(self.row(row, columns))).collect()
    }
}

/// What weights are multiplied with to be nearest to their levels, by least squares.
fn fit(each: impl Iterator<Item = (f32, f32)>) -> f32 {
    let each = each.filter(|(weight, level)| weight.is_finite() && level.is_finite());
    let (products, squares) = each.fold((0.0, 0.0), |(products, squares), (weight, level)| {
        (products + f64::from(weight) * f64::from(level), squares + f64::from(weight) * f64::from(weight))
    });
    #[expect(clippy::cast_possible_truncation, reason = "an estimate")]
    let factor = (products / squares) as f32;
    usable(factor)
}

/// What most weights can be multiplied with to round to their levels: the middle of the longest such stretch.
fn cover(each: impl Iterator<Item = (f32, f32)>) -> f32 {
    let mut ends: Vec<(f32, i32)> = Vec::new();
    for (weight, level) in
        each.filter(|(weight, level)| weight.abs() > f32::MIN_POSITIVE && level.is_finite())
    {
        let [a, b] = [level - 0.5, level + 0.5].map(|edge| edge / weight);
        if a.max(b) > 0.0 {
            ends.extend([(a.min(b), 1), (a.max(b), -1)]);
        }
    }
    // Of equal places beginnings come first.
    ends.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let (mut count, mut best) = (0, (0, 0.0, 1.0));
    for pair in ends.windows(2) {
        count += pair[0].1;
        let length = pair[1].0 - pair[0].0;
        if count > best.0 || count == best.0 && length > best.1 {
            best = (count, length, (pair[0].0 + pair[1].0) / 2.0);
        }
    }
    usable(best.2)
}

/// A factor that FP16 can hold, as can its reciprocal.
fn usable(factor: f32) -> f32 {
    if (1e-3..=1e3).contains(&factor) { factor } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_takes_most_weights_to_their_levels() {
        let weights: Vec<f32> = (1..400).map(|i| (i as f32 * 0.618).fract() * 14.0 - 7.0).collect();
        let mut each: Vec<(f32, f32)> =
            weights.iter().map(|weight| (weight / 1.37, weight.round_ties_even())).collect();
        // Some were moved.
        each.iter_mut().step_by(13).for_each(|(_, level)| *level += 1.0);
        let (near, exact) = (fit(each.iter().copied()), cover(each.iter().copied()));
        assert!((near - 1.37).abs() < 0.2 && (exact - 1.37).abs() < 0.005, "{near} {exact}");
        for odd in
            [&[][..], &[(0.0, 1.0)], &[(f32::NAN, 1.0), (1.0, f32::NAN)], &[(1.0, -3.0)], &[(1e-30, 5.0)]]
        {
            assert!(
                [fit(odd.iter().copied()), cover(odd.iter().copied())].iter().all(|factor| *factor == 1.0)
            );
        }
    }
}
