//! The rows and columns that matrices are coded in.

use qstore_container::StoredArray;

/// Rows and columns of what is coded of a matrix: of its weights, or of its codes.
pub(crate) fn coded_shape(array: &StoredArray) -> Option<[u64; 2]> {
    if let Some(layout) = array.encoding.layout() {
        return layout.codes_of(&array.shape);
    }
    let [first, second] = array.matrix_shape()?;
    Some(if array.encoding.is_transposed() { [second, first] } else { [first, second] })
}
