//! From the files of a store back to the bytes of a variant's arrays.

mod array;
mod block;
mod bundles;
mod changed;
mod check;
mod codes;
mod given;
mod parts;
mod shard;
mod variant;

pub(crate) use array::ArrayReader;
pub(crate) use changed::or_changed;
pub(crate) use check::{chunks_align, is_elsewhere};
pub(crate) use codes::{CodeBytes, CodeReader};
pub(crate) use given::{GivenReader, Meaning, read_part};
pub(crate) use parts::Rows;
pub use variant::{TensorInfo, Variant};
pub(crate) use variant::{content_hash, is_within};
