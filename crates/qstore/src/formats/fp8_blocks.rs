//! FP8 with a scale for each block of a matrix, as transformers, DeepSeek and Qwen publish it.
//!
//! `X.weight` is F8_E4M3 of shape [out, in] and `X.weight_scale_inv` has the scale of each block, by which codes are
//! multiplied: F32, BF16 or a power of two. Blocks are of 128 x 128 unless `weight_block_size` says otherwise. The
//! scales of all experts of a layer may be one tensor, `experts.gate_up_proj_scale_inv` with those of gates first. A
//! weight is multiplied with the reciprocal of its scale, or divided by it, and rounded.

use qstore_container::{
    Dequantization, Dtype, Factor, Field, Inverse, Levels, MiniFloat, Number, Numbers, QuantMatrix, Rounded,
    Rule, Scale, View, Zero,
};

use crate::names::{Expert, experts};

use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct Fp8Blocks;

const SUFFIX: &str = "_scale_inv";

/// What producers do, the likeliest first.
const RULES: [Rule; 3] = [
    Rule { weights: Rounded::F32, inverse: Inverse::Reciprocal, result: Rounded::F32 },
    Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::F32 },
    Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::Bf16 },
];

impl Format for Fp8Blocks {
    fn name(&self) -> &'static str {
        "fp8"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["fp8"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let block = block_size(tensors);
        tensors.all().flat_map(|scale| look(self.name(), scale, block, tensors)).collect()
    }
}

/// Rows and columns of a block.
fn block_size(tensors: &Tensors<'_>) -> [u64; 2] {
    let block = &tensors.checkpoint.quantization_config()["weight_block_size"];
    let side = |index: usize| block[index].as_u64().filter(|side| *side > 0);
    [side(0).unwrap_or(128), side(1).unwrap_or(128)]
}

/// The matrices that have their scales in `scale`, or why there are none.
fn look(
    format: &'static str,
    scale: &ArrayInfo,
    tile: [u64; 2],
    tensors: &Tensors<'_>,
) -> Vec<Result<QuantGroup, Malformed>> {
    let Some(fused) = scale.name.strip_suffix(SUFFIX) else { return Vec::new() };
    let group = |name: &str, view: View, shape: &[u64]| {
        let codes = tensors.beside(scale, name)?;
        let &[rows, cols] = &codes.shape[..] else { return None };
        // Beside floats it means nothing: of a matrix that is no whole number of blocks transformers quantises no
        // weights.
        if codes.dtype != Dtype::F8_E4M3 {
            return None;
        }
        let malformed = |why| Some(Err(Malformed { name: scale.name.clone(), why }));
        let number = match scale.dtype {
            Dtype::F32 => Number::F32,
            Dtype::BF16 => Number::Bf16,
            Dtype::F8_E8M0 => Number::E8m0,
            _ => return malformed("its scales are of no type that FP8 blocks have"),
        };
        if *shape != [rows.div_ceil(tile[0]), cols.div_ceil(tile[1])] {
            return malformed("it does not have one scale for each block of its codes");
        }
        let field = Field { view, ..Field::of(scale.key.clone()) };
        let values = |rule| Dequantization {
            levels: Levels::Float(MiniFloat::E4m3),
            scales: vec![Scale::Times(Factor::Numbers(Numbers { field: field.clone(), number, tile }))],
            zero: Zero::None,
            column_groups: None,
            rule: Some(rule),
        };
        let codes_field = || Field::of(codes.key.clone());
        let candidate =
            |rule| QuantMatrix { shape: [rows, cols], codes: codes_field(), values: values(rule) };
        let (weight, folder) = (name.to_owned(), codes.folder().to_owned());
        Some(Ok(QuantGroup { weight, folder, format, candidates: RULES.map(candidate).into() }))
    };
    // Of all experts of a layer, a matrix after another.
    if let &[count, rows, cols] = &scale.shape[..] {
        let of_expert = |expert: Expert| {
            let (index, projections) = expert.projection;
            let own = rows / projections;
            let first = expert.number.checked_mul(rows)?.checked_add(index * own)?;
            let view = View { slab: Some([first, first.checked_add(own)?].into()), ..View::WHOLE };
            group(&expert.name, view, &[own, cols])
        };
        return experts(fused, count).into_iter().filter_map(of_expert).collect();
    }
    let weight = Some(fused).filter(|name| name.ends_with(".weight"));
    weight.and_then(|name| group(name, View::WHOLE, &scale.shape)).into_iter().collect()
}
