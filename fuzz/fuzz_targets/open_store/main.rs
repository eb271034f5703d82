//! A store whose shard and manifest are the fuzzer's, with the hashes made right so that it gets past them: whatever is
//! in it, opening, describing, verifying and reading return, and reading gives no more than was said.
#![no_main]

mod arrays;
mod described;
mod memory;

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore::{Options, Silent, Store, Tensor, inspect, verify};
use qstore_container::{
    ArrayKey, ChunkForm, ChunkRecord, Given, Hash128, Manifest, OriginalFile, ShardContents, ShardFile,
    ShardLayout, ShardPlan, Tail, VariantEntry, VariantName, write_chunks,
};

use crate::arrays::{Array, Built, build};
use crate::memory::Memory;

#[derive(Debug, Arbitrary)]
enum Input {
    /// A manifest as it is.
    Manifest(Vec<u8>),
    /// A shard that ends with this tail, cut into sections where the fuzzer says.
    Tail { streams: u16, tail: Vec<u8>, cuts: [u16; 2] },
    /// A plan (JSON) of the fuzzer's with tables and chunks that it may describe.
    Plan { json: Vec<u8>, chunks: Vec<(u8, Vec<u8>)> },
    /// Arrays of two variants, of which the second is given the first.
    Arrays { low: Vec<Array>, high: Vec<Array> },
}

fuzz_target!(|input: Input| {
    match input {
        Input::Manifest(bytes) => {
            let _ = Manifest::parse(&bytes);
        }
        Input::Tail { streams, tail, cuts } => open(Shard::cut(streams.into(), tail, cuts.map(u64::from))),
        Input::Plan { json, chunks } => open(forge(&json, &chunks)),
        Input::Arrays { low, high } => {
            let Some((low, high)) = build(&names(), &low, &high) else { return };
            open_pair(low, high);
        }
    }
});

/// A shard and what the manifest says of its tail.
pub struct Shard {
    bytes: Vec<u8>,
    tail: Tail,
}

impl Shard {
    /// A shard of these sections.
    fn new(
        streams: &[(ArrayKey, u64)],
        data: &[u8],
        tables: &[u8],
        records: &[ChunkRecord],
        plan: &[u8],
    ) -> Self {
        let chunks = write_chunks(records);
        let tail = Tail { tables: tables.len() as u64, chunks: chunks.len() as u64, plan: plan.len() as u64 };
        let mut layout = ShardLayout::default();
        streams.iter().for_each(|(key, bytes)| layout.push(key, *bytes));
        let reserved = ShardLayout::reserve(streams.iter().map(|(key, _)| key), data.len() as u64);
        let header = layout.finish(&tail, reserved).expect("what is reserved is enough");
        Self { bytes: [&header, data, tables, &chunks, plan].concat(), tail }
    }

    /// A shard with this tail, of which some is tables and some the list of chunks.
    fn cut(streams: usize, tail: Vec<u8>, [tables, chunks]: [u64; 2]) -> Self {
        let all = tail.len() as u64;
        let tables = tables.min(all);
        let chunks = chunks.min(all - tables);
        let mut bytes = 64u64.to_le_bytes().to_vec();
        bytes.resize(8 + 64 + streams, b' ');
        bytes.extend(tail);
        Self { bytes, tail: Tail { tables, chunks, plan: all - tables - chunks } }
    }

    /// What the manifest says of it, as the only shard of a variant.
    fn entry(&self, name: &VariantName) -> ShardFile {
        let tail =
            &self.bytes[self.bytes.len() - usize::try_from(self.tail.bytes()).expect("it is in memory")..];
        let id = Hash128::of(tail);
        let file = ShardFile {
            name: format!("{name}-{:.12}.safetensors", id.to_string()).parse().expect("a path"),
            bytes: self.bytes.len() as u64,
            tail: self.tail,
            id,
        };
        let _ = ShardContents::parse(&file, tail).map(|contents| contents.header(&self.tail));
        file
    }
}

/// A shard around this plan; all hashes fit.
fn forge(json: &[u8], chunks: &[(u8, Vec<u8>)]) -> Shard {
    let plan = compress(json);
    let (mut records, mut data, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for (form, bytes) in chunks {
        let form = [ChunkForm::Head, ChunkForm::Coded, ChunkForm::Raw][usize::from(form % 3)];
        records.extend(ChunkRecord::of(form, bytes));
        if form == ChunkForm::Head { &mut tables } else { &mut data }.extend(bytes);
    }
    // Where streams lie follows from the list of chunks; the header must have room for them.
    let keys = ShardPlan::parse(&plan).map(|plan| plan.arrays.into_iter().map(|array| array.key));
    let mut streams: Vec<_> = keys.into_iter().flatten().map(|key| (key, 0)).collect();
    if let Some((_, bytes)) = streams.last_mut() {
        *bytes = data.len() as u64;
    }
    Shard::new(&streams, &data, &tables, &records, &plan)
}

/// A zstd frame of raw blocks: what is in it matters here, not how small it is.
fn compress(bytes: &[u8]) -> Vec<u8> {
    // Magic number, a descriptor without sizes or checksum, a window of 1 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    let mut blocks = bytes.chunks(1 << 16).peekable();
    if blocks.peek().is_none() {
        frame.extend([1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let header = last | u32::try_from(block.len()).unwrap_or(0) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}

fn names() -> [VariantName; 2] {
    ["x", "y"].map(|name| name.parse().expect("a name"))
}

/// The content hash of a variant of one file.
fn content_of(file: &OriginalFile) -> Hash128 {
    Hash128::of(format!("{} {} {}\n", file.sha256, file.bytes, file.path).as_bytes())
}

/// A variant of this shard.
fn entry(name: &VariantName, shard: &Shard) -> VariantEntry {
    VariantEntry {
        name: name.clone(),
        scheme: String::new(),
        dtype: String::new(),
        given: Vec::new(),
        content: Hash128::of(b""),
        tensors: 0,
        tensor_bytes: 0,
        files: 0,
        raw_bytes: 0,
        shards: vec![shard.entry(name)],
        given_only: None,
        archived: false,
        levels: None,
        excluded: Vec::new(),
        unshared: Vec::new(),
        verbatim: false,
    }
}

/// Opens a store of this one shard, and reads all that it says it has. Plans that list files are refused, as the
/// manifest says that there are none; which is fine: `ShardPlan::parse` has seen them.
fn open(shard: Shard) {
    let [name, _] = names();
    read_all(vec![(entry(&name, &shard), shard)]);
}

/// Opens a store of two variants, and reads all of both.
fn open_pair(low: Built, high: Built) {
    let [lower, upper] = names();
    let given = vec![Given { variant: lower.clone(), content: content_of(&low.file) }];
    let of = |name: &VariantName, built: Built, given| {
        let entry = VariantEntry {
            given,
            content: content_of(&built.file),
            tensors: built.tensors,
            tensor_bytes: built.tensor_bytes,
            files: 1,
            raw_bytes: built.file.bytes,
            ..entry(name, &built.shard)
        };
        (entry, built.shard)
    };
    read_all(vec![of(&lower, low, Vec::new()), of(&upper, high, given)]);
}

fn read_all(variants: Vec<(VariantEntry, Shard)>) {
    let options = Options { threads: 1, ..Options::default() };
    let (entries, shards): (Vec<_>, Vec<_>) = variants.into_iter().unzip();
    let mut storage = Memory::default();
    for (entry, shard) in entries.iter().zip(shards) {
        storage.put(entry.shards[0].name.as_str(), shard.bytes);
    }
    storage.put(Manifest::FILE_NAME, Manifest::new(entries).write().expect("a manifest"));
    let store = Store::open_in(Arc::new(storage)).expect("the manifest is sound");
    let _ = inspect(&store, true);
    let _ = verify(&store, None, true, &options, &Silent);
    for entry in &store.manifest().variants {
        let Ok(variant) = store.variant(&entry.name) else { continue };
        for info in variant.tensors() {
            let Ok(tensor) = Tensor::open(&variant, &info.name) else { continue };
            // A tensor may say that it is huge; then reading a row must do.
            if info.bytes <= 1 << 24
                && let Ok(bytes) = tensor.read(&options)
            {
                assert_eq!(bytes.len() as u64, info.bytes);
                check_parts(&tensor, &bytes, &options);
            }
            let rows = info.shape.first().copied().unwrap_or(0);
            if rows > 0 && info.bytes / rows <= 1 << 20 {
                let _ = tensor.read_rows(rows - 1..rows, &options);
            }
        }
    }
}

/// Parts of a tensor are what they are of the whole.
fn check_parts(tensor: &Tensor, all: &[u8], options: &Options) {
    let Some((cols, before)) = tensor.shape().split_last() else { return };
    let rows: u64 = before.iter().product();
    let columns = cols / 3..cols - cols / 4;
    let Ok(some) = tensor.read_block(rows / 2..rows, columns.clone(), options) else { return };
    let size = |n: u64| usize::try_from(n).expect("a size in memory");
    let width = all.len() / size(rows * cols).max(1);
    let lines = all.chunks_exact((size(*cols) * width).max(1)).skip(size(rows / 2));
    let want = lines.flat_map(|line| &line[size(columns.start) * width..size(columns.end) * width]);
    assert!(want.eq(some.iter()));
}
