//! The library's errors as Python's exceptions, which `qstore.errors` defines.

use std::io::ErrorKind;
use std::path::Path;

use pyo3::prelude::*;
use qstore::{Error, Subject};

/// The exception that an error is.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    // An exception that cannot be made is one, too.
    make(py, error).unwrap_or_else(|failure| failure)
}

fn make(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let (class, path) = match error {
        Error::Usage(_) => ("UsageError", None),
        Error::UnknownName { .. } => ("UnknownNameError", None),
        Error::Missing { path, .. } => ("NotFoundError", Some(path)),
        Error::Input { path, .. } => ("InputError", Some(path)),
        Error::Damaged { path, .. } => ("DamagedError", Some(path)),
        Error::Busy(path) => ("BusyError", Some(path)),
        Error::Changed(path) => ("ChangedError", Some(path)),
        Error::Io { path, source, .. } => match source.kind() {
            ErrorKind::NotFound => ("NotFoundError", Some(path)),
            ErrorKind::PermissionDenied => ("ForbiddenError", Some(path)),
            ErrorKind::OutOfMemory => ("OutOfMemoryError", Some(path)),
            _ => ("FileError", Some(path)),
        },
        // Faults of the library itself, and kinds that are yet to come.
        _ => ("QStoreError", None),
    };
    let class = py.import("qstore.errors")?.getattr(class)?;
    let text = error.to_string();
    let path: Option<&Path> = path.map(AsRef::as_ref);
    let exception = match error {
        // As OSError wants it; a missing store has no number of the system's, but means this one.
        Error::Io { source, .. } if source.kind() != ErrorKind::OutOfMemory => {
            class.call1((source.raw_os_error(), text, path))?
        }
        Error::Missing { .. } => {
            let number = py.import("errno")?.getattr("ENOENT")?;
            class.call1((number, text, path))?
        }
        _ => class.call1((text,))?,
    };
    exception.setattr("path", path)?;
    if let Some(Subject { variant, file, tensor, chunk, .. }) = error.subject() {
        exception.setattr("variant", variant)?;
        exception.setattr("file", file)?;
        exception.setattr("tensor", tensor)?;
        exception.setattr("chunk", chunk)?;
    }
    Ok(PyErr::from_value(exception))
}

/// Turns a result of the library into one of Python's.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for qstore::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| exception(py, &error))
    }
}
