//! MXFP4 of gpt-oss: all experts of a layer in one tensor.
//!
//! `experts.gate_up_proj_blocks` U8 of shape [experts, out, in / 32, 16] has two codes a byte, the first one in its low
//! bits, and `experts.gate_up_proj_scales` U8 [experts, out, in / 32] a power of two for each 32 of them. Output
//! features of gates and ups come in turn. `experts.down_proj_blocks` is the same of one projection.

use qstore_container::{
    ArrayKey, Axis, Dequantization, Dtype, Field, Inverse, Levels, MiniFloat, Number, Numbers, QuantMatrix,
    Rounded, Rule, View, Zero,
};

use super::scales::{packed, times};
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};
use crate::names::{Expert, experts};

/// The format's entry in [`super::ALL`].
pub(super) struct Mxfp4Experts;

/// Codes that share a scale, and bytes of them.
const BLOCK: u64 = 32;
const BLOCK_BYTES: u64 = 16;

const RULE: Rule = Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::F32 };

impl Format for Mxfp4Experts {
    fn methods(&self) -> &'static [&'static str] {
        &["mxfp4"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        tensors.all().flat_map(|codes| look(codes, tensors)).collect()
    }
}

/// The matrices of a tensor of blocks, or why there are none.
fn look(codes: &ArrayInfo, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
    let base = codes.name.strip_suffix("_blocks").filter(|_| codes.dtype == Dtype::U8);
    let (Some(base), &[count, rows, blocks, BLOCK_BYTES]) = (base, &codes.shape[..]) else {
        return Vec::new();
    };
    let all = experts(base, count);
    if all.is_empty() {
        return Vec::new();
    }
    let scale = tensors.beside(codes, &format!("{base}_scales"));
    let scale = scale.filter(|scale| scale.dtype == Dtype::U8 && scale.shape == [count, rows, blocks]);
    let group = |scale: &ArrayInfo, expert: Expert| {
        Some(QuantGroup {
            candidates: vec![matrix(codes, scale, &expert)?],
            weight: expert.name,
            folder: codes.folder().to_owned(),
            format: "mxfp4",
        })
    };
    let found = scale
        .and_then(|scale| all.into_iter().map(|expert| group(scale, expert)).collect::<Option<Vec<_>>>());
    match found {
        Some(groups) => groups.into_iter().map(Ok).collect(),
        None => {
            let why = "it does not have one scale for each of its blocks";
            vec![Err(Malformed { name: codes.name.clone(), why })]
        }
    }
}

/// A matrix of an expert.
fn matrix(codes: &ArrayInfo, scale: &ArrayInfo, expert: &Expert) -> Option<QuantMatrix<ArrayKey>> {
    let &[_, rows, blocks] = &scale.shape[..] else { return None };
    let (index, projections) = expert.projection;
    let own = (projections > 0 && rows.is_multiple_of(projections)).then(|| rows / projections)?;
    let first = expert.number.checked_mul(rows)?;
    let view = |pitch: u64| View {
        pitch: Some(pitch),
        slab: Some([first, first.saturating_add(rows)].into()),
        order: (projections > 1).then(|| [own, projections].into()),
        rows: (projections > 1).then(|| [index * own, (index + 1) * own].into()),
        transposed: false,
    };
    let field = Field { view: view(blocks), ..Field::of(scale.key.clone()) };
    Some(QuantMatrix {
        shape: [own, blocks.checked_mul(BLOCK)?],
        codes: Field { view: view(blocks.checked_mul(BLOCK_BYTES)?), ..packed(codes, 4, 8, Axis::Columns) },
        values: Dequantization {
            levels: Levels::Float(MiniFloat::E2m1),
            scales: vec![times(Numbers { field, number: Number::E8m0, tile: [1, BLOCK] })],
            zero: Zero::None,
            column_groups: None,
            rule: Some(RULE),
        },
    })
}
