//! A stored variant, seen as what it was made of, to be stored anew.

use std::path::Path;
use std::sync::{Arc, Mutex};

use qstore_checkpoint::{Error, Result, Source, SourceArray, SourceContent, SourceFile, StoredArrays};
use qstore_container::{ArrayKey, FileContent, Hash128};

use crate::decode::{ArrayReader, read_each};
use crate::variant::Variant;

/// The arrays of a variant. Chunks of one array are mostly asked for one after another, so its reader is kept.
/// The reader's key may be another: that of the array which this one refers to.
#[derive(Debug)]
struct OfVariant {
    variant: Arc<Variant>,
    last: Mutex<Option<(ArrayKey, Arc<ArrayReader>)>>,
}

impl StoredArrays for OfVariant {
    fn path(&self) -> &Path {
        self.variant.folder()
    }

    fn hash(&self, key: &ArrayKey) -> Option<Hash128> {
        self.variant.stored_array(key).ok()?.hash
    }

    fn read(&self, key: &ArrayKey, offset: u64, out: &mut [u8]) -> Result<()> {
        let kept = self.last.lock().ok().and_then(|kept| kept.clone()).filter(|(kept, _)| kept == key);
        let reader = match kept {
            Some((_, reader)) => reader,
            None => ArrayReader::open(&self.variant, key)?,
        };
        if let Ok(mut kept) = self.last.lock() {
            *kept = Some((key.clone(), reader.clone()));
        }
        reader.read(offset, out)
    }

    fn read_all(&self, arrays: &[SourceArray]) -> Result<Vec<u8>> {
        let bytes = arrays.iter().map(|array| array.bytes).sum();
        read_each(&self.variant, arrays.iter().map(|array| &array.key), bytes)
    }
}

/// The files and arrays of a variant.
///
/// # Errors
/// Its plan lacks an array that a file is made of.
pub(crate) fn source_of(variant: &Arc<Variant>) -> Result<Source> {
    let arrays = OfVariant { variant: variant.clone(), last: Mutex::new(None) };
    let mut source = Source::of_stored(Box::new(arrays));
    source.empty_folders = variant.empty_folders().to_vec();
    source.excluded = variant.entry().excluded.clone();
    for (file, original) in variant.files().iter().enumerate() {
        let mut offset = match &original.content {
            FileContent::Opaque => 0,
            FileContent::Safetensors { header, .. } => 8 + header.len() as u64,
        };
        let first = source.arrays.len();
        for key in original.arrays() {
            let stored = variant.stored_array(&key)?;
            let bytes = stored.bytes().map_err(|e| Error::damaged(variant.folder(), e))?;
            let (dtype, shape) = (stored.dtype, stored.shape.clone());
            source.arrays.push(SourceArray { key, dtype, shape, bytes, file, offset, part: None });
            offset += bytes;
        }
        let content = match &original.content {
            FileContent::Opaque => SourceContent::Opaque(first),
            FileContent::Safetensors { header, .. } => SourceContent::Safetensors {
                header: header.clone(),
                arrays: (first..source.arrays.len()).collect(),
            },
        };
        let (path, bytes) = (original.path.clone(), original.bytes);
        source.files.push(SourceFile { path, bytes, modified: None, content });
    }
    Ok(source)
}
