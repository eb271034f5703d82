//! What is said of repeated measurements.

use serde::Serialize;

/// Repeats of one measurement.
///
/// The spread is the lowest and the highest: with five repeats that is all there is to know, and it hides nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repeats {
    /// The middle one; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// All of them, in the order in which they were taken.
    pub all: Vec<f64>,
}

impl Repeats {
    /// Sums up; `None` of nothing.
    #[must_use]
    pub fn of(all: Vec<f64>) -> Option<Self> {
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let (&lowest, &highest) = (sorted.first()?, sorted.last()?);
        let upper = sorted.len() / 2;
        let lower = (sorted.len() - 1) / 2;
        let median = sorted[lower].midpoint(sorted[upper]);
        Some(Self { median, lowest, highest, all })
    }
}

/// A number of bytes as a float, for rates and ratios.
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub(crate) fn real(number: u64) -> f64 {
    number as f64
}

/// `part / whole`; 0 of nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { real(part) / real(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let odd = Repeats::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.lowest, odd.highest), (2.0, 1.0, 3.0));
        assert_eq!(odd.all, [3.0, 1.0, 2.0], "in the order in which they were taken");
        assert_eq!(Repeats::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Repeats::of(vec![7.0]).unwrap().median, 7.0);
        assert_eq!(Repeats::of(Vec::new()), None);
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(ratio(1, 4), 0.25);
        assert_eq!(ratio(1, 0), 0.0);
    }
}
