//! Integers of compressed-tensors, as llm-compressor writes them: `pack-quantized`, `int-quantized` and
//! `naive-quantized`.
//!
//! `X.weight_packed` holds codes of a few bits in I32 words of shape [out, ceil(in / codes of a word)], low bits first,
//! each more by half of what there is than the integer it stands for; `X.weight_shape` I64 says how many count. Or
//! `X.weight` holds I8 integers. `X.weight_scale` has a scale for the matrix, each row or each group of a row, and
//! `X.weight_zero_point` the integer that stands for 0, if that is not 0: packed along the rows as codes are, or I8.
//! `X.weight_g_idx` says which group an input belongs to. A weight is divided by its scale in BF16, and rounded.

use qstore_container::{
    ArrayKey, Axis, ColumnGroups, Dequantization, Dtype, Field, Inverse, Levels, QuantMatrix, Rounded, Rule,
    View, Zero, ZeroCodes,
};

use super::scales::{number, packed, rounded_as, tiled, times};
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct CompressedInts;

const SHAPE: &str = ".weight_shape";

/// What producers do, the likeliest first.
const RULES: [Rule; 2] = [
    Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::Bf16 },
    Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::F32 },
];

impl Format for CompressedInts {
    fn methods(&self) -> &'static [&'static str] {
        &["compressed-tensors"]
    }

    fn facts(&self) -> &'static [&'static str] {
        &[SHAPE]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let look = |scale: &ArrayInfo| {
            let base = scale.name.strip_suffix(".weight_scale")?;
            let beside = |end: &str| tensors.beside(scale, &format!("{base}.{end}"));
            let is_of = |dtype| move |codes: &&ArrayInfo| codes.dtype == dtype;
            let codes = beside("weight_packed").filter(is_of(Dtype::I32));
            let codes = codes.or_else(|| beside("weight").filter(is_of(Dtype::I8)))?;
            let fact = beside("weight_shape").and_then(|shape| tensors.fact(shape));
            let parts =
                Parts { codes, scale, zero: beside("weight_zero_point"), groups: beside("weight_g_idx") };
            Some(
                parts
                    .describe(fact)
                    .map(|candidates| QuantGroup {
                        weight: format!("{base}.weight"),
                        folder: codes.folder().to_owned(),
                        format: if codes.dtype == Dtype::I8 { "int-quantized" } else { "pack-quantized" },
                        candidates,
                    })
                    .map_err(|why| Malformed { name: codes.name.clone(), why }),
            )
        };
        tensors.all().filter_map(look).collect()
    }
}

/// The tensors of a matrix.
struct Parts<'a> {
    codes: &'a ArrayInfo,
    scale: &'a ArrayInfo,
    zero: Option<&'a ArrayInfo>,
    groups: Option<&'a ArrayInfo>,
}

impl Parts<'_> {
    fn describe(&self, fact: Option<&[u8]>) -> Result<Vec<QuantMatrix<ArrayKey>>, &'static str> {
        let &[first, second] = &self.codes.shape[..] else { return Err("it is no matrix") };
        let is_packed = self.codes.dtype == Dtype::I32;
        let (shape, bits) = if is_packed {
            let fact = fact.ok_or("it has no weight_shape of two numbers beside it")?;
            let [Some(rows), Some(cols)] = [0, 8].map(|at| {
                let number = fact.get(at..at + 8)?.try_into().ok()?;
                u64::try_from(i64::from_le_bytes(number)).ok()
            }) else {
                return Err("it has no weight_shape of two numbers beside it");
            };
            let fits = |bits: &u8| cols.div_ceil(u64::from(32 / bits)) == second && first == rows;
            let bits = (1..=8).rev().find(fits).ok_or("it has other words than its weight_shape asks for")?;
            if !cols.is_multiple_of(u64::from(32 / bits)) || 32 % bits != 0 {
                return Err("its codes do not fill whole words");
            }
            ([rows, cols], bits)
        } else {
            ([first, second], 8)
        };
        let number = number(self.scale).ok_or("its scales are no floats")?;
        let scales =
            tiled(&self.scale.shape, self.scale, number, shape, shape).ok_or("its scales do not fit it")?;
        let levels = if is_packed { Levels::Offset } else { Levels::Signed };
        let tile = scales.tile;
        let zero = match self.zero {
            None => Zero::None,
            Some(zero) if zero.dtype == Dtype::I32 && is_packed => {
                let field = packed(zero, bits, 32, Axis::Rows);
                Zero::Codes(ZeroCodes { field, levels: Levels::Offset, add: 0, tile })
            }
            Some(zero) if zero.dtype == Dtype::I8 => {
                let view = if zero.shape.len() < 2 { View::COLUMN } else { View::WHOLE };
                let field = Field { view, ..Field::of(zero.key.clone()) };
                Zero::Codes(ZeroCodes { field, levels: Levels::Signed, add: 0, tile })
            }
            Some(_) => return Err("its zero-points are not packed as codes are, nor I8"),
        };
        let groups = self.groups.map(|groups| ColumnGroups {
            field: Field { view: View::COLUMN, ..Field::of(groups.key.clone()) },
            count: self.scale.shape.get(1).copied().unwrap_or(1),
        });
        let codes = if is_packed {
            packed(self.codes, bits, 32, Axis::Columns)
        } else {
            Field::of(self.codes.key.clone())
        };
        let candidate = |rule| QuantMatrix {
            shape,
            codes: codes.clone(),
            values: Dequantization {
                levels: levels.clone(),
                scales: vec![times(scales.clone())],
                zero: zero.clone(),
                column_groups: groups.clone(),
                rule: Some(rounded_as(rule, number)),
            },
        };
        Ok(RULES.map(candidate).into())
    }
}
