//! Variants that are given several, and archived ones: whatever they are given, all come back byte for byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{
    Gptq, Tensors, assert_same_tree, check_blocks, fp8_blocks, gptq, llm_int8, model, options, scaled_int8,
    spec, write_checkpoint, write_options,
};
use qstore::{
    Dtype, Error, GivenRule, Inspection, Options, Silent, Store, VariantSpec, add, inspect, load, pack,
    remove, unpack, verify,
};
use tempfile::TempDir;

/// Of one model, all that are asked for.
fn folders(seed: u64, dtype: Dtype, shapes: &[(usize, usize)], names: &[&str]) -> TempDir {
    let dir = common::scratch();
    let high = model(seed, dtype, shapes);
    for name in names {
        let tensors: Tensors = match *name {
            "fp8" => fp8_blocks(&high, 128),
            "int8" => llm_int8(&high),
            "int8-b" => scaled_int8(&high, 1.07),
            "int8-c" => scaled_int8(&high, 1.31),
            "gptq8" => gptq(&high, Gptq::of_bits(8)),
            "gptq4" => gptq(&high, Gptq { act_order: true, ..Gptq::of_bits(4) }),
            _ => high.clone(),
        };
        write_checkpoint(&dir.path().join(name), &tensors);
    }
    dir
}

fn archived(root: &Path, name: &str) -> VariantSpec {
    VariantSpec { archived: true, ..spec(root, name) }
}

/// Unpacks, loads and reads each variant in every way, and compares.
fn check(root: &Path, names: &[&str]) -> Inspection {
    let store = Store::open(&root.join("store")).unwrap();
    for name in names {
        let (id, out) = (name.parse().unwrap(), root.join("out"));
        unpack(&store, &id, &out, &options(), &Silent).unwrap();
        assert_same_tree(&root.join(name), &out);
        fs::remove_dir_all(&out).unwrap();
        let variant = store.variant(&id).unwrap();
        let original = fs::read(root.join(name).join("model.safetensors")).unwrap();
        let original = safetensors::SafeTensors::deserialize(&original).unwrap();
        for loaded in load(&variant, &options(), &Silent).unwrap() {
            let tensor = original.tensor(&loaded.name).unwrap();
            assert!(loaded.data[..] == *tensor.data(), "{}", loaded.name);
            let read = qstore::Tensor::open(&variant, &loaded.name).unwrap();
            check_blocks(&read, tensor.data(), &options());
        }
    }
    assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
    inspect(&store, true).unwrap()
}

/// The encoding of the one weight that is quantised, and bits of it.
fn weight(inspection: &Inspection, variant: &str) -> (String, f64) {
    let variant = inspection.variants.iter().find(|found| found.name == variant).unwrap();
    let stem = "layers.0.mlp.up_proj";
    let names = ["weight", "qweight"].map(|end| format!("model.{stem}.{end}"));
    let tensors = variant.tensors.as_ref().unwrap();
    let found = tensors.iter().find(|tensor| names.contains(&tensor.name)).unwrap();
    (found.encoding.clone(), found.bits_per_weight.unwrap())
}

#[test]
fn each_further_one_costs_little() {
    let names = ["fp8", "int8", "int8-b", "bf16"];
    let dir = folders(31, Dtype::BF16, &[(512, 768)], &names);
    for threads in [1, 2] {
        let specs = names.map(|name| spec(dir.path(), name));
        let options = Options { threads, ..options() };
        pack(&specs, &dir.path().join(format!("store{threads}")), &options.into(), &Silent).unwrap();
    }
    assert!(common::tree(&dir.path().join("store1")) == common::tree(&dir.path().join("store2")));
    fs::rename(dir.path().join("store1"), dir.path().join("store")).unwrap();
    let inspection = check(dir.path(), &names);
    let bits: Vec<_> = names.map(|name| weight(&inspection, name)).to_vec();
    assert_eq!(bits[1].0, "refine", "{bits:?}");
    assert_eq!(bits[3].0, "refine-floats", "{bits:?}");
    // All of it takes about what BF16 alone does, of 40 bits.
    assert!(bits.iter().map(|(_, bits)| bits).sum::<f64>() < 11.3, "{bits:?}");
    // Each is what it was when all above it are gone.
    for (index, name) in names.iter().enumerate().skip(1).rev() {
        remove(&dir.path().join("store"), &name.parse().unwrap(), &write_options(), &Silent).unwrap();
        check(dir.path(), &names[..index]);
    }
}

/// Of variants that are given each other all are read anyway; of those that are not, as many are given as are allowed.
#[test]
fn how_many_one_is_given_is_bounded() {
    let names = ["fp8", "int8", "int8-b", "bf16"];
    let dir = folders(32, Dtype::BF16, &[(256, 512)], &names);
    let alone = |name: &str| if name == "bf16" { GivenRule::Any } else { GivenRule::Only(Vec::new()) };
    let spec_of = |name: &str, levels| VariantSpec {
        levels: Some(levels),
        given: alone(name),
        ..spec(dir.path(), name)
    };
    let mut before = u64::MAX;
    for levels in [1, 2, 3] {
        let specs = names.map(|name| spec_of(name, levels));
        pack(&specs, &dir.path().join("store"), &write_options(), &Silent).unwrap();
        let inspection = check(dir.path(), &names);
        assert!(inspection.stored_bytes < before, "{levels}: {} after {before}", inspection.stored_bytes);
        before = inspection.stored_bytes;
        // What is stored anew keeps to it.
        remove(&dir.path().join("store"), &"int8".parse().unwrap(), &write_options(), &Silent).unwrap();
        add(&dir.path().join("store"), &spec_of("int8", levels), &write_options(), &Silent).unwrap();
        let again = check(dir.path(), &names).stored_bytes;
        // Those of one precision come in another order by now.
        assert!(again.abs_diff(before) < before / 50, "{levels}: {again} after {before}");
        fs::remove_dir_all(dir.path().join("store")).unwrap();
    }
}

#[test]
fn archived_variants_take_little_but_their_scales() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let names = ["high", "fp8", "int8", "gptq8", "gptq4"];
        let dir = folders(33, dtype, &[(256, 512), (128, 128)], &names);
        let specs = [spec(dir.path(), "high")].into_iter();
        let specs = specs.chain(names[1..].iter().map(|name| archived(dir.path(), name)));
        pack(&specs.collect::<Vec<_>>(), &dir.path().join("store"), &write_options(), &Silent).unwrap();
        let inspection = check(dir.path(), &names);
        for name in &names[1..] {
            let (encoding, bits) = weight(&inspection, name);
            let most = if name.starts_with("gptq") { 1.5 } else { 0.02 };
            assert!(encoding == "rounded" && bits < most, "{dtype} {name}: {encoding} {bits}");
        }
        assert!(inspection.variants.iter().all(|variant| variant.archived == (variant.name != "high")));
    }
}

#[test]
fn scales_are_near_those_of_the_same_matrix() {
    for scales in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        let dir = common::scratch();
        let high = model(35, Dtype::BF16, &[(256, 512), (32, 128)]);
        for bits in [8, 4, 3] {
            let tensors = gptq(&high, Gptq { group: 32, scales, ..Gptq::of_bits(bits) });
            write_checkpoint(&dir.path().join(format!("gptq{bits}")), &tensors);
        }
        write_checkpoint(&dir.path().join("high"), &high);
        let names = ["high", "gptq8", "gptq4", "gptq3"];
        let store = dir.path().join("store");
        pack(&names.map(|name| spec(dir.path(), name)), &store, &write_options(), &Silent).unwrap();
        let of_scales = |inspection: &Inspection, variant: &str| {
            let variant = inspection.variants.iter().find(|found| found.name == variant).unwrap();
            let of_matrix = |name: &str| name.contains("up_proj.scales");
            let found =
                variant.tensors.as_ref().unwrap().iter().find(|tensor| of_matrix(&tensor.name)).unwrap();
            (found.encoding.clone(), found.given.clone().unwrap_or_default(), found.stored_bytes)
        };
        let inspection = check(dir.path(), &names);
        let (_, _, alone) = of_scales(&inspection, "gptq3");
        for name in ["gptq8", "gptq4"] {
            // Those of the lowest: what is near others cannot be given.
            let (encoding, given, bytes) = of_scales(&inspection, name);
            assert_eq!((encoding.as_str(), given.as_str()), ("near", "gptq3"), "{scales}");
            assert!(bytes * 10 <= alone * 9, "{scales} {name}: {bytes} of {alone}");
        }
        remove(&store, &"gptq3".parse().unwrap(), &write_options(), &Silent).unwrap();
        let left = check(dir.path(), &names[..3]);
        assert_eq!(of_scales(&left, "gptq8").1, "gptq4");
        assert!(of_scales(&left, "gptq4").0 != "near");
    }
}

/// What scales refer to may be near others, and is then no more offered to be near.
#[test]
fn scales_that_refer_to_near_ones() {
    let dir = common::scratch();
    let high = model(37, Dtype::BF16, &[(256, 512)]);
    let of_bits = |bits| gptq(&high, Gptq { group: 32, ..Gptq::of_bits(bits) });
    // The same scales beside other codes, and scales beside those.
    let mut same = of_bits(8);
    let codes = same.keys().find(|name| name.ends_with("up_proj.qweight")).unwrap().clone();
    same.get_mut(&codes).unwrap().data.iter_mut().step_by(7).for_each(|byte| *byte ^= 1);
    let mut last = of_bits(8);
    let scales = last.keys().find(|name| name.ends_with("up_proj.scales")).unwrap().clone();
    last.get_mut(&scales).unwrap().data.iter_mut().step_by(2).for_each(|byte| *byte ^= 1);
    let names = ["a4", "b8", "c8", "d8"];
    for (name, tensors) in names.iter().zip([of_bits(4), of_bits(8), same, last]) {
        write_checkpoint(&dir.path().join(name), &tensors);
    }
    let store = dir.path().join("store");
    pack(&[spec(dir.path(), "a4")], &store, &write_options(), &Silent).unwrap();
    for name in &names[1..] {
        add(&store, &spec(dir.path(), name), &write_options(), &Silent).unwrap();
    }
    let inspection = check(dir.path(), &names);
    let encodings: Vec<String> = names
        .iter()
        .map(|name| {
            let variant = inspection.variants.iter().find(|found| found.name == *name).unwrap();
            let tensors = variant.tensors.as_ref().unwrap();
            tensors.iter().find(|tensor| tensor.name == scales).unwrap().encoding.clone()
        })
        .collect();
    assert_eq!(encodings[1..], ["near", "reference", "near"]);
}

#[test]
fn archived_codes_find_floats_of_another_prefix() {
    let dir = common::scratch();
    let high = model(36, Dtype::BF16, &[(256, 512), (128, 128)]);
    let renamed = high.iter().map(|(name, tensor)| (name.replace("model.", "a.tower."), tensor.clone()));
    write_checkpoint(&dir.path().join("high"), &renamed.collect());
    write_checkpoint(&dir.path().join("int8"), &llm_int8(&high));
    let specs = [spec(dir.path(), "high"), archived(dir.path(), "int8")];
    pack(&specs, &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let (encoding, bits) = weight(&check(dir.path(), &["high", "int8"]), "int8");
    assert!(encoding == "rounded" && bits < 0.02, "{encoding} {bits}");
}

#[test]
fn roles_are_kept() {
    let names = ["int8", "bf16", "fp8"];
    let dir = folders(34, Dtype::BF16, &[(256, 512)], &names);
    let store = dir.path().join("store");
    let add_one = |spec: &VariantSpec| add(&store, spec, &write_options(), &Silent);
    let remove_one = |name: &str| remove(&store, &name.parse().unwrap(), &write_options(), &Silent).unwrap();
    let names_of = |inspection: &Inspection| -> Vec<(String, bool)> {
        inspection.variants.iter().map(|variant| (variant.name.clone(), variant.archived)).collect()
    };
    let refused = pack(&[archived(dir.path(), "fp8")], &store, &write_options(), &Silent).unwrap_err();
    assert!(matches!(&refused, Error::Usage(text) if text.contains("serve one")), "{refused}");
    let both = VariantSpec { verbatim: true, ..archived(dir.path(), "fp8") };
    let refused = pack(&[spec(dir.path(), "bf16"), both], &store, &write_options(), &Silent).unwrap_err();
    assert!(matches!(&refused, Error::Usage(text) if text.contains("verbatim")), "{refused}");
    // Archived alone, with nothing to be given, which is told; then what it can be given comes, and another below that.
    pack(&[spec(dir.path(), "bf16"), archived(dir.path(), "fp8")], &store, &write_options(), &Silent)
        .unwrap();
    remove_one("bf16");
    let alone = check(dir.path(), &["fp8"]);
    assert_eq!(weight(&alone, "fp8").0, "codes");
    assert_eq!(alone.variants[0].unshared[0].reason, "nothing-higher");
    add_one(&spec(dir.path(), "bf16")).unwrap();
    let inspection = check(dir.path(), &["bf16", "fp8"]);
    assert_eq!(names_of(&inspection), [("bf16".to_owned(), false), ("fp8".to_owned(), true)]);
    assert!(inspection.variants.iter().all(|variant| variant.unshared.is_empty()));
    assert!(weight(&inspection, "fp8").1 < 0.02);
    add_one(&spec(dir.path(), "int8")).unwrap();
    let all = check(dir.path(), &names);
    assert_eq!(weight(&all, "bf16").0, "residual");
    assert_eq!(weight(&all, "fp8").0, "rounded");
    assert_eq!(all.variants[2].reads, 3);
    // Nobody is given what is archived.
    let given = qstore::GivenRule::Only(vec!["fp8".parse().unwrap()]);
    let other = VariantSpec { name: "other".parse().unwrap(), given, ..spec(dir.path(), "int8") };
    let error = add_one(&other).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("archived")), "{error}");
    // What it was given goes: it is stored anew, and still archived.
    remove_one("bf16");
    let left = check(dir.path(), &["int8", "fp8"]);
    assert!(left.variants[1].archived && weight(&left, "fp8").1 > 0.3);
    add_one(&spec(dir.path(), "bf16")).unwrap();
    assert_eq!(weight(&check(dir.path(), &names), "fp8").0, "rounded");
    remove_one("int8");
    assert_eq!(weight(&check(dir.path(), &["bf16", "fp8"]), "fp8").0, "rounded");
}
