//! What is read of a store, how often and in what order, as a storage sees it that keeps a record.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{
    Gptq, assert_same_tree, gptq, model, options, spec, tree, write_checkpoint, write_options, write_pair,
};
use qstore::{
    Dtype, Error, Folder, Hints, Options, Silent, Storage, Store, inspect, load, pack, unpack, verify,
};

const MIB: u64 = 1 << 20;
/// What lies in the store, lower precision first.
const NAMES: [&str; 3] = ["gptq4", "int8", "bf16"];

/// A store's folder, and what was read of it.
#[derive(Debug)]
struct Recording {
    of: Folder,
    reads: Mutex<Vec<(String, Range<u64>)>>,
    hints: Hints,
    /// Whether it tells how large files are.
    has_sizes: bool,
    /// From which read on it fails, or gives other bytes.
    broken: Option<(usize, Broken)>,
}

#[derive(Debug, Clone, Copy)]
enum Broken {
    Fails,
    Lies,
}

impl Recording {
    fn new(folder: &Path) -> Self {
        let of = Folder::new(folder);
        Self { of, reads: Mutex::default(), hints: Hints::default(), has_sizes: true, broken: None }
    }

    /// What was read since this was asked last.
    fn take(&self) -> Vec<(String, Range<u64>)> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }

    fn record(&self, name: &str, range: Range<u64>) -> qstore::Result<bool> {
        let mut reads = self.reads.lock().unwrap();
        reads.push((name.to_owned(), range));
        match self.broken {
            Some((from, broken)) if reads.len() > from => match broken {
                Broken::Lies => Ok(false),
                Broken::Fails => {
                    let source = std::io::ErrorKind::ConnectionReset.into();
                    Err(Error::Io { path: name.into(), what: "cannot read", source })
                }
            },
            _ => Ok(true),
        }
    }
}

impl Storage for Recording {
    fn location(&self) -> &Path {
        self.of.location()
    }

    fn read_all(&self, name: &str, most: u64) -> qstore::Result<Vec<u8>> {
        let bytes = self.of.read_all(name, most)?;
        self.record(name, 0..bytes.len() as u64)?;
        Ok(bytes)
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> qstore::Result<()> {
        self.of.read(name, offset, out)?;
        if !self.record(name, offset..offset + out.len() as u64)? {
            out[0] ^= 1;
        }
        Ok(())
    }

    fn size(&self, name: &str) -> qstore::Result<Option<u64>> {
        let size = self.of.size(name)?;
        Ok(size.filter(|_| self.has_sizes))
    }

    fn hints(&self) -> Hints {
        self.hints
    }
}

/// A pair of some megabytes, and a GPTQ chain below the same weights.
fn packed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let high = model(11, Dtype::BF16, &[(1536, 2048), (1024, 2048)]);
    write_pair(dir.path(), &high);
    write_checkpoint(&dir.path().join("gptq4"), &gptq(&high, Gptq::of_bits(4)));
    let variants = ["bf16", "int8", "gptq4"].map(|name| spec(dir.path(), name));
    pack(&variants, &dir.path().join("store"), &write_options(), &Silent).unwrap();
    dir
}

fn open(recording: Recording) -> (Arc<Recording>, Store) {
    let recording = Arc::new(recording);
    let store = Store::open_in(recording.clone()).unwrap();
    (recording, store)
}

/// Reads of each file, in their order.
fn by_file(reads: &[(String, Range<u64>)]) -> BTreeMap<&str, Vec<Range<u64>>> {
    let mut files: BTreeMap<_, Vec<_>> = BTreeMap::new();
    reads.iter().for_each(|(name, range)| files.entry(name.as_str()).or_default().push(range.clone()));
    files
}

fn bytes(reads: &[(String, Range<u64>)]) -> u64 {
    reads.iter().map(|(_, range)| range.end - range.start).sum()
}

/// That no byte of a file was read twice, that `own` was read from beginning to end, others but for what is needed
/// before its turn, and that what lies together was read in pieces of at least 1 MiB.
fn assert_in_order(reads: &[(String, Range<u64>)], own: Option<&str>) {
    for (name, ranges) in by_file(reads) {
        let length = |range: &Range<u64>| range.end - range.start;
        let early = ranges.windows(2).filter(|pair| pair[1].start < pair[0].end).map(|pair| length(&pair[0]));
        let (early, all): (u64, u64) = (early.sum(), ranges.iter().map(length).sum());
        assert!(early == 0 || own != Some(name) && early < all / 20, "{name}: {early} of {all}: {ranges:?}");
        let is_small = |range: &Range<u64>| length(range) < MIB;
        let apart = ranges.windows(2).find(|pair| pair[0].end == pair[1].start && is_small(&pair[0]));
        assert_eq!(apart, None, "{name}");
        let mut sorted = ranges.clone();
        sorted.sort_unstable_by_key(|range| range.start);
        assert!(sorted.windows(2).all(|pair| pair[0].end <= pair[1].start), "{name}: {ranges:?}");
    }
}

#[test]
fn opening_takes_the_manifest_and_the_tail_of_each_shard() {
    let dir = packed();
    let (recording, store) = open(Recording::new(&dir.path().join("store")));
    assert_eq!(recording.take().len(), 1);
    for (name, needed) in [("gptq4", 1), ("int8", 2), ("bf16", 3)] {
        let variant = store.variant(&name.parse().unwrap()).unwrap();
        let reads = recording.take();
        assert!(reads.len() <= needed, "{name}: {reads:?}");
        let own = &variant.entry().shards[0];
        assert_eq!(
            reads.last(),
            Some(&(own.name.as_str().to_owned(), own.bytes - own.tail.bytes()..own.bytes))
        );
        // What is known without reading the weights is known now.
        assert!(variant.tensors().iter().all(|t| qstore::Tensor::open(&variant, &t.name).is_ok()));
        assert_eq!(recording.take(), []);
    }
}

#[test]
fn loading_reads_every_needed_byte_once_and_in_order() {
    let dir = packed();
    let (recording, store) = open(Recording::new(&dir.path().join("store")));
    let described = inspect(&store, false).unwrap();
    for name in NAMES {
        let needed = described.variants.iter().find(|v| v.name == name).unwrap().read_bytes.unwrap();
        for threads in [1, 2, 5] {
            recording.take();
            let variant = store.variant(&name.parse().unwrap()).unwrap();
            let opening = bytes(&recording.take());
            load(&variant, &Options { threads, ..options() }, &Silent).unwrap();
            let reads = recording.take();
            // Two threads may read at a time, and what codes stand for is needed with the first of them.
            let own = (threads == 1 && name == "gptq4").then(|| variant.entry().shards[0].name.as_str());
            assert_in_order(&reads, own);
            assert_eq!(opening + bytes(&reads), needed, "{name}, {threads} threads");
            assert_eq!(variant.bytes_read(), needed);
        }
    }
}

#[test]
fn unpacking_and_verifying_read_no_byte_twice() {
    let dir = packed();
    let (recording, store) = open(Recording::new(&dir.path().join("store")));
    for name in NAMES {
        let variant = store.variant(&name.parse().unwrap()).unwrap();
        for file in variant.files() {
            recording.take();
            let all = qstore::read_file(&variant, file.path.as_str(), &options()).unwrap();
            assert_eq!(all.len() as u64, file.bytes);
            // The file's order, in which bundles do not lie, is what counts.
            assert_in_order(&recording.take(), None);
        }
        let target = dir.path().join("out").join(name);
        unpack(&store, &name.parse().unwrap(), &target, &options(), &Silent).unwrap();
        assert_same_tree(&dir.path().join(name), &target);
    }
    // A quick check reads the shards once each, but opens a variant for each that is given it.
    recording.take();
    assert!(verify(&store, None, true, &options(), &Silent).unwrap().is_sound());
    let reads = recording.take();
    for entry in &store.manifest().variants {
        let [shard] = &entry.shards[..] else { panic!("one shard") };
        let is_tail = |range: &Range<u64>| range.start == shard.bytes - shard.tail.bytes();
        let own = by_file(&reads).remove(shard.name.as_str()).unwrap();
        let once: u64 = own.iter().filter(|range| !is_tail(range)).map(|range| range.end - range.start).sum();
        assert_eq!(once + shard.tail.bytes(), shard.bytes);
    }
}

#[test]
fn requests_are_as_the_storage_wants_them() {
    let dir = packed();
    let load_with = |hints| {
        let (recording, store) = open(Recording { hints, ..Recording::new(&dir.path().join("store")) });
        let variant = store.variant(&"bf16".parse().unwrap()).unwrap();
        recording.take();
        load(&variant, &options(), &Silent).unwrap();
        recording.take()
    };
    let usual = load_with(Hints::default());
    let mut hints = Hints::default();
    hints.most = 100_000;
    let small = load_with(hints);
    // Chunks are not cut.
    assert!(small.len() > 2 * usual.len() && bytes(&small) == bytes(&usual));
    hints = Hints::default();
    hints.gap = MIB;
    assert!(load_with(hints).len() < usual.len());
    hints = Hints::default();
    hints.ahead = 64 * MIB;
    assert_eq!(bytes(&load_with(hints)), bytes(&usual));
}

#[test]
fn an_eighth_of_a_matrix_is_an_eighth_of_its_bytes() {
    let dir = packed();
    let (recording, store) = open(Recording::new(&dir.path().join("store")));
    let variant = store.variant(&"gptq4".parse().unwrap()).unwrap();
    for info in variant.tensors().into_iter().filter(|t| t.name.ends_with(".qweight")) {
        let tensor = qstore::Tensor::open(&variant, &info.name).unwrap();
        let [rows, cols] = [info.shape[0], info.shape[1]];
        recording.take();
        let all = tensor.read(&options()).unwrap();
        let stored = bytes(&recording.take());
        for part in 0..8 {
            let [some_rows, some_cols] = [rows, cols].map(|n| n * part / 8..n * (part + 1) / 8);
            for (rows, cols) in [(some_rows, 0..cols), (0..rows, some_cols)] {
                let some = tensor.read_block(rows.clone(), cols.clone(), &options()).unwrap();
                let read = bytes(&recording.take());
                // One chunk of 64 more.
                let most = stored / 8 + stored / 64;
                assert!(read <= most, "{}: {read} of {stored}: {rows:?} x {cols:?}", info.name);
                assert_eq!(some.len() * 8, all.len());
            }
        }
    }
}

/// A storage need not know how large its files are, as where each request costs.
#[test]
fn sizes_are_not_asked_for_where_they_are_unknown() {
    let dir = packed();
    let recording = Recording { has_sizes: false, ..Recording::new(&dir.path().join("store")) };
    let (_, store) = open(recording);
    assert!(verify(&store, None, true, &options(), &Silent).unwrap().is_sound());
    // One that is cut short is noticed all the same.
    let shard = dir.path().join("store").join(store.manifest().variants[0].shards[0].name.as_str());
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let recording = Recording { has_sizes: false, ..Recording::new(&dir.path().join("store")) };
    let (_, store) = open(recording);
    let error = store.variant(&NAMES[0].parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("it is cut short"), "{error}");
}

/// A check goes on where something cannot be read, so that all is known of the rest.
#[test]
fn a_check_goes_on() {
    let dir = packed();
    let broken = Some((3, Broken::Fails));
    let recording = Recording { broken, ..Recording::new(&dir.path().join("store")) };
    let (_, store) = open(recording);
    let name = "gptq4".parse().unwrap();
    let found = verify(&store, Some(&name), true, &options(), &Silent).unwrap();
    // Of each array that comes after it.
    assert!(found.variants[0].problems.len() > 3, "{found:?}");
}

/// Files by name, and nothing of the local file system.
#[derive(Debug)]
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn of(folder: &Path) -> Self {
        let files = tree(folder).into_iter().filter_map(|(name, bytes)| Some((name, bytes?)));
        Self(files.collect())
    }

    fn file(&self, name: &str) -> qstore::Result<&[u8]> {
        let source = std::io::ErrorKind::NotFound.into();
        let missing = Error::Io { path: name.into(), what: "cannot read", source };
        self.0.get(name).map(Vec::as_slice).ok_or(missing)
    }
}

impl Storage for Memory {
    fn location(&self) -> &Path {
        Path::new("memory")
    }

    fn read_all(&self, name: &str, _: u64) -> qstore::Result<Vec<u8>> {
        self.file(name).map(<[u8]>::to_vec)
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> qstore::Result<()> {
        let from = offset as usize;
        out.copy_from_slice(&self.file(name)?[from..from + out.len()]);
        Ok(())
    }

    fn size(&self, name: &str) -> qstore::Result<Option<u64>> {
        self.file(name).map(|bytes| Some(bytes.len() as u64))
    }
}

#[test]
fn a_store_in_memory_is_described_checked_and_read() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &model(12, Dtype::BF16, &[(256, 512)]));
    let kept = qstore::VariantSpec { verbatim: true, ..spec(dir.path(), "int8") };
    let path = dir.path().join("store");
    pack(&[spec(dir.path(), "bf16"), kept], &path, &write_options(), &Silent).unwrap();
    let of_folder = inspect(&Store::open(&path).unwrap(), true).unwrap();
    let memory = Memory::of(&path);
    let names: Vec<_> = memory.0.keys().cloned().collect();
    let store = Store::open_in(Arc::new(memory)).unwrap();
    let described = inspect(&store, true).unwrap();
    let json = |inspection| serde_json::to_value(inspection).unwrap();
    assert_eq!(json(&described), json(&of_folder));
    for quick in [true, false] {
        let found = verify(&store, None, quick, &options(), &Silent).unwrap();
        assert!(found.is_sound(), "{found:?}");
    }
    for name in ["int8", "bf16"] {
        let target = dir.path().join("out").join(name);
        unpack(&store, &name.parse().unwrap(), &target, &options(), &Silent).unwrap();
        assert_same_tree(&dir.path().join(name), &target);
    }
    // Of any file that is missing it is said.
    for missing in names.iter().filter(|name| *name != "qstore.json") {
        let mut memory = Memory::of(&path);
        memory.0.remove(missing);
        let store = Store::open_in(Arc::new(memory)).unwrap();
        assert!(!verify(&store, None, false, &options(), &Silent).unwrap().is_sound(), "{missing}");
    }
}

/// Whatever goes wrong, and when: reading ends, says so, and gives nothing.
#[test]
fn storages_that_break() {
    let dir = packed();
    let path = dir.path().join("store");
    for broken in [Broken::Fails, Broken::Lies] {
        for after in 0..12 {
            let recording = Recording { broken: Some((after + 1, broken)), ..Recording::new(&path) };
            let (recording, store) = open(recording);
            let loaded = store
                .variant(&"bf16".parse().unwrap())
                .and_then(|variant| load(&variant, &options(), &Silent));
            let count = recording.take().len();
            match loaded {
                Ok(_) => assert!(count <= after + 1, "{broken:?} after {after}"),
                Err(Error::Io { .. }) => assert!(matches!(broken, Broken::Fails)),
                Err(error) => {
                    assert!(matches!((&error, broken), (Error::Damaged { .. }, Broken::Lies)), "{error}");
                    let about = error.subject().unwrap();
                    assert!(about.variant.is_some(), "{about:?}");
                    // The first reads are of the shards' tails.
                    let is_whole = |named: bool| named == (after >= NAMES.len());
                    assert!(is_whole(about.tensor.is_some()) && is_whole(about.chunk.is_some()), "{about:?}");
                }
            }
        }
    }
}
