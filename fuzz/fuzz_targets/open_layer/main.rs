//! A store whose layer file and manifest are the fuzzer's, with the hashes made right so that it gets past them: whatever is in it, opening,
//! describing, verifying and reading return, and reading gives no more than was said.
#![no_main]

mod arrays;
mod described;

use std::fs;
use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore::{Options, Silent, Store, Tensor, inspect, verify};
use qstore_container::{
    ArrayKey, ChunkForm, ChunkRecord, Given, Hash128, LayerFile, Manifest, OriginalFile, ShardHeader,
    ShardLayout, ShardPlan, VariantEntry, VariantName, write_chunks,
};

use crate::arrays::{Array, Layer, build};

#[derive(Debug, Arbitrary)]
enum Input {
    /// A file as it is.
    Shard(Vec<u8>),
    /// A manifest as it is.
    Manifest(Vec<u8>),
    /// A header of the fuzzer's.
    Header { header: Vec<u8>, data: u16 },
    /// A plan (JSON) of the fuzzer's with chunks that it may describe.
    Plan { json: Vec<u8>, chunks: Vec<(u8, Vec<u8>)>, streams: Vec<u16> },
    /// Arrays of two variants, of which the second is given the first.
    Arrays { low: Vec<Array>, high: Vec<Array> },
}

fuzz_target!(|input: Input| {
    match input {
        Input::Manifest(bytes) => {
            let _ = Manifest::parse(&bytes);
        }
        Input::Shard(bytes) => open(&bytes),
        Input::Header { header, data } => {
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend(&header);
            file.resize(file.len() + usize::from(data), 0);
            let _ = ShardHeader::parse(header, file.len() as u64);
            open(&file);
        }
        Input::Plan { json, chunks, streams } => open(&forge(&json, &chunks, &streams)),
        Input::Arrays { low, high } => {
            let Some((low, high)) = build(&names(), &low, &high) else { return };
            open_pair(low, high);
        }
    }
});

/// A shard around this plan; all hashes fit.
fn forge(json: &[u8], chunks: &[(u8, Vec<u8>)], streams: &[u16]) -> Vec<u8> {
    // Names for streams: those that the plan may use.
    let names: Vec<ArrayKey> = match serde_plan(json) {
        Some(plan) => plan.arrays.into_iter().map(|a| a.key).collect(),
        None => Vec::new(),
    };
    let mut layout = ShardLayout::default();
    let mut records = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    for (form, bytes) in chunks {
        let form = [ChunkForm::Head, ChunkForm::Coded, ChunkForm::Raw][usize::from(form % 3)];
        records.extend(ChunkRecord::of(form, bytes));
        data.extend(bytes);
    }
    let mut left = data.len() as u64;
    for (index, key) in names.iter().enumerate() {
        let asked = streams.get(index).map_or(u64::MAX, |bytes| u64::from(*bytes));
        let bytes = asked.min(left);
        layout.push(key, bytes);
        left -= bytes;
    }
    data.truncate(data.len() - usize::try_from(left).unwrap_or(0));
    let list = write_chunks(&records);
    let plan = compress(json);
    let reserved = ShardLayout::reserve(names.iter(), data.len() as u64);
    let Ok(mut file) = layout.finish(&list, &plan, reserved) else { return Vec::new() };
    file.extend(data);
    file.extend(list);
    file.extend(plan);
    file
}

/// The plan, if it is one.
fn serde_plan(json: &[u8]) -> Option<ShardPlan> {
    ShardPlan::parse(&compress(json)).ok()
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

/// A variant of one shard, which is written to `folder`.
fn entry(folder: &Path, name: &VariantName, shard: &[u8]) -> VariantEntry {
    let header_end = shard
        .first_chunk()
        .and_then(|n| usize::try_from(u64::from_le_bytes(*n)).ok())
        .and_then(|n| n.checked_add(8))
        .filter(|end| *end <= shard.len());
    let id = header_end.map_or(Hash128(0), |end| Hash128::of(&shard[8..end]));
    let file = format!("{name}-{:.12}.safetensors", id.to_string());
    fs::write(folder.join(&file), shard).expect("a file in it");
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
        layer: vec![LayerFile { name: file.parse().expect("a path"), bytes: shard.len() as u64, id }],
        given_only: None,
        excluded: Vec::new(),
        unshared: Vec::new(),
        verbatim: false,
    }
}

/// Opens a store of this one shard, and reads all that it says it has. Plans that list files are refused, as the manifest says that there are none; which is
/// fine: `ShardPlan::parse` has seen them.
fn open(shard: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [name, _] = names();
    let variants = vec![entry(folder.path(), &name, shard)];
    read_all(folder.path(), variants);
}

/// Opens a store of two variants, and reads all of both.
fn open_pair(low: Layer, high: Layer) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [lower, upper] = names();
    let of = |name: &VariantName, layer: &Layer, given| VariantEntry {
        given,
        content: content_of(&layer.file),
        tensors: layer.tensors,
        tensor_bytes: layer.tensor_bytes,
        files: 1,
        raw_bytes: layer.file.bytes,
        ..entry(folder.path(), name, &layer.shard)
    };
    let given = vec![Given { variant: lower.clone(), content: content_of(&low.file) }];
    let variants = vec![of(&lower, &low, Vec::new()), of(&upper, &high, given)];
    read_all(folder.path(), variants);
}

fn read_all(folder: &Path, variants: Vec<VariantEntry>) {
    let options = Options { threads: 1, ..Options::default() };
    let manifest = Manifest::new(variants).write().expect("a manifest");
    fs::write(folder.join(Manifest::FILE_NAME), manifest).expect("a file in it");
    let store = Store::open(folder).expect("the manifest is sound");
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
