//! An open store and its variants.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use qstore::{Error, FileContent, Options, Tensor, VariantName};

use crate::errors::{OrRaise as _, exception};
use crate::memory::Memory;
use crate::watch;

/// A tensor in memory: name, element type, shape, bytes.
type Loaded = (String, String, Vec<u64>, Memory);

/// Tensors of a variant that are kept open, at most.
const OPEN_TENSORS: usize = 256;

/// A store, its manifest read.
#[pyclass(frozen, module = "qstore._core")]
pub(crate) struct Store {
    store: qstore::Store,
}

#[pymethods]
impl Store {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let store = py.detach(|| qstore::Store::open(&path)).or_raise(py)?;
        Ok(Self { store })
    }

    /// The variants' names, lower precision first.
    fn variants(&self) -> Vec<&str> {
        self.store.manifest().variants.iter().map(|entry| entry.name.as_str()).collect()
    }

    /// Opens a variant.
    fn variant(&self, py: Python<'_>, name: &str) -> PyResult<Variant> {
        let name = parse(py, name)?;
        let variant = py.detach(|| self.store.variant(&name)).or_raise(py)?;
        Ok(Variant { variant, open: Mutex::default() })
    }

    /// What `qstore inspect --json` prints.
    fn inspect(&self, py: Python<'_>, tensors: bool) -> PyResult<String> {
        let inspection = py.detach(|| qstore::inspect(&self.store, tensors)).or_raise(py)?;
        json(py, &inspection)
    }
}

/// An open variant.
#[pyclass(frozen, module = "qstore._core")]
pub(crate) struct Variant {
    variant: Arc<qstore::Variant>,
    /// Those that were read last: whoever reads a tensor in parts asks for it by name each time.
    open: Mutex<HashMap<String, Tensor>>,
}

impl Variant {
    fn tensor(&self, name: &str) -> qstore::Result<Tensor> {
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensor) = open().get(name) {
            return Ok(tensor.clone());
        }
        let tensor = Tensor::open(&self.variant, name)?;
        let mut open = open();
        if open.len() >= OPEN_TENSORS {
            open.clear();
        }
        open.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }
}

/// Options of a call that decodes on up to `threads` threads.
fn with_threads(threads: usize) -> Options {
    Options { threads, ..Options::default() }
}

#[pymethods]
impl Variant {
    /// Each tensor's name, element type and shape, in the order of the files.
    fn tensors(&self) -> Vec<(String, String, Vec<u64>)> {
        let tensors = self.variant.tensors().into_iter();
        tensors.map(|tensor| (tensor.name, tensor.dtype.to_string(), tensor.shape)).collect()
    }

    /// Each original file's path and size, and of a safetensors file its tensors by the names that they have in the
    /// variant.
    fn files(&self) -> Vec<(&str, u64, Option<&[String]>)> {
        let described = self.variant.files().iter().map(|file| {
            let tensors = match &file.content {
                FileContent::Safetensors { tensors, .. } => Some(&tensors[..]),
                FileContent::Opaque => None,
            };
            (file.path.as_str(), file.bytes, tensors)
        });
        described.collect()
    }

    /// What the files' headers say beside their tensors.
    fn metadata(&self, py: Python<'_>) -> PyResult<std::collections::BTreeMap<String, String>> {
        self.variant.metadata().or_raise(py)
    }

    /// Decodes a tensor, a large one on up to `threads` threads.
    fn read(&self, py: Python<'_>, name: &str, threads: usize) -> PyResult<Memory> {
        let all = py.detach(|| self.tensor(name)?.read(&with_threads(threads)));
        all.map(Memory::new).or_raise(py)
    }

    /// Decodes rows of a tensor along its first dimension, many on up to `threads` threads.
    fn read_rows(
        &self,
        py: Python<'_>,
        name: &str,
        start: u64,
        stop: u64,
        threads: usize,
    ) -> PyResult<Memory> {
        let rows = py.detach(|| self.tensor(name)?.read_rows(start..stop, &with_threads(threads)));
        rows.map(Memory::new).or_raise(py)
    }

    /// Decodes columns of rows of a tensor that is seen as rows of its last dimension; each is from one to before
    /// another.
    fn read_block(
        &self,
        py: Python<'_>,
        name: &str,
        rows: (u64, u64),
        columns: (u64, u64),
        threads: usize,
    ) -> PyResult<Memory> {
        let (rows, columns) = (rows.0..rows.1, columns.0..columns.1);
        let block = py.detach(|| self.tensor(name)?.read_block(rows, columns, &with_threads(threads)));
        block.map(Memory::new).or_raise(py)
    }

    /// The bytes of an original file.
    fn read_file<'py>(&self, py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| qstore::read_file(&self.variant, path, &with_threads(1))).or_raise(py)?;
        let copied = PyBytes::new_with(py, bytes.len(), |copy| {
            copy.copy_from_slice(&bytes);
            Ok(())
        });
        copied.map_err(|_| {
            let source = std::io::ErrorKind::OutOfMemory.into();
            let folder = self.variant.folder().to_owned();
            exception(py, &Error::Io { path: folder, what: "cannot hold the file", source })
        })
    }

    /// Decodes all tensors, on `threads` threads, in the order of the files.
    fn load(&self, py: Python<'_>, threads: usize, progress: Option<Py<PyAny>>) -> PyResult<Vec<Loaded>> {
        let options = with_threads(threads);
        let tensors = watch::run(py, progress, |progress| qstore::load(&self.variant, &options, progress))?;
        let loaded = |t: qstore::LoadedTensor| (t.name, t.dtype.to_string(), t.shape, Memory::new(t.data));
        Ok(tensors.into_iter().map(loaded).collect())
    }

    /// Bytes read of the store so far, for this variant and those that it is given.
    #[getter]
    fn bytes_read(&self) -> u64 {
        self.variant.bytes_read()
    }
}

/// A variant's name.
pub(crate) fn parse(py: Python<'_>, name: &str) -> PyResult<VariantName> {
    name.parse().map_err(|error| exception(py, &Error::Usage(format!("{error}"))))
}

/// JSON for Python to read.
pub(crate) fn json(py: Python<'_>, value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| exception(py, &Error::Usage(error.to_string())))
}
