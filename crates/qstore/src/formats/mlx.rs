//! MLX's affine quantisation.
//!
//! `X.weight` U32 of shape [out, in * bits / 32] holds codes of 2 to 8 bits, a stream of bits along the row, low bits
//! first. `X.scales` and `X.biases` [out, groups] hold what codes of each group of inputs are multiplied with, and what
//! is added. `quantization` in `config.json` says how many inputs a group has, of all modules or of one by its name.

use qstore_container::{
    ArrayKey, Axis, Dequantization, Dtype, Field, Inverse, Levels, Packing, QuantMatrix, Rounded, Rule, Zero,
};

use super::scales::{number, tiled, times};
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct Mlx;

const RULE: Rule = Rule { weights: Rounded::F32, inverse: Inverse::Anchored, result: Rounded::F32 };

impl Format for Mlx {
    fn methods(&self) -> &'static [&'static str] {
        &[]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let look = |codes: &ArrayInfo| {
            let base = codes.name.strip_suffix(".weight").filter(|_| codes.dtype == Dtype::U32)?;
            let beside = |end: &str| tensors.beside(codes, &format!("{base}.{end}"));
            let (scale, bias) = (beside("scales")?, beside("biases")?);
            let config = &tensors.checkpoint.config["quantization"];
            let size = config[base]["group_size"].as_u64().or(config["group_size"].as_u64());
            let found = describe(codes, scale, bias, size.unwrap_or(64));
            let group = |matrix| QuantGroup {
                weight: codes.name.clone(),
                folder: codes.folder().to_owned(),
                format: "mlx affine",
                candidates: vec![matrix],
            };
            Some(found.map(group).map_err(|why| Malformed { name: codes.name.clone(), why }))
        };
        tensors.all().filter_map(look).collect()
    }
}

fn describe(
    codes: &ArrayInfo,
    scale: &ArrayInfo,
    bias: &ArrayInfo,
    size: u64,
) -> Result<QuantMatrix<ArrayKey>, &'static str> {
    let (&[rows, words], &[_, groups]) = (&codes.shape[..], &scale.shape[..]) else {
        return Err("it or its scales are no matrix");
    };
    let cols = groups.checked_mul(size).filter(|cols| *cols > 0).ok_or("its scales are absurd")?;
    let bits = words.checked_mul(32).filter(|all| all.is_multiple_of(cols)).map(|all| all / cols);
    let bits = bits.and_then(|bits| u8::try_from(bits).ok()).filter(|bits| (2..=8).contains(bits));
    let bits = bits.ok_or("its scales do not fit it, at any number of bits")?;
    let shape = [rows, cols];
    let numbers = |array: &ArrayInfo| tiled(&array.shape, array, number(array)?, shape, shape);
    let (Some(scales), Some(biases)) = (numbers(scale), numbers(bias)) else {
        return Err("its scales or biases do not fit it");
    };
    let packing = Packing { bits, word: 32, along: Axis::Columns, order: Vec::new() };
    Ok(QuantMatrix {
        shape,
        codes: Field { packing: Some(packing), ..Field::of(codes.key.clone()) },
        values: Dequantization {
            levels: Levels::Unsigned,
            scales: vec![times(scales)],
            zero: Zero::Bias(biases),
            column_groups: None,
            rule: Some(RULE),
        },
    })
}
