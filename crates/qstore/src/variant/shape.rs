//! The rows and columns that matrices are coded in.

use qstore_container::StoredArray;

/// Rows and columns of what is coded of a matrix: of its weights, or of its codes.
pub(crate) fn coded_shape(array: &StoredArray) -> Option<[u64; 2]> {
    let &[first, second] = &array.shape[..] else { return None };
    match array.encoding.layout() {
        Some(layout) => layout.codes_of([first, second]),
        None if array.encoding.is_transposed() => Some([second, first]),
        None => Some([first, second]),
    }
}
