//! The geometry of a chunk.

use std::ops::Range;

/// A run of `len` elements in rows of `cols`; the last row may be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    len: usize,
    cols: usize,
}

impl Rows {
    /// `len` elements in rows of `cols` (at least 1).
    #[must_use]
    pub fn new(len: usize, cols: usize) -> Self {
        Self { len, cols: cols.max(1) }
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
        self.len.div_ceil(self.cols)
    }

    /// The elements of row `row`; empty if there is no such row.
    #[must_use]
    pub fn range(&self, row: usize) -> Range<usize> {
        let start = row.saturating_mul(self.cols).min(self.len);
        start..start.saturating_add(self.cols).min(self.len)
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = *self;
        (0..rows.count()).map(move |row| rows.range(row))
    }
}
