//! Whatever is packed comes back byte for byte, and loads as what it was.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{
    Gptq, Tensor, Tensors, Warnings, assert_same_tree, check_blocks, gptq, llm_int8, model, options, spec,
    write_checkpoint, write_options, write_pair,
};
use proptest::prelude::*;
use qstore::{
    Dtype, Error, Options, Silent, Store, VariantName, WriteOptions, inspect, load, pack, unpack, verify,
};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Packs the folders `names` of `root`, restores each, compares, verifies, and loads each.
fn check(root: &Path, names: &[&str], options: &WriteOptions) -> Store {
    let specs: Vec<_> = names.iter().map(|name| spec(root, name)).collect();
    let target = root.join("store");
    pack(&specs, &target, options, &Warnings::default()).unwrap();
    let (store, options) = (Store::open(&target).unwrap(), &options.machine());
    for name in names {
        check_variant(&store, root, name, options);
    }
    assert!(verify(&store, None, false, options, &Silent).unwrap().is_sound());
    assert!(verify(&store, None, true, options, &Silent).unwrap().is_sound());
    store
}

fn check_variant(store: &Store, root: &Path, name: &str, options: &Options) {
    let name: VariantName = name.parse().unwrap();
    let out = root.join(format!("restored-{name}"));
    unpack(store, &name, &out, options, &Silent).unwrap();
    assert_same_tree(&root.join(name.as_str()), &out);
    fs::remove_dir_all(&out).unwrap();

    let variant = store.variant(&name).unwrap();
    let loaded = load(&variant, options, &Silent).unwrap();
    let original = fs::read(root.join(name.as_str()).join("model.safetensors")).unwrap();
    let original = safetensors::SafeTensors::deserialize(&original).unwrap();
    assert_eq!(loaded.len(), original.len());
    for tensor in loaded {
        let view = original.tensor(&tensor.name).unwrap();
        assert_eq!(view.dtype(), tensor.dtype);
        assert!(view.shape().iter().map(|&d| d as u64).eq(tensor.shape.iter().copied()));
        assert!(*view.data() == *tensor.data, "{}", tensor.name);
        let opened = qstore::Tensor::open(&variant, &tensor.name).unwrap();
        assert!(opened.dtype() == tensor.dtype && opened.shape() == tensor.shape);
        assert!(opened.read(options).unwrap() == tensor.data, "{}", tensor.name);
        check_blocks(&opened, &tensor.data, options);
        let rows = tensor.shape.first().copied().unwrap_or(0);
        // Rows of types smaller than a byte may begin within one.
        if rows > 2 && (tensor.data.len() as u64).is_multiple_of(rows) {
            let row = tensor.data.len() / rows as usize;
            let some = opened.read_rows(1..rows - 1, options).unwrap();
            assert!(*some == tensor.data[row..row * (rows as usize - 1)], "rows of {}", tensor.name);
        }
    }
}

#[test]
fn a_pair_shrinks_and_comes_back() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path(), &model(1, dtype, &[(512, 768), (100, 4096), (3, 70), (2048, 512)]));
        let store = check(dir.path(), &["bf16", "int8"], &write_options());
        let inspection = inspect(&store, true).unwrap();
        let high = &inspection.variants[1];
        assert_eq!((high.name.as_str(), &high.given[..]), ("bf16", &["int8".to_owned()][..]));
        for tensor in high.tensors.iter().flatten() {
            // A matrix of 210 weights is cheaper by itself.
            let want = match tensor.name.as_str() {
                "model.layers.2.mlp.up_proj.weight" => "slice",
                name if name.ends_with("_proj.weight") => "residual",
                _ => "reference",
            };
            assert_eq!(tensor.encoding, want, "{} {dtype}", tensor.name);
        }
        assert!(inspection.ratio < 0.75, "{dtype}: {}", inspection.ratio);
    }
}

#[test]
fn small_shards_hold_the_same() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &model(2, Dtype::BF16, &[(256, 256); 6]));
    let store =
        check(dir.path(), &["int8", "bf16"], &WriteOptions { shard_size: 100_000, ..write_options() });
    assert!(store.manifest().variants.iter().all(|v| v.shards.len() > 3));
}

#[test]
fn output_does_not_depend_on_threads_or_memory() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &model(3, Dtype::BF16, &[(1500, 700), (64, 64)]));
    let specs = [spec(dir.path(), "bf16"), spec(dir.path(), "int8")];
    let mut trees = Vec::new();
    for (threads, memory) in [(1, 1 << 20), (2, 1 << 30), (5, 1 << 28)] {
        let target = dir.path().join(format!("store-{threads}"));
        pack(&specs, &target, &Options { threads, memory }.into(), &Silent).unwrap();
        trees.push(common::tree(&target));
    }
    assert!(trees.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn every_dtype_and_odd_shape() {
    use safetensors::Dtype as D;
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = Tensors::new();
    let all = [
        D::BOOL,
        D::U8,
        D::I8,
        D::F8_E5M2,
        D::F8_E4M3,
        D::F8_E8M0,
        D::I16,
        D::U16,
        D::F16,
        D::BF16,
        D::I32,
        D::U32,
        D::F32,
        D::F64,
        D::I64,
        D::U64,
        D::C64,
        D::F4,
        D::F6_E2M3,
        D::F6_E3M2,
        D::F8_E4M3FNUZ,
        D::F8_E5M2FNUZ,
    ];
    // A matrix without columns beside one that has a twin.
    let mut pair = model(9, Dtype::BF16, &[(64, 64)]);
    pair.insert("empty_proj.weight".to_owned(), Tensor::new(Dtype::BF16, &[5, 0], Vec::new()));
    pair.insert("none_proj.weight".to_owned(), Tensor::new(Dtype::BF16, &[0, 5], Vec::new()));
    write_pair(dir.path(), &pair);
    check(dir.path(), &["bf16", "int8"], &write_options());
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    let shapes: [&[usize]; 8] = [&[], &[0], &[8], &[5, 0], &[0, 5], &[4, 6], &[3, 8, 2], &[7000, 8]];
    for dtype in all {
        for (i, shape) in shapes.iter().enumerate() {
            let bits = shape.iter().product::<usize>() * dtype.bitsize();
            if bits % 8 != 0 {
                continue;
            }
            // Patterned, random and constant bytes in turn.
            let byte = |b: usize| match i % 3 {
                0 => b.wrapping_mul(2_654_435_761) >> 13,
                1 => b / 7 % 5,
                _ => 0x3f,
            };
            let data = (0..bits / 8).map(|b| byte(b) as u8).collect();
            tensors.insert(format!("t.{dtype}.{i}"), Tensor::new(dtype, shape, data));
        }
    }
    write_checkpoint(&dir.path().join("odd"), &tensors);
    check(dir.path(), &["odd"], &write_options());
}

#[test]
fn special_values_survive_in_weights_codes_and_scales() {
    let dir = tempfile::tempdir().unwrap();
    let mut high = model(4, Dtype::BF16, &[(300, 300), (64, 512)]);
    let name = "model.layers.0.mlp.up_proj.weight";
    let mut low = llm_int8(&high);
    let weights = &mut high.get_mut(name).unwrap().data;
    let specials = [0x7f80u16, 0xff80, 0x7fc1, 0xffff, 0x8000, 0x0000, 0x0001, 0x8001, 0x7f7f, 0x0080];
    for (i, special) in specials.iter().enumerate() {
        let at = 2 * (i * 301 + 17);
        weights[at..at + 2].copy_from_slice(&special.to_le_bytes());
    }
    let codes = &mut low.get_mut(name).unwrap().data;
    codes[5] = 0x80;
    codes[700] = 0x80;
    let scales = &mut low.get_mut("model.layers.0.mlp.up_proj.SCB").unwrap().data;
    for (row, scale) in
        [0.0f32, f32::NAN, f32::INFINITY, -1.0, f32::MIN_POSITIVE, f32::MAX, -0.0].iter().enumerate()
    {
        scales[4 * row..4 * row + 4].copy_from_slice(&scale.to_le_bytes());
    }
    write_checkpoint(&dir.path().join("bf16"), &high);
    write_checkpoint(&dir.path().join("int8"), &low);
    check(dir.path(), &["bf16", "int8"], &write_options());
}

#[test]
fn an_unrelated_int8_is_lossless_and_the_user_is_told() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(&dir.path().join("bf16"), &model(5, Dtype::BF16, &[(256, 256)]));
    write_checkpoint(&dir.path().join("int8"), &llm_int8(&model(6, Dtype::BF16, &[(256, 256)])));
    let specs = [spec(dir.path(), "bf16"), spec(dir.path(), "int8")];
    pack(&specs, &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let told = inspect(&store, false).unwrap().variants[1].unshared.clone();
    let reasons: Vec<_> = told.iter().map(|one| (one.reason, one.with.as_deref(), one.matrices)).collect();
    assert_eq!(reasons, [("not-made-from", Some("int8"), 1), ("floats", Some("int8"), 1)]);
    assert!(told[0].text.contains("is it the same model?"), "{}", told[0].text);
    check_variant(&store, dir.path(), "bf16", &options());
    check_variant(&store, dir.path(), "int8", &options());
}

/// GPT-2's `Conv1D` keeps its weights transposed against what bitsandbytes quantises; a square one shows it by nothing
/// but its values.
#[test]
fn codes_of_the_transposed_matrix_serve_as_well() {
    for dtype in [Dtype::BF16, Dtype::F32] {
        let dir = tempfile::tempdir().unwrap();
        let mut high = model(8, dtype, &[(768, 2304), (256, 256), (70, 3)]);
        let low = llm_int8(&high);
        for (name, tensor) in high.iter_mut().filter(|(name, _)| name.ends_with("_proj.weight")) {
            let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
            let values = tensor.values();
            let turned: Vec<f32> = (0..cols)
                .flat_map(|c| (0..rows).map(move |r| (r, c)))
                .map(|(r, c)| values[r * cols + c])
                .collect();
            *tensor = Tensor::float(dtype, &[cols, rows], &turned);
            assert!(low.contains_key(name));
        }
        write_checkpoint(&dir.path().join("bf16"), &high);
        write_checkpoint(&dir.path().join("int8"), &low);
        let store = check(dir.path(), &["bf16", "int8"], &write_options());
        for tensor in inspect(&store, true).unwrap().variants[1].tensors.iter().flatten() {
            let large = tensor.name.ends_with("_proj.weight") && tensor.raw_bytes > 10_000;
            assert!(!large || tensor.encoding == "residual", "{} is {}", tensor.name, tensor.encoding);
        }
    }
}

#[test]
fn other_shapes_under_the_same_names_are_stored_alone_and_told() {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(&dir.path().join("bf16"), &model(5, Dtype::BF16, &[(256, 256)]));
    write_checkpoint(&dir.path().join("int8"), &llm_int8(&model(6, Dtype::BF16, &[(256, 128)])));
    let specs = [spec(dir.path(), "bf16"), spec(dir.path(), "int8")];
    pack(&specs, &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let told = inspect(&store, false).unwrap().variants[1].unshared[0].clone();
    assert_eq!((told.reason, told.matrices), ("other-shape", 1));
    for part in ["model.layers.0.mlp.up_proj.weight", "256 x 256 here, 256 x 128 there"] {
        assert!(told.text.contains(part), "{}", told.text);
    }
    check_variant(&store, dir.path(), "bf16", &options());
    check_variant(&store, dir.path(), "int8", &options());
}

/// Codes of other weights say nothing, and being given them costs more than nothing.
#[test]
fn codes_of_another_model_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = [(256, 512)];
    let (ours, theirs) = (model(8, Dtype::BF16, &shapes), model(9, Dtype::BF16, &shapes));
    write_checkpoint(&dir.path().join("bf16"), &ours);
    write_checkpoint(&dir.path().join("int8"), &llm_int8(&theirs));
    write_checkpoint(&dir.path().join("gptq4"), &gptq(&model(10, Dtype::BF16, &shapes), Gptq::of_bits(4)));
    let store = check(dir.path(), &["bf16", "int8", "gptq4"], &write_options());
    for (variant, encoding) in
        inspect(&store, true).unwrap().variants.iter().skip(1).zip(["codes", "float-split"])
    {
        let mut tensors = variant.tensors.iter().flatten();
        let weight = tensors.find(|tensor| tensor.name.ends_with("up_proj.weight")).unwrap();
        assert_eq!(weight.encoding, encoding, "{}", variant.name);
    }
}

#[test]
fn files_folders_and_shared_bytes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &model(7, Dtype::BF16, &[(64, 64)]));
    let folder = dir.path().join("bf16");
    fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    fs::create_dir_all(folder.join("empty/inner")).unwrap();
    fs::write(folder.join("1_Pooling/config.json"), "{}").unwrap();
    fs::write(folder.join(".gitattributes"), "*.safetensors filter=lfs\n").unwrap();
    fs::write(folder.join("nothing"), "").unwrap();
    fs::write(folder.join("with space ü.txt"), vec![7; 9_000_000]).unwrap();
    fs::write(
        folder.join("random.bin"),
        (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    // The same weights in a second file under the same names, as some hubs have them.
    fs::copy(folder.join("model.safetensors"), folder.join("consolidated.safetensors")).unwrap();
    let specs = [spec(dir.path(), "bf16"), spec(dir.path(), "int8")];
    let target = dir.path().join("store");
    pack(&specs, &target, &write_options(), &Silent).unwrap();
    let store = Store::open(&target).unwrap();
    unpack(&store, &"bf16".parse().unwrap(), &dir.path().join("out"), &options(), &Silent).unwrap();
    assert_same_tree(&folder, &dir.path().join("out"));
    let names: Vec<_> =
        store.variant(&"bf16".parse().unwrap()).unwrap().tensors().into_iter().map(|t| t.name).collect();
    assert!(names.contains(&"consolidated.safetensors:model.embed_tokens.weight".to_owned()), "{names:?}");
    assert!(inspect(&store, false).unwrap().variants[1].stored_bytes < 5_300_000);
}

fn any_tensors() -> impl Strategy<Value = Tensors> {
    use safetensors::Dtype as D;
    let dtype = prop_oneof![
        Just(D::BF16),
        Just(D::F16),
        Just(D::F32),
        Just(D::I8),
        Just(D::U8),
        Just(D::I32),
        Just(D::F64)
    ];
    let tensor =
        (dtype, 0usize..40, 0usize..90, any::<u64>(), 0u32..5).prop_map(|(dtype, rows, cols, seed, kind)| {
            let bytes = rows * cols * dtype.bitsize() / 8;
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            let data = (0..bytes)
                .map(|b| match kind {
                    0 => next(),
                    1 => 0,
                    2 => [0x12, 0x3c][b % 2] ^ (next() & 3),
                    3 => {
                        if next() < 10 {
                            0xff
                        } else {
                            next() & 15
                        }
                    }
                    _ => [0, 0, 0x80, 0x3f][b % 4],
                })
                .collect();
            Tensor::new(dtype, &[rows, cols], data)
        });
    proptest::collection::btree_map("[a-z]{1,3}(\\.weight|\\.SCB|_proj\\.weight)?", tensor, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_tensors_come_back(tensors in any_tensors(), other in any_tensors()) {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(&dir.path().join("a"), &tensors);
        check(dir.path(), &["a"], &write_options());
        // As a second variant they may clash by name and shape, which is an error; else they come back as well.
        write_checkpoint(&dir.path().join("b"), &other);
        let specs = [spec(dir.path(), "a"), spec(dir.path(), "b")];
        let target = dir.path().join("both");
        if pack(&specs, &target, &write_options(), &Silent).is_ok() {
            let store = Store::open(&target).unwrap();
            check_variant(&store, dir.path(), "a", &options());
            check_variant(&store, dir.path(), "b", &options());
        }
    }

    #[test]
    fn any_weights_given_their_codes(
        rows in 1usize..60, cols in 1usize..200, seed in any::<u64>(), dtype in prop_oneof![Just(Dtype::BF16), Just(Dtype::F16), Just(Dtype::F32)],
        magnitude in -40i16..16, exotic in 0usize..20,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut tensors = model(seed, dtype, &[(rows, cols)]);
        let weights = tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
        let mut values: Vec<f32> = weights.values().iter().map(|v| v * f32::from(magnitude).exp2()).collect();
        for i in 0..exotic {
            let at = (i * 7919) % values.len();
            values[at] = [0.0, -0.0, f32::MIN_POSITIVE, 1e-7, -3e-8, 6e-5, 70_000.0][i % 7];
        }
        *weights = Tensor::float(dtype, &[rows, cols], &values);
        write_pair(dir.path(), &tensors);
        check(dir.path(), &["bf16", "int8"], &write_options());
    }
}

#[test]
fn a_large_tensor_is_the_same_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &model(77, Dtype::BF16, &[(3000, 2000)]));
    let store = dir.path().join("store");
    pack(&[spec(dir.path(), "bf16"), spec(dir.path(), "int8")], &store, &write_options(), &Silent).unwrap();
    let variant = Store::open(&store).unwrap().variant(&"bf16".parse().unwrap()).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let tensor = qstore::Tensor::open(&variant, name).unwrap();
    let want = tensor.read(&options()).unwrap();
    for threads in [0, 1, 2, 3, 200] {
        let options = Options { threads, ..options() };
        assert!(tensor.read(&options).unwrap() == want, "{threads} threads");
        // From within a chunk to within another.
        let rows = tensor.read_rows(7..2990, &options).unwrap();
        assert!(*rows == want[7 * 4000..2990 * 4000], "rows by {threads} threads");
    }
    let error = qstore::Tensor::open(&variant, "none").unwrap_err();
    assert!(matches!(error, Error::UnknownName { .. }), "{error}");
}

/// Codes that are no matrix are coded in rows of other lengths than their last dimension.
#[test]
fn blocks_of_codes_with_more_dimensions() {
    let dir = tempfile::tempdir().unwrap();
    let (mut rng, mut tensors) = (StdRng::seed_from_u64(31), Tensors::new());
    for (name, shape) in [("three", &[196, 33, 5][..]), ("four", &[40, 9, 3, 70]), ("one", &[200_000])] {
        let count = shape.iter().product::<usize>();
        // Nearly normal, and without order: tables pay, and nothing repeats.
        let codes = (0..count).map(|_| rng.random::<u32>().count_ones() as u8).collect();
        tensors.insert(name.to_owned(), Tensor::new(Dtype::I8, shape, codes));
    }
    write_checkpoint(&dir.path().join("int8"), &tensors);
    check(dir.path(), &["int8"], &write_options());
    let store = Store::open(&dir.path().join("store")).unwrap();
    let inspection = inspect(&store, true).unwrap();
    let encodings = inspection.variants[0].tensors.iter().flatten().map(|tensor| tensor.encoding.clone());
    assert_eq!(encodings.collect::<Vec<_>>(), ["codes"; 3]);
}

/// A reference has a shape and a type of its own, and so have its columns.
#[test]
fn blocks_of_references_of_another_type() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = StdRng::seed_from_u64(32).random_iter().take(1 << 16).collect();
    let mut tensors = Tensors::new();
    for (name, dtype, shape) in [
        ("a", Dtype::I8, [256, 256]),
        ("b", Dtype::BF16, [256, 128]),
        ("c", Dtype::I32, [64, 256]),
        ("d", Dtype::I8, [128, 512]),
    ] {
        tensors.insert(name.to_owned(), Tensor::new(dtype, &shape, bytes.clone()));
    }
    write_checkpoint(&dir.path().join("all"), &tensors);
    check(dir.path(), &["all"], &write_options());
    let inspection = inspect(&Store::open(&dir.path().join("store")).unwrap(), true).unwrap();
    let tensors = inspection.variants[0].tensors.iter().flatten();
    assert_eq!(tensors.filter(|tensor| tensor.encoding == "reference").count(), 3);
}
