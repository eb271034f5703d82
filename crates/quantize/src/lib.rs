//! Quantised twins of checkpoints, and made-up models.
//!
//! [`quantize`] makes the LLM.int8() or GPTQ twin of a 16- or 32-bit model, [`synthesise`] a model of random weights.
//! Both write folders as `save_pretrained` of transformers does, and neither knows of stores.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "test data is made with casts"
    )
)]

mod quantize;
mod save;
mod synthetic;

pub use qstore_checkpoint::{Error, Options, Progress, Result, Silent, Stop, WriteOptions};
pub use qstore_container::Dtype;
pub use quantize::{Gptq, GptqBits, GroupSize, Precision, Quantized, ZeroPoint, quantize};
pub use synthetic::{ModelSpec, synthesise};
