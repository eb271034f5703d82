//! The `qstore` command, for the script that comes with the package.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line `arguments`, of which the first is the command's name, and returns its exit status; `program`
/// and its arguments start it anew.
#[pyfunction]
pub(crate) fn run_cli(py: Python<'_>, arguments: Vec<OsString>, program: Vec<OsString>) -> u8 {
    py.detach(|| qstore_cli::run(arguments, program))
}
