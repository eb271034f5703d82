//! From the files of a store back to the bytes of a variant's arrays.

mod array;
mod shard;
mod variant;

pub(crate) use array::ArrayReader;
pub use variant::{TensorInfo, Variant};
pub(crate) use variant::{content_hash, is_within};
