//! Integers of torchao.
//!
//! `X._weight_qdata` I8 of shape [out, in] holds codes, those of 4 bits from -8 to 7; `X._weight_scale` has a scale for each row
//! or group of a row, and `X._weight_zero_point` the level that stands for 0, where that is not 0. A weight is
//! multiplied with the reciprocal of its scale, and rounded.

use qstore_container::{
    ArrayKey, Dequantization, Dtype, Field, Inverse, Levels, QuantMatrix, Rounded, Rule, View, Zero,
    ZeroCodes,
};

use super::scales::{number, tiled, times};
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct Torchao;

/// What producers do: with scales of 32 bits, and with those of BF16.
const RULES: [Rule; 2] = [
    Rule { weights: Rounded::F32, inverse: Inverse::Reciprocal, result: Rounded::F32 },
    Rule { weights: Rounded::F32, inverse: Inverse::ReciprocalBf16, result: Rounded::Bf16 },
];

impl Format for Torchao {
    fn methods(&self) -> &'static [&'static str] {
        &["torchao"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let look = |codes: &ArrayInfo| {
            let base = codes.name.strip_suffix("._weight_qdata").filter(|_| codes.dtype == Dtype::I8)?;
            let beside = |end: &str| tensors.beside(codes, &format!("{base}._weight_{end}"));
            let found = match beside("scale") {
                Some(scale) => describe(codes, scale, beside("zero_point")),
                None => Err("it has no scales beside it"),
            };
            let group = |candidates| QuantGroup {
                weight: format!("{base}.weight"),
                folder: codes.folder().to_owned(),
                format: "torchao",
                candidates,
            };
            Some(found.map(group).map_err(|why| Malformed { name: codes.name.clone(), why }))
        };
        tensors.all().filter_map(look).collect()
    }
}

fn describe(
    codes: &ArrayInfo,
    scale: &ArrayInfo,
    zeros: Option<&ArrayInfo>,
) -> Result<Vec<QuantMatrix<ArrayKey>>, &'static str> {
    let &[rows, cols] = &codes.shape[..] else { return Err("it is no matrix") };
    let shape = [rows, cols];
    let number = number(scale).ok_or("its scales are no floats")?;
    let scales = tiled(&scale.shape, scale, number, shape, shape).ok_or("its scales do not fit it")?;
    let zero = match zeros {
        None => Zero::None,
        Some(zeros) if zeros.dtype == Dtype::I8 && zeros.shape == scale.shape => {
            let view = if zeros.shape.len() < 2 { View::COLUMN } else { View::WHOLE };
            let field = Field { view, ..Field::of(zeros.key.clone()) };
            Zero::Codes(ZeroCodes { field, levels: Levels::Signed, add: 0, tile: scales.tile })
        }
        Some(_) => return Err("its zero-points are not I8, one for each scale"),
    };
    let candidate = |levels: &Levels, rule| QuantMatrix {
        shape,
        codes: Field::of(codes.key.clone()),
        values: Dequantization {
            levels: levels.clone(),
            scales: vec![times(scales.clone())],
            zero: zero.clone(),
            column_groups: None,
            rule: Some(rule),
        },
    };
    let mut rules = RULES;
    if scale.dtype == Dtype::BF16 {
        rules.reverse();
    }
    let of_levels = |levels: &Levels| rules.map(|rule| candidate(levels, rule));
    Ok([Levels::Between([-8, 7]), Levels::Signed].iter().flat_map(of_levels).collect())
}
