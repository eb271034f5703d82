//! NF4 and FP4 of bitsandbytes.
//!
//! `X.weight` is U8 of shape [n / 2, 1]: two codes share a byte, the first one in its high bits, and those of a row
//! follow those of the one before. `X.weight.absmax` F32 has the scale of each block of 64 codes, and
//! `X.weight.quant_state.bitsandbytes__nf4` or `__fp4` is JSON that tells the matrix's shape and the size of a block.
//! What codes stand for is fixed. A weight is multiplied with the reciprocal of its scale, and becomes the nearest
//! level.

use qstore_container::{
    ArrayKey, Axis, Dequantization, Dtype, Field, Finite, Inverse, Levels, Number, Numbers, Packing,
    QuantMatrix, Rounded, Rule, View, Zero,
};
use serde::Deserialize;

use super::scales::times;
use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct Nf4;

/// What codes may stand for.
struct Kind {
    format: &'static str,
    /// What the name of the JSON ends with.
    state: &'static str,
    levels: [f32; 16],
}

const KINDS: [Kind; 2] = [
    Kind {
        format: "nf4",
        state: ".quant_state.bitsandbytes__nf4",
        levels: [
            -1.0,
            -0.696_192_8,
            -0.525_073_05,
            -0.394_917_5,
            -0.284_441_38,
            -0.184_773_43,
            -0.091_050_036,
            0.0,
            0.079_580_3,
            0.160_930_2,
            0.246_112_3,
            0.337_915_24,
            0.440_709_83,
            0.562_617,
            0.722_956_84,
            1.0,
        ],
    },
    Kind {
        format: "fp4",
        state: ".quant_state.bitsandbytes__fp4",
        levels: [
            0.0,
            0.005_208_333_5,
            0.666_666_7,
            1.0,
            0.333_333_34,
            0.5,
            0.166_666_67,
            0.25,
            -0.0,
            -0.005_208_333_5,
            -0.666_666_7,
            -1.0,
            -0.333_333_34,
            -0.5,
            -0.166_666_67,
            -0.25,
        ],
    },
];

/// What producers do, the likeliest first.
const RULES: [Rule; 2] = [
    Rule { weights: Rounded::F32, inverse: Inverse::Reciprocal, result: Rounded::F32 },
    Rule { weights: Rounded::F16, inverse: Inverse::Reciprocal, result: Rounded::F32 },
];

/// What the JSON says.
#[derive(Deserialize)]
struct State {
    shape: Vec<u64>,
    blocksize: u64,
}

impl Format for Nf4 {
    fn methods(&self) -> &'static [&'static str] {
        &["bitsandbytes"]
    }

    fn facts(&self) -> &'static [&'static str] {
        &[KINDS[0].state, KINDS[1].state]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        let look = |state: &ArrayInfo| {
            let of = |kind: &'static Kind| Some((state.name.strip_suffix(kind.state)?.to_owned(), kind));
            let (weight, kind) = KINDS.iter().find_map(of)?;
            let codes = tensors.beside(state, &weight)?;
            let scale = tensors.beside(state, &format!("{weight}.absmax"))?;
            let found = describe(tensors.fact(state), codes, scale, kind.levels);
            let group = |candidates| QuantGroup {
                weight,
                folder: codes.folder().to_owned(),
                format: kind.format,
                candidates,
            };
            Some(found.map(group).map_err(|why| Malformed { name: codes.name.clone(), why }))
        };
        tensors.all().filter_map(look).collect()
    }
}

fn describe(
    state: Option<&[u8]>,
    codes: &ArrayInfo,
    scale: &ArrayInfo,
    levels: [f32; 16],
) -> Result<Vec<QuantMatrix<ArrayKey>>, &'static str> {
    let state = state.and_then(|json| serde_json::from_slice::<State>(json).ok());
    let State { shape, blocksize } = state.ok_or("its quant_state is no JSON that tells its shape")?;
    let &[rows, cols] = &shape[..] else { return Err("it is no matrix") };
    let all =
        rows.checked_mul(cols).filter(|all| codes.dtype == Dtype::U8 && codes.elements() == all.div_ceil(2));
    let all = all.ok_or("its quant_state tells of another shape")?;
    if blocksize == 0 || !cols.is_multiple_of(blocksize) || cols == 0 || cols % 2 == 1 {
        return Err("its blocks lie across rows");
    }
    if scale.dtype != Dtype::F32 || scale.elements() != all / blocksize {
        return Err("its absmax is not F32, one for each block");
    }
    let pitched = |array: &ArrayInfo, pitch| Field {
        view: View { pitch: Some(pitch), ..View::WHOLE },
        ..Field::of(array.key.clone())
    };
    let table: Result<Vec<Finite>, _> = levels.into_iter().map(Finite::try_from).collect();
    let table = table.map_err(|_| "its levels are no numbers")?;
    let packing = Packing { bits: 4, word: 8, along: Axis::Columns, order: vec![1, 0] };
    let scales =
        times(Numbers { field: pitched(scale, cols / blocksize), number: Number::F32, tile: [1, blocksize] });
    let candidate = |rule| QuantMatrix {
        shape: [rows, cols],
        codes: Field { packing: Some(packing.clone()), ..pitched(codes, cols / 2) },
        values: Dequantization {
            levels: Levels::Table(table.clone()),
            scales: vec![scales.clone()],
            zero: Zero::None,
            column_groups: None,
            rule: Some(rule),
        },
    };
    Ok(RULES.map(candidate).into())
}
