//! Making and changing stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use qstore_container::{Manifest, VariantEntry, VariantName};

use super::staging::{self, Staging};
use super::{Options, Store};
use crate::decode::Variant;
use crate::durable::Syncs;
use crate::encode::{Target, write_layer};
use crate::error::{Error, Result};
use crate::ingest::{Source, scan_folder};
use crate::new_folder::NewFolders;
use crate::progress::Progress;
use crate::scheme::find_groups;

/// A variant that is to be stored.
#[derive(Debug, Clone)]
pub struct VariantSpec {
    /// Its name in the store.
    pub name: VariantName,
    /// The folder that holds it.
    pub folder: PathBuf,
    /// Keep its files as they are, so that any tool loads them from the store.
    pub verbatim: bool,
    /// Which of the variants below it may be stored given.
    pub given: GivenRule,
}

/// Which variants another may be stored given, or share tensors with: reading it reads those as well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GivenRule {
    /// Whichever of those below saves most, tensor by tensor.
    #[default]
    Any,
    /// These alone; none makes it independent of all others.
    Only(Vec<VariantName>),
}

impl GivenRule {
    fn of(entry: &VariantEntry) -> Self {
        entry.given_only.clone().map_or(Self::Any, Self::Only)
    }

    fn allows(&self, name: &VariantName) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// How a variant is to be stored.
struct Manner<'a> {
    verbatim: bool,
    given: &'a GivenRule,
}

/// Makes a store of `variants` in folder `target`, which must not exist or be empty. Nothing is there until all is.
///
/// # Errors
/// [`Error::Usage`] for a target that is taken or a name given twice, [`Error::Input`] for a folder that cannot be stored exactly.
pub fn pack(
    variants: &[VariantSpec],
    target: &Path,
    options: &Options,
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
    check_target(target)?;
    let mut sources = variants
        .iter()
        .map(|variant| Ok((variant, scan_folder(&variant.folder)?)))
        .collect::<Result<Vec<_>>>()?;
    sources.sort_by_key(|(_, source)| source.tensor_bytes());

    // Gone again, unless there is something in them by the end.
    let made = NewFolders::make(target)?;
    let staging = Staging::begin(target)?;
    check_target(target)?;
    let mut change = Change::new(&staging, Manifest::new(Vec::new()), options)?;
    for (variant, source) in &sources {
        change.check_rule(variant)?;
        let manner = Manner { verbatim: variant.verbatim, given: &variant.given };
        change.put(&variant.name, source, &manner, progress)?;
    }
    staging.commit(&change.manifest()?)?;
    made.sync()
}

fn check_target(target: &Path) -> Result<()> {
    if target.join(Manifest::FILE_NAME).exists() {
        let text =
            format!("{}: a store is here already; use `qstore add` or another folder", target.display());
        return Err(Error::usage(text));
    }
    if target.exists() && !(target.is_dir() && staging::is_free(target)?) {
        return Err(Error::usage(format!(
            "{}: it exists and is not empty; give a new folder",
            target.display()
        )));
    }
    Ok(())
}

/// Adds a variant to a store. Variants of higher precision are stored anew where the new one helps them; each is still what it was.
///
/// # Errors
/// As [`pack`]; [`Error::Busy`] while another process changes the store. The store is then unchanged.
pub fn add(store: &Path, variant: &VariantSpec, options: &Options, progress: &dyn Progress) -> Result<()> {
    Store::open(store)?;
    let source = scan_folder(&variant.folder)?;
    let staging = Staging::begin(store)?;
    // Only what is read under the lock counts.
    let manifest = Store::open(store)?.manifest;
    if manifest.variant(&variant.name).is_some() {
        let text = format!(
            "{}: it has a variant {} already; remove it first or use another name",
            store.display(),
            variant.name
        );
        return Err(Error::usage(text));
    }
    let below = source.tensor_bytes();
    let (lower, higher): (Vec<_>, Vec<_>) =
        manifest.variants.iter().partition(|entry| entry.tensor_bytes <= below);
    let mut change = Change::new(&staging, manifest.clone(), options)?;
    for entry in lower {
        change.keep(entry)?;
    }
    change.check_rule(variant)?;
    let manner = Manner { verbatim: variant.verbatim, given: &variant.given };
    change.put(&variant.name, &source, &manner, progress)?;
    let helps = change.last_is_quantised();
    for entry in higher {
        if helps && !entry.verbatim && GivenRule::of(entry).allows(&variant.name) {
            change.store_anew(entry, progress)?;
        } else {
            change.keep(entry)?;
        }
    }
    staging.commit(&change.manifest()?)
}

/// Removes a variant from a store. Variants that were stored given it are stored anew without.
///
/// # Errors
/// An unknown name, the only variant, or damage in what would have to be stored anew. The store is then unchanged.
pub fn remove(store: &Path, name: &VariantName, options: &Options, progress: &dyn Progress) -> Result<()> {
    Store::open(store)?;
    let staging = Staging::begin(store)?;
    let manifest = Store::open(store)?.manifest;
    let Some(gone) = manifest.variant(name) else {
        return Err(super::no_variant(store, &manifest, name));
    };
    if manifest.variants.len() == 1 {
        return Err(Error::usage(format!("{name} is the only variant; delete {} instead", store.display())));
    }
    let mut change = Change::new(&staging, manifest.clone(), options)?;
    for entry in manifest.variants.iter().filter(|entry| *entry != gone) {
        if entry.given.iter().any(|given| given.variant == *name) {
            change.store_anew(entry, progress)?;
        } else {
            change.keep(entry)?;
        }
    }
    staging.commit(&change.manifest()?)
}

/// The next state of a store, built from its lowest variant up.
struct Change<'a> {
    staging: &'a Staging,
    options: &'a Options,
    pool: rayon::ThreadPool,
    syncs: Syncs,
    old: Manifest,
    entries: Vec<VariantEntry>,
    open: Vec<Arc<Variant>>,
    store: PathBuf,
}

impl<'a> Change<'a> {
    fn new(staging: &'a Staging, old: Manifest, options: &'a Options) -> Result<Self> {
        let store = staging.store().to_owned();
        Ok(Self {
            staging,
            options,
            pool: options.pool()?,
            syncs: Syncs::new()?,
            old,
            entries: Vec::new(),
            open: Vec::new(),
            store,
        })
    }

    /// The manifest of the new store, all of whose files are on the disk.
    fn manifest(mut self) -> Result<Manifest> {
        self.syncs.wait()?;
        Ok(Manifest::new(self.entries))
    }

    /// Stores `source` on top of what is there so far.
    fn put(
        &mut self,
        name: &VariantName,
        source: &Source,
        manner: &Manner,
        progress: &dyn Progress,
    ) -> Result<()> {
        let allowed = |variant: &&Arc<Variant>| manner.given.allows(variant.name());
        let lower: Vec<_> = self.open.iter().filter(allowed).cloned().collect();
        let target = Target {
            folder: self.staging.folder(),
            syncs: &self.syncs,
            lower: &lower,
            below: &self.open,
            verbatim: manner.verbatim,
            shard_size: self.options.shard_size,
            pool: &self.pool,
            window: self.options.window(&self.pool),
        };
        let entry = write_layer(source, name, &target, progress)?;
        let given_only = match manner.given {
            GivenRule::Any => None,
            GivenRule::Only(names) => Some(names.clone()),
        };
        let entry = VariantEntry { given_only, ..entry };
        self.adopt(self.staging.folder().to_owned(), entry)
    }

    /// Whether what a variant is to be given alone is below it.
    fn check_rule(&self, spec: &VariantSpec) -> Result<()> {
        let GivenRule::Only(names) = &spec.given else { return Ok(()) };
        let lower = || self.open.iter().map(|variant| variant.name());
        let Some(missing) = names.iter().find(|name| !lower().any(|lower| lower == *name)) else {
            return Ok(());
        };
        let below = lower().map(VariantName::as_str).collect::<Vec<_>>().join(", ");
        let below = if below.is_empty() { "nothing".to_owned() } else { below };
        Err(Error::usage(format!(
            "{0} cannot be given {missing}: variants are given ones of fewer bytes, and below {0} there is {below}",
            spec.name
        )))
    }

    /// Takes a variant over as it is stored.
    fn keep(&mut self, entry: &VariantEntry) -> Result<()> {
        self.adopt(self.store.clone(), entry.clone())
    }

    fn adopt(&mut self, folder: PathBuf, entry: VariantEntry) -> Result<()> {
        let is_given = |variant: &&Arc<Variant>| entry.given.iter().any(|g| g.variant == *variant.name());
        let given = self.open.iter().filter(is_given).cloned().collect();
        let variant = Variant::open(&folder, &entry, given, &Arc::new(AtomicU64::new(0)))?;
        self.open.push(Arc::new(variant));
        self.entries.push(entry);
        Ok(())
    }

    /// Stores a variant of the old store again, given what is there so far.
    fn store_anew(&mut self, entry: &VariantEntry, progress: &dyn Progress) -> Result<()> {
        let old = super::open_variant(&self.store, &self.old, &entry.name, None)?;
        let manner = Manner { verbatim: false, given: &GivenRule::of(entry) };
        self.put(&entry.name, &Source::of_variant(&old)?, &manner, progress)?;
        let same = self.entries.last().is_some_and(|new| new.content == entry.content);
        if same {
            return Ok(());
        }
        let what = format!("variant {} does not decode to what was stored; run `qstore verify`", entry.name);
        Err(Error::damaged(&self.store, what))
    }

    fn last_is_quantised(&self) -> bool {
        self.open.last().is_some_and(|variant| !find_groups(&variant.array_infos()).is_empty())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_not_committed_before_its_files_are_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::begin(dir.path()).unwrap();
        let options = Options::default();
        let change = Change::new(&staging, Manifest::new(Vec::new()), &options).unwrap();
        change.syncs.begin("layer".into(), crate::durable::tests::unsyncable()).unwrap();
        assert!(change.manifest().unwrap_err().to_string().contains("layer"));
    }
}
