//! A variant below another: one that is stored, or a folder that could be.

use std::sync::Arc;

use qstore_container::{ArrayKey, VariantName};

use crate::decode::{CodeReader, Variant, chunks_meet};
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::ingest::{SharedArray, Source};
use crate::scheme::{ArrayInfo, GridArray, floats};

/// Whatever an array may be given lies in one.
#[derive(Debug, Clone)]
pub(crate) enum Lower {
    Stored(Arc<Variant>),
    /// What `analyze` prices, as storing a variant only to be given it would be in vain.
    Folder {
        name: VariantName,
        source: Arc<Source>,
    },
}

impl Lower {
    pub(crate) fn name(&self) -> &VariantName {
        match self {
            Self::Stored(variant) => variant.name(),
            Self::Folder { name, .. } => name,
        }
    }

    /// Every array as a quantisation scheme sees it.
    pub(super) fn array_infos(&self) -> Vec<ArrayInfo> {
        match self {
            Self::Stored(variant) => variant.array_infos(),
            Self::Folder { source, .. } => source.array_infos(),
        }
    }

    /// A reader of codes in rows of `cols`; `None` if they are stored as a residual of floats.
    pub(super) fn codes(&self, key: &ArrayKey, cols: u64, bits: Option<u8>) -> Result<Option<CodeReader>> {
        match self {
            Self::Stored(variant) => {
                let array = variant.array(key)?;
                let fits = !array.stored().encoding.is_float_residual();
                Ok(fits.then(|| CodeReader::new(array, cols, bits)))
            }
            Self::Folder { source, .. } => {
                Ok(Some(CodeReader::new(SharedArray::find(source, key)?, cols, bits)))
            }
        }
    }

    /// Whether readers accept codes of so many rows, cut so, that are given the codes `key`.
    pub(super) fn chunks_meet(&self, key: &ArrayKey, rows: u64, rows_per_chunk: u64) -> Result<bool> {
        match self {
            Self::Stored(variant) => Ok(chunks_meet(rows, rows_per_chunk, variant.array(key)?.stored())),
            Self::Folder { .. } => Ok(true),
        }
    }

    /// All of a small array.
    pub(super) fn fetch(&self, key: &ArrayKey) -> Result<GridArray> {
        match self {
            Self::Stored(variant) => {
                let entry = variant.stored_array(key)?;
                let reader = variant.array(key)?;
                let mut bytes = zeroed(reader.bytes()?).at(variant.folder(), "cannot hold a grid")?;
                reader.read(0, &mut bytes)?;
                Ok(GridArray { dtype: entry.dtype, shape: entry.shape.clone(), bytes })
            }
            Self::Folder { source, .. } => {
                let array = source.find(key);
                let array = array.ok_or_else(|| Error::input(source.path(), format!("{key}: it is gone")))?;
                let mut bytes = zeroed(array.bytes).at(source.path(), "cannot hold a grid")?;
                source.read(array, 0, &mut bytes)?;
                Ok(GridArray { dtype: array.dtype, shape: array.shape.clone(), bytes })
            }
        }
    }

    /// All of an array of scales; `None` if it is stored as a residual.
    pub(super) fn scales(&self, key: &ArrayKey) -> Result<Option<Vec<f32>>> {
        if let Self::Stored(variant) = self
            && variant.array(key)?.stored().encoding.is_residual()
        {
            return Ok(None);
        }
        Ok(floats(&self.fetch(key)?).ok())
    }
}
