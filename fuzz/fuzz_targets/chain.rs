//! Chains of the fuzzer's: two variants of packed codes below weights, with grids, codes and weights of the fuzzer's.
//! What is packed comes back; and a store whose chunks and tables are then the fuzzer's, checksums made right, opens
//! and reads without harm.
#![no_main]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore::{Options, Silent, Store, VariantSpec, pack, unpack, verify};
use qstore_container::{ChunkForm, ChunkRecord, Hash128, Manifest, ShardContents, write_chunks};

#[derive(Debug, Arbitrary)]
struct Input {
    rows: u8,
    cols: u8,
    low: Matrix,
    middle: Matrix,
    /// 0: BF16, 1: F16, 2: F32.
    float: u8,
    weights: Vec<u8>,
    /// Whether weights are near what the codes stand for.
    near: bool,
    /// For the variant on top, or the one in the middle, a place in its data and bits to flip.
    damage: Vec<(bool, u16, u8)>,
}

#[derive(Debug, Arbitrary)]
struct Matrix {
    bits: u8,
    group: u8,
    codes: Vec<u8>,
    scales: Vec<u16>,
    zeros: Vec<u8>,
    /// The groups of the columns; in order where there are none.
    groups: Option<Vec<u8>>,
    /// Groups as they are, be there such or not.
    wild: bool,
}

struct Tensor {
    name: &'static str,
    dtype: &'static str,
    shape: [usize; 2],
    bytes: Vec<u8>,
}

/// `bytes` repeated to fill `length`.
fn fill(bytes: &[u8], length: usize) -> Vec<u8> {
    let bytes = if bytes.is_empty() { &[0x3c, 0x1f, 0x08] } else { bytes };
    bytes.iter().copied().cycle().take(length).collect()
}

impl Matrix {
    fn tensors(&self, rows: usize, cols: usize) -> Vec<Tensor> {
        let bits = [2, 3, 4, 8][usize::from(self.bits % 4)];
        let group = usize::from(self.group).clamp(1, cols);
        let count = cols.div_ceil(group);
        let scales: Vec<u8> = self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let words = |name, shape: [usize; 2], bytes| Tensor { name, dtype: "I32", shape, bytes };
        let mut tensors = vec![
            words("m.qweight", [cols * bits / 32, rows], fill(&self.codes, cols * bits / 8 * rows)),
            words("m.qzeros", [count, rows * bits / 32], fill(&self.zeros, count * rows * bits / 8)),
            Tensor {
                name: "m.scales",
                dtype: "F16",
                shape: [count, rows],
                bytes: fill(&scales, count * rows * 2),
            },
        ];
        if let Some(groups) = &self.groups {
            let of_column = fill(groups, cols);
            let of_column = of_column
                .iter()
                .map(|of| if self.wild { u32::from(*of) } else { u32::from(*of) % count as u32 });
            tensors.push(words("m.g_idx", [cols, 1], of_column.flat_map(u32::to_le_bytes).collect()));
        }
        tensors
    }
}

/// A folder with one file of these tensors.
fn write(folder: &Path, tensors: &[Tensor]) {
    fs::create_dir(folder).expect("a folder");
    let (mut header, mut data) = ("{".to_owned(), Vec::<u8>::new());
    for tensor in tensors {
        let [rows, cols] = tensor.shape;
        let shape = if tensor.name == "m.g_idx" { format!("[{rows}]") } else { format!("[{rows},{cols}]") };
        let comma = if data.is_empty() { "" } else { "," };
        let (start, end) = (data.len(), data.len() + tensor.bytes.len());
        write!(
            header,
            r#"{comma}"{}":{{"dtype":"{}","shape":{shape},"data_offsets":[{start},{end}]}}"#,
            tensor.name, tensor.dtype
        )
        .expect("a string");
        data.extend(&tensor.bytes);
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(folder.join("model.safetensors"), file).expect("a file");
}

fuzz_target!(|input: Input| {
    let root = tempfile::tempdir().expect("a temporary folder");
    let root = root.path();
    // So that no array is small: a chain of slices is none.
    let (rows, cols) = (32 * (1 + usize::from(input.rows % 4)), 256 * (1 + usize::from(input.cols % 4)));
    let (dtype, width) = [("BF16", 2), ("F16", 2), ("F32", 4)][usize::from(input.float % 3)];
    let mut weights = fill(&input.weights, rows * cols * width);
    if input.near {
        // All of one binade and its neighbours, as weights are.
        weights
            .chunks_exact_mut(width)
            .for_each(|weight| weight[width - 1] = weight[width - 1] & 0x80 | 0x2c);
    }
    let weights = vec![Tensor { name: "m.weight", dtype, shape: [rows, cols], bytes: weights }];
    let variants = [
        ("low", input.low.tensors(rows, cols)),
        ("middle", input.middle.tensors(rows, cols)),
        ("high", weights),
    ];
    let mut specs = Vec::new();
    for (name, tensors) in &variants {
        write(&root.join(name), tensors);
        specs.push(VariantSpec::new(name.parse().expect("a name"), root.join(name)));
    }
    let options = Options { threads: 1, ..Options::default() };
    let path = root.join("store");
    pack(&specs, &path, &options.clone().into(), &Silent)
        .expect("all is well-formed, and whatever it means is stored");
    let store = Store::open(&path).expect("a packed store opens");
    for (name, _) in &variants {
        let out = root.join(format!("out-{name}"));
        unpack(&store, &name.parse().expect("a name"), &out, &options, &Silent)
            .expect("a packed variant unpacks");
        let file = |folder: &Path| fs::read(folder.join("model.safetensors")).expect("a file");
        assert!(file(&out) == file(&root.join(name)), "{name} comes back as something else");
    }
    if input.damage.is_empty() {
        return;
    }
    spoil(&path, &input.damage);
    let store = Store::open(&path).expect("the manifest is sound");
    let _ = verify(&store, None, false, &options, &Silent);
    for (name, _) in &variants {
        let Ok(variant) = store.variant(&name.parse().expect("a name")) else { continue };
        for tensor in variant.tensors() {
            let Ok(opened) = qstore::Tensor::open(&variant, &tensor.name) else { continue };
            let _ = opened.read(&options).map(|bytes| assert_eq!(bytes.len() as u64, tensor.bytes));
            let _ = opened.read_rows(tensor.shape[0] - 1..tensor.shape[0], &options);
        }
    }
});

/// Flips bits in the chunks and tables of a store, and makes all hashes right.
fn spoil(path: &Path, damage: &[(bool, u16, u8)]) {
    let manifest = fs::read(path.join(Manifest::FILE_NAME)).expect("a manifest");
    let mut variants = Manifest::parse(&manifest).expect("a manifest").variants;
    // The lowest variant has the fewest arrays that a chain is made of.
    for (at, entry) in variants.iter_mut().enumerate().skip(1) {
        for shard in &mut entry.shards {
            let old = path.join(shard.name.as_str());
            let file = fs::read(&old).expect("a shard");
            let (streams, tail) = file.split_at(file.len() - size(shard.tail.bytes()));
            let contents = ShardContents::parse(shard, tail).expect("a shard");
            let (header, streams) = streams.split_at(size(contents.header_bytes));
            let (tables, rest) = tail.split_at(size(shard.tail.tables));
            let plan = &rest[size(shard.tail.chunks)..];
            let mut data = [streams, tables].concat();
            for (_, place, bits) in damage.iter().filter(|(top, ..)| *top == (at == 2)) {
                let count = data.len().max(1);
                if let Some(byte) = data.get_mut(usize::from(*place) * 7 % count) {
                    *byte ^= bits;
                }
            }
            let (mut streams, mut tables) = data.split_at(streams.len());
            let records = contents.records.iter().map(|record| {
                let from = if record.form == ChunkForm::Head { &mut tables } else { &mut streams };
                let (own, rest) = from.split_at(record.length as usize);
                *from = rest;
                ChunkRecord::of(record.form, own).expect("a record")
            });
            let records = write_chunks(&records.collect::<Vec<_>>());
            // Streams, tables and records are as long as they were, and so the header stays.
            let tail = [&data[data.len() - size(shard.tail.tables)..], &records, plan].concat();
            shard.id = Hash128::of(&tail);
            let name = format!("{}-{:.12}.safetensors", entry.name, shard.id.to_string());
            shard.name = name.parse().expect("a path");
            let streams = &data[..data.len() - size(shard.tail.tables)];
            fs::remove_file(old).expect("a shard");
            fs::write(path.join(name), [header, streams, &tail].concat()).expect("a shard");
        }
    }
    let manifest = Manifest::new(variants).write().expect("a manifest");
    fs::write(path.join(Manifest::FILE_NAME), manifest).expect("a manifest");
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it is in memory")
}
