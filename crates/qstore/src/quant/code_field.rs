//! Fields that hold codes.

use qstore_container::{Axis, Dtype, Field, FormatError};

/// Whether a field of an array of this element type and shape has so many codes, in whole words.
///
/// # Errors
/// What of it does not fit.
pub(crate) fn check_codes<A>(
    field: &Field<A>,
    dtype: Dtype,
    array_shape: &[u64],
    shape: [u64; 2],
) -> Result<(), FormatError> {
    let [rows, cols] = field.shape(dtype, array_shape)?;
    if rows < shape[0] || cols < shape[1] {
        return Err(FormatError::new("view: fewer codes than the matrix has"));
    }
    // A reader decodes whole rows of them.
    let most = shape.map(|needed| needed.saturating_mul(2).saturating_add(64));
    if rows > most[0] || cols > most[1] {
        return Err(FormatError::new("view: far more codes than the matrix has"));
    }
    let words = field.view.place(array_shape)?.shape;
    let Some(packing) = &field.packing else {
        let is_byte = dtype.bitsize() == 8;
        return if is_byte { Ok(()) } else { Err(FormatError::new("packing: elements of more than a byte")) };
    };
    let (codes, words) = match packing.along {
        Axis::Rows => (rows, words[0]),
        Axis::Columns => (cols, words[1]),
    };
    if codes.checked_mul(packing.bits.into()) != words.checked_mul(packing.word.into()) {
        return Err(FormatError::new("packing: codes that do not fill whole words"));
    }
    Ok(())
}
