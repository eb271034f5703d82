//! What a source says of itself.

use std::ops::Range;
use std::sync::Arc;

use qstore_checkpoint::{IoContext as _, Result, Source, SourceArray, zeroed};
use qstore_container::{ArrayKey, Dtype};

use crate::formats::Checkpoint;
use crate::names::ArrayInfo;
use crate::quant::Arrays;

/// What a source's folder says of itself.
///
/// # Errors
/// Its `config.json` cannot be read, or a tensor that says what others are.
pub(crate) fn checkpoint_of(source: &Source) -> Result<Checkpoint> {
    let paths: Vec<Arc<str>> = source.files.iter().map(|file| file.path.as_str().into()).collect();
    let info = |a: &SourceArray| ArrayInfo::new(&a.key, &paths[a.file], a.dtype, &a.shape);
    let tensors = source.arrays.iter().filter_map(info).collect();
    let arrays = source.arrays.iter().map(|array| (array.key.clone(), array.bytes));
    Checkpoint::new(tensors, arrays, |key| Arrays::read(source, key, 0..source.expect(key)?.bytes))
}

impl Arrays<ArrayKey> for Source {
    fn describe(&self, key: &ArrayKey) -> Result<(Dtype, Vec<u64>)> {
        let array = self.expect(key)?;
        Ok((array.dtype, array.shape.clone()))
    }

    fn read(&self, key: &ArrayKey, bytes: Range<u64>) -> Result<Vec<u8>> {
        let array = self.expect(key)?;
        let mut out = zeroed(bytes.end.saturating_sub(bytes.start)).at(self.path(), "cannot hold scales")?;
        self.read(array, bytes.start, &mut out)?;
        Ok(out)
    }
}
