//! Checking a store.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use qstore_checkpoint::{Error, IoContext as _, Options, Progress, Result, Subject, size, zeroed};
use qstore_container::{Encoding, OriginalFile, Sha256Hex, StoredArray, VariantName};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Store;
use super::unpack::restore;
use super::work::decode_all;
use crate::decode::ArrayReader;
use crate::fetch::{Fetched, Needs, fetch};
use crate::variant::{Shard, Variant};

/// What [`verify`] found.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// Each variant that was checked.
    pub variants: Vec<VariantVerification>,
}

/// What [`verify`] found in one variant.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VariantVerification {
    /// The variant.
    pub name: String,
    /// Original files checked.
    pub files: u64,
    /// Bytes checked: of the original files, or for a quick check of what is stored.
    pub bytes: u64,
    /// What is wrong; empty if nothing is.
    pub problems: Vec<Problem>,
    /// The variants that it is given, directly or by way of others, in which something is wrong: it may not come back
    /// either, though what is stored of it is sound.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub given_damaged: Vec<String>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// What, in words.
    pub text: String,
    /// What it is about.
    #[serde(flatten)]
    pub subject: Subject,
}

impl Problem {
    /// A problem of a variant, about more if the error says so.
    fn new(variant: &VariantName, error: &Error) -> Self {
        let mut subject = error.subject().cloned().unwrap_or_default();
        subject.variant.get_or_insert_with(|| variant.to_string());
        Self { text: error.to_string(), subject }
    }

    /// A problem of an original file, or of no file that there was.
    fn of_file(variant: &VariantName, file: Option<&str>, text: String) -> Self {
        let (variant, file) = (Some(variant.to_string()), file.map(str::to_owned));
        let mut subject = Subject::default();
        (subject.variant, subject.file) = (variant, file);
        Self { text, subject }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.variants.iter().all(|variant| variant.problems.is_empty())
    }
}

/// Checks one variant or all: every checksum, and, unless `quick`, that decoding gives each original file its SHA-256.
/// Goes on after damage, so that all of it is known.
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
    let mut variants: Vec<VariantVerification> = Vec::new();
    for entry in store.manifest().variants.iter().filter(|entry| name.is_none_or(|name| entry.name == *name))
    {
        let name = entry.name.to_string();
        // A variant comes after all that it is given.
        let is_given = |checked: &&VariantVerification| {
            let among = |name: &str| entry.given.iter().any(|given| given.variant.as_str() == name);
            let by_way_of = |damaged: &String| {
                variants.iter().any(|of| among(&of.name) && of.given_damaged.contains(damaged))
            };
            !checked.problems.is_empty() && (among(&checked.name) || by_way_of(&checked.name))
        };
        let given_damaged = variants.iter().filter(is_given).map(|checked| checked.name.clone()).collect();
        let mut result =
            VariantVerification { name, files: 0, bytes: 0, problems: Vec::new(), given_damaged };
        match store.variant(&entry.name) {
            Err(error) => result.problems.push(Problem::new(&entry.name, &error)),
            Ok(variant) => {
                if quick {
                    check_stored(&variant, &mut result, options, progress)?;
                } else {
                    check_files(&variant, &mut result, options, progress)?;
                }
                if entry.verbatim {
                    result.problems.extend(check_kept(store, &variant)?);
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
    // Decoding reads all that is stored, except where a reference leads to another variant and the table of a kept
    // file.
    for file in variant.files() {
        let outcome = restore(variant, file, &pool, options.window(&pool), |bytes| {
            Ok(progress.advance(bytes.len() as u64)?)
        });
        result.files += 1;
        result.bytes += file.bytes;
        match outcome {
            Ok(()) => {}
            Err(error @ (Error::Stopped | Error::Changed(_))) => return Err(error),
            Err(error) => {
                let mut problem = Problem::new(variant.name(), &error);
                problem.text = format!("{}: {}", file.path, problem.text);
                problem.subject.file = Some(file.path.to_string());
                result.problems.push(problem);
            }
        }
    }
    result.problems.extend(check_headers(variant)?);
    Ok(())
}

/// What is wrong with the kept files of a verbatim variant. Other tools read them without us, so every byte counts, and
/// every file, where files can be listed.
fn check_kept(store: &Store, variant: &Variant) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let of_file = |file: Option<&str>, text| Problem::of_file(variant.name(), file, text);
    for file in variant.files() {
        let path = variant.folder().join(variant.name().as_str()).join(file.path.as_str());
        let text = match sha256_of_kept(variant, file) {
            Ok(found) if found == file.sha256 => continue,
            Ok(found) => format!("{}: its SHA-256 is {found}, not {}", path.display(), file.sha256),
            Err(error) => match variant.or_changed(error) {
                error @ Error::Changed(_) => return Err(error),
                error => error.to_string(),
            },
        };
        problems.push(of_file(Some(file.path.as_str()), text));
    }
    if store.is_folder {
        let root = variant.folder().join(variant.name().as_str());
        let known: HashSet<PathBuf> =
            variant.files().iter().map(|file| root.join(file.path.as_str())).collect();
        for entry in walkdir::WalkDir::new(&root).sort_by_file_name() {
            match entry {
                Err(error) => problems.push(of_file(None, error.to_string())),
                Ok(entry) if entry.file_type().is_dir() || known.contains(entry.path()) => {}
                Ok(entry) => {
                    let name = entry.path().strip_prefix(&root).unwrap_or(entry.path()).to_string_lossy();
                    problems
                        .push(of_file(Some(&name), format!("{}: it was not packed", entry.path().display())));
                }
            }
        }
    }
    Ok(problems)
}

/// The SHA-256 of a kept file as it is.
fn sha256_of_kept(variant: &Variant, file: &OriginalFile) -> Result<Sha256Hex> {
    let name = format!("{}/{}", variant.name(), file.path);
    let (storage, mut hasher, mut piece) = (variant.storage(), Sha256::new(), vec![0; 1 << 20]);
    if let Some(bytes) = storage.size(&name)?.filter(|bytes| *bytes != file.bytes) {
        let what = format!("it has {bytes} bytes, not {}: its SHA-256 is another", file.bytes);
        return Err(Error::damaged(storage.location().join(name), what));
    }
    if file.bytes == 0 {
        storage.read_all(&name, 0)?;
    }
    let mut at = 0;
    while at < file.bytes {
        let part = size(file.bytes - at).min(piece.len());
        storage.read(&name, at, &mut piece[..part])?;
        hasher.update(&piece[..part]);
        at += part as u64;
    }
    Ok(Sha256Hex(hasher.finalize().into()))
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
                pieces.extend(reader.stretches_of_chunks().map(|chunks| (index, reader.clone(), chunks)));
            }
            Err(problem) => drop(problems.insert(index, Problem::new(variant.name(), &problem))),
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
    let note = |index: usize, problem: &Error| {
        // The first of an array tells.
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.entry(index).or_insert_with(|| Problem::new(variant.name(), problem));
    };
    let (all, done) = (pieces.clone(), Mutex::new(HashSet::new()));
    let check = |piece: StoredPiece, from: &Fetched| {
        let (index, reader, chunks) = &piece;
        match reader.check_stored(from, chunks.clone()).map_err(|error| variant.or_changed(error)) {
            Ok(()) => {}
            Err(error @ Error::Changed(_)) => return Err(error),
            Err(problem) => note(*index, &problem),
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).insert((*index, chunks.start));
        Ok(progress.advance(stored(&piece))?)
    };
    match decode_all(variant, (&options.pool()?, options.memory), pieces, needs, check) {
        Ok(()) => {}
        Err(error @ (Error::Stopped | Error::Changed(_))) => return Err(error),
        // Something cannot be read: the rest is looked at a piece at a time.
        Err(_) => {
            let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
            for piece in all.into_iter().filter(|(index, _, chunks)| !done.contains(&(*index, chunks.start)))
            {
                let from = fetch(variant.storage(), needs(&piece)?);
                let checked = from.and_then(|from| piece.1.check_stored(&from, piece.2.clone()));
                match checked.map_err(|error| variant.or_changed(error)) {
                    Ok(()) => {}
                    Err(error @ Error::Changed(_)) => return Err(error),
                    Err(problem) => note(piece.0, &problem),
                }
                progress.advance(stored(&piece))?;
            }
        }
    }
    result.problems.extend(found.into_inner().unwrap_or_else(PoisonError::into_inner).into_values());
    result.problems.extend(check_headers(variant)?);
    Ok(())
}

/// An array of a variant by number, and some of its chunks.
type StoredPiece = (usize, Arc<ArrayReader>, Range<usize>);

/// What is wrong with the safetensors headers of a variant's shards. We do not read them, but other tools do.
fn check_headers(variant: &Variant) -> Result<Vec<Problem>> {
    let check = |shard: &Shard| {
        let expected = shard.header()?;
        let mut found = zeroed(expected.len() as u64).at(&shard.path, "cannot hold its header")?;
        variant.storage().read(&shard.name, 0, &mut found).map_err(|error| variant.or_changed(error))?;
        if found == expected {
            return Ok(());
        }
        Err(Error::damaged(&shard.path, "its safetensors header is damaged"))
    };
    let mut problems = Vec::new();
    for shard in variant.shards() {
        match check(shard) {
            Ok(()) => {}
            Err(error @ Error::Changed(_)) => return Err(error),
            Err(problem) => problems.push(Problem::new(variant.name(), &problem)),
        }
    }
    Ok(problems)
}
