//! Matrices of larger arrays.

use std::borrow::Cow;

use qstore_container::Placed;

use crate::memory::size;
use crate::transpose::transpose;

/// The elements of a matrix in an array, row by row. The array has all that the matrix is among.
pub fn gather<'a>(array: &'a [u8], placed: &Placed, width: u64) -> Cow<'a, [u8]> {
    let [rows, cols] = placed.shape;
    let part = |first: u64, count: u64| &array[size(first * width)..size((first + count) * width)];
    if placed.is_contiguous() {
        return Cow::Borrowed(part(if rows > 0 { placed.element(0, 0) } else { 0 }, rows * cols));
    }
    let line = size(cols * width);
    let mut gathered = Vec::with_capacity(size(rows) * line);
    if !placed.transposed {
        (0..rows).for_each(|row| gathered.extend_from_slice(part(placed.element(row, 0), cols)));
        return Cow::Owned(gathered);
    }
    let elements = placed.elements();
    let slab = part(elements.start, elements.end - elements.start);
    let mut transposed = vec![0; slab.len()];
    transpose(slab, placed.pitch, width, &mut transposed);
    // Rows of the transposed slab, in the order of the view.
    for row in 0..rows {
        let first = size(placed.element(row, 0) - elements.start) * line;
        gathered.extend_from_slice(&transposed[first..first + line]);
    }
    Cow::Owned(gathered)
}
