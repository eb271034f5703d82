//! The next state of a store, made in its staging folder.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qstore_checkpoint::{
    Error, IoContext as _, Move, Progress, Result, Source, Staging, Syncs, WriteOptions,
};
use qstore_container::{Given, Manifest, RelativePath, VariantEntry, VariantName};

use super::Store;
use super::spec::GivenRule;
use super::unshared::UnsharedInspection;
use super::verify::sha256_of;
use crate::encode::{Target, write_variant};
use crate::ingest::source_of;
use crate::plan::USUAL_LEVELS;
use crate::storage::{Counted, Folder, Overlay, Storage};
use crate::variant::Variant;

/// How a variant is to be stored.
pub(super) struct Wish<'a> {
    pub(super) verbatim: bool,
    pub(super) given: &'a GivenRule,
    pub(super) archived: bool,
    pub(super) levels: Option<u8>,
}

/// The next state of a store, built from its lowest variant up.
pub(super) struct Change<'a> {
    staging: &'a Staging,
    options: &'a WriteOptions,
    pool: rayon::ThreadPool,
    syncs: Syncs,
    old: Manifest,
    entries: Vec<VariantEntry>,
    open: Vec<Arc<Variant>>,
    /// The files of the store as it is and as it will be.
    storage: Arc<dyn Storage>,
    store: PathBuf,
}

impl<'a> Change<'a> {
    pub(super) fn new(staging: &'a Staging, old: Manifest, options: &'a WriteOptions) -> Result<Self> {
        let store = staging.home().to_owned();
        Ok(Self {
            staging,
            options,
            pool: options.machine().pool()?,
            syncs: Syncs::new()?,
            old,
            entries: Vec::new(),
            open: Vec::new(),
            storage: Arc::new(Overlay { new: Folder::new(&staging.new_files()), old: Folder::new(&store) }),
            store,
        })
    }

    /// The manifest of the new store, all of whose files are on the disk.
    pub(super) fn finish(mut self, progress: &dyn Progress) -> Result<Manifest> {
        self.syncs.wait(progress)?;
        Ok(Manifest::new(self.entries))
    }

    /// Takes the names that storing a new variant will need, before anything is written.
    ///
    /// # Errors
    /// Something that is not the store's has one of them.
    pub(super) fn claim(&self, name: &VariantName, verbatim: bool) -> Result<()> {
        if verbatim {
            self.staging.check_free(name.as_str())?;
            self.staging.make_folder(name.as_str())?;
        }
        let named: HashSet<&str> =
            self.old.variants.iter().flat_map(|v| &v.shards).map(|file| file.name.as_str()).collect();
        for entry in fs::read_dir(&self.store).at(&self.store, "cannot read")? {
            let found = entry.at(&self.store, "cannot read")?.file_name();
            // Its id is not known before it is there.
            let could_be =
                |found: &&str| variant_of_shard(found) == Some(name.as_str()) && !named.contains(found);
            if let Some(found) = found.to_str().filter(could_be) {
                self.staging.check_free(found)?;
            }
        }
        Ok(())
    }

    /// Stores `source` on top of what is there so far.
    pub(super) fn put(
        &mut self,
        name: &VariantName,
        source: &Source,
        wish: &Wish,
        progress: &dyn Progress,
    ) -> Result<()> {
        let allowed = |variant: &&Arc<Variant>| {
            // Whoever is given what is archived would have to be read for itself.
            wish.given.allows(variant.name()) && !variant.entry().archived
        };
        let lower: Vec<_> = self.open.iter().filter(allowed).cloned().collect();
        let target = Target {
            folder: &self.staging.new_files(),
            syncs: &self.syncs,
            lower: &lower,
            below: &self.open,
            levels: wish.levels.unwrap_or(USUAL_LEVELS).into(),
            verbatim: wish.verbatim,
            archived: wish.archived,
            shard_size: self.options.shard_size,
            pool: &self.pool,
            window: self.options.machine().window(&self.pool),
        };
        let entry = write_variant(source, name, &target, progress)?;
        let given_only = match wish.given {
            GivenRule::Any => None,
            GivenRule::Only(names) => Some(names.clone()),
        };
        for note in &entry.unshared {
            progress.remark(&format!("{name}: {}", UnsharedInspection::new(note).text))?;
        }
        let Wish { archived, levels, .. } = *wish;
        let entry = VariantEntry { given_only, archived, levels, ..entry };
        self.adopt(entry)
    }

    /// Takes a variant over as it is stored.
    pub(super) fn keep(&mut self, entry: &VariantEntry) -> Result<()> {
        self.adopt(entry.clone())
    }

    /// Takes a variant over as it is stored, unless that does not fit any more what it is given and was stored anew:
    /// what it refers to may be a reference by now.
    pub(super) fn keep_or_store_anew(&mut self, entry: &VariantEntry, progress: &dyn Progress) -> Result<()> {
        let is_new = |given: &Given| !self.is_as_it_was(&given.variant);
        let needs_new = entry.given.iter().any(is_new);
        // What it shared by way of another that is gone may be out of reach of what it may be given alone.
        let all = self.entries.iter().chain([entry]).cloned().collect();
        if Manifest::new(all).check().is_err() {
            return self.store_anew(entry, progress);
        }
        match self.keep(entry) {
            Err(Error::Damaged { .. }) if needs_new => self.store_anew(entry, progress),
            result => result,
        }
    }

    /// Whether a variant is stored as it was in the old store.
    fn is_as_it_was(&self, name: &VariantName) -> bool {
        let of =
            |entries: &[VariantEntry]| entries.iter().find(|e| e.name == *name).map(|e| e.shards.clone());
        of(&self.entries) == of(&self.old.variants)
    }

    fn adopt(&mut self, entry: VariantEntry) -> Result<()> {
        let is_given = |variant: &&Arc<Variant>| entry.given.iter().any(|g| g.variant == *variant.name());
        let given = self.open.iter().filter(is_given).cloned().collect();
        let storage = Arc::new(Counted::new(self.storage.clone()));
        let variant = Variant::open(&storage, &entry, given)?;
        self.open.push(Arc::new(variant));
        self.entries.push(entry);
        Ok(())
    }

    /// Stores a variant of the old store again, given what is there so far.
    pub(super) fn store_anew(&mut self, entry: &VariantEntry, progress: &dyn Progress) -> Result<()> {
        let storage: Arc<dyn Storage> = Arc::new(Folder::new(&self.store));
        let old = super::open_variant(&storage, &self.old, &entry.name)?;
        let VariantEntry { archived, levels, .. } = *entry;
        let wish = Wish { verbatim: false, given: &GivenRule::of(entry), archived, levels };
        self.put(&entry.name, &source_of(&old)?, &wish, progress)?;
        let same = self.entries.last().is_some_and(|new| new.content == entry.content);
        if same {
            return Ok(());
        }
        let what = format!("variant {} does not decode to what was stored; run `qstore verify`", entry.name);
        Err(Error::damaged(&self.store, what))
    }
}

/// The kept files of a variant that goes, and the folders that they lie in. Whatever else a user has put there is none
/// of them.
#[derive(Default)]
pub(super) struct Kept {
    files: Vec<RelativePath>,
    folders: Vec<RelativePath>,
}

impl Kept {
    pub(super) fn of(store: &Store, name: &VariantName, progress: &dyn Progress) -> Result<Self> {
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
        let bad = |e| Error::damaged(&store.path, e);
        let mut files = Vec::new();
        progress.begin(&format!("checking {name}"), variant.entry().raw_bytes)?;
        for file in variant.files() {
            let path = within(file.path.as_str()).map_err(bad)?;
            let full = store.path.join(path.as_str());
            // What a user has changed or put in its place is not what was packed.
            match sha256_of(&full) {
                Ok(found) if found == file.sha256 => files.push(path),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                _ => progress
                    .warn(&format!("{}: it is not what was packed, and stays where it is", full.display()))?,
            }
            progress.advance(file.bytes)?;
        }
        let empty = variant.empty_folders().iter().map(|folder| within(folder.as_str()));
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
pub(super) fn commit(staging: &mut Staging, old: &Manifest, new: &Manifest, kept: Kept) -> Result<()> {
    let text = new.write().map_err(|e| Error::damaged(staging.home(), e))?;
    // First, while nothing has happened yet: from here on hardly any room is needed on the disk.
    staging.write(Manifest::FILE_NAME, &text)?;
    let shards = |manifest: &Manifest| -> HashSet<RelativePath> {
        manifest.variants.iter().flat_map(|v| &v.shards).map(|f| f.name.clone()).collect()
    };
    let (own, staying) = (shards(old), shards(new));
    let mut leaving: Vec<_> = own.difference(&staying).cloned().collect();
    leaving.sort();
    leaving.extend(kept.files);
    let replaces = !old.variants.is_empty();
    staging.publish(Move {
        decisive: Some(Manifest::FILE_NAME),
        replaces,
        own,
        leaving,
        left_folders: kept.folders,
    })
}

/// The variant that a shard of this name belongs to: `VARIANT-ID.safetensors`, the id being 12 hexadecimal digits.
fn variant_of_shard(name: &str) -> Option<&str> {
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
        let options = WriteOptions::default();
        let change = Change::new(&staging, Manifest::new(Vec::new()), &options).unwrap();
        change.syncs.begin("shard".into(), qstore_checkpoint::unsyncable().unwrap()).unwrap();
        assert!(change.finish(&crate::Silent).unwrap_err().to_string().contains("shard"));
    }
}
