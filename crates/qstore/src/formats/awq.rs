//! AWQ's checkpoint format `gemm`.
//!
//! `X.qweight` holds codes of 4 bits in I32 words of shape [in, out / 8], and `X.qzeros` [groups, out / 8] zero-points;
//! the eight numbers of a word, from the low bits on, are those of outputs 0, 2, 4, 6, 1, 3, 5 and 7. `X.scales`
//! [groups, out] holds a scale for each group of inputs. Columns were multiplied with factors before they were rounded,
//! which are no part of the folder, so that no rule takes weights to codes.

use qstore_container::{
    ArrayKey, Axis, Dequantization, Dtype, Field, Levels, Packing, QuantMatrix, View, Zero, ZeroCodes,
};

use super::scales::{number, tiled, times};
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct Awq;

/// The place in a word of each of its outputs.
const ORDER: [u8; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Format for Awq {
    fn methods(&self) -> &'static [&'static str] {
        &["awq"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let look = |codes: &ArrayInfo| {
            let base = codes.name.strip_suffix(".qweight")?;
            let beside = |end: &str| tensors.beside(codes, &format!("{base}.{end}"));
            let (scale, zeros) = (beside("scales")?, beside("qzeros")?);
            let matrix = describe(codes, scale, zeros)?;
            Some(Ok(QuantGroup {
                weight: format!("{base}.weight"),
                folder: codes.folder().to_owned(),
                format: "awq",
                candidates: vec![matrix],
            }))
        };
        tensors.all().filter_map(look).collect()
    }
}

/// `None` if tensors do not fit each other so: GPTQ has the same names.
fn describe(codes: &ArrayInfo, scale: &ArrayInfo, zeros: &ArrayInfo) -> Option<QuantMatrix<ArrayKey>> {
    let (&[cols, words], &[groups, rows]) = (&codes.shape[..], &scale.shape[..]) else { return None };
    let is_so = [codes, zeros].iter().all(|array| array.dtype == Dtype::I32)
        && words.checked_mul(8) == Some(rows)
        && zeros.shape == [groups, words]
        && groups > 0
        && cols.is_multiple_of(groups);
    if !is_so {
        return None;
    }
    let packed = |array: &ArrayInfo| Field {
        array: array.key.clone(),
        view: View::TRANSPOSED,
        packing: Some(Packing { bits: 4, word: 32, along: Axis::Rows, order: ORDER.to_vec() }),
    };
    let mut scales = tiled(&[rows, groups], scale, number(scale)?, [rows, cols], [rows, cols])?;
    scales.field.view = View::TRANSPOSED;
    let zero = ZeroCodes { field: packed(zeros), levels: Levels::Unsigned, add: 0, tile: scales.tile };
    Some(QuantMatrix {
        shape: [rows, cols],
        codes: packed(codes),
        values: Dequantization {
            levels: Levels::Unsigned,
            scales: vec![times(scales)],
            zero: Zero::Codes(zero),
            column_groups: None,
            rule: None,
        },
    })
}
