//! The geometry of a chunk.

use std::ops::Range;

/// A run of `len` elements in rows of `cols`, the last of which may be short. Each row may be cut further, all at the
/// same columns; the pieces then count as rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows<'a> {
    len: usize,
    cols: usize,
    /// Where the pieces of a row end, ascending; none if rows are whole.
    ends: &'a [usize],
}

impl Rows<'static> {
    /// `len` elements in rows of `cols` (at least 1).
    #[must_use]
    pub fn new(len: usize, cols: usize) -> Self {
        Self { len, cols: cols.max(1), ends: &[] }
    }
}

impl<'a> Rows<'a> {
    /// `len` elements in rows that are cut into pieces, which end at the columns `ends`: they ascend from 1 on, and the
    /// last is the number of columns.
    #[must_use]
    pub fn cut(len: usize, ends: &'a [usize]) -> Self {
        let is_one = ends.len() < 2;
        Self { len, cols: ends.last().copied().unwrap_or(1).max(1), ends: if is_one { &[] } else { ends } }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of rows, a short last one included.
    #[must_use]
    pub fn count(&self) -> usize {
        if self.ends.is_empty() {
            return self.len.div_ceil(self.cols);
        }
        let (full, rest) = (self.len / self.cols, self.len % self.cols);
        let begun = if rest == 0 { 0 } else { self.ends.partition_point(|end| *end < rest) + 1 };
        full * self.ends.len() + begun
    }

    /// The elements of row `row`; empty if there is no such row.
    #[must_use]
    pub fn range(&self, row: usize) -> Range<usize> {
        let within = |at: usize| at.min(self.len);
        if self.ends.is_empty() {
            let start = within(row.saturating_mul(self.cols));
            return start..within(start.saturating_add(self.cols));
        }
        let (line, piece) = (row / self.ends.len(), row % self.ends.len());
        let first = line.saturating_mul(self.cols);
        let start = if piece == 0 { 0 } else { self.ends[piece - 1] };
        within(first.saturating_add(start))..within(first.saturating_add(self.ends[piece]))
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let rows = *self;
        (0..rows.count()).map(move |row| rows.range(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rows: Rows) -> Vec<Range<usize>> {
        let all: Vec<_> = rows.iter().collect();
        assert_eq!(all.len(), rows.count());
        all
    }

    #[test]
    fn rows_cover_all_elements_once() {
        assert_eq!(all(Rows::new(7, 3)), [0..3, 3..6, 6..7]);
        assert_eq!(all(Rows::cut(12, &[2, 3, 6])), [0..2, 2..3, 3..6, 6..8, 8..9, 9..12]);
        assert_eq!(all(Rows::cut(8, &[2, 3, 6])), [0..2, 2..3, 3..6, 6..8]);
        assert_eq!(all(Rows::cut(10, &[2, 3, 6])), [0..2, 2..3, 3..6, 6..8, 8..9, 9..10]);
        assert_eq!(all(Rows::cut(7, &[3])), all(Rows::new(7, 3)));
        assert_eq!(all(Rows::cut(0, &[1, 2])), []);
        assert_eq!(Rows::cut(5, &[1, 2]).range(9), 5..5);
    }
}
