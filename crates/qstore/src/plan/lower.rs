//! A variant below another: one that is stored, or a folder that could be.

use std::ops::Range;
use std::sync::Arc;

use qstore_checkpoint::{Result, Source};
use qstore_container::{ArrayKey, ArrayRef, Dtype, Encoding, QuantMatrix, StoredArray, VariantName};

use super::unusable::Unusable;
use crate::decode::{ArrayReader, MatrixReader, checkpoint, read_part};
use crate::formats::Checkpoint;
use crate::ingest::{SharedArray, checkpoint_of};
use crate::quant::Arrays;
use crate::variant::{GivenSource, Variant, chunks_align, is_elsewhere};

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

    /// What its folder says of itself.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint> {
        match self {
            Self::Stored(variant) => checkpoint(variant),
            Self::Folder { source, .. } => checkpoint_of(source),
        }
    }

    /// Whether readers accept to be given a matrix: its codes may equal, by chance, floats that are stored as a
    /// residual, and its scales any residual.
    pub(super) fn can_be_given(&self, matrix: &QuantMatrix<ArrayKey>) -> Result<bool> {
        let Self::Stored(variant) = self else { return Ok(true) };
        for key in matrix.values.arrays() {
            let reader = ArrayReader::open(variant, key)?;
            let encoding = &reader.stored().encoding;
            if encoding.is_given() && !encoding.is_near() || is_elsewhere(encoding) {
                return Ok(false);
            }
        }
        let reader = ArrayReader::open(variant, &matrix.codes.array)?;
        let codes = &reader.stored().encoding;
        let is_rounded = matches!(codes, Encoding::Rounded { .. });
        Ok(!codes.is_of_floats() && !is_rounded && !is_elsewhere(codes))
    }

    /// Which array has the codes `key`, and which ones have those that they are given.
    pub(super) fn source_and_given(&self, key: &ArrayKey) -> Result<(ArrayRef, Vec<GivenSource>)> {
        match self {
            Self::Stored(variant) => variant.source_and_given(key),
            Self::Folder { name, .. } => {
                Ok((ArrayRef { variant: name.clone(), array: key.clone() }, Vec::new()))
            }
        }
    }

    /// A reader of the codes of a matrix.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn codes(&self, matrix: &QuantMatrix<ArrayKey>) -> Result<MatrixReader, Unusable> {
        let (key, field) = (&matrix.codes.array, &matrix.codes);
        let reader = match self {
            Self::Stored(variant) => {
                let entry = variant.stored_array(key)?;
                let array = (entry.dtype, &entry.shape[..]);
                MatrixReader::codes(ArrayReader::open(variant, key)?, field, array, matrix.shape)
            }
            Self::Folder { source, .. } => {
                let array = source.expect(key)?;
                let array = (array.dtype, &array.shape[..]);
                MatrixReader::codes(Arc::new(SharedArray::find(source, key)?), field, array, matrix.shape)
            }
        };
        reader.map_err(Unusable::because)
    }

    /// Whether the codes `key` are stored in chunks that have a part of their columns.
    pub(super) fn is_cut_across(&self, key: &ArrayKey) -> Result<bool> {
        match self {
            Self::Stored(variant) => {
                Ok(ArrayReader::open(variant, key)?.stored().chunks_across().is_ok_and(|across| across > 1))
            }
            Self::Folder { .. } => Ok(false),
        }
    }

    /// Whether readers accept the stored form `array` of codes to be given the codes `key`.
    pub(super) fn chunks_align(&self, key: &ArrayKey, array: &StoredArray) -> Result<bool> {
        match self {
            Self::Stored(variant) => Ok(chunks_align(array, ArrayReader::open(variant, key)?.stored())),
            Self::Folder { .. } => Ok(true),
        }
    }
}

impl Arrays<ArrayKey> for Lower {
    fn describe(&self, key: &ArrayKey) -> Result<(Dtype, Vec<u64>)> {
        match self {
            Self::Stored(variant) => {
                let entry = variant.stored_array(key)?;
                Ok((entry.dtype, entry.shape.clone()))
            }
            Self::Folder { source, .. } => source.describe(key),
        }
    }

    fn read(&self, key: &ArrayKey, bytes: Range<u64>) -> Result<Vec<u8>> {
        match self {
            Self::Stored(variant) => read_part(&*ArrayReader::open(variant, key)?, bytes),
            Self::Folder { source, .. } => Arrays::read(&**source, key, bytes),
        }
    }
}
