//! FP8: a float of 8 bits for each weight, and scales for the matrix, each row, or each block or group.
//!
//! `X.weight` is F8_E4M3 (or F8_E5M2) of shape [out, in]; its scales, by which codes are multiplied, are called
//! `X.weight_scale_inv` by transformers, DeepSeek and Qwen, `X.weight_scale` by compressed-tensors and ModelOpt,
//! `X.scale` by DeepSeek-V4, and `X.qscale_weight` by Mistral; torchao has `X._weight_qdata` and `X._weight_scale`.
//! They are floats or powers of two, which U8 holds as well (MXFP8). Blocks are of 128 x 128 unless `weight_block_size`
//! says otherwise. The scales of all experts of a layer may be one tensor, `experts.gate_up_proj_scale_inv` with those
//! of gates first. A weight is multiplied with the reciprocal of its scale, or divided by it, and rounded.

use qstore_container::{
    Dequantization, Dtype, Field, Inverse, Levels, MiniFloat, Number, QuantMatrix, Rounded, Rule, View, Zero,
};

use super::scales::{number, rounded_as, tiled, times};
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};
use crate::names::{Expert, experts};

/// The format's entry in [`super::ALL`].
pub(super) struct Fp8;

/// What scales are called, the codes that they belong to, and what their producers most likely do; the weight is
/// `X.weight` throughout.
const NAMES: [(&str, &str, [Rule; 3]); 5] = [
    (".weight_scale_inv", ".weight", [RECIPROCAL, DIVISION, SHORT_DIVISION]),
    (".weight_scale", ".weight", [SHORT_DIVISION, RECIPROCAL, DIVISION]),
    (".scale", ".weight", [RECIPROCAL, DIVISION, SHORT_DIVISION]),
    (".qscale_weight", ".weight", [RECIPROCAL, DIVISION, SHORT_DIVISION]),
    ("._weight_scale", "._weight_qdata", [DIVISION, RECIPROCAL, SHORT_DIVISION]),
];

const RECIPROCAL: Rule = Rule { weights: Rounded::F32, inverse: Inverse::Reciprocal, result: Rounded::F32 };
const DIVISION: Rule = Rule { inverse: Inverse::Division, ..RECIPROCAL };
/// With weights of 16 bits, as scales are.
const SHORT_DIVISION: Rule = Rule { result: Rounded::Bf16, ..DIVISION };

impl Format for Fp8 {
    fn methods(&self) -> &'static [&'static str] {
        &["fp8", "modelopt", "torchao"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let block = block_size(tensors);
        tensors.all().flat_map(|scale| look(scale, block, tensors)).collect()
    }
}

/// Rows and columns of a block.
fn block_size(tensors: &Tensors<'_>) -> [u64; 2] {
    let block = &tensors.checkpoint.quantization_config()["weight_block_size"];
    let side = |index: usize| block[index].as_u64().filter(|side| *side > 0);
    [side(0).unwrap_or(128), side(1).unwrap_or(128)]
}

/// The matrices that have their scales in `scale`, or why there are none.
fn look(scale: &ArrayInfo, block: [u64; 2], tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
    let group = |codes: &str, weight: &str, part: Option<View>, (shape, rules): (&[u64], [Rule; 3])| {
        let codes = tensors.beside(scale, codes)?;
        let &[rows, cols] = &codes.shape[..] else { return None };
        // Beside floats it means nothing: of a matrix that is no whole number of blocks transformers quantises no
        // weights.
        let float = match codes.dtype {
            Dtype::F8_E4M3 => MiniFloat::E4m3,
            Dtype::F8_E5M2 => MiniFloat::E5m2,
            _ => return None,
        };
        let malformed = |why| Some(Err(Malformed { name: scale.name.clone(), why }));
        let number = number(scale).or((scale.dtype == Dtype::U8).then_some(Number::E8m0));
        let Some(number) = number else { return malformed("its scales are of no type that FP8 has") };
        let Some(mut scales) = tiled(shape, scale, number, [rows, cols], block) else {
            return malformed("it does not have one scale for each block of its codes");
        };
        if let Some(view) = part {
            scales.field.view = view;
        }
        let candidate = |rule| QuantMatrix {
            shape: [rows, cols],
            codes: Field::of(codes.key.clone()),
            values: Dequantization {
                levels: Levels::Float(float),
                scales: vec![times(scales.clone())],
                zero: Zero::None,
                column_groups: None,
                rule: Some(rounded_as(rule, number)),
            },
        };
        let (weight, folder) = (weight.to_owned(), codes.folder().to_owned());
        Some(Ok(QuantGroup { weight, folder, format: "fp8", candidates: rules.map(candidate).into() }))
    };
    // Of all experts of a layer, a matrix after another.
    if let (&[count, rows, cols], Some(fused)) = (&scale.shape[..], scale.name.strip_suffix("_scale_inv")) {
        let of_expert = |expert: Expert| {
            let (index, projections) = expert.projection;
            let own = rows / projections;
            let first = expert.number.checked_mul(rows)?.checked_add(index * own)?;
            let view = View { slab: Some([first, first.checked_add(own)?].into()), ..View::WHOLE };
            group(&expert.name, &expert.name, Some(view), (&[own, cols], NAMES[0].2))
        };
        return experts(fused, count).into_iter().filter_map(of_expert).collect();
    }
    let of_name = |(end, codes, rules): &(&str, &str, [Rule; 3])| {
        let base = scale.name.strip_suffix(end)?;
        group(&format!("{base}{codes}"), &format!("{base}.weight"), None, (&scale.shape, *rules))
    };
    NAMES.iter().find_map(of_name).into_iter().collect()
}
