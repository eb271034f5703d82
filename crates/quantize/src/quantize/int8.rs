//! LLM.int8(): the tensors that a matrix becomes, and what `config.json` says of them.

use qstore_checkpoint::{FloatKind, Result};
use qstore_container::Dtype;
use serde_json::{Value, json};

use super::matrix::{Matrix, Rows};
use super::row::quantise_row;
use super::task::Part;
use super::values;
use crate::save::NewTensor;

/// A matrix that becomes codes, a scale for each row, and the number of the codes' layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Int8 {
    pub(super) matrix: Matrix,
    /// The type that weights are rounded to before they are quantised: transformers loads the model in it.
    pub(super) loaded: FloatKind,
}

/// Indices of the tensors among those of [`Int8::outputs`].
const CODES: usize = 0;
const SCALES: usize = 1;

impl Int8 {
    /// The tensors that a weight called `name` becomes.
    pub(super) fn outputs(self, name: &str) -> Vec<NewTensor> {
        let Matrix { rows, cols, .. } = self.matrix;
        let module = name.strip_suffix("weight").unwrap_or(name);
        vec![
            NewTensor::new(name, Dtype::I8, &[rows, cols]),
            NewTensor::new(&format!("{module}SCB"), Dtype::F32, &[rows]),
            // 0: the codes lie row by row. New files are zero.
            NewTensor::new(&format!("{module}weight_format"), Dtype::U8, &[]),
        ]
    }

    /// What becomes of some rows, and how many of them have a weight that FP16 cannot hold.
    pub(super) fn quantise(self, mut rows: Rows<'_>) -> Result<(Vec<Part>, u64)> {
        values::round(&mut rows.weights, self.matrix.kind, self.loaded);
        let (mut codes, mut scales) = (Vec::with_capacity(rows.weights.len()), Vec::new());
        let mut infinite = 0;
        for (row, weights) in rows.each() {
            if weights.iter().any(|w| w.is_nan()) {
                return Err(rows.error(
                    row,
                    "a weight that is no number (NaN)",
                    "for which INT8 has no code",
                ));
            }
            let scale = quantise_row(weights, &mut codes);
            infinite += u64::from(scale.is_infinite());
            scales.extend(scale.to_le_bytes());
        }
        let first = rows.range.start;
        let parts =
            vec![Part::whole(CODES, first * self.matrix.cols, codes), Part::whole(SCALES, first * 4, scales)];
        Ok((parts, infinite))
    }
}

/// What `BitsAndBytesConfig(load_in_8bit=True)` saves; `skip` is `llm_int8_skip_modules`.
pub(super) fn quantization_config(skip: Option<&[String]>) -> Value {
    json!({
        "_load_in_4bit": false,
        "_load_in_8bit": true,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": false,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skip,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": false,
        "load_in_8bit": true,
        "quant_method": "bitsandbytes",
    })
}
