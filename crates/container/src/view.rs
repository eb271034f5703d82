//! Matrices within arrays.

use serde::{Deserialize, Serialize};

use crate::FormatError;

/// A half-open range of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "[u64; 2]", into = "[u64; 2]")]
pub struct RowRange {
    /// The first.
    pub start: u64,
    /// The first that is not of it.
    pub end: u64,
}

impl From<[u64; 2]> for RowRange {
    fn from([start, end]: [u64; 2]) -> Self {
        Self { start, end }
    }
}

impl From<RowRange> for [u64; 2] {
    fn from(range: RowRange) -> Self {
        [range.start, range.end]
    }
}

impl RowRange {
    /// How many rows, if they are among the first `rows`.
    fn count_within(self, rows: u64) -> Option<u64> {
        (self.end <= rows).then(|| self.end.checked_sub(self.start)).flatten()
    }
}

/// Rows in another order: `outer` and `inner` swapped, as of a matrix `[.., outer, inner, columns]` that is seen as
/// `[.., inner, outer, columns]`.
///
/// llama.cpp stores the rows of a head so for its rotary embeddings, and gate and up projections are interleaved so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "[u64; 2]", into = "[u64; 2]")]
pub struct RowOrder {
    /// How many groups of rows there are in each block of rows.
    pub outer: u64,
    /// Rows of a group.
    pub inner: u64,
}

impl From<[u64; 2]> for RowOrder {
    fn from([outer, inner]: [u64; 2]) -> Self {
        Self { outer, inner }
    }
}

impl From<RowOrder> for [u64; 2] {
    fn from(order: RowOrder) -> Self {
        [order.outer, order.inner]
    }
}

impl RowOrder {
    /// Rows of a block, within which they change places.
    fn block(self) -> Option<u64> {
        self.outer.checked_mul(self.inner).filter(|block| *block > 0)
    }

    /// The row that comes at place `row`.
    fn of(self, row: u64) -> u64 {
        let block = self.outer.saturating_mul(self.inner).max(1);
        let within = row % block;
        // At place (i, o) of the swapped rows there is row (o, i).
        let (i, o) = (within / self.outer.max(1), within % self.outer.max(1));
        row - within + o * self.inner + i
    }
}

/// Which matrix of an array is meant. By default it is the array seen as rows of its last dimension.
///
/// The array is cut into rows of [`pitch`](Self::pitch) elements. Of these, [`slab`](Self::slab) are taken, which may
/// be [`transposed`](Self::transposed); the rows of the result are put in [`order`](Self::order), and
/// [`rows`](Self::rows) of them are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Elements of a row of the array; its last dimension if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitch: Option<u64>,
    /// The rows of the array that are taken; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slab: Option<RowRange>,
    /// Whether these are columns of the matrix.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transposed: bool,
    /// The order in which its rows come, if not their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<RowOrder>,
    /// The rows that are taken, counted in that order; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowRange>,
}

/// A [`View`] of an array of known shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Rows and columns of the matrix.
    pub shape: [u64; 2],
    /// Elements of a row of the array.
    pub pitch: u64,
    /// The rows of the array that the matrix lies in.
    pub slab: RowRange,
    /// Whether rows of the array are columns of the matrix.
    pub transposed: bool,
    first_row: u64,
    order: Option<RowOrder>,
}

impl Placed {
    /// The element of the array that lies at a row and column of the matrix.
    #[must_use]
    pub fn element(&self, row: u64, column: u64) -> u64 {
        let row = self.slab_row(row);
        if self.transposed {
            (self.slab.start + column) * self.pitch + row
        } else {
            (self.slab.start + row) * self.pitch + column
        }
    }

    /// The row of the slab, or of its transposed, that is row `row` of the matrix.
    #[must_use]
    pub fn slab_row(&self, row: u64) -> u64 {
        let row = self.first_row + row;
        self.order.map_or(row, |order| order.of(row))
    }

    /// The row of the array, or of its transposed, that the first row of the matrix is.
    #[must_use]
    pub fn first_row(&self) -> u64 {
        self.first_row + if self.transposed { 0 } else { self.slab.start }
    }

    /// The rows of the array that hold the matrix and, where its rows lie as they are, nothing else.
    #[must_use]
    pub fn lines(&self) -> RowRange {
        if !self.is_contiguous() {
            return self.slab;
        }
        let start = self.first_row();
        RowRange { start, end: start + self.shape[0] }
    }

    /// Rows of the slab, or of its transposed.
    #[must_use]
    pub fn slab_rows(&self) -> u64 {
        if self.transposed { self.pitch } else { self.slab.end - self.slab.start }
    }

    /// Which of these are taken, in the view's order: from the first number up to the second.
    #[must_use]
    pub fn rows_of_slab(&self) -> (u64, u64) {
        (self.first_row, self.first_row + self.shape[0])
    }

    /// The same in an array that has the [`slab`](Self::slab) alone.
    #[must_use]
    pub fn from_slab(&self) -> Self {
        Self { slab: RowRange { start: 0, end: self.slab.end - self.slab.start }, ..*self }
    }

    /// The elements of the array that the matrix's elements are among.
    #[must_use]
    pub fn elements(&self) -> std::ops::Range<u64> {
        self.slab.start * self.pitch..self.slab.end * self.pitch
    }

    /// Whether rows come in another order than in the array.
    #[must_use]
    pub fn has_order(&self) -> bool {
        self.order.is_some()
    }

    /// Whether the rows of the matrix lie one after another in the array, as they are.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        !self.transposed && self.order.is_none()
    }
}

impl View {
    /// The array as it is.
    pub const WHOLE: Self = Self { pitch: None, slab: None, transposed: false, rows: None, order: None };

    /// The transposed of the array.
    pub const TRANSPOSED: Self = Self { transposed: true, ..Self::WHOLE };

    /// A column of all elements of an array, whatever its shape.
    pub const COLUMN: Self = Self { pitch: Some(1), ..Self::WHOLE };

    /// Whether it is [`WHOLE`](Self::WHOLE).
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::WHOLE
    }

    /// The matrix in an array of this shape.
    ///
    /// # Errors
    /// What of the view does not fit the array.
    pub fn place(&self, shape: &[u64]) -> Result<Placed, FormatError> {
        let bad = |what: &str| FormatError::new(format!("view.{what}"));
        let elements = shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
        let elements = elements.ok_or_else(|| bad("pitch: the array's shape is absurd"))?;
        let pitch = self.pitch.or(shape.last().copied()).unwrap_or(1);
        if pitch == 0 || !elements.is_multiple_of(pitch) {
            return Err(bad("pitch: the array does not consist of whole rows of so many elements"));
        }
        let all = elements / pitch;
        let slab = self.slab.unwrap_or(RowRange { start: 0, end: all });
        let taken = slab.count_within(all).ok_or_else(|| bad("slab: rows that the array does not have"))?;
        let (all_rows, cols) = if self.transposed { (pitch, taken) } else { (taken, pitch) };
        let rows = self.rows.unwrap_or(RowRange { start: 0, end: all_rows });
        let count = rows.count_within(all_rows);
        let count = count.ok_or_else(|| bad("rows: rows that the matrix does not have"))?;
        if let Some(order) = self.order
            && order.block().is_none_or(|block| !all_rows.is_multiple_of(block))
        {
            return Err(bad("order: the rows do not consist of whole blocks"));
        }
        Ok(Placed {
            shape: [count, cols],
            pitch,
            slab,
            transposed: self.transposed,
            first_row: rows.start,
            order: self.order,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(view: &View, shape: &[u64]) -> Vec<Vec<u64>> {
        let placed = view.place(shape).unwrap();
        let [rows, cols] = placed.shape;
        (0..rows).map(|row| (0..cols).map(|column| placed.element(row, column)).collect()).collect()
    }

    #[test]
    fn views_of_a_matrix() {
        let shape = [2, 3];
        assert_eq!(elements(&View::WHOLE, &shape), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(elements(&View::TRANSPOSED, &shape), [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(elements(&View::COLUMN, &shape), [[0], [1], [2], [3], [4], [5]]);
        let middle = View { rows: Some([1, 2].into()), ..View::TRANSPOSED };
        assert_eq!(elements(&middle, &shape), [[1, 4]]);
    }

    #[test]
    fn experts_of_a_fused_tensor() {
        // Two experts of [4, 2]: the second one, its last two rows.
        let shape = [2, 4, 2];
        let up = View { slab: Some([4, 8].into()), rows: Some([2, 4].into()), ..View::WHOLE };
        assert_eq!(elements(&up, &shape), [[12, 13], [14, 15]]);
        // The same with rows that are interleaved: every other one.
        let split =
            View { slab: Some([4, 8].into()), order: Some(RowOrder { outer: 2, inner: 2 }), ..View::WHOLE };
        assert_eq!(elements(&split, &shape), [[8, 9], [12, 13], [10, 11], [14, 15]]);
        // Of these the second half.
        let half = View { rows: Some([2, 4].into()), ..split };
        assert_eq!(elements(&half, &shape), [[10, 11], [14, 15]]);
    }

    #[test]
    fn an_order_is_a_permutation() {
        for (outer, inner) in [(1, 12), (12, 1), (3, 4), (4, 3), (2, 3)] {
            let order = RowOrder { outer, inner };
            let mut seen: Vec<u64> = (0..12).map(|row| order.of(row)).collect();
            let back = RowOrder { outer: inner, inner: outer };
            (0..12).for_each(|row| assert_eq!(order.of(back.of(row)), row));
            seen.sort_unstable();
            assert_eq!(seen, (0..12).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_out_of_range_is_told() {
        let shape = [4, 6];
        for (view, word) in [
            (View { pitch: Some(0), ..View::WHOLE }, "pitch"),
            (View { pitch: Some(5), ..View::WHOLE }, "pitch"),
            (View { slab: Some([0, 5].into()), ..View::WHOLE }, "slab"),
            (View { slab: Some([3, 2].into()), ..View::WHOLE }, "slab"),
            (View { slab: Some([u64::MAX, 4].into()), ..View::WHOLE }, "slab"),
            (View { rows: Some([0, 7].into()), ..View::TRANSPOSED }, "rows"),
            (View { rows: Some([0, 5].into()), ..View::WHOLE }, "rows"),
            (View { order: Some([0, 2].into()), ..View::WHOLE }, "order"),
            (View { order: Some([3, 1].into()), ..View::WHOLE }, "order"),
            (View { order: Some([u64::MAX, 2].into()), ..View::WHOLE }, "order"),
        ] {
            let error = view.place(&shape).unwrap_err().to_string();
            assert!(error.contains(&format!("view.{word}:")), "{word}: {error}");
        }
        assert!(View::WHOLE.place(&[u64::MAX, 2]).is_err());
        assert_eq!(View::WHOLE.place(&[]).unwrap().shape, [1, 1]);
        assert!(View::WHOLE.place(&[3, 0]).is_err());
    }

    #[test]
    fn what_is_absent_is_not_written() {
        assert_eq!(serde_json::to_string(&View::WHOLE).unwrap(), "{}");
        let view = View { slab: Some([2, 4].into()), order: Some([2, 8].into()), ..View::TRANSPOSED };
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(text, r#"{"slab":[2,4],"transposed":true,"order":[2,8]}"#);
        assert_eq!(serde_json::from_str::<View>(&text).unwrap(), view);
    }
}
