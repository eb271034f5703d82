//! What must hold for any store, whatever was done to it.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qstore::{Error, Silent, Store, VariantName, inspect, load, unpack, verify};

use crate::HEAP;
use crate::common::{self, Tensors, options};

/// What a reader may allocate beside [`PROPORTION`] times the store: a few chunks of the largest size that it accepts.
pub const ALLOWANCE: u64 = 64 << 20;
/// Bytes allocated for each byte in the store.
pub const PROPORTION: u64 = 8;
/// Far more than any case takes: what takes longer waits for something.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folders that were packed.
#[derive(Debug, Default)]
pub struct Originals {
    pub folders: BTreeMap<String, BTreeMap<String, Option<Vec<u8>>>>,
    /// Under the names that the store gives them.
    pub tensors: BTreeMap<String, Tensors>,
}

/// What became of one variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// The variant cannot be opened.
    pub refused: bool,
    /// A quick check finds something.
    pub quick: bool,
    /// A full check finds something.
    pub full: bool,
    /// Loading fails.
    pub load: bool,
    /// Unpacking fails; else it gave exactly the original files.
    pub unpack: bool,
}

impl Fate {
    /// As if nothing had happened.
    pub fn is_sound(&self) -> bool {
        *self == Self::default()
    }
}

/// What became of a store.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Why the store cannot be opened.
    pub error: Option<String>,
    pub fates: BTreeMap<String, Fate>,
}

impl Verdict {
    /// Whether damage was noticed, by a full check at the latest.
    pub fn is_noticed(&self) -> bool {
        self.error.is_some() || self.fates.values().any(|fate| fate.full)
    }
}

/// May wrong tensors be loaded, as long as a full check notices? With all checksums forged there is nothing left that
/// loading could notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// No: the damage is an accident.
    Checksums,
    /// Yes.
    Nothing,
    /// Yes, and other files may come out: who writes the list of files decides which ones a variant has.
    Author,
}

/// One case at a time: they share the count of allocated bytes.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs all that a reader can do on the store at `store`; `room` is an empty folder.
///
/// # Errors
/// What must not happen.
pub fn judge(store: &Path, originals: &Arc<Originals>, trust: Trust, room: &Path) -> Result<Verdict, String> {
    let size: u64 = walkdir::WalkDir::new(store)
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|data| data.len())
        .sum();
    let (store, room, originals) = (store.to_owned(), room.to_owned(), originals.clone());
    bounded(ALLOWANCE + PROPORTION * size, move || examine(&store, &originals, trust, &room))?
}

/// Runs `work` and fails if it panics, takes too long, or allocates more than `most` bytes.
pub fn bounded<T: Send + 'static>(most: u64, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage() as u64;
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        drop(sender.send(result));
    });
    let result = match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
            return Err(format!("panicked: {}", text.unwrap_or_default()));
        }
        Err(RecvTimeoutError::Timeout) => return Err("does not end".to_owned()),
        Err(RecvTimeoutError::Disconnected) => return Err("lost".to_owned()),
    };
    let used = (HEAP.peak_usage() as u64).saturating_sub(before);
    if used > most {
        return Err(format!("allocated {used} bytes, more than {most}"));
    }
    Ok(result)
}

fn examine(path: &Path, originals: &Originals, trust: Trust, room: &Path) -> Result<Verdict, String> {
    let store = match Store::open(path) {
        Ok(store) => store,
        Err(error) => return Ok(Verdict { error: Some(describe(&error)?), fates: BTreeMap::new() }),
    };
    if let Err(error) = inspect(&store, true) {
        describe(&error)?;
    }
    let mut verdict = Verdict::default();
    for entry in &store.manifest().variants {
        let fate = examine_variant(&store, &entry.name, originals, trust, room)
            .map_err(|what| format!("{}: {what}", entry.name))?;
        verdict.fates.insert(entry.name.to_string(), fate);
    }
    Ok(verdict)
}

fn examine_variant(
    store: &Store,
    name: &VariantName,
    originals: &Originals,
    trust: Trust,
    room: &Path,
) -> Result<Fate, String> {
    let mut fate = Fate::default();
    for quick in [true, false] {
        let found = verify(store, Some(name), quick, &options(), &Silent).map_err(|e| e.to_string())?;
        *(if quick { &mut fate.quick } else { &mut fate.full }) = !found.is_sound();
    }
    let target = room.join("out");
    match unpack(store, name, &target, &options(), &Silent) {
        Ok(()) => {
            let same = originals.folders.get(name.as_str()) == Some(&common::tree(&target));
            fs::remove_dir_all(&target).unwrap();
            if !same && trust != Trust::Author {
                return Err("unpacked something else".to_owned());
            }
        }
        Err(error) => {
            describe(&error)?;
            fate.unpack = true;
        }
    }
    if fs::read_dir(room).unwrap().next().is_some() {
        return Err("unpack left something behind".to_owned());
    }
    if fate.unpack && !fate.full {
        return Err("a full check finds nothing, but it does not unpack".to_owned());
    }
    let variant = match store.variant(name) {
        Ok(variant) => variant,
        Err(error) => {
            describe(&error)?;
            fate.refused = true;
            fate.load = true;
            return if fate.quick && fate.full { Ok(fate) } else { Err("no check finds that".to_owned()) };
        }
    };
    let forgivable = trust != Trust::Checksums && fate.full;
    let empty = Tensors::new();
    let expected = originals.tensors.get(name.as_str()).unwrap_or(&empty);
    match load(&variant, &options(), &Silent) {
        Ok(tensors) => {
            let same = tensors.len() == expected.len()
                && tensors.iter().all(|t| {
                    let original = expected.get(&t.name);
                    original.is_some_and(|o| {
                        let shape = o.shape.iter().map(|&d| d as u64);
                        *o.data == *t.data && o.dtype == t.dtype && shape.eq(t.shape.iter().copied())
                    })
                });
            if !same && !forgivable {
                return Err("loaded something else".to_owned());
            }
        }
        Err(error) => {
            describe(&error)?;
            fate.load = true;
        }
    }
    for tensor in variant.tensors() {
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let (from, to) = (rows / 3, rows - rows / 4);
        match qstore::Tensor::open(&variant, &tensor.name)
            .and_then(|t| t.read_rows(from..to.max(from), &options()))
        {
            Ok(part) => {
                let same = expected.get(&tensor.name).is_some_and(|original| {
                    let row = original.data.len().checked_div(rows as usize).unwrap_or(0);
                    original.data.get(from as usize * row..to.max(from) as usize * row) == Some(&part[..])
                });
                if !same && !forgivable {
                    return Err(format!("other rows of {}", tensor.name));
                }
            }
            Err(error) => drop(describe(&error)?),
        }
    }
    Ok(fate)
}

/// The text of an error, which must say which file it is about.
fn describe(error: &Error) -> Result<String, String> {
    let text = error.to_string();
    let named = match error {
        Error::Damaged { path, .. } | Error::Input { path, .. } | Error::Io { path, .. } => path.to_str(),
        _ => Some("some"),
    };
    match named {
        Some("") | None => Err(format!("an error that names no file: {text}")),
        Some(_) => Ok(text),
    }
}

/// Collects what went wrong in many cases, so that one run shows all of it.
#[derive(Debug, Default)]
pub struct Report {
    cases: usize,
    failures: Vec<String>,
}

impl Report {
    pub fn add(&mut self, case: &str, result: Result<(), String>) {
        self.cases += 1;
        self.failures.extend(result.err().map(|what| format!("{case}: {what}")));
    }

    /// Fails if a case did, or if there were fewer than `least`: a list that has become empty proves nothing.
    pub fn finish(self, least: usize) {
        println!("{} cases", self.cases);
        assert!(
            self.failures.is_empty(),
            "{} of {} cases:\n{}",
            self.failures.len(),
            self.cases,
            self.failures.join("\n")
        );
        assert!(self.cases >= least, "only {} cases", self.cases);
    }
}
