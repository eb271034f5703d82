//! Saving a checkpoint as `save_pretrained` of transformers does: the same files, tensors at the same places, and JSON
//! to the byte.

mod files;
mod layout;
pub(crate) mod python_json;

pub(crate) use files::{TensorFiles, write_index};
pub(crate) use layout::{Layout, MAX_SHARD_BYTES, NewTensor, lay_out};
