//! Small tensors, which are stored in bundles: in any number, of any type, between large ones, in several files and
//! shards.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{Tensor, assert_same_tree, options, spec, weights, write_options};
use qstore::{
    Dtype, Silent, Store, TensorBytes, Variant, WriteOptions, add, inspect, load, pack, remove, unpack,
    verify,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn read(variant: &Arc<Variant>, name: &str) -> qstore::Result<TensorBytes> {
    qstore::Tensor::open(variant, name)?.read(&options())
}

/// Writes tensors in the order given, which the safetensors library would change.
fn write(path: &Path, tensors: &[(String, Tensor)]) {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, tensor) in tensors {
        let end = at + tensor.data.len();
        let span =
            serde_json::json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
        assert!(header.insert(name.clone(), span).is_none());
        at = end;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    tensors.iter().for_each(|(_, tensor)| file.extend(&tensor.data));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, file).unwrap();
}

/// `count` small tensors of every type and some large ones between them.
fn mixture(seed: u64, count: usize) -> Vec<(String, Tensor)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let types =
        [Dtype::BF16, Dtype::F32, Dtype::U8, Dtype::BF16, Dtype::F16, Dtype::I64, Dtype::BOOL, Dtype::F4];
    let mut tensors = vec![
        ("bundle:0".to_owned(), Tensor::new(Dtype::U8, &[3], vec![1, 2, 3])),
        ("empty".to_owned(), Tensor::new(Dtype::C64, &[0, 4], Vec::new())),
    ];
    for index in 0..count {
        let dtype = types[index % types.len()];
        let length = [0, 1, 4, 30, 500, 800][index % 6] * 2;
        let tensor = match dtype {
            _ if index % 97 == 96 => weights(&mut rng, Dtype::BF16, 100, 200),
            _ if index % 89 == 88 => {
                Tensor::new(Dtype::U8, &[50, 400], (0..20_000).map(|_| rng.random_range(0..9)).collect())
            }
            Dtype::BF16 | Dtype::F32 | Dtype::F16 => weights(&mut rng, dtype, 1, length),
            _ => {
                let data = (0..length * dtype.bitsize() / 8).map(|_| rng.random_range(0..2)).collect();
                Tensor::new(dtype, &[length / 2, 2], data)
            }
        };
        tensors.push((format!("block.{index}.part"), tensor));
        if index % 50 == 0 {
            tensors.push((format!("scalar.{index}"), Tensor::new(Dtype::F32, &[], vec![index as u8; 4])));
        }
    }
    tensors
}

fn check(root: &Path, name: &str) {
    let store = Store::open(&root.join("store")).unwrap();
    let out = root.join("out");
    unpack(&store, &name.parse().unwrap(), &out, &options(), &Silent).unwrap();
    assert_same_tree(&root.join(name), &out);
    fs::remove_dir_all(&out).unwrap();
    for quick in [false, true] {
        assert!(verify(&store, None, quick, &options(), &Silent).unwrap().is_sound());
    }
}

#[test]
fn small_tensors_between_large_ones_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (mixture(1, 1500), mixture(2, 700));
    write(&dir.path().join("bf16/a.safetensors"), &first);
    write(&dir.path().join("bf16/b.safetensors"), &second);
    write(&dir.path().join("bf16/none.safetensors"), &[]);
    fs::write(dir.path().join("bf16/config.json"), "{}").unwrap();
    for shard_size in [u64::MAX, 300_000, 5000] {
        let options = WriteOptions { shard_size, ..write_options() };
        pack(&[spec(dir.path(), "bf16")], &dir.path().join("store"), &options, &Silent).unwrap();
        check(dir.path(), "bf16");
        let store = Store::open(&dir.path().join("store")).unwrap();
        let variant = store.variant(&"bf16".parse().unwrap()).unwrap();
        let loaded = load(&variant, &options.machine(), &Silent).unwrap();
        assert_eq!(loaded.len(), first.len() + second.len());
        // The first file's tensors keep the names that the other has as well.
        let qualified = second.iter().map(|(name, tensor)| {
            let is_taken = first.iter().any(|(other, _)| other == name);
            (if is_taken { format!("b.safetensors:{name}") } else { name.clone() }, tensor)
        });
        for (name, tensor) in first.iter().map(|(name, tensor)| (name.clone(), tensor)).chain(qualified) {
            let found = loaded.iter().find(|found| found.name == name).unwrap();
            assert!(found.data == tensor.data && found.dtype == tensor.dtype, "{name}");
        }
        // What loading reads is known before, each bundle counted once; a reader that cannot hold all bundles may read
        // some again.
        let inspection = inspect(&store, true).unwrap();
        let (expected, read) = (inspection.variants[0].read_bytes.unwrap(), variant.bytes_read());
        assert!(expected == read || shard_size < u64::MAX && expected < read, "{expected} {read}");
        let tensors = inspection.variants[0].tensors.as_ref().unwrap();
        assert!(tensors.iter().filter(|t| t.encoding == "slice").count() > 1500);
        let shares: u64 = tensors.iter().map(|t| t.stored_bytes).sum();
        assert!(shares < inspection.variants[0].stored_bytes);
        fs::remove_dir_all(dir.path().join("store")).unwrap();
    }
}

#[test]
fn output_does_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("bf16/a.safetensors"), &mixture(3, 2000));
    let mut trees = Vec::new();
    for (threads, memory) in [(1, 1 << 20), (2, 1 << 30), (5, 1 << 28)] {
        let target = dir.path().join(format!("store-{threads}"));
        let options = WriteOptions { threads, memory, shard_size: 500_000 };
        pack(&[spec(dir.path(), "bf16")], &target, &options, &Silent).unwrap();
        trees.push(common::tree(&target));
    }
    assert!(trees.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn very_many_take_less_than_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(4);
    let tensors: Vec<_> = (0..5000)
        .map(|index| (format!("model.blocks.{index}.scale"), weights(&mut rng, Dtype::BF16, 1, 16)))
        .collect();
    write(&dir.path().join("bf16/model.safetensors"), &tensors);
    let file = fs::metadata(dir.path().join("bf16/model.safetensors")).unwrap().len();
    pack(&[spec(dir.path(), "bf16")], &dir.path().join("store"), &write_options(), &Silent).unwrap();
    check(dir.path(), "bf16");
    let store = Store::open(&dir.path().join("store")).unwrap();
    let stored = inspect(&store, false).unwrap().stored_bytes;
    assert!(stored * 2 < file, "{stored} of {file}");
}

#[test]
fn one_small_tensor_is_read_with_its_bundle_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(5);
    let tensors: Vec<_> =
        (0..1000).map(|index| (format!("t.{index}"), weights(&mut rng, Dtype::F32, 2, 200))).collect();
    write(&dir.path().join("bf16/model.safetensors"), &tensors);
    pack(&[spec(dir.path(), "bf16")], &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let variant = store.variant(&"bf16".parse().unwrap()).unwrap();
    let opening = variant.bytes_read();
    assert!(read(&variant, "t.500").unwrap() == tensors[500].1.data);
    let once = variant.bytes_read();
    assert!((1..300_000).contains(&(once - opening)), "{}", once - opening);
    let tensor = qstore::Tensor::open(&variant, "t.501").unwrap();
    let rows = |rows| tensor.read_rows(rows, &options());
    assert!(*rows(1..2).unwrap() == tensors[501].1.data[800..]);
    assert_eq!(variant.bytes_read(), once);
    assert!(rows(1..3).is_err());
}

#[test]
fn equal_ones_are_stored_once_whatever_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(6);
    let mut low: Vec<_> = (0..200)
        .map(|index| (format!("t.{index}"), weights(&mut rng, Dtype::BF16, 1, 1 + index * 2)))
        .collect();
    // One that is twice in the lower variant, and one that is in the upper alone.
    low.push(("again".to_owned(), low[100].1.clone()));
    let mut high = low.clone();
    high[50].1 = weights(&mut rng, Dtype::BF16, 1, 101);
    high.push(("more".to_owned(), weights(&mut rng, Dtype::F32, 1, 300)));
    write(&dir.path().join("low/model.safetensors"), &low);
    write(&dir.path().join("high/model.safetensors"), &high);
    let store = dir.path().join("store");
    pack(&[spec(dir.path(), "high"), spec(dir.path(), "low")], &store, &write_options(), &Silent).unwrap();
    check(dir.path(), "low");
    check(dir.path(), "high");
    let want = common::tree(&store);
    let described = inspect(&Store::open(&store).unwrap(), true).unwrap();
    let encoding = |variant: usize, name: &str| {
        let tensors = described.variants[variant].tensors.as_ref().unwrap();
        tensors.iter().find(|t| t.name == name).unwrap().encoding.clone()
    };
    assert_eq!(encoding(0, "t.100"), "slice");
    assert_eq!(encoding(0, "again"), "reference");
    assert_eq!(encoding(1, "t.100"), "reference");
    assert_eq!(encoding(1, "again"), "reference");
    assert_eq!(encoding(1, "t.50"), "slice");
    // A reference would take as much.
    assert_eq!(encoding(1, "t.1"), "slice");

    fs::remove_dir_all(&store).unwrap();
    pack(&[spec(dir.path(), "low")], &store, &write_options(), &Silent).unwrap();
    add(&store, &spec(dir.path(), "high"), &write_options(), &Silent).unwrap();
    assert!(common::tree(&store) == want);
    remove(&store, &"low".parse().unwrap(), &write_options(), &Silent).unwrap();
    check(dir.path(), "high");
}

#[test]
fn damage_in_a_bundle_is_noticed_by_each_of_its_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let tensors: Vec<_> =
        (0..20).map(|index| (format!("t.{index}"), weights(&mut rng, Dtype::BF16, 1, 100))).collect();
    write(&dir.path().join("bf16/model.safetensors"), &tensors);
    pack(&[spec(dir.path(), "bf16")], &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let path = dir.path().join("store").join(store.manifest().variants[0].shards[0].name.as_str());
    let mut bytes = fs::read(&path).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[data + 1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let variant = store.variant(&"bf16".parse().unwrap()).unwrap();
    for name in ["t.3", "t.3", "t.19"] {
        let error = read(&variant, name).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor:{name}")) && error.contains("bundle:0"), "{error}");
    }
    let quick = verify(&store, None, true, &options(), &Silent).unwrap();
    assert_eq!(quick.variants[0].problems.len(), 1, "{quick:?}");
    assert!(!verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
    let out = dir.path().join("out");
    assert!(unpack(&store, &"bf16".parse().unwrap(), &out, &options(), &Silent).is_err());
    assert!(!out.exists());
}
