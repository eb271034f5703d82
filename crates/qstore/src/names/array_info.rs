//! A tensor as its file's header tells of it.

use std::sync::Arc;

use qstore_checkpoint::name_in_file;
use qstore_container::{ArrayKey, Dtype};

/// A tensor: what it is called and looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArrayInfo {
    pub(crate) key: ArrayKey,
    /// Its name in its file, which other files may use as well.
    pub(crate) name: String,
    /// The path of its file.
    pub(crate) file: Arc<str>,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
}

impl ArrayInfo {
    /// The tensor `key` of the file at path `file`: one whose name another file uses may be called `FILE:NAME`.
    pub(crate) fn new(key: &ArrayKey, file: &Arc<str>, dtype: Dtype, shape: &[u64]) -> Option<Self> {
        let name = name_in_file(key, file)?;
        Some(Self {
            key: key.clone(),
            name: name.to_owned(),
            file: file.clone(),
            dtype,
            shape: shape.to_vec(),
        })
    }

    /// The folder that its file is in.
    pub(crate) fn folder(&self) -> &str {
        self.file.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Its elements.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, dimension| product.saturating_mul(*dimension))
    }

    /// Its bits.
    pub(crate) fn bits(&self) -> u64 {
        self.elements().saturating_mul(self.dtype.bitsize() as u64)
    }
}
