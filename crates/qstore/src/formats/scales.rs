//! What formats have in common: scales that lie in a tensor of their own, and how its shape says which are whose.

use qstore_container::{
    ArrayKey, Axis, Dtype, Factor, Field, Number, Numbers, Packing, Rounded, Rule, Scale, View,
};

use super::ArrayInfo;

/// What the scales in a tensor are; `None` if they are no floats. Of U8 it depends on the format.
pub(super) fn number(scale: &ArrayInfo) -> Option<Number> {
    Some(match scale.dtype {
        Dtype::F32 => Number::F32,
        Dtype::F16 => Number::F16,
        Dtype::BF16 => Number::Bf16,
        Dtype::F8_E4M3 => Number::E4m3,
        Dtype::F8_E8M0 => Number::E8m0,
        _ => return None,
    })
}

/// The tiles of a matrix of `rows` and `cols` for each of which `scale`, or a part of it of this `shape`, has a number:
/// one for all, one for each row, or one for each tile of `block` or, where it divides the matrix, of another size.
pub(super) fn tiled(
    shape: &[u64],
    scale: &ArrayInfo,
    number: Number,
    [rows, cols]: [u64; 2],
    block: [u64; 2],
) -> Option<Numbers<ArrayKey>> {
    let (view, [tile_rows, tile_cols]) = match *shape {
        [] | [1] => (View::COLUMN, [1, 1]),
        [all] if all == rows => (View::COLUMN, [rows, 1]),
        [tile_rows, tile_cols] => (View::WHOLE, [tile_rows, tile_cols]),
        _ => return None,
    };
    let tile = if [tile_rows, tile_cols] == [rows.div_ceil(block[0]), cols.div_ceil(block[1])] {
        block
    } else {
        let divides = |all: u64, tiles: u64| tiles > 0 && all.is_multiple_of(tiles);
        if !divides(rows, tile_rows) || !divides(cols, tile_cols) {
            return None;
        }
        [rows / tile_rows, cols / tile_cols]
    };
    Some(Numbers { field: Field { view, ..Field::of(scale.key.clone()) }, number, tile })
}

/// A rule as producers follow it with scales of this type: quotients of FP16 are FP16 where those of BF16 are BF16.
pub(super) fn rounded_as(rule: Rule, scale: Number) -> Rule {
    match (rule.result, scale) {
        (Rounded::Bf16, Number::F16) => Rule { result: Rounded::F16, ..rule },
        _ => rule,
    }
}

/// A factor of a scale.
pub(super) fn times(numbers: Numbers<ArrayKey>) -> Scale<ArrayKey> {
    Scale::Times(Factor::Numbers(numbers))
}

/// Codes of so many bits in words of `word` bits, low bits first.
pub(super) fn packed(array: &ArrayInfo, bits: u8, word: u8, along: Axis) -> Field<ArrayKey> {
    let packing = Packing { bits, word, along, order: Vec::new() };
    Field { packing: Some(packing), ..Field::of(array.key.clone()) }
}
