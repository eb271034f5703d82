//! FP4, E2M1, with a scale for each group of a row: NVFP4 and MXFP4.
//!
//! Two codes share a byte, the first one in its low bits. compressed-tensors has `X.weight_packed` U8 [out, in / 2] and
//! `X.weight_scale`, powers of two in U8 for groups of 32 (MXFP4), or F8_E4M3 for groups of 16, which are divided by
//! `X.weight_global_scale` F32 (NVFP4). ModelOpt has `X.weight` U8 and F8_E4M3 scales that are multiplied with
//! `X.weight_scale_2`. MLX has U32 words `X.weight` and U8 scales `X.scales` for either, and nothing for the matrix. A
//! weight is divided by its scale and rounded.

use qstore_container::{
    ArrayKey, Axis, Dequantization, Dtype, Factor, Inverse, Levels, MiniFloat, Number, Numbers, QuantMatrix,
    Rounded, Rule, Scale, Zero,
};

use super::scales::{packed, tiled, times};
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct Fp4;

/// What producers do, the likeliest first.
const RULES: [Rule; 2] = [
    Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::F32 },
    Rule { weights: Rounded::F32, inverse: Inverse::Division, result: Rounded::Bf16 },
];

/// A step on the way to a scale by one number for the matrix.
type Step = fn(Factor<ArrayKey>) -> Scale<ArrayKey>;

/// What tensors of a matrix are called: codes, scales, and what all scales are multiplied with or divided by.
struct Names {
    codes: &'static str,
    scale: &'static str,
    whole: Option<(&'static str, Step)>,
}

const NAMES: [Names; 4] = [
    Names {
        codes: "weight_packed",
        scale: "weight_scale",
        whole: Some(("weight_global_scale", Scale::Over)),
    },
    Names { codes: "weight", scale: "weight_scale", whole: Some(("weight_scale_2", Scale::Times)) },
    Names { codes: "weight_packed", scale: "weight_scale", whole: None },
    Names { codes: "weight", scale: "scales", whole: None },
];

impl Format for Fp4 {
    fn methods(&self) -> &'static [&'static str] {
        &["modelopt", "mxfp4", "nvfp4"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let look = |scale: &ArrayInfo| NAMES.iter().find_map(|names| look(names, scale, tensors));
        tensors.all().filter_map(look).collect()
    }
}

fn look(names: &Names, scale: &ArrayInfo, tensors: &Tensors<'_>) -> Option<Result<QuantGroup, Malformed>> {
    let base = scale.name.strip_suffix(names.scale)?.strip_suffix('.')?;
    let beside = |end: &str| tensors.beside(scale, &format!("{base}.{end}"));
    let codes = beside(names.codes)?;
    let (word, number) = match (codes.dtype, scale.dtype) {
        (Dtype::U8, Dtype::U8) => (8, Number::E8m0),
        (Dtype::U8, Dtype::F8_E4M3) => (8, Number::E4m3),
        (Dtype::U8, Dtype::F8_E8M0) => (8, Number::E8m0),
        // MLX has either; groups of 16 are NVFP4's.
        (Dtype::U32, Dtype::U8) if codes.shape.get(1)?.checked_mul(8)? / 16 == *scale.shape.get(1)? => {
            (32, Number::E4m3)
        }
        (Dtype::U32, Dtype::U8) => (32, Number::E8m0),
        _ => return None,
    };
    let whole = match names.whole {
        Some((end, how)) => Some((beside(end)?, how)),
        None => None,
    };
    let malformed = |why| Some(Err(Malformed { name: codes.name.clone(), why }));
    let &[rows, words] = &codes.shape[..] else { return malformed("it is no matrix") };
    let cols = words.saturating_mul(u64::from(word / 4));
    let shape = [rows, cols];
    let own = tiled(&scale.shape, scale, number, shape, shape);
    let whole = whole.map(|(all, how)| Some(how(Factor::Numbers(of_all(all, shape)?))));
    let (Some(own), Some(whole)) = (own, whole.map_or(Some(None), |whole| whole.map(Some))) else {
        return malformed("its scales do not fit it");
    };
    let scales: Vec<_> = [times(own)].into_iter().chain(whole).collect();
    let candidate = |rule| QuantMatrix {
        shape,
        codes: packed(codes, 4, word, Axis::Columns),
        values: Dequantization {
            levels: Levels::Float(MiniFloat::E2m1),
            scales: scales.clone(),
            zero: Zero::None,
            column_groups: None,
            rule: Some(rule),
        },
    };
    let format = if number == Number::E4m3 { "nvfp4" } else { "mxfp4" };
    let (weight, folder) = (format!("{base}.weight"), codes.folder().to_owned());
    Some(Ok(QuantGroup { weight, folder, format, candidates: RULES.map(candidate).into() }))
}

/// The one number for a whole matrix.
fn of_all(array: &ArrayInfo, shape: [u64; 2]) -> Option<Numbers<ArrayKey>> {
    let is_one = array.dtype == Dtype::F32 && matches!(array.shape[..], [] | [1]);
    is_one.then(|| tiled(&array.shape, array, Number::F32, shape, shape)).flatten()
}
