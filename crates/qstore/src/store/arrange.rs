//! In which order variants are stored: each is given only ones before it.

use qstore_checkpoint::{Error, Result};
use qstore_container::{Manifest, VariantName};

use super::spec::GivenRule;
use crate::plan::Precision;

/// A variant that is to have a place.
pub(super) struct Candidate<'a> {
    pub(super) name: &'a VariantName,
    pub(super) given: &'a GivenRule,
    pub(super) archived: bool,
    pub(super) precision: Precision,
}

/// The order of `candidates`, by their indices: lower precision first, what is archived behind all others, except where
/// one is to be given a higher one alone.
///
/// # Errors
/// One that is to be given a variant that is not there, or by way of others itself.
pub(super) fn arrange(candidates: &[Candidate]) -> Result<Vec<usize>> {
    let names: Vec<_> = candidates.iter().map(|candidate| candidate.name).collect();
    for candidate in candidates {
        check_rule(candidate.name, candidate.given, &names)?;
        let archived = candidates.iter().filter(|other| other.archived).map(|other| other.name);
        check_served(candidate, archived)?;
    }
    let mut by_precision: Vec<usize> = (0..candidates.len()).collect();
    by_precision.sort_by_key(|index| {
        let candidate = &candidates[*index];
        (candidate.archived, candidate.precision, candidate.name)
    });
    let mut order: Vec<usize> = Vec::with_capacity(candidates.len());
    while !by_precision.is_empty() {
        let is_placed = |name: &VariantName| order.iter().any(|index| candidates[*index].name == name);
        let is_ready = |index: &usize| candidates[*index].given.names().iter().all(is_placed);
        let Some(next) = by_precision.iter().position(is_ready) else {
            let circle: Vec<_> = by_precision.iter().map(|index| candidates[*index].name.as_str()).collect();
            return Err(Error::usage(format!(
                "{} cannot be stored: they depend on each other in a circle",
                circle.join(" and ")
            )));
        };
        order.push(by_precision.remove(next));
    }
    Ok(order)
}

/// Where a new variant goes among those of a store, whose order stays: before the first of a higher precision and all
/// that is archived, and after all that it is to be given; behind all others if it is archived itself.
///
/// # Errors
/// It is to be given a variant that is not there.
pub(super) fn place(manifest: &Manifest, precisions: &[Precision], new: &Candidate) -> Result<usize> {
    let names: Vec<_> = manifest.variants.iter().map(|entry| &entry.name).collect();
    check_rule(new.name, new.given, &names)?;
    let archived = manifest.variants.iter().filter(|entry| entry.archived).map(|entry| &entry.name);
    check_served(new, archived)?;
    if new.archived {
        return Ok(names.len());
    }
    let after = names.iter().rposition(|name| new.given.names().contains(name)).map_or(0, |index| index + 1);
    let mut entries = manifest.variants.iter().zip(precisions);
    let before = entries.position(|(entry, precision)| entry.archived || *precision > new.precision);
    Ok(before.unwrap_or(names.len()).max(after))
}

fn check_rule(name: &VariantName, given: &GivenRule, names: &[&VariantName]) -> Result<()> {
    let others: Vec<_> = names.iter().filter(|other| **other != name).map(|other| other.as_str()).collect();
    let Some(missing) = given.names().iter().find(|given| !others.contains(&given.as_str())) else {
        return Ok(());
    };
    let there = if others.is_empty() {
        "there is no other".to_owned()
    } else {
        format!("there is {}", others.join(", "))
    };
    Err(Error::usage(format!("{name} cannot be given {missing}, which is not there: {there}")))
}

/// Fails if a variant is to be given one that is archived.
fn check_served<'a>(
    candidate: &Candidate,
    mut archived: impl Iterator<Item = &'a VariantName>,
) -> Result<()> {
    let Some(found) = archived.find(|name| candidate.given.names().contains(name)) else { return Ok(()) };
    Err(Error::usage(format!(
        "{} cannot be given {found}: nothing is given what is archived; serve {found}, or give {0} others",
        candidate.name
    )))
}
