//! NF4 and FP4 of bitsandbytes.
//!
//! `X.weight` is U8 of shape [n / 2, 1]: two codes share a byte, the first one in its high bits, and those of a row
//! follow those of the one before. `X.weight.absmax` F32 has the scale of each block of 64 codes; or it is U8, entries of
//! `X.weight.nested_quant_map` that have scales in `X.weight.nested_absmax` and an offset (double quantisation).
//! `X.weight.quant_state.bitsandbytes__nf4` or `__fp4` is JSON that tells the matrix's shape, the sizes of blocks, and that
//! offset.
//! What codes stand for is fixed. A weight is multiplied with the reciprocal of its scale, and becomes the nearest
//! level.

use qstore_container::{
    ArrayKey, Axis, Dequantization, Dtype, Factor, Field, Finite, Inverse, Levels, Nested, Number, Numbers,
    Packing, QuantMatrix, Rounded, Rule, Scale, View, Zero,
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
    /// Of scales that are quantised as well.
    nested_blocksize: Option<u64>,
    nested_offset: Option<f32>,
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
            let beside = |end: &str| tensors.beside(state, &format!("{weight}.{end}"));
            let nested = beside("nested_quant_map").zip(beside("nested_absmax"));
            let found = describe(tensors.fact(state), codes, (scale, nested), kind.levels);
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
    (scale, nested): (&ArrayInfo, Option<(&ArrayInfo, &ArrayInfo)>),
    levels: [f32; 16],
) -> Result<Vec<QuantMatrix<ArrayKey>>, &'static str> {
    let state = state.and_then(|json| serde_json::from_slice::<State>(json).ok());
    let State { shape, blocksize, nested_blocksize, nested_offset } =
        state.ok_or("its quant_state is no JSON that tells its shape")?;
    let &[rows, cols] = &shape[..] else { return Err("it is no matrix") };
    let all =
        rows.checked_mul(cols).filter(|all| codes.dtype == Dtype::U8 && codes.elements() == all.div_ceil(2));
    let all = all.ok_or("its quant_state tells of another shape")?;
    if blocksize == 0 || !cols.is_multiple_of(blocksize) || cols == 0 || cols % 2 == 1 {
        return Err("its blocks lie across rows");
    }
    let dtype = if nested.is_some() { Dtype::U8 } else { Dtype::F32 };
    if scale.dtype != dtype || scale.elements() != all / blocksize {
        return Err("its absmax is not F32, or U8 beside a nested one, one for each block");
    }
    let pitched = |array: &ArrayInfo, pitch| Field {
        view: View { pitch: Some(pitch), ..View::WHOLE },
        ..Field::of(array.key.clone())
    };
    let table: Result<Vec<Finite>, _> = levels.into_iter().map(Finite::try_from).collect();
    let table = table.map_err(|_| "its levels are no numbers")?;
    let packing = Packing { bits: 4, word: 8, along: Axis::Columns, order: vec![1, 0] };
    let numbers = |number| Numbers { field: pitched(scale, cols / blocksize), number, tile: [1, blocksize] };
    let scales = match nested {
        None => times(numbers(Number::F32)),
        Some((table, scales)) => {
            let column = |array: &ArrayInfo| Field { view: View::COLUMN, ..Field::of(array.key.clone()) };
            let block = nested_blocksize.filter(|block| *block > 0);
            let block = block.ok_or("its quant_state tells of no nested blocks")?;
            let is_whole = table.elements() == 256 && scales.elements() == scale.elements().div_ceil(block);
            if !is_whole || [table, scales].iter().any(|array| array.dtype != Dtype::F32) {
                return Err("its nested scales are not F32, one for each block of 256 levels");
            }
            Scale::Times(Factor::Nested(Box::new(Nested {
                codes: numbers(Number::Unsigned),
                table: column(table),
                scales: column(scales),
                block,
                offset: nested_offset
                    .unwrap_or(0.0)
                    .try_into()
                    .map_err(|_| "its nested offset is no number")?,
            })))
        }
    };
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
