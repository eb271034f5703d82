//! LLM.int8(), as bitsandbytes writes it and transformers saves it.
//!
//! `X.weight` holds I8 codes of shape [out, in] and `X.SCB` one float a row, F32 as bitsandbytes has it: 127 times the
//! row's scale. Weights are rounded to FP16 first, and multiplied with 127 / SCB, which builds round differently.

use qstore_container::{
    Dequantization, Dtype, Factor, Field, Inverse, Levels, Number, Numbers, QuantMatrix, Rounded, Rule,
    Scale, View, Zero,
};

use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct LlmInt8;

/// What builds do, the likeliest first: on CPUs, and with approximate reciprocals, which may be off by one, on GPUs.
const INVERSES: [Inverse; 4] =
    [Inverse::Reciprocal, Inverse::ReciprocalUp, Inverse::ReciprocalDown, Inverse::Quotient];

impl Format for LlmInt8 {
    fn methods(&self) -> &'static [&'static str] {
        &["bitsandbytes"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        tensors.all().filter_map(|scale| look(scale, tensors)).collect()
    }
}

/// The matrix that has the scales `scale`, or why there is none; `None` if nothing says that there might be.
fn look(scale: &ArrayInfo, tensors: &Tensors<'_>) -> Option<Result<QuantGroup, Malformed>> {
    let weight = format!("{}.weight", scale.name.strip_suffix(".SCB")?);
    let codes = tensors.beside(scale, &weight)?;
    let &[rows, cols] = &codes.shape[..] else { return None };
    // Beside floats it is of a layer that was not quantised after all.
    if codes.dtype != Dtype::I8 {
        return None;
    }
    let malformed = |why| Some(Err(Malformed { name: scale.name.clone(), why }));
    let number = match scale.dtype {
        Dtype::F32 => Number::F32,
        Dtype::F16 => Number::F16,
        Dtype::BF16 => Number::Bf16,
        _ => return malformed("its scales are no floats of 16 or 32 bits"),
    };
    if !is_one_a_row(&scale.shape, rows) {
        return malformed("it does not have one scale for each row of its codes");
    }
    let field = Field { view: View::COLUMN, ..Field::of(scale.key.clone()) };
    let values = Dequantization {
        levels: Levels::Signed,
        scales: vec![
            Scale::Times(Factor::Numbers(Numbers { field, number, tile: [1, cols.max(1)] })),
            Scale::Over(Factor::Constant(127.0.try_into().ok()?)),
        ],
        zero: Zero::None,
        column_groups: None,
        rule: None,
    };
    let candidate = |inverse| QuantMatrix {
        shape: [rows, cols],
        codes: Field::of(codes.key.clone()),
        values: Dequantization {
            rule: Some(Rule { weights: Rounded::F16, inverse, result: Rounded::F32 }),
            ..values.clone()
        },
    };
    let folder = codes.folder().to_owned();
    Some(Ok(QuantGroup { weight, folder, format: "llm.int8", candidates: INVERSES.map(candidate).into() }))
}

/// Whether an array of this shape has one element for each of `rows`: as `[rows]`, `[rows, 1]` or `[1, rows]`.
fn is_one_a_row(shape: &[u64], rows: u64) -> bool {
    matches!(*shape, [all] | [all, 1] | [1, all] if all == rows)
}
