//! Matrices of a source's arrays, read as arrays of their own.

use std::sync::{Arc, OnceLock};

use qstore_container::{ArrayKey, FormatError, Placed, View};

use super::{Source, SourceArray};
use crate::error::{IoContext as _, Result};
use crate::file::zeroed;
use crate::gather::gather;
use crate::memory::size;

/// A matrix of an array.
#[derive(Debug)]
pub struct SourcePart {
    of: SourceArray,
    placed: Placed,
    /// All of it, where its elements do not lie together; made when it is first read.
    gathered: OnceLock<Vec<u8>>,
}

impl SourcePart {
    /// The matrix of `array` that `view` takes, as an array that is called `key`.
    ///
    /// # Errors
    /// What of the view does not fit.
    pub fn array(array: &SourceArray, view: &View, key: ArrayKey) -> Result<SourceArray, FormatError> {
        let placed = view.place(&array.shape)?;
        let width = array.dtype.bitsize() as u64 / 8;
        let bytes = placed.shape[0] * placed.shape[1] * width;
        let part = Self { of: array.clone(), placed, gathered: OnceLock::new() };
        Ok(SourceArray {
            key,
            dtype: array.dtype,
            shape: placed.shape.to_vec(),
            bytes,
            file: array.file,
            offset: array.offset,
            part: Some(Arc::new(part)),
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn placed(&self) -> &Placed {
        &self.placed
    }

    pub(super) fn read(&self, source: &Source, offset: u64, out: &mut [u8]) -> Result<()> {
        let width = self.of.dtype.bitsize() as u64 / 8;
        if self.placed.is_contiguous() {
            let first = self.placed.lines().start * self.placed.pitch * width;
            return source.read(&self.of, first + offset, out);
        }
        let matrix = match self.gathered.get() {
            Some(matrix) => matrix,
            None => {
                let elements = self.placed.elements();
                let bytes = (elements.end - elements.start) * width;
                let mut slab = zeroed(bytes).at(source.path(), "cannot hold a matrix")?;
                source.read(&self.of, elements.start * width, &mut slab)?;
                let matrix = gather(&slab, &self.placed.from_slab(), width).into_owned();
                self.gathered.get_or_init(|| matrix)
            }
        };
        let start = size(offset);
        out.copy_from_slice(&matrix[start..start + out.len()]);
        Ok(())
    }
}
