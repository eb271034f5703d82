//! A store whose layer file and manifest are the fuzzer's, with the hashes made right so that it gets past them: whatever is in it, opening,
//! describing, verifying and reading return, and reading gives no more than was said.
#![no_main]

use std::fs;
use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore::{Options, Silent, Store, inspect, verify};
use qstore_container::{
    ArrayKey, ArrayRef, ChunkForm, ChunkRecord, Dtype, Encoding, Grid, Hash128, Lanes, LayerFile, Manifest,
    ShardHeader, ShardLayout, ShardPlan, StoredArray, VariantEntry, write_chunks,
};

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
    /// Arrays that a reader accepts at first sight.
    Arrays(Vec<Array>),
}

/// An array, with as many chunks as its shape asks for.
#[derive(Debug, Arbitrary)]
struct Array {
    dtype: u8,
    shape: Vec<u8>,
    cols: u8,
    rows_per_chunk: u8,
    encoding: u8,
    refers_to: u8,
    /// For a kind that a bundle may have: a bundle, of one slice.
    is_bundle: bool,
    head: Vec<u8>,
    chunks: Vec<Vec<u8>>,
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
        Input::Arrays(arrays) => open(&build(&arrays)),
    }
});

const FLOATS: [Dtype; 3] = [Dtype::BF16, Dtype::F16, Dtype::F32];
const BYTES: [Dtype; 4] = [Dtype::U8, Dtype::I8, Dtype::F4, Dtype::F8_E4M3];
const ANY: [Dtype; 4] = [Dtype::U8, Dtype::I64, Dtype::BF16, Dtype::F4];

/// A shard of these arrays; lengths, forms and hashes fit, what is in the chunks need not.
fn build(arrays: &[Array]) -> Vec<u8> {
    let mut plan = ShardPlan {
        variant: "x".parse().expect("a name"),
        given: Vec::new(),
        arrays: Vec::new(),
        files: Vec::new(),
        empty_folders: Vec::new(),
    };
    let (mut layout, mut records, mut data) = (ShardLayout::default(), Vec::new(), Vec::<u8>::new());
    for (index, array) in arrays.iter().enumerate().take(20) {
        let to = ArrayRef {
            variant: "x".parse().expect("a name"),
            array: ArrayKey::Tensor(format!("t{}", array.refers_to % 20)),
        };
        let encoding = match array.encoding % 6 {
            0 => Encoding::Reference { to },
            1 => Encoding::FloatSplit,
            2 => Encoding::Codes,
            3 => Encoding::Zstd,
            4 => Encoding::Raw,
            _ => {
                Encoding::Verbatim { file: "y".parse().expect("a path"), offset: u64::from(array.refers_to) }
            }
        };
        let name = ArrayKey::Tensor(format!("t{index}"));
        let is_bundle = array.is_bundle && encoding.has_stream();
        let stored = StoredArray {
            key: match u32::try_from(index) {
                Ok(number) if is_bundle => ArrayKey::Bundle(number),
                _ => name.clone(),
            },
            dtype: match &encoding {
                Encoding::FloatSplit => FLOATS[usize::from(array.dtype) % FLOATS.len()],
                Encoding::Codes => BYTES[usize::from(array.dtype) % BYTES.len()],
                _ => ANY[usize::from(array.dtype) % ANY.len()],
            },
            shape: array.shape.iter().take(if is_bundle { 1 } else { 3 }).map(|&d| u64::from(d)).collect(),
            mantissa: None,
            hash: Some(Hash128(0)),
            grid: Grid {
                cols: u64::from(array.cols),
                rows_per_chunk: u64::from(array.rows_per_chunk),
                lanes: Lanes::Narrow,
            },
            encoding,
        };
        if stored.grid.cols == 0 || stored.grid.rows_per_chunk == 0 {
            continue;
        }
        let Ok(count) = stored.record_count() else { continue };
        let begun = data.len();
        let heads = u64::from(stored.has_head());
        for chunk in 0..count {
            let head = chunk < heads;
            let own =
                if head { Some(&array.head) } else { array.chunks.get(usize::try_from(chunk).unwrap_or(0)) };
            let full =
                stored.bytes().unwrap_or(0).saturating_sub((chunk - heads.min(chunk)) * stored.chunk_bytes());
            let full = usize::try_from(full.min(stored.chunk_bytes())).unwrap_or(0);
            let mut bytes = own.cloned().unwrap_or_default();
            let form = if head {
                ChunkForm::Head
            } else if bytes.len() < full
                && !matches!(stored.encoding, Encoding::Raw | Encoding::Verbatim { .. })
            {
                ChunkForm::Coded
            } else {
                bytes.resize(full, 7);
                ChunkForm::Raw
            };
            records.extend(ChunkRecord::of(form, &bytes));
            if stored.encoding.has_stream() {
                data.extend(bytes);
            }
        }
        if stored.encoding.has_stream() {
            layout.push(&stored.key, (data.len() - begun) as u64);
        }
        if let (ArrayKey::Bundle(_), 1) = (&stored.key, stored.shape.len()) {
            plan.arrays.push(StoredArray {
                key: name,
                hash: None,
                grid: Grid::NONE,
                encoding: Encoding::Slice { of: stored.key.clone(), offset: 0 },
                ..stored.clone()
            });
        }
        plan.arrays.push(stored);
    }
    let reserved = ShardLayout::reserve(plan.arrays.iter().map(|a| &a.key), data.len() as u64);
    let list = write_chunks(&records);
    // What contradicts itself is refused when it is written as well; the JSON of other inputs gets to the reader.
    let Ok(plan) = plan.write() else { return Vec::new() };
    let mut file = layout.finish(&list, &plan, reserved).expect("a header that fits");
    file.extend(data);
    file.extend(list);
    file.extend(plan);
    file
}

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

/// Opens a store of this one shard, and reads all that it says it has.
fn open(shard: &[u8]) {
    let header_end = shard
        .first_chunk()
        .and_then(|n| usize::try_from(u64::from_le_bytes(*n)).ok())
        .and_then(|n| n.checked_add(8))
        .filter(|end| *end <= shard.len());
    let id = header_end.map_or(Hash128(0), |end| Hash128::of(&shard[8..end]));
    let name = format!("x-{:.12}.safetensors", id.to_string());
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(&name), shard).expect("a file in it");
    // The content hash of no files; plans that list files are refused there, which is fine: `ShardPlan::parse` has seen them.
    let manifest = Manifest::new(vec![VariantEntry {
        name: "x".parse().expect("a name"),
        scheme: String::new(),
        dtype: String::new(),
        given: Vec::new(),
        content: Hash128::of(b""),
        tensors: 0,
        tensor_bytes: 0,
        files: 0,
        raw_bytes: 0,
        layer: vec![LayerFile { name: name.parse().expect("a path"), bytes: shard.len() as u64, id }],
        given_only: None,
        excluded: Vec::new(),
        unshared: Vec::new(),
        verbatim: false,
    }]);
    fs::write(folder.path().join(Manifest::FILE_NAME), manifest.write().expect("a manifest"))
        .expect("a file");
    read_all(folder.path());
}

fn read_all(folder: &Path) {
    let options = Options { threads: 1, ..Options::default() };
    let store = Store::open(folder).expect("the manifest is sound");
    let _ = inspect(&store, true);
    let _ = verify(&store, None, true, &options, &Silent);
    let Ok(variant) = store.variant(&"x".parse().expect("a name")) else { return };
    for tensor in variant.tensors() {
        // A tensor may say that it is huge; then reading a row must do.
        if tensor.bytes <= 1 << 24 {
            if let Ok(bytes) = variant.read_tensor(&tensor.name) {
                assert_eq!(bytes.len() as u64, tensor.bytes);
            }
        }
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if rows > 0 && tensor.bytes / rows <= 1 << 20 {
            let _ = variant.read_rows(&tensor.name, rows - 1..rows);
        }
    }
}
