//! Memory that Rust made and Python uses.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use qstore::TensorBytes;

/// The bytes of a tensor, which numpy uses where they are: `numpy.asarray(memory)` keeps this object for as long as
/// there is an array of it.
#[pyclass(frozen, module = "qstore._core")]
pub(crate) struct Memory {
    /// Nothing in Rust reads or writes them from here on: they are whoever's holds the address.
    _bytes: TensorBytes,
    address: usize,
    length: usize,
}

impl Memory {
    pub(crate) fn new(mut bytes: TensorBytes) -> Self {
        // The bytes stay where they are when their owner moves.
        let address = bytes.as_mut_ptr().expose_provenance();
        Self { address, length: bytes.len(), _bytes: bytes }
    }
}

#[pymethods]
impl Memory {
    /// Bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.length
    }

    /// What numpy makes an array of: one dimension of bytes, which may be written.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("shape", (self.length,))?;
        interface.set_item("data", (self.address, false))?;
        Ok(interface)
    }
}
