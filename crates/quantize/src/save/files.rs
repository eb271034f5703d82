//! Writing tensors to the places that a layout gives them.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use qstore_checkpoint::{IoContext as _, NewFolder, Result};

use super::layout::{Layout, NewTensor, index};

/// The safetensors files of a layout, with their headers. Tensors are zero until they are written.
#[derive(Debug)]
pub(crate) struct TensorFiles<'a> {
    layout: &'a Layout,
    files: Vec<(PathBuf, File)>,
}

impl<'a> TensorFiles<'a> {
    pub(crate) fn create(folder: &NewFolder, layout: &'a Layout) -> Result<Self> {
        let mut files = Vec::with_capacity(layout.files.len());
        for file in &layout.files {
            let (path, mut handle) = folder.create(&file.name, file.bytes)?;
            handle.write_all(&file.head).at(&path, "cannot write")?;
            files.push((path, handle));
        }
        Ok(Self { layout, files })
    }

    /// Writes `bytes` from byte `offset` of a tensor on, which has this index in the layout.
    pub(crate) fn write(&mut self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.layout.places[tensor];
        let (path, file) = &mut self.files[place.file];
        file.seek(SeekFrom::Start(place.offset + offset))
            .and_then(|_| file.write_all(bytes))
            .at(path, "cannot write")
    }

    /// Has what was written synced by when the folder is committed.
    pub(crate) fn finish(self, folder: &NewFolder) -> Result<()> {
        self.files.into_iter().try_for_each(|(path, file)| folder.sync(path, file))
    }
}

/// Writes `model.safetensors.index.json`, if there are several files; `parameters` counts the model's weights.
pub(crate) fn write_index(
    folder: &NewFolder,
    tensors: &[NewTensor],
    layout: &Layout,
    parameters: u64,
) -> Result<()> {
    if layout.files.len() < 2 {
        return Ok(());
    }
    folder.write("model.safetensors.index.json", &mut index(tensors, layout, parameters).as_bytes())
}
