//! From the files of a store back to the bytes of a variant's arrays.

mod array;
mod bundles;
mod changed;
mod check;
mod given;
mod shard;
mod variant;

pub(crate) use array::ArrayReader;
pub(crate) use changed::or_changed;
pub(crate) use check::chunks_meet;
pub(crate) use given::{CodeBytes, CodeReader, GivenReader};
pub use variant::{TensorInfo, Variant};
pub(crate) use variant::{content_hash, is_within};
