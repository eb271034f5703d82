//! One lossless store for one model in every precision that it ships in.
//!
//! A store keeps a model's variants (BF16, INT8, ...) so that each comes back byte for byte: the lowest precision by
//! itself, each higher one as what it adds. Start with [`Store`].
//!
//! | to | call |
//! |---|---|
//! | make a store of folders | [`pack`] |
//! | change one | [`add`], [`remove`] |
//! | open one, and a variant of it | [`Store::open`], [`Store::variant`] |
//! | decode all tensors into memory | [`load`] |
//! | read one, or some rows and columns of it | [`Tensor`] |
//! | restore the files, or one | [`unpack`], [`read_file`] |
//! | check that all is as it was | [`verify`] |
//! | see what is in it | [`inspect`] |
//! | see what variants would take, and what those of a store take and why | [`analyze`], [`analyze_store`] |
//!
//! ```
//! use qstore::{Options, Silent, Store, Tensor, VariantSpec, WriteOptions};
//!
//! # fn safetensors(folder: &std::path::Path, header: &str, data: &[u8]) -> std::io::Result<()> {
//! #     std::fs::create_dir_all(folder)?;
//! #     let length = (header.len() as u64).to_le_bytes();
//! #     std::fs::write(folder.join("model.safetensors"), [&length, header.as_bytes(), data].concat())
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! # let bf16 = r#"{"up.weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#;
//! # safetensors(&folder.join("llama"), bf16, &[0, 0x3f, 0, 0xbf, 0x80, 0x3f, 0, 0])?;
//! # let int8 = r#"{"up.weight":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]},
//! #     "up.SCB":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
//! # safetensors(&folder.join("llama-int8"), int8, &[127, 129, 127, 0, 0, 0, 0, 63, 0, 0, 128, 63])?;
//! // Two folders of one model become a store, which must not exist yet.
//! let variants = [
//!     VariantSpec::new("bf16".parse()?, folder.join("llama")),
//!     VariantSpec::new("int8".parse()?, folder.join("llama-int8")),
//! ];
//! let path = folder.join("llama.qstore");
//! qstore::pack(&variants, &path, &WriteOptions::default(), &Silent)?;
//!
//! // INT8 is read without BF16.
//! let store = Store::open(&path)?;
//! let int8 = store.variant(&"int8".parse()?)?;
//! let options = Options::default();
//! for tensor in qstore::load(&int8, &options, &Silent)? {
//!     println!("{}: {} {:?}, {} bytes", tensor.name, tensor.dtype, tensor.shape, tensor.data.len());
//! }
//! let rows = Tensor::open(&int8, "up.weight")?.read_rows(0..1, &options)?;
//! assert_eq!(*rows, [127, 129]);
//!
//! // Every file comes back as it was.
//! qstore::unpack(&store, &"bf16".parse()?, &folder.join("restored"), &options, &Silent)?;
//! # let read = |of: &str| std::fs::read(folder.join(of).join("model.safetensors"));
//! # assert_eq!(read("restored")?, read("llama")?);
//! # Ok(())
//! # }
//! ```
//!
//! Long operations tell a [`Progress`] how far they are, which may stop them; what they did is then undone. Errors say
//! what is wrong in words, and as data in [`Error::subject`]. Where a store's files lie is a [`Storage`]'s to know.

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
mod encode;
mod fetch;
mod formats;
mod ingest;
mod names;
mod plan;
mod quant;
mod storage;
mod store;
mod variant;

pub use analyze::{
    Analysis, Bits, BitsPerWeight, MatrixAnalysis, MatrixMeasure, MatrixVariant, Measured, PerWeight,
    StoreAnalysis, StoreBytes, StoredVariantAnalysis, VariantAnalysis, VariantMeasure, Weighed,
    WeightEntropy, analyze, analyze_store,
};
pub use qstore_checkpoint::{
    Error, Options, Progress, Result, Silent, Stop, Subject, TensorBytes, WriteOptions,
};
pub use qstore_container::{Dtype, FileContent, Manifest, VariantEntry, VariantName};
pub use storage::{Folder, Hints, Storage, Throttle, Throttled};
pub use store::{
    FileInspection, GivenRule, Inspection, LoadedTensor, Problem, Store, Tensor, TensorInspection,
    UnsharedInspection, VariantInspection, VariantSpec, VariantVerification, Verification, add, inspect,
    load, pack, read_file, remove, unpack, verify,
};
pub use variant::{TensorInfo, Variant};
