//! Commands that change what a store holds: `pack`, `add` and `remove`.

use std::time::Instant;

use qstore::{GivenRule, VariantName, VariantSpec};

use crate::args::{Add, Contents, GivenOnly, Pack, Remove, Roles};
use crate::failure::Failure;
use crate::output::{Console, count};
use crate::values::NamedFolder;

pub(crate) fn pack(arguments: Pack, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let Pack { variants, verbatim, given, roles, contents, .. } = &arguments;
    let variants = specs(variants, &verbatim.verbatim, given, roles, contents)?;
    qstore::pack(&variants, &arguments.output, &console.options, &console.bars)?;
    let packed = count(variants.len() as u64, "variant");
    console.summary(&format!("packed {packed} into {}", arguments.output.display()), &arguments.output, began)
}

pub(crate) fn add(arguments: Add, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let Add { variant, verbatim, given, archive, contents, .. } = &arguments;
    let archive = archive.then(|| variant.name.clone()).into_iter().collect();
    let roles = Roles { archive, ..Roles::default() };
    for variant in specs(std::slice::from_ref(variant), &verbatim.verbatim, given, &roles, contents)? {
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

/// What is to be stored, as options of all of these commands say.
pub(crate) fn specs(
    variants: &[NamedFolder],
    verbatim: &[VariantName],
    given: &GivenOnly,
    roles: &Roles,
    contents: &Contents,
) -> Result<Vec<VariantSpec>, Failure> {
    let options = verbatim.iter().map(|name| ("--verbatim", name));
    let options = options.chain(given.independent.iter().map(|name| ("--independent", name)));
    let options = options.chain(roles.archive.iter().map(|name| ("--archive", name)));
    let options = options.chain(roles.served.iter().map(|name| ("--served", name)));
    let mut options = options.chain(given.given.iter().map(|(name, _)| ("--given", name)));
    if let Some((option, unknown)) = options.find(|(_, name)| !variants.iter().any(|v| v.name == **name)) {
        let names: Vec<_> = variants.iter().map(|v| v.name.as_str()).collect();
        let text =
            format!("{option} {unknown}: no variant of that name is being stored, only {}", names.join(", "));
        return Err(Failure::Usage(text));
    }
    let spec = |NamedFolder { name, folder }: &NamedFolder| {
        let lower = given.given.iter().filter(|(higher, _)| higher == name);
        let lower: Vec<_> = lower.map(|(_, lower)| lower.clone()).collect();
        let rule = match (given.independent.contains(name), lower.is_empty()) {
            (true, false) => {
                let text = format!("{name} cannot be both --independent and --given another");
                return Err(Failure::Usage(text));
            }
            (false, true) => GivenRule::Any,
            _ => GivenRule::Only(lower),
        };
        let is_unserved = !roles.served.is_empty() && !roles.served.contains(name);
        let archived = is_unserved || roles.archive.contains(name);
        if archived && given.independent.contains(name) {
            let text = format!("{name} cannot be both archived, which is given others, and --independent");
            return Err(Failure::Usage(text));
        }
        Ok(VariantSpec {
            archived,
            levels: given.levels,
            verbatim: verbatim.contains(name),
            given: rule,
            exclude: contents.exclude.clone(),
            strict: contents.strict,
            ..VariantSpec::new(name.clone(), folder)
        })
    };
    variants.iter().map(spec).collect()
}
