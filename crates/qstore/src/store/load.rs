//! Decoding a whole variant into memory.

use std::sync::Arc;

use qstore_container::{ArrayKey, Dtype};
use rayon::prelude::*;

use super::Options;
use crate::decode::{TensorInfo, Variant};
use crate::error::{Error, IoContext as _, Result};
use crate::memory::TensorBytes;
use crate::progress::Progress;

/// A tensor in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct LoadedTensor {
    /// Its name; `FILE:NAME` where several files of the variant have one of that name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its elements, little-endian, the last dimension fastest.
    pub data: TensorBytes,
}

/// Decodes every tensor of a variant, in parallel, in the order of storage. Files that are not safetensors are not read.
///
/// # Errors
/// Damage, an I/O error, or too little memory.
pub fn load(variant: &Arc<Variant>, options: &Options, progress: &dyn Progress) -> Result<Vec<LoadedTensor>> {
    progress.begin(&format!("loading {}", variant.name()), variant.entry().tensor_bytes);
    let load_one = |tensor: TensorInfo| {
        let reader = variant.array(&ArrayKey::Tensor(tensor.name.clone()))?;
        let mut data = TensorBytes::zeroed(tensor.bytes).at(variant.folder(), "cannot hold the tensor")?;
        let piece = usize::try_from(reader.piece_bytes()).unwrap_or(usize::MAX);
        data.par_chunks_mut(piece).enumerate().try_for_each(|(index, out)| {
            reader.read((index * piece) as u64, out)?;
            progress.advance(out.len() as u64);
            Ok::<_, Error>(())
        })?;
        Ok(LoadedTensor { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, data })
    };
    options.pool()?.install(|| variant.tensors().into_par_iter().map(load_one).collect())
}
