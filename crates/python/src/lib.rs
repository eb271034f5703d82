//! The Rust half of the Python package `qstore`, as its module `qstore._core`. What people call, and what documents it,
//! is in `python/qstore`: here are the calls that it makes, and nothing that the library knows is said again.

#![forbid(unsafe_code)]

mod cli;
mod errors;
mod memory;
mod operations;
mod store;
mod watch;

/// The module `qstore._core`.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use super::cli::run_cli;
    #[pymodule_export]
    use super::memory::Memory;
    #[pymodule_export]
    use super::operations::{add, pack, remove, unpack, verify};
    #[pymodule_export]
    use super::store::{Store, Variant};
}
