//! What `analyze` says of a small chain agrees with itself and with what is packed, whether it runs at once or in two
//! goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use qstore::{
    Analysis, Bits, Error, Options, Silent, Store, StoreBytes, VariantMeasure, VariantName, VariantSpec,
    analyze, analyze_store, inspect, pack,
};
use qstore_quantize::{
    Gptq, GptqBits, GroupSize, ModelSpec, Precision, WriteOptions, ZeroPoint, quantize, synthesise,
};
use tempfile::TempDir;

/// A BF16 model and its INT8 twin.
fn chain() -> (TempDir, Vec<(VariantName, PathBuf)>) {
    let dir = tempfile::tempdir().unwrap();
    let (bf16, int8) = (dir.path().join("bf16"), dir.path().join("int8"));
    synthesise(&ModelSpec::llama(128, 256, 2, 500), &bf16, &WriteOptions::default(), &Silent).unwrap();
    quantize(&bf16, &int8, Precision::Int8, &Options::default(), &Silent).unwrap();
    (dir, vec![("bf16".parse().unwrap(), bf16), ("int8".parse().unwrap(), int8)])
}

fn run(variants: &[(VariantName, PathBuf)], resume: Option<&Path>) -> Analysis {
    analyze(variants, resume, &Options::default(), &Silent).unwrap()
}

fn json(analysis: &Analysis) -> serde_json::Value {
    serde_json::to_value(analysis).unwrap()
}

fn measure<'a>(analysis: &'a Analysis, name: &str, given: Option<&str>) -> &'a VariantMeasure {
    let variant = analysis.variants.iter().find(|variant| variant.name == name).unwrap();
    variant.measures.iter().find(|measure| measure.given.as_deref() == given).unwrap()
}

#[test]
fn figures_are_in_their_order_and_add_up() {
    let (_dir, variants) = chain();
    let analysis = run(&variants, None);
    let names: Vec<_> = analysis.variants.iter().map(|v| (v.name.as_str(), v.scheme.as_str())).collect();
    assert_eq!(names, [("int8", "llm.int8"), ("bf16", "none")]);
    // Seven matrices a layer.
    assert_eq!(analysis.matrices.len(), 14);
    for (name, given) in [("int8", None), ("bf16", None), ("bf16", Some("int8"))] {
        let measure = measure(&analysis, name, given);
        assert_eq!(measure.matrices, 14);
        let of_matrices = analysis.matrices.iter().flat_map(|matrix| &matrix.variants);
        let of_matrices = of_matrices.filter(|variant| variant.name == name).flat_map(|v| &v.measures);
        let of_matrices = of_matrices.filter(|measure| measure.given.as_deref() == given);
        let sum = of_matrices.fold(Bits::default(), |sum, measure| sum.plus(measure.measured.0));
        assert_eq!(sum, measure.quantised.0);
    }
    let int8 = measure(&analysis, "int8", None).quantised.0.per_weight();
    let entropy = int8.entropy.unwrap();
    assert!(entropy > 6.0 && entropy < 8.0 && int8.raw == Some(8.0), "{int8:?}");
    assert!(int8.huffman.unwrap() >= entropy && int8.zipnn == int8.huffman, "{int8:?}");
    assert!(int8.ours.unwrap() < 8.0, "{int8:?}");
    let bf16 = measure(&analysis, "bf16", None).quantised.0.per_weight();
    assert!(bf16.entropy.unwrap() < bf16.huffman.unwrap() && bf16.raw == Some(16.0), "{bf16:?}");
    let given = measure(&analysis, "bf16", Some("int8")).quantised.0.per_weight();
    assert!(given.entropy < bf16.entropy && given.ours < bf16.ours, "{given:?}");
    // Within one row, weights of a code differ by what rounding took away, and tables are all but everything.
    assert!(given.huffman.unwrap() > given.ours.unwrap(), "{given:?}");
    assert_eq!((given.zstd, given.zipnn), (None, None));
    // What both have takes nothing again, and only the one that is quantised has scales.
    assert_eq!(measure(&analysis, "bf16", Some("int8")).other.0.ours, 0);
    assert_eq!(measure(&analysis, "bf16", None).scales.0.raw, 0);
    assert!(measure(&analysis, "int8", None).scales.0.ours > 0);
}

#[test]
fn ours_is_what_a_store_takes() {
    let (dir, variants) = chain();
    let analysis = run(&variants, None);
    let store = dir.path().join("store");
    let spec =
        |(name, folder): &(VariantName, PathBuf)| qstore::VariantSpec::new(name.clone(), folder.clone());
    let specs: Vec<_> = variants.iter().map(spec).collect();
    pack(&specs, &store, &WriteOptions::default(), &Silent).unwrap();
    let inspection = inspect(&Store::open(&store).unwrap(), true).unwrap();
    for (name, given) in [("int8", None), ("bf16", Some("int8"))] {
        let stored = inspection.variants.iter().find(|variant| variant.name == name).unwrap();
        let stored = stored.tensors.as_ref().unwrap();
        for matrix in &analysis.matrices {
            let variant = matrix.variants.iter().find(|variant| variant.name == name).unwrap();
            let measure = variant.measures.iter().find(|m| m.given.as_deref() == given).unwrap();
            let tensor = stored.iter().find(|tensor| tensor.name == variant.tensor).unwrap();
            assert_eq!(tensor.encoding, measure.encoding, "{}", tensor.name);
            assert_eq!(tensor.stored_bytes * 8, measure.measured.0.ours, "{}", tensor.name);
        }
        let all = measure(&analysis, name, given);
        let ours = all.quantised.0.ours + all.scales.0.ours + all.other.0.ours;
        let packed = stored.iter().map(|tensor| tensor.stored_bytes * 8).sum::<u64>();
        // Shares of bundles are rounded.
        assert!(ours.abs_diff(packed) * 1000 < packed, "{name}: {ours} {packed}");
    }
}

#[test]
fn a_run_that_was_cut_short_goes_on() {
    let (dir, variants) = chain();
    let file = dir.path().join("results");
    let whole = json(&run(&variants, Some(&file)));
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 1 + 14 + 2);
    // Cut within the header, after it, within a line and between two.
    for cut in [0, 10, lines[0].len(), lines[0].len() + 7, lines[..3].concat().len(), text.len() - 1] {
        fs::write(&file, &text[..cut]).unwrap();
        assert_eq!(json(&run(&variants, Some(&file))), whole, "{cut}");
        let again = fs::read_to_string(&file).unwrap();
        assert_eq!(again.lines().count(), lines.len(), "{cut}");
    }
    // What is there is not measured again.
    let changed = text.replacen("\"zstd\":", "\"zstd\":1", 1);
    assert_ne!(changed, text);
    fs::write(&file, &changed).unwrap();
    assert_ne!(json(&run(&variants, Some(&file))), whole);
}

#[test]
fn results_of_something_else_are_refused() {
    let (dir, variants) = chain();
    let file = dir.path().join("results");
    run(&variants[..1], Some(&file));
    let refused = |variants: &[(VariantName, PathBuf)]| {
        let before = fs::read(&file).unwrap();
        let error = analyze(variants, Some(&file), &Options::default(), &Silent).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert_eq!(fs::read(&file).unwrap(), before);
        error.to_string()
    };
    assert!(refused(&variants).contains("results of bf16, and not of int8, bf16"));
    let other = [("bf16".parse().unwrap(), variants[1].1.clone())];
    assert!(refused(&other).contains("another folder as bf16"));
    fs::write(variants[0].1.join("config.json"), "{}").unwrap();
    assert!(refused(&variants[..1]).contains("changed since"));
    fs::write(&file, "notes\n").unwrap();
    assert!(refused(&variants).contains("no results"));
    fs::write(&file, "notes").unwrap();
    assert!(refused(&variants).contains("no results"));
    fs::write(&file, "").unwrap();
    let twice = [variants[0].clone(), variants[0].clone()];
    assert!(refused(&twice).contains("names must differ"));
    assert!(refused(&[]).contains("no variant"));
}

#[test]
fn every_byte_of_a_store_is_for_something() {
    let (dir, variants) = chain();
    let archived = dir.path().join("gptq8");
    let gptq8 =
        Gptq { bits: GptqBits::Eight, group_size: GroupSize::default(), zero_point: ZeroPoint::Symmetric };
    quantize(&variants[0].1, &archived, Precision::Gptq(gptq8), &Options::default(), &Silent).unwrap();
    let mut specs: Vec<VariantSpec> =
        variants.iter().map(|(name, folder)| VariantSpec::new(name.clone(), folder)).collect();
    specs.push(VariantSpec {
        archived: true,
        ..VariantSpec::new("gptq8".parse().unwrap(), dir.path().join("gptq8"))
    });
    let path = dir.path().join("store");
    pack(&specs, &path, &WriteOptions::default(), &Silent).unwrap();
    let store = Store::open(&path).unwrap();
    let analysis = analyze_store(&store, &Options::default(), &Silent).unwrap();
    let inspection = inspect(&store, false).unwrap();
    let all =
        |bytes: &StoreBytes| bytes.codes + bytes.scales + bytes.exceptions + bytes.overhead + bytes.other;
    assert_eq!(all(&analysis.sum.bytes), inspection.stored_bytes);
    for (variant, inspected) in analysis.variants.iter().zip(&inspection.variants) {
        assert_eq!((&variant.name, variant.archived), (&inspected.name, inspected.archived));
        assert_eq!(all(&variant.weighed.bytes), inspected.stored_bytes, "{}", variant.name);
        // Seven matrices in each of two layers.
        assert_eq!(variant.weights, 2 * (4 * 128 * 128 + 3 * 128 * 256));
        assert_eq!(variant.weights, analysis.weights);
    }
    let bits = |index: usize| analysis.variants[index].weighed.bits_per_weight.unwrap();
    assert!(bits(0).raw > 8.0 && bits(0).raw < 8.5, "codes, and a scale for each row: {:?}", bits(0));
    assert_eq!((bits(1).raw, bits(1).scales), (16.0, 0.0));
    assert!(bits(2).codes < 0.2 && bits(2).scales > 0.0 && bits(2).overhead > 0.0, "{:?}", bits(2));
    let sum = analysis.sum.bits_per_weight.unwrap();
    let parts = sum.codes + sum.scales + sum.exceptions + sum.overhead;
    assert!((sum.sum - parts).abs() < 1e-9, "{sum:?}");
    let alone = measure(&run(&variants, None), "bf16", None).quantised.0.per_weight();
    let entropy = analysis.entropy.unwrap();
    assert_eq!(entropy.variant, "bf16");
    assert!((entropy.bits_per_weight - alone.entropy.unwrap()).abs() < 1e-6, "{entropy:?}");
}

#[test]
fn a_store_without_quantised_matrices_has_no_bits_to_tell_apart() {
    let (dir, variants) = chain();
    let path = dir.path().join("store");
    let (name, folder) = &variants[0];
    pack(&[VariantSpec::new(name.clone(), folder)], &path, &WriteOptions::default(), &Silent).unwrap();
    let store = Store::open(&path).unwrap();
    let analysis = analyze_store(&store, &Options::default(), &Silent).unwrap();
    assert_eq!((analysis.weights, analysis.sum.bits_per_weight), (0, None));
    assert!(analysis.entropy.is_none() && analysis.sum.bytes.other > 0);
    // A chunk that is damaged is said, not counted.
    pack(
        &variants.iter().map(|(name, folder)| VariantSpec::new(name.clone(), folder)).collect::<Vec<_>>(),
        &dir.path().join("pair"),
        &WriteOptions::default(),
        &Silent,
    )
    .unwrap();
    let store = Store::open(&dir.path().join("pair")).unwrap();
    let shard = store.manifest().variants[0].shards[0].name.to_string();
    let shard = dir.path().join("pair").join(shard);
    let mut bytes = fs::read(&shard).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let refused = analyze_store(&store, &Options::default(), &Silent).unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
}
