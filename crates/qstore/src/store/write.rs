//! Making and changing stores.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use qstore_container::{Given, Manifest, RelativePath, VariantEntry, VariantName};

use super::arrange::{Candidate, arrange, place};
use super::{Options, Store};
use crate::decode::Variant;
use crate::disk::{
    Move, NewFolders, Staging, Syncs, available, check_empty, check_free, check_room, create_new, size,
};
use crate::encode::{Target, write_layer};
use crate::error::{Error, IoContext as _, Result};
use crate::ingest::{Exclude, Scan, Source, scan_folder};
use crate::plan::precisions;
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
    /// Patterns of files that are left out: of a name anywhere (`.git`, `*.bin`), or with a slash of a path (`original/*`).
    pub exclude: Vec<String>,
    /// Refuse a folder that is not whole: shards missing, files that are still being fetched, pointers in place of files. Else that is told.
    pub strict: bool,
}

impl VariantSpec {
    /// All of a folder, given whichever of the variants below saves most.
    #[must_use]
    pub fn new(name: VariantName, folder: impl Into<PathBuf>) -> Self {
        let (folder, given, exclude) = (folder.into(), GivenRule::Any, Vec::new());
        Self { name, folder, verbatim: false, given, exclude, strict: false }
    }

    fn scan(&self, progress: &dyn Progress) -> Result<Source> {
        let scan = Scan { exclude: Exclude::new(&self.exclude)?, strict: self.strict };
        scan_folder(&self.folder, &scan, progress)
    }
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

    /// The variants that must be there.
    pub(super) fn names(&self) -> &[VariantName] {
        match self {
            Self::Any => &[],
            Self::Only(names) => names,
        }
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
    if target.join(Manifest::FILE_NAME).symlink_metadata().is_ok() {
        let text =
            format!("{}: a store is here already; use `qstore add` or another folder", target.display());
        return Err(Error::usage(text));
    }
    check_free(target)?;
    let sources = variants.iter().map(|variant| variant.scan(progress)).collect::<Result<Vec<_>>>()?;
    let precisions = precisions(&sources.iter().map(Source::array_infos).collect::<Vec<_>>());
    let candidates = variants.iter().zip(precisions).map(|(variant, precision)| Candidate {
        name: &variant.name,
        given: &variant.given,
        precision,
    });
    let order = arrange(&candidates.collect::<Vec<_>>())?;
    check_room_for(variants, &sources, target, progress)?;

    // Gone again, unless there is something in them by the end.
    let made = NewFolders::make(target)?;
    let mut staging = Staging::begin(target)?;
    check_empty(target)?;
    let mut change = Change::new(&staging, Manifest::new(Vec::new()), options)?;
    for index in order {
        let variant = &variants[index];
        change.claim(&variant.name, variant.verbatim)?;
        let manner = Manner { verbatim: variant.verbatim, given: &variant.given };
        change.put(&variant.name, &sources[index], &manner, progress)?;
    }
    let manifest = change.finish(progress)?;
    commit(&mut staging, &Manifest::new(Vec::new()), &manifest, Kept::default())?;
    made.sync(&staging)
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
            size(free),
            size(least)
        ))?;
    }
    Ok(())
}

/// Adds a variant to a store. Variants of higher precision are stored anew where the new one helps them; each is still what it was.
///
/// # Errors
/// As [`pack`]; [`Error::Busy`] while another process changes the store. The store is then unchanged.
pub fn add(store: &Path, variant: &VariantSpec, options: &Options, progress: &dyn Progress) -> Result<()> {
    Store::open(store)?;
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
    let mut infos: Vec<_> = stored.iter().map(|variant| variant.array_infos()).collect();
    infos.push(source.array_infos());
    let helps = infos.last().is_some_and(|infos| !find_groups(infos).is_empty());
    let mut precisions = precisions(&infos);
    let Some(precision) = precisions.pop() else { return Ok(()) };
    let new = Candidate { name: &variant.name, given: &variant.given, precision };
    let place = place(manifest, &precisions, &new)?;
    let is_stored_anew =
        |entry: &VariantEntry| helps && !entry.verbatim && GivenRule::of(entry).allows(&variant.name);

    let mut change = Change::new(&staging, manifest.clone(), options)?;
    let (lower, higher) = manifest.variants.split_at(place);
    change.claim(&variant.name, variant.verbatim)?;
    for entry in lower {
        change.keep(entry)?;
    }
    let manner = Manner { verbatim: variant.verbatim, given: &variant.given };
    change.put(&variant.name, &source, &manner, progress)?;
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
pub fn remove(store: &Path, name: &VariantName, options: &Options, progress: &dyn Progress) -> Result<()> {
    Store::open(store)?;
    let mut staging = Staging::begin(store)?;
    let old = Store::open(store)?;
    let manifest = &old.manifest;
    let Some(gone) = manifest.variant(name) else {
        return Err(super::no_variant(store, manifest, name));
    };
    if manifest.variants.len() == 1 {
        return Err(Error::usage(format!("{name} is the only variant; delete {} instead", store.display())));
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

/// The kept files of a variant that goes, and the folders that they lie in. Whatever else a user has put there is none of them.
#[derive(Default)]
struct Kept {
    files: Vec<RelativePath>,
    folders: Vec<RelativePath>,
}

impl Kept {
    fn of(store: &Store, name: &VariantName, progress: &dyn Progress) -> Result<Self> {
        let variant = match store.variant(name) {
            Ok(variant) => variant,
            Err(error) => {
                progress.warn(&format!(
                    "{}: its files stay where they are, as it cannot be told which they are: {error}",
                    store.path.join(name.as_str()).display()
                ))?;
                return Ok(Self::default());
            }
        };
        let within = |path: &str| format!("{name}/{path}").parse::<RelativePath>();
        let files = variant.files().iter().map(|file| within(file.path.as_str()));
        let empty = variant.empty_folders().iter().map(|folder| within(folder.as_str()));
        let bad = |e| Error::damaged(&store.path, e);
        let files = files.collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let empty = empty.collect::<Result<Vec<_>, _>>().map_err(bad)?;
        // With all that these lie in, outer ones first, which is the order of their texts.
        let mut folders: BTreeSet<String> = empty.iter().map(ToString::to_string).collect();
        for path in files.iter().chain(&empty) {
            let parents = Path::new(path.as_str()).ancestors().skip(1).filter_map(Path::to_str);
            folders.extend(parents.filter(|parent| !parent.is_empty()).map(str::to_owned));
        }
        let folders = folders.iter().map(|folder| folder.parse()).collect::<Result<_, _>>().map_err(bad)?;
        Ok(Self { files, folders })
    }
}

/// Makes `new` the manifest of the store, whose files have been made, in the place of `old`.
fn commit(staging: &mut Staging, old: &Manifest, new: &Manifest, kept: Kept) -> Result<()> {
    let path = staging.new_files().join(Manifest::FILE_NAME);
    let text = new.write().map_err(|e| Error::damaged(&path, e))?;
    let write = || {
        let mut file = create_new(&path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    // First, while nothing has happened yet: from here on hardly any room is needed on the disk.
    write().at(&path, "cannot write")?;
    let layers = |manifest: &Manifest| -> HashSet<RelativePath> {
        manifest.variants.iter().flat_map(|v| &v.layer).map(|f| f.name.clone()).collect()
    };
    let (own, staying) = (layers(old), layers(new));
    let mut leaving: Vec<_> = own.difference(&staying).cloned().collect();
    leaving.sort();
    leaving.extend(kept.files);
    staging.publish(Move { decisive: Some(Manifest::FILE_NAME), own, leaving, left_folders: kept.folders })
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
        let store = staging.home().to_owned();
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
    fn finish(mut self, progress: &dyn Progress) -> Result<Manifest> {
        self.syncs.wait(progress)?;
        Ok(Manifest::new(self.entries))
    }

    /// Takes the names that storing a new variant will need, before anything is written.
    ///
    /// # Errors
    /// Something that is not the store's has one of them.
    fn claim(&self, name: &VariantName, verbatim: bool) -> Result<()> {
        if verbatim {
            self.staging.check_free(name.as_str())?;
            self.staging.make_folder(name.as_str())?;
        }
        let named: HashSet<&str> =
            self.old.variants.iter().flat_map(|v| &v.layer).map(|file| file.name.as_str()).collect();
        for entry in fs::read_dir(&self.store).at(&self.store, "cannot read")? {
            let found = entry.at(&self.store, "cannot read")?.file_name();
            // Its id is not known before it is there.
            let could_be =
                |found: &&str| variant_of_layer(found) == Some(name.as_str()) && !named.contains(found);
            if let Some(found) = found.to_str().filter(could_be) {
                self.staging.check_free(found)?;
            }
        }
        Ok(())
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
            folder: &self.staging.new_files(),
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
        self.adopt(self.staging.new_files(), entry)
    }

    /// Takes a variant over as it is stored.
    fn keep(&mut self, entry: &VariantEntry) -> Result<()> {
        self.adopt(self.store.clone(), entry.clone())
    }

    /// Takes a variant over as it is stored, unless that does not fit any more what it is given and was stored anew: what it refers to may be a
    /// reference by now.
    fn keep_or_store_anew(&mut self, entry: &VariantEntry, progress: &dyn Progress) -> Result<()> {
        let is_new = |given: &Given| !self.is_as_it_was(&given.variant);
        let needs_new = entry.given.iter().any(is_new);
        match self.keep(entry) {
            Err(Error::Damaged { .. }) if needs_new => self.store_anew(entry, progress),
            result => result,
        }
    }

    /// Whether a variant is stored as it was in the old store.
    fn is_as_it_was(&self, name: &VariantName) -> bool {
        let of = |entries: &[VariantEntry]| entries.iter().find(|e| e.name == *name).map(|e| e.layer.clone());
        of(&self.entries) == of(&self.old.variants)
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
}

/// The variant that a layer file of this name belongs to: `VARIANT-ID.safetensors`, the id being 12 hexadecimal digits.
fn variant_of_layer(name: &str) -> Option<&str> {
    let (variant, id) = name.strip_suffix(".safetensors")?.rsplit_once('-')?;
    let digits = id.len() == 12 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digits.then_some(variant)
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
        change.syncs.begin("layer".into(), crate::disk::unsyncable()).unwrap();
        assert!(change.finish(&crate::Silent).unwrap_err().to_string().contains("layer"));
    }
}
