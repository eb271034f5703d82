//! Checking a store.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use qstore_container::{Encoding, Sha256Hex, StoredArray, VariantName};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::unpack::restore;
use super::work::decode_all;
use super::{Options, Store};
use crate::decode::ArrayReader;
use crate::error::{Error, IoContext as _, Result};
use crate::fetch::{Fetched, Needs};
use crate::file::zeroed;
use crate::progress::Progress;
use crate::storage::is_within;
use crate::variant::{Shard, Variant};

/// What [`verify`] found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Each variant that was checked.
    pub variants: Vec<VariantVerification>,
}

/// What [`verify`] found in one variant.
#[derive(Debug, Clone, Serialize)]
pub struct VariantVerification {
    /// The variant.
    pub name: String,
    /// Original files checked.
    pub files: u64,
    /// Bytes checked: of the original files, or for a quick check of what is stored.
    pub bytes: u64,
    /// What is wrong; empty if nothing is.
    pub problems: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.variants.iter().all(|variant| variant.problems.is_empty())
    }
}

/// Checks one variant or all: every checksum, and, unless `quick`, that decoding gives each original file its SHA-256. Goes on after damage, so that
/// all of it is known.
///
/// # Errors
/// An unknown variant. Damage is no error here but part of the result.
pub fn verify(
    store: &Store,
    name: Option<&VariantName>,
    quick: bool,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Verification> {
    if let Some(name) = name.filter(|name| store.manifest().variant(name).is_none()) {
        return Err(super::no_variant(store.path(), store.manifest(), name));
    }
    let mut variants = Vec::new();
    for entry in store.manifest().variants.iter().filter(|entry| name.is_none_or(|name| entry.name == *name))
    {
        let mut result =
            VariantVerification { name: entry.name.to_string(), files: 0, bytes: 0, problems: Vec::new() };
        match store.variant(&entry.name) {
            Err(error) => result.problems.push(error.to_string()),
            Ok(variant) => {
                if quick {
                    check_stored(&variant, &mut result, options, progress)?;
                } else {
                    check_files(&variant, &mut result, options, progress)?;
                }
                if entry.verbatim {
                    result.problems.extend(check_kept(&variant));
                }
            }
        }
        variants.push(result);
    }
    Ok(Verification { variants })
}

fn check_files(
    variant: &Arc<Variant>,
    result: &mut VariantVerification,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    progress.begin(&format!("verifying {}", variant.name()), variant.entry().raw_bytes)?;
    let pool = options.pool()?;
    // Decoding reads all that is stored, except where a reference leads out of the layer and the table of a kept file.
    for file in variant.files() {
        let outcome = restore(variant, file, &pool, options.window(&pool), |bytes| {
            Ok(progress.advance(bytes.len() as u64)?)
        });
        result.files += 1;
        result.bytes += file.bytes;
        match outcome {
            Ok(()) => {}
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(problem) => result.problems.push(format!("{}: {problem}", file.path)),
        }
    }
    result.problems.extend(check_headers(variant));
    Ok(())
}

/// What is wrong with the kept files of a verbatim variant. Other tools read them without us, so every byte counts, and every file.
fn check_kept(variant: &Variant) -> Vec<String> {
    let root = variant.folder().join(variant.name().as_str());
    let mut problems = Vec::new();
    for file in variant.files() {
        let path = root.join(file.path.as_str());
        if path.symlink_metadata().is_ok() && !is_within(variant.folder(), &path) {
            problems.push(format!("{}: it is no regular file inside the store", path.display()));
            continue;
        }
        match sha256_of(&path) {
            Err(error) => problems.push(format!("{}: {error}", path.display())),
            Ok(found) if found != file.sha256 => {
                problems.push(format!("{}: its SHA-256 is {found}, not {}", path.display(), file.sha256));
            }
            Ok(_) => {}
        }
    }
    let known: HashSet<PathBuf> = variant.files().iter().map(|file| root.join(file.path.as_str())).collect();
    for entry in walkdir::WalkDir::new(&root).sort_by_file_name() {
        match entry {
            Err(error) => problems.push(error.to_string()),
            Ok(entry) if entry.file_type().is_dir() || known.contains(entry.path()) => {}
            Ok(entry) => problems.push(format!("{}: it was not packed", entry.path().display())),
        }
    }
    problems
}

pub(super) fn sha256_of(path: &Path) -> io::Result<Sha256Hex> {
    let (mut file, mut hasher, mut piece) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Sha256Hex(hasher.finalize().into())),
            read => hasher.update(&piece[..read]),
        }
    }
}

fn check_stored(
    variant: &Arc<Variant>,
    result: &mut VariantVerification,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    // Slices, parts and references lie in arrays of which each is checked itself.
    let has_chunks =
        |a: &StoredArray| !matches!(a.encoding, Encoding::Reference { .. }) && a.encoding.has_chunks();
    let arrays = variant.arrays().filter(|(a, _)| has_chunks(a));
    result.files = variant.files().len() as u64;
    let (mut pieces, mut problems) = (Vec::new(), BTreeMap::new());
    for (index, (array, _)) in arrays.enumerate() {
        match ArrayReader::open(variant, &array.key) {
            Ok(reader) => {
                let reader = Arc::new(reader);
                pieces.extend(reader.stretches_of_chunks().map(|chunks| (index, reader.clone(), chunks)));
            }
            Err(problem) => drop(problems.insert(index, problem.to_string())),
        }
    }
    let stored = |(_, reader, chunks): &StoredPiece| reader.stored_bytes(chunks.clone());
    result.bytes = pieces.iter().map(stored).sum();
    progress.begin(&format!("checking {}", variant.name()), result.bytes)?;
    let needs = |(_, reader, chunks): &StoredPiece| {
        let mut needs = Needs::default();
        reader.needs_stored(chunks.clone(), &mut needs)?;
        Ok(needs)
    };
    let found = Mutex::new(problems);
    let check = |piece: StoredPiece, from: &Fetched| {
        let bytes = stored(&piece);
        let (index, reader, chunks) = piece;
        if let Err(problem) = reader.check_stored(from, chunks) {
            // The first of an array tells.
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.entry(index).or_insert_with(|| problem.to_string());
        }
        Ok(progress.advance(bytes)?)
    };
    match decode_all(variant, (&options.pool()?, options.memory), pieces, needs, check) {
        Ok(()) => {}
        Err(Error::Stopped) => return Err(Error::Stopped),
        // What cannot be read ends it.
        Err(problem) => result.problems.push(problem.to_string()),
    }
    result.problems.extend(found.into_inner().unwrap_or_else(PoisonError::into_inner).into_values());
    result.problems.extend(check_headers(variant));
    Ok(())
}

/// An array of a variant by number, and some of its chunks.
type StoredPiece = (usize, Arc<ArrayReader>, Range<usize>);

/// What is wrong with the safetensors headers of a variant's shards. We do not read them, but other tools do.
fn check_headers(variant: &Variant) -> Vec<String> {
    let check = |shard: &Shard| {
        let expected = shard.header()?;
        let mut found = zeroed(expected.len() as u64).at(&shard.path, "cannot hold its header")?;
        variant.storage().read(&shard.name, 0, &mut found)?;
        if found == expected {
            return Ok(());
        }
        Err(Error::damaged(&shard.path, "its safetensors header is damaged"))
    };
    variant.shards().iter().filter_map(|shard| check(shard).err()).map(|e| e.to_string()).collect()
}
