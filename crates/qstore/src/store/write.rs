//! Making and changing stores.

use std::path::Path;

use qstore_checkpoint::{
    Error, NewFolders, Progress, Result, Source, Staging, WriteOptions, available, check_apart, check_empty,
    check_free, check_room, size_text,
};
use qstore_container::{Manifest, VariantEntry, VariantName};

use super::Store;
use super::arrange::{Candidate, arrange, place};
use super::change::{Change, Kept, commit};
use super::spec::{GivenRule, VariantSpec};
use crate::decode::checkpoint;
use crate::formats::find_groups;
use crate::ingest::checkpoint_of;
use crate::plan::precisions;

/// Makes a store of `variants` in folder `target`, which must not exist or be empty. Nothing is there until all is.
///
/// # Errors
/// [`Error::Usage`] for a target that is taken or a name given twice, [`Error::Input`] for a folder that cannot be
/// stored exactly.
pub fn pack(
    variants: &[VariantSpec],
    target: &Path,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<()> {
    if variants.is_empty() {
        return Err(Error::usage("no variant to pack; give at least one NAME=DIR"));
    }
    for (index, variant) in variants.iter().enumerate() {
        if variants[..index].iter().any(|other| other.name == variant.name) {
            return Err(Error::usage(format!("two variants are named {}; names must differ", variant.name)));
        }
    }
    if variants.iter().all(|variant| variant.archived) {
        let names: Vec<_> = variants.iter().map(|variant| variant.name.as_str()).collect();
        return Err(Error::usage(format!(
            "all variants are archived ({}); serve one at least, which the others can be given",
            names.join(", ")
        )));
    }
    if target.join(Manifest::FILE_NAME).symlink_metadata().is_ok() {
        let text =
            format!("{}: a store is here already; use `qstore add` or another folder", target.display());
        return Err(Error::usage(text));
    }
    check_free(target)?;
    for variant in variants {
        check_apart(&variant.folder, target)?;
    }
    let sources = variants.iter().map(|variant| variant.scan(progress)).collect::<Result<Vec<_>>>()?;
    let precisions = precisions(&sources.iter().map(checkpoint_of).collect::<Result<Vec<_>>>()?);
    let candidates = variants.iter().zip(precisions).map(|(variant, precision)| Candidate {
        name: &variant.name,
        given: &variant.given,
        archived: variant.archived,
        precision,
    });
    let candidates: Vec<_> = candidates.collect();
    let order = arrange(&candidates)?;
    warn_of_higher(&candidates, progress)?;
    check_room_for(variants, &sources, target, progress)?;

    // Gone again, unless there is something in them by the end.
    let made = NewFolders::make(target)?;
    let mut staging = Staging::begin(target)?;
    check_empty(target)?;
    let mut change = Change::new(&staging, Manifest::new(Vec::new()), options)?;
    for index in order {
        let variant = &variants[index];
        change.claim(&variant.name, variant.verbatim)?;
        change.put(&variant.name, &sources[index], &variant.wish(), progress)?;
    }
    let manifest = change.finish(progress)?;
    commit(&mut staging, &Manifest::new(Vec::new()), &manifest, Kept::default())?;
    made.sync(&staging)
}

/// Tells which variants are to be given what is of higher precision.
fn warn_of_higher(candidates: &[Candidate], progress: &dyn Progress) -> Result<()> {
    for candidate in candidates {
        let is_higher = |other: &&Candidate| {
            !candidate.archived
                && candidate.given.names().contains(other.name)
                && other.precision > candidate.precision
        };
        if let Some(higher) = candidates.iter().find(is_higher) {
            progress.warn(&format!(
                "{0} is of lower precision than {1}, which it is to be given: reading {0} will read {1} as well",
                candidate.name, higher.name
            ))?;
        }
    }
    Ok(())
}

/// Fails if what is kept as it is does not fit where the store will lie, and tells if the rest hardly can.
fn check_room_for(
    variants: &[VariantSpec],
    sources: &[Source],
    target: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let (mut kept, mut coded) = (Vec::new(), 0u64);
    for (variant, source) in variants.iter().zip(sources) {
        if variant.verbatim {
            kept.extend(source.files.iter().map(|file| file.bytes));
        } else {
            coded = coded.saturating_add(source.raw_bytes());
        }
    }
    let least = kept.iter().fold(coded / 4, |sum, bytes| sum.saturating_add(*bytes));
    check_room(target, kept.into_iter())?;
    if let Some(free) = available(target).filter(|free| *free < least) {
        progress.warn(&format!(
            "{}: its file system has {} free, and the store will hardly take less than {}",
            target.display(),
            size_text(free),
            size_text(least)
        ))?;
    }
    Ok(())
}

/// Adds a variant to a store. Variants of higher precision are stored anew where the new one helps them; each is still
/// what it was.
///
/// # Errors
/// As [`pack`]; [`Error::Busy`] while another process changes the store. The store is then unchanged.
pub fn add(
    store: &Path,
    variant: &VariantSpec,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<()> {
    Store::open(store)?;
    check_apart(&variant.folder, store)?;
    let source = variant.scan(progress)?;
    let mut staging = Staging::begin(store)?;
    // Only what is read under the lock counts.
    let old = Store::open(store)?;
    let manifest = &old.manifest;
    if manifest.variant(&variant.name).is_some() {
        let text = format!(
            "{}: it has a variant {} already; remove it first or use another name",
            store.display(),
            variant.name
        );
        return Err(Error::usage(text));
    }
    let open = |entry: &VariantEntry| old.variant(&entry.name);
    let stored = manifest.variants.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut checkpoints = stored.iter().map(checkpoint).collect::<Result<Vec<_>>>()?;
    checkpoints.push(checkpoint_of(&source)?);
    let helps = checkpoints.last().is_some_and(|new| !find_groups(new).is_empty());
    let mut precisions = precisions(&checkpoints);
    let precision = precisions.pop().ok_or_else(|| Error::internal("a variant without a precision"))?;
    let new = Candidate { name: &variant.name, given: &variant.given, archived: variant.archived, precision };
    let place = place(manifest, &precisions, &new)?;
    // What is archived may be given floats as well.
    let is_stored_anew = |entry: &VariantEntry| {
        (helps || entry.archived) && !entry.verbatim && GivenRule::of(entry).allows(&variant.name)
    };

    let mut change = Change::new(&staging, manifest.clone(), options)?;
    let (lower, higher) = manifest.variants.split_at(place);
    change.claim(&variant.name, variant.verbatim)?;
    for entry in lower {
        change.keep(entry)?;
    }
    change.put(&variant.name, &source, &variant.wish(), progress)?;
    for entry in higher {
        if is_stored_anew(entry) {
            change.store_anew(entry, progress)?;
        } else {
            change.keep_or_store_anew(entry, progress)?;
        }
    }
    let new = change.finish(progress)?;
    commit(&mut staging, manifest, &new, Kept::default())
}

/// Removes a variant from a store. Variants that were stored given it are stored anew without.
///
/// # Errors
/// An unknown name, the only variant, or damage in what would have to be stored anew. The store is then unchanged.
pub fn remove(
    store: &Path,
    name: &VariantName,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<()> {
    Store::open(store)?;
    let mut staging = Staging::begin(store)?;
    let old = Store::open(store)?;
    let manifest = &old.manifest;
    let Some(gone) = manifest.variant(name) else {
        return Err(super::no_variant(store, manifest, name));
    };
    if manifest.variants.len() == 1 {
        let what = format!(
            "{name} is the only variant of {0}; to give up the store, delete qstore.json and {name}-*.safetensors in {0}",
            store.display()
        );
        return Err(Error::usage(what));
    }
    let kept = if gone.verbatim { Kept::of(&old, name, progress)? } else { Kept::default() };
    let needs_it = |entry: &&VariantEntry| entry.given.iter().any(|given| given.variant == *name);
    let mut change = Change::new(&staging, manifest.clone(), options)?;
    for entry in manifest.variants.iter().filter(|entry| *entry != gone) {
        if needs_it(&entry) {
            change.store_anew(entry, progress)?;
        } else {
            change.keep_or_store_anew(&entry.without_notes_on(name), progress)?;
        }
    }
    let new = change.finish(progress)?;
    commit(&mut staging, manifest, &new, kept)
}
