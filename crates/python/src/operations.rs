//! What makes, changes, restores and checks stores.

use std::path::PathBuf;

use pyo3::prelude::*;
use qstore::{GivenRule, Store, VariantSpec, WriteOptions};

use crate::store::{json, parse};
use crate::watch;

/// How an operation uses the machine: threads (0 for all), bytes of memory and of a shard.
#[derive(FromPyObject)]
pub(crate) struct Limits(usize, Option<u64>, Option<u64>);

impl From<Limits> for WriteOptions {
    fn from(Limits(threads, memory, shard_size): Limits) -> Self {
        let usual = Self::default();
        Self {
            threads,
            memory: memory.unwrap_or(usual.memory),
            shard_size: shard_size.unwrap_or(usual.shard_size),
        }
    }
}

/// A variant to store: its name, its folder, whether its files are kept as they are, what it may be given alone,
/// whether it is archived, how many it may be given, what of it is left out, and whether it is refused unless whole.
#[derive(FromPyObject)]
pub(crate) struct Spec(String, PathBuf, bool, Option<Vec<String>>, bool, Option<u8>, Vec<String>, bool);

impl Spec {
    fn parse(self, py: Python<'_>) -> PyResult<VariantSpec> {
        let Self(name, folder, verbatim, given, archived, levels, exclude, strict) = self;
        let given = match given {
            None => GivenRule::Any,
            Some(names) => {
                GivenRule::Only(names.iter().map(|name| parse(py, name)).collect::<PyResult<_>>()?)
            }
        };
        let spec = VariantSpec::new(parse(py, &name)?, folder);
        Ok(VariantSpec { verbatim, given, archived, levels, exclude, strict, ..spec })
    }
}

/// `qstore pack`.
#[pyfunction]
pub(crate) fn pack(
    py: Python<'_>,
    variants: Vec<Spec>,
    target: PathBuf,
    limits: Limits,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let variants = variants.into_iter().map(|spec| spec.parse(py)).collect::<PyResult<Vec<_>>>()?;
    watch::run(py, progress, |progress| qstore::pack(&variants, &target, &limits.into(), progress))
}

/// `qstore add`.
#[pyfunction]
pub(crate) fn add(
    py: Python<'_>,
    store: PathBuf,
    variant: Spec,
    limits: Limits,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let variant = variant.parse(py)?;
    watch::run(py, progress, |progress| qstore::add(&store, &variant, &limits.into(), progress))
}

/// `qstore remove`.
#[pyfunction]
pub(crate) fn remove(
    py: Python<'_>,
    store: PathBuf,
    variant: &str,
    limits: Limits,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let variant = parse(py, variant)?;
    watch::run(py, progress, |progress| qstore::remove(&store, &variant, &limits.into(), progress))
}

/// `qstore unpack`.
#[pyfunction]
pub(crate) fn unpack(
    py: Python<'_>,
    store: PathBuf,
    variant: &str,
    target: PathBuf,
    limits: Limits,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let variant = parse(py, variant)?;
    watch::run(py, progress, |progress| {
        qstore::unpack(
            &Store::open(&store)?,
            &variant,
            &target,
            &WriteOptions::from(limits).machine(),
            progress,
        )
    })
}

/// `qstore verify`, as JSON.
#[pyfunction]
pub(crate) fn verify(
    py: Python<'_>,
    store: PathBuf,
    variant: Option<&str>,
    quick: bool,
    limits: Limits,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let variant = variant.map(|name| parse(py, name)).transpose()?;
    let verification = watch::run(py, progress, |progress| {
        qstore::verify(
            &Store::open(&store)?,
            variant.as_ref(),
            quick,
            &WriteOptions::from(limits).machine(),
            progress,
        )
    })?;
    json(py, &verification)
}
