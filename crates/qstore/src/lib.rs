//! One lossless store for one model in every precision that it ships in.
//!
//! A store keeps a model's variants (BF16, INT8, ...) so that each comes back byte for byte: the lowest precision by itself, each higher one
//! as what it adds. [`pack`] makes a store of folders, [`unpack`] restores one, [`load`] decodes one into memory, [`verify`] checks all;
//! [`analyze`] says what each variant takes, alone and given another, without making one.

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

#[cfg(test)]
extern crate self as qstore;

mod analyze;
mod codec;
mod decode;
mod disk;
mod encode;
mod error;
mod fetch;
mod file;
mod formats;
mod ingest;
mod memory;
mod names;
mod pipeline;
mod plan;
mod progress;
mod quant;
mod quantize;
mod save;
mod shard_name;
mod storage;
mod store;
mod synthetic;
mod variant;

pub use analyze::{
    Analysis, Bits, MatrixAnalysis, MatrixMeasure, MatrixVariant, Measured, PerWeight, VariantAnalysis,
    VariantMeasure, analyze,
};
pub use error::{Error, Result};
pub use memory::TensorBytes;
pub use progress::{Progress, Silent, Stop};
pub use qstore_container::{Dtype, FileContent, Manifest, VariantEntry, VariantName};
pub use quantize::{Gptq, GptqBits, GroupSize, Precision, Quantized, ZeroPoint, quantize};
pub use storage::{Folder, Hints, Storage, Throttle, Throttled};
pub use store::{
    FileInspection, GivenRule, Inspection, LoadedTensor, Options, Store, Tensor, TensorInspection,
    UnsharedInspection, VariantInspection, VariantSpec, VariantVerification, Verification, add, inspect,
    load, pack, read_file, remove, unpack, verify,
};
pub use synthetic::{ModelSpec, synthesise};
pub use variant::{TensorInfo, Variant};
