//! Commands that change what a store holds: `pack`, `add` and `remove`.

use std::time::Instant;

use qstore::{VariantName, VariantSpec};

use crate::args::{Add, Pack, Remove};
use crate::failure::Failure;
use crate::output::{Console, count};
use crate::values::NamedFolder;

pub(crate) fn pack(arguments: Pack, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let variants = specs(arguments.variants, &arguments.verbatim.verbatim)?;
    qstore::pack(&variants, &arguments.output, &console.options, &console.bars)?;
    let packed = count(variants.len() as u64, "variant");
    console.summary(&format!("packed {packed} into {}", arguments.output.display()), &arguments.output, began)
}

pub(crate) fn add(arguments: Add, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    for variant in specs(vec![arguments.variant], &arguments.verbatim.verbatim)? {
        qstore::add(&arguments.store, &variant, &console.options, &console.bars)?;
        let done = format!("added {} to {}", variant.name, arguments.store.display());
        console.summary(&done, &arguments.store, began)?;
    }
    Ok(())
}

pub(crate) fn remove(arguments: &Remove, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    qstore::remove(&arguments.store, &arguments.name, &console.options, &console.bars)?;
    let done = format!("removed {} from {}", arguments.name, arguments.store.display());
    console.summary(&done, &arguments.store, began)
}

fn specs(variants: Vec<NamedFolder>, verbatim: &[VariantName]) -> Result<Vec<VariantSpec>, Failure> {
    if let Some(unknown) = verbatim.iter().find(|name| !variants.iter().any(|v| v.name == **name)) {
        let names: Vec<_> = variants.iter().map(|v| v.name.as_str()).collect();
        let text = format!(
            "--verbatim {unknown}: no variant of that name is being stored, only {}",
            names.join(", ")
        );
        return Err(Failure::Usage(text));
    }
    let spec =
        |NamedFolder { name, folder }| VariantSpec { verbatim: verbatim.contains(&name), name, folder };
    Ok(variants.into_iter().map(spec).collect())
}
