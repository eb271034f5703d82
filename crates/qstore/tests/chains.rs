//! Chains of GPTQ variants below each other: codes given codes, floats given codes that were moved. Whatever is in them
//! comes back byte for byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test data")]
#![allow(clippy::type_complexity, reason = "tables of cases")]

mod common;

use std::fs;
use std::path::Path;

use common::{
    Gptq, Tensor, Tensors, Warnings, assert_same_tree, check_blocks, gptq, gptq_tensors, llm_int8, model,
    options, spec, words, write_checkpoint, write_options,
};
use qstore::{
    Dtype, Error, Inspection, Options, Silent, Store, VariantSpec, add, inspect, load, pack, remove, unpack,
    verify,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

const STEM: &str = "model.layers.0.mlp.up_proj";

/// Folders of these names: `bf16` (or whatever it is in), `int8`, or `gptq` and a number of bits.
fn folders(high: &Tensors, names: &[&str]) -> TempDir {
    let dir = common::scratch();
    for name in names {
        let tensors = match name.strip_prefix("gptq") {
            Some(bits) => gptq(high, Gptq::of_bits(bits.parse().unwrap())),
            None if *name == "int8" => llm_int8(high),
            None => high.clone(),
        };
        write_checkpoint(&dir.path().join(name), &tensors);
    }
    dir
}

fn pack_these(root: &Path, names: &[&str], options: &Options) -> Vec<String> {
    let specs: Vec<_> = names.iter().map(|name| spec(root, name)).collect();
    let warnings = Warnings::default();
    pack(&specs, &root.join("store"), &options.clone().into(), &warnings).unwrap();
    // What shares less than one would expect is told by the store.
    let inspection = inspect(&Store::open(&root.join("store")).unwrap(), false).unwrap();
    let told = inspection.variants.into_iter().flat_map(|variant| variant.unshared);
    warnings.take().into_iter().chain(told.map(|unshared| unshared.text)).collect()
}

/// Restores and loads each variant, rows of it as well, and compares.
fn check(root: &Path, names: &[&str]) -> Inspection {
    let store = Store::open(&root.join("store")).unwrap();
    for name in names {
        check_variant(&store, root, name);
    }
    assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
    assert!(verify(&store, None, true, &options(), &Silent).unwrap().is_sound());
    inspect(&store, true).unwrap()
}

fn check_variant(store: &Store, root: &Path, name: &str) {
    let (id, out) = (name.parse().unwrap(), root.join("out"));
    unpack(store, &id, &out, &options(), &Silent).unwrap();
    assert_same_tree(&root.join(name), &out);
    fs::remove_dir_all(&out).unwrap();
    let variant = store.variant(&id).unwrap();
    let original = fs::read(root.join(name).join("model.safetensors")).unwrap();
    let original = safetensors::SafeTensors::deserialize(&original).unwrap();
    let loaded = load(&variant, &options(), &Silent).unwrap();
    assert_eq!(loaded.len(), original.len());
    for tensor in loaded {
        let view = original.tensor(&tensor.name).unwrap();
        assert!(*view.data() == *tensor.data, "{name}: {}", tensor.name);
        let opened = qstore::Tensor::open(&variant, &tensor.name).unwrap();
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let row = tensor.data.len().checked_div(rows as usize).unwrap_or(0);
        check_blocks(&opened, &tensor.data, &options());
        for (from, to) in [(0, rows.min(1)), (rows / 3, rows - rows / 4), (rows.saturating_sub(1), rows)] {
            let some = opened.read_rows(from..to, &options()).unwrap();
            assert!(*some == tensor.data[row * from as usize..row * to as usize], "{name}: {}", tensor.name);
        }
    }
}

/// How tensors whose names end so are stored in a variant.
fn encodings(inspection: &Inspection, variant: &str, end: &str) -> Vec<String> {
    let variant = inspection.variants.iter().find(|v| v.name == variant).unwrap();
    let tensors = variant.tensors.iter().flatten().filter(|tensor| tensor.name.ends_with(end));
    tensors.map(|tensor| tensor.encoding.clone()).collect()
}

#[test]
fn chains_of_two_three_and_six_come_back() {
    let high = model(1, Dtype::BF16, &[(96, 256), (64, 640), (256, 192)]);
    for (names, of_high) in [
        (&["bf16", "gptq4"][..], "step-residual"),
        (&["bf16", "gptq3"], "step-residual"),
        (&["gptq4", "bf16", "gptq8"], "step-residual"),
        (&["bf16", "int8", "gptq4"], "residual"),
        // Of LLM.int8() and others as well, where that saves a tenth of a bit.
        (&["gptq3", "gptq8", "gptq2", "int8", "gptq4", "bf16"], "residual"),
    ] {
        let dir = folders(&high, names);
        let warnings = pack_these(dir.path(), names, &options());
        assert!(warnings.is_empty(), "{warnings:?}");
        let inspection = check(dir.path(), names);
        let found = encodings(&inspection, "bf16", "_proj.weight");
        // Moved codes suit either encoding about as well.
        let fits = |found: &String| {
            *found == of_high || found == "refine-floats" && *names != ["bf16", "int8", "gptq4"]
        };
        assert!(found.len() == 3 && found.iter().all(fits), "{names:?}: {found:?}");
        for name in names.iter().filter(|name| **name != "bf16") {
            let end = if *name == "int8" { "_proj.weight" } else { "_proj.qweight" };
            let want = if inspection.variants[0].name == *name { "codes" } else { "code-residual" };
            // The lowest one's smallest are in bundles.
            let found = encodings(&inspection, name, end);
            assert!(found.iter().all(|e| e == want || e == "slice" && want == "codes"), "{name}: {found:?}");
        }
    }
}

/// Each variant in the store takes clearly less than by itself.
#[test]
fn chains_shrink() {
    let names = ["bf16", "gptq8", "gptq4"];
    let dir = folders(&model(2, Dtype::BF16, &[(512, 1024)]), &names);
    pack_these(dir.path(), &names, &options());
    let together = check(dir.path(), &names);
    // Bits are those of a code, not of a word that holds several.
    for (variant, bits) in together.variants.iter().zip([4.0, 8.0, 16.0]) {
        let mut tensors = variant.tensors.iter().flatten();
        let matrix = tensors.find(|tensor| tensor.name.contains("_proj.") && tensor.name.ends_with("weight"));
        let stored = matrix.unwrap().bits_per_weight.unwrap();
        assert!((2.0..bits).contains(&stored), "{}: {stored}", variant.name);
    }
    for name in ["bf16", "gptq8"] {
        let alone = dir.path().join(format!("alone-{name}"));
        pack(&[spec(dir.path(), name)], &alone, &write_options(), &Silent).unwrap();
        let alone = inspect(&Store::open(&alone).unwrap(), true).unwrap();
        let stored = |inspection: &Inspection| {
            let variant = inspection.variants.iter().find(|v| v.name == name).unwrap();
            let of_layer = variant.tensors.iter().flatten().filter(|tensor| tensor.name.starts_with(STEM));
            of_layer.map(|tensor| tensor.stored_bytes).sum::<u64>()
        };
        assert!(stored(&together) * 5 < stored(&alone) * 4, "{name}");
    }
}

#[test]
fn every_order_of_naming_gives_the_same_store() {
    let names = ["bf16", "gptq8", "gptq3"];
    let dir = folders(&model(3, Dtype::BF16, &[(64, 512)]), &names);
    let mut stores = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        pack_these(dir.path(), &order.map(|at| names[at]), &options());
        stores.push(common::tree(&dir.path().join("store")));
        fs::remove_dir_all(dir.path().join("store")).unwrap();
    }
    assert!(stores.iter().all(|store| *store == stores[0]));
}

/// The first matrix has several chunks, and coders of 128 lanes.
#[test]
fn output_does_not_depend_on_threads() {
    let names = ["bf16", "gptq8", "gptq3"];
    let dir = folders(&model(4, Dtype::BF16, &[(1056, 1024), (64, 256)]), &names);
    let mut stores = Vec::new();
    for (threads, memory) in [(1, 1 << 20), (3, 1 << 30)] {
        let options = Options { threads, memory };
        pack_these(dir.path(), &names, &options);
        stores.push(common::tree(&dir.path().join("store")));
        if threads == 3 {
            check(dir.path(), &names);
        }
        fs::remove_dir_all(dir.path().join("store")).unwrap();
    }
    assert!(stores[0] == stores[1]);
}

#[test]
fn a_variant_needs_nothing_from_above() {
    let names = ["bf16", "gptq8", "gptq4", "gptq2"];
    let dir = folders(&model(5, Dtype::BF16, &[(96, 256)]), &names);
    pack_these(dir.path(), &names, &options());
    let store = Store::open(&dir.path().join("store")).unwrap();
    let inspection = inspect(&store, false).unwrap();
    for above in inspection.variants.iter().skip(1).rev() {
        for file in &above.stored_files {
            fs::remove_file(dir.path().join("store").join(file)).unwrap();
        }
        for below in inspection.variants.iter().take_while(|variant| variant.name != above.name) {
            check_variant(&store, dir.path(), &below.name);
            let sound = verify(&store, Some(&below.name.parse().unwrap()), false, &options(), &Silent);
            assert!(sound.unwrap().is_sound());
        }
        assert!(
            store
                .variant(&above.name.parse().unwrap())
                .map(|v| load(&v, &options(), &Silent))
                .is_err_and(|e| { matches!(e, Error::Damaged { .. } | Error::Io { .. }) })
        );
    }
}

#[test]
fn adding_and_removing_in_the_middle() {
    let all = ["gptq2", "gptq4", "gptq8", "bf16"];
    let dir = folders(&model(6, Dtype::BF16, &[(96, 256), (32, 512)]), &all);
    let path = dir.path().join("store");
    pack_these(dir.path(), &all, &options());
    let want = common::tree(&path);
    for middle in all {
        let others: Vec<_> = all.into_iter().filter(|name| *name != middle).collect();
        remove(&path, &middle.parse().unwrap(), &write_options(), &Silent).unwrap();
        check(dir.path(), &others);
        add(&path, &spec(dir.path(), middle), &write_options(), &Silent).unwrap();
        check(dir.path(), &all);
        let found = common::tree(&path);
        assert!(found.keys().eq(want.keys()) && found == want, "{middle} removed and added");
    }
}

#[test]
fn kept_variants_serve_as_well() {
    let names = ["gptq3", "gptq4", "bf16"];
    let dir = folders(&model(7, Dtype::F16, &[(96, 256), (32, 544)]), &names);
    let specs = names.map(|name| VariantSpec { verbatim: name == "gptq3", ..spec(dir.path(), name) });
    pack(&specs, &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let inspection = check(dir.path(), &names);
    assert!(encodings(&inspection, "gptq3", "").iter().all(|encoding| encoding == "verbatim"));
    assert_eq!(encodings(&inspection, "gptq4", "qweight"), ["code-residual"; 2]);
    let of_high = encodings(&inspection, "bf16", "_proj.weight");
    assert!(
        of_high.iter().all(|found| ["step-residual", "refine-floats"].contains(&&**found)),
        "{of_high:?}"
    );
}

/// Groups in and out of order, of several sizes, the last one short; zero-points in the middle or not, stored in both
/// ways; every type of float.
#[test]
fn every_kind_of_grid() {
    let kinds = [Dtype::BF16, Dtype::F16, Dtype::F32];
    let mut steps = 0;
    for case in 0..12usize {
        let how = |bits| Gptq {
            bits,
            group: [64, 32, 48, 512, 100, 7][case % 6],
            act_order: case % 2 == 1,
            asymmetric: case % 4 > 1,
            zero_offset: (case / 2 % 2) as u8,
            scales: kinds[case % 3],
        };
        let high = model(case as u64, kinds[case / 4], &[(64, 448), (32, 32)]);
        let dir = common::scratch();
        write_checkpoint(&dir.path().join("high"), &high);
        for bits in [2, 3, 4, 8] {
            // The codes below are in groups of their own.
            let other = Gptq { group: 64, act_order: case % 3 == 1, ..how(bits) };
            let how = if bits == 8 { how(bits) } else { other };
            write_checkpoint(&dir.path().join(format!("gptq{bits}")), &gptq(&high, how));
        }
        for bits in ["gptq2", "gptq3", "gptq4"] {
            let names = ["high", "gptq8", bits];
            pack_these(dir.path(), &names, &options());
            let inspection = check(dir.path(), &names);
            let of_high = encodings(&inspection, "high", "_proj.weight");
            steps += of_high.iter().filter(|encoding| *encoding == "step-residual").count();
            // Codes of fewer bits may say less than being given them costs.
            let of_codes = encodings(&inspection, "gptq8", "qweight");
            assert!(
                bits != "gptq4" || of_codes.contains(&"code-residual".to_owned()),
                "{case} {bits}: {of_codes:?}"
            );
            fs::remove_dir_all(dir.path().join("store")).unwrap();
        }
    }
    assert!(steps > 30, "{steps}");
}

#[test]
fn special_values_survive_in_weights_and_grids() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let mut high = model(8, dtype, &[(64, 256)]);
        let mut twins = [4, 8].map(|bits| {
            (format!("gptq{bits}"), gptq(&high, Gptq { scales: Dtype::F32, ..Gptq::of_bits(bits) }))
        });
        let weights = &mut high.get_mut(&format!("{STEM}.weight")).unwrap().data;
        let specials =
            [0x7f80u16, 0xff80, 0x7fc1, 0xffff, 0x8000, 0x0000, 0x0001, 0x8001, 0x7f7f, 0x0080, 0x7c00];
        for (i, special) in specials.iter().cycle().take(200).enumerate() {
            let at = (weights.len() / 200 * i) / 4 * 4;
            weights[at..at + 2].copy_from_slice(&special.to_le_bytes());
            weights[at + 2..at + 4].copy_from_slice(&special.to_le_bytes());
        }
        for (index, (_, twin)) in twins.iter_mut().enumerate() {
            let scales = &mut twin.get_mut(&format!("{STEM}.scales")).unwrap().data;
            let odd = [0.0, f32::NAN, f32::INFINITY, -1.0, 1e-45, f32::MAX, -0.0, -1e-42, f32::NEG_INFINITY];
            for (i, scale) in odd.iter().enumerate() {
                // In one variant or in both.
                let at = 4 * (i * (5 + 8 * index));
                scales[at..at + 4].copy_from_slice(&scale.to_le_bytes());
            }
        }
        let dir = common::scratch();
        write_checkpoint(&dir.path().join("high"), &high);
        twins.iter().for_each(|(name, twin)| write_checkpoint(&dir.path().join(name), twin));
        let names = ["high", "gptq4", "gptq8"];
        pack_these(dir.path(), &names, &options());
        let inspection = check(dir.path(), &names);
        let of_high = encodings(&inspection, "high", "_proj.weight");
        assert!(["step-residual", "refine-floats"].contains(&&*of_high[0]), "{dtype}: {of_high:?}");
        assert_eq!(encodings(&inspection, "gptq8", "qweight"), ["code-residual"], "{dtype}");
    }
}

#[test]
fn tiny_matrices_and_transposed_weights() {
    let mut high = model(9, Dtype::BF16, &[(32, 32), (64, 32), (32, 64), (96, 96), (128, 128)]);
    let names = ["bf16", "gptq8", "gptq4", "gptq2"];
    let dir = folders(&high, &names);
    pack_these(dir.path(), &names, &options());
    check(dir.path(), &names);
    fs::remove_dir_all(dir.path().join("store")).unwrap();

    // GPT-2's `Conv1D` has its weights the other way round.
    for (_, tensor) in high.iter_mut().filter(|(name, _)| name.ends_with("_proj.weight")) {
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let turned: Vec<f32> = (0..values.len()).map(|at| values[at % rows * cols + at / rows]).collect();
        *tensor = Tensor::float(Dtype::BF16, &[cols, rows], &turned);
    }
    write_checkpoint(&dir.path().join("bf16"), &high);
    pack_these(dir.path(), &names, &options());
    let found = encodings(&check(dir.path(), &names), "bf16", "_proj.weight");
    assert!(found.iter().filter(|encoding| *encoding == "step-residual").count() >= 2, "{found:?}");
}

fn set(tensors: &mut Tensors, name: &str, tensor: Tensor) {
    tensors.insert(format!("{STEM}.{name}"), tensor).unwrap();
}

/// Checkpoints that contradict themselves: nothing is given to them, and they come back.
#[test]
fn damaged_grids_are_stored_as_they_are() {
    let high = model(10, Dtype::F32, &[(64, 256)]);
    let rows = 64;
    let columns = |value: u32| words(&[256], &vec![value; 256]);
    // What is said of it where it is given to the weights, or is to be given codes itself; nothing where the tensors
    // are not known to belong together.
    let cases: [(&str, Option<&str>, &dyn Fn(&mut Tensors, u8)); 13] = [
        ("groups out of range", Some("a column of a group"), &|t, _| set(t, "g_idx", columns(4))),
        ("negative groups", Some("a column of a group"), &|t, _| set(t, "g_idx", columns(u32::MAX))),
        ("more groups than columns", Some("more groups than inputs"), &|t, bits| {
            set(t, "scales", Tensor::float(Dtype::F16, &[300, rows], &vec![0.01; 300 * rows]));
            let high = rows * usize::from(bits) / 32;
            set(t, "qzeros", words(&[300, high], &vec![0x7777_7777; 300 * high]));
        }),
        ("no groups", None, &|t, bits| {
            set(t, "scales", Tensor::float(Dtype::F16, &[0, rows], &[]));
            set(t, "qzeros", words(&[0, rows * usize::from(bits) / 32], &[]));
        }),
        ("zero-points cut short", None, &|t, _| set(t, "qzeros", words(&[4, 3], &[7; 12]))),
        ("zero-points of fewer groups", None, &|t, bits| {
            let high = rows * usize::from(bits) / 32;
            set(t, "qzeros", words(&[3, high], &vec![7; 3 * high]));
        }),
        ("scales that are whole numbers", Some("its scales are no floats"), &|t, _| {
            set(t, "scales", words(&[4, rows], &vec![7; 4 * rows]));
        }),
        ("scales of 64 bits", Some("its scales are no floats"), &|t, _| {
            set(t, "scales", Tensor::new(Dtype::F64, &[4, rows], vec![63; 32 * rows]));
        }),
        ("scales in one row", Some("it or its scales are no matrix"), &|t, _| {
            set(t, "scales", Tensor::float(Dtype::F16, &[4 * rows], &vec![0.1; 4 * rows]));
        }),
        ("groups of 64 bits", Some("g_idx"), &|t, _| {
            set(t, "g_idx", Tensor::new(Dtype::I64, &[256], vec![0; 8 * 256]));
        }),
        ("groups of fewer columns", Some("g_idx"), &|t, _| set(t, "g_idx", words(&[255], &[0; 255]))),
        ("no scales", Some("no scales"), &|t, _| drop(t.remove(&format!("{STEM}.scales")).unwrap())),
        ("codes of 5 bits", None, &|t, _| set(t, "qweight", words(&[41, rows], &vec![9; 41 * rows]))),
    ];
    for (what, why, damage) in cases {
        for (bits, names) in [(4, &["bf16", "gptq4"][..]), (8, &["gptq8", "gptq4"])] {
            let dir = folders(&high, &["bf16", "gptq8", "gptq4"]);
            let mut twin = gptq(&high, Gptq::of_bits(bits));
            damage(&mut twin, bits);
            write_checkpoint(&dir.path().join(format!("gptq{bits}")), &twin);
            let warnings = pack_these(dir.path(), names, &options()).join("\n");
            check(dir.path(), names);
            if let Some(why) = why {
                assert!(warnings.contains(why) && warnings.contains(STEM), "{what}, {bits} bits: {warnings}");
            }
        }
    }
}

/// Official GPTQ folders have matrices that were padded before they were quantised. One such matrix is no reason to
/// refuse all.
#[test]
fn codes_of_another_shape_are_stored_alone() {
    let dir = folders(&model(11, Dtype::BF16, &[(64, 256)]), &["bf16"]);
    let other = gptq(&model(11, Dtype::BF16, &[(64, 512)]), Gptq::of_bits(4));
    write_checkpoint(&dir.path().join("gptq4"), &other);
    let told = pack_these(dir.path(), &["bf16", "gptq4"], &options());
    assert!(told[0].contains("64 x 256 here, 64 x 512 there") && told[0].contains(STEM), "{told:?}");
    check(dir.path(), &["gptq4", "bf16"]);
}

/// One group of all columns, all of whose scales are 1 and zero-points `zero`.
fn plain(base: &str, shape: [usize; 2], bits: u8, zero: u32, codes: &[u32]) -> Tensors {
    let [rows, cols] = shape;
    let grid = (codes, &vec![1.0; rows][..], &vec![zero; rows][..], &vec![0; cols][..]);
    gptq_tensors(base, shape, Gptq::of_bits(bits), grid)
}

/// A reference has the bytes of the other array and its own shape. What is given it must not change when the other
/// array is stored in another way.
#[test]
fn codes_that_refer_to_codes_of_another_shape() {
    let mut rng = StdRng::seed_from_u64(12);
    let (shape, other) = ([64, 512], [128, 256]);
    // Noise, which is stored as it is unless it is given something.
    let codes: Vec<u32> = (0..64 * 512).map(|_| rng.random_range(0..256)).collect();
    let low: Vec<u32> = codes.iter().map(|code| code / 16).collect();
    let mut low = plain("a_proj", shape, 4, 8, &low);
    low.insert("a_proj.scales".to_owned(), Tensor::float(Dtype::F16, &[1, 64], &[16.0; 64]));
    let mut middle = plain("a_proj", shape, 8, 128, &codes);
    let qweight = middle["a_proj.qweight"].clone();
    let of_row = |row: usize| (0..64).map(move |word| word * 128 + row);
    let words_of: Vec<u32> =
        qweight.data.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let codes: Vec<u32> =
        (0..128).flat_map(of_row).flat_map(|at| words_of[at].to_le_bytes().map(u32::from)).collect();
    middle.extend(plain("b_proj", other, 8, 128, &codes));
    assert_eq!(middle["b_proj.qweight"].data, qweight.data);
    let weights: Vec<f32> =
        codes.iter().map(|code| *code as f32 - 128.0 + rng.random_range(-0.4..0.4)).collect();
    let high = Tensors::from([("b_proj.weight".to_owned(), Tensor::float(Dtype::F32, &other, &weights))]);

    let dir = common::scratch();
    for (name, tensors) in [("low", low), ("middle", middle), ("high", high)] {
        write_checkpoint(&dir.path().join(name), &tensors);
    }
    let path = dir.path().join("store");
    pack_these(dir.path(), &["low", "middle", "high"], &options());
    let with = check(dir.path(), &["low", "middle", "high"]);
    assert_eq!(encodings(&with, "middle", "a_proj.qweight"), ["code-residual"]);
    assert_eq!(encodings(&with, "middle", "b_proj.qweight"), ["reference"]);
    assert_eq!(encodings(&with, "high", "b_proj.weight"), ["step-residual"]);
    remove(&path, &"low".parse().unwrap(), &write_options(), &Silent).unwrap();
    let without = check(dir.path(), &["middle", "high"]);
    assert_eq!(encodings(&without, "middle", "a_proj.qweight"), ["raw"]);
    let stored = |inspection: &Inspection| inspection.variants.last().unwrap().stored_bytes;
    // What codes of another name are given is not known to whoever is given these, so it has fewer ways to be stored.
    assert!(stored(&with).abs_diff(stored(&without)) < 2000, "{} {}", stored(&with), stored(&without));
}

/// Readers refuse a grid that is itself a residual. By chance, or by malice, a part of one may have the bytes of codes.
#[test]
fn grids_that_equal_codes() {
    let mut rng = StdRng::seed_from_u64(13);
    let group_of: Vec<u32> = (0..1024).map(|_| rng.random_range(0..8)).collect();
    let shape = [64, 1024];
    let values: Vec<u32> = (0..64 * 1024).map(|_| rng.random_range(0..256)).collect();
    let matrix = |bits: u8| {
        let codes: Vec<u32> = values.iter().map(|value| value >> (8 - bits)).collect();
        let scales = vec![f32::from(1u16 << (8 - bits)); 8 * 64];
        let zeros = vec![1 << (bits - 1); 8 * 64];
        gptq_tensors("b_proj", shape, Gptq::of_bits(bits), (&codes, &scales, &zeros, &group_of))
    };
    // Words that are the groups of columns: of each four codes the last three are 0, as bytes go by rows of words.
    let small: Vec<u32> = {
        let row = |row: usize| (0..256).map(move |word| word * 4 + row);
        (0..4).flat_map(row).flat_map(|at| [group_of[at], 0, 0, 0]).collect()
    };
    let small: [Tensors; 2] = [4, 8].map(|bits| {
        let mut tensors = plain("a_proj", [4, 1024], 8, 0, &small);
        if bits == 4 {
            // Another matrix of 8 bits with codes nearby, so that the words differ.
            let moved: Vec<u32> = small.iter().map(|code| code ^ 1).collect();
            tensors = plain("a_proj", [4, 1024], 8, 0, &moved);
        }
        tensors
    });
    let mut low = matrix(2);
    low.extend(small[0].clone());
    let mut middle = matrix(4);
    middle.extend(small[1].clone());
    assert_eq!(middle["a_proj.qweight"].data, middle["b_proj.g_idx"].data);
    // Else it would be a reference to the same of the lower variant.
    low.insert("b_proj.g_idx".to_owned(), words(&[1024], &vec![0; 1024]));
    let weights: Vec<f32> = values.iter().map(|value| *value as f32 - 128.0).collect();
    let high = Tensors::from([("b_proj.weight".to_owned(), Tensor::float(Dtype::F32, &shape, &weights))]);
    let dir = common::scratch();
    for (name, tensors) in [("low", low), ("middle", middle), ("top", matrix(8)), ("high", high)] {
        write_checkpoint(&dir.path().join(name), &tensors);
    }
    for names in [&["low", "middle"][..], &["low", "middle", "top"], &["low", "middle", "top", "high"]] {
        pack_these(dir.path(), names, &options());
        let inspection = check(dir.path(), names);
        assert_eq!(encodings(&inspection, "middle", "a_proj.qweight"), ["code-residual"]);
        fs::remove_dir_all(dir.path().join("store")).unwrap();
    }
}

/// An engine that shares a matrix out among eight reads an eighth of its rows, or of its columns.
#[test]
fn an_eighth_of_a_packed_matrix_is_read_from_an_eighth_of_its_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let high = model(3, Dtype::BF16, &[(2048, 2304)]);
    for bits in [4, 8] {
        write_checkpoint(&dir.path().join(format!("gptq{bits}")), &gptq(&high, Gptq::of_bits(bits)));
    }
    let names = ["gptq8", "gptq4"];
    pack(&names.map(|name| spec(dir.path(), name)), &dir.path().join("store"), &write_options(), &Silent)
        .unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let inspection = inspect(&store, true).unwrap();
    for name in names {
        let variant = store.variant(&name.parse().unwrap()).unwrap();
        let matrices =
            variant.tensors().into_iter().filter(|t| t.name.ends_with("qweight") && t.weights >= 1 << 22);
        for info in matrices {
            let (tensor, [rows, cols]) =
                (qstore::Tensor::open(&variant, &info.name).unwrap(), [info.shape[0], info.shape[1]]);
            let all = tensor.read(&options()).unwrap();
            let stored = stored_bytes(&inspection, &info.name);
            let most = stored / 8 + stored / 32;
            let width = all.len() / (rows * cols) as usize;
            for part in 0..8 {
                let [of_rows, of_cols] = [rows, cols].map(|count| count * part / 8..count * (part + 1) / 8);
                for (rows, cols) in [(of_rows, 0..cols), (0..rows, of_cols)] {
                    let before = variant.bytes_read();
                    let some = tensor.read_block(rows.clone(), cols.clone(), &options()).unwrap();
                    let read = variant.bytes_read() - before;
                    assert!(
                        read <= most,
                        "{name} {}: {read} of {stored} bytes for {rows:?} x {cols:?}",
                        info.name
                    );
                    let line = info.shape[1] as usize * width;
                    let want: Vec<u8> = (rows.start..rows.end)
                        .flat_map(|row| {
                            &all[row as usize * line..]
                                [cols.start as usize * width..cols.end as usize * width]
                        })
                        .copied()
                        .collect();
                    assert!(*some == want, "{name} {}: {rows:?} x {cols:?}", info.name);
                }
            }
        }
    }
}

/// Bytes that a tensor and those of its name in the variants that it is given take.
fn stored_bytes(inspection: &Inspection, name: &str) -> u64 {
    let tensors = inspection.variants.iter().flat_map(|variant| variant.tensors.iter().flatten());
    tensors.filter(|tensor| tensor.name == name).map(|tensor| tensor.stored_bytes).sum()
}
