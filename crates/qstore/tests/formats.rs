//! Formats other than those that `chains.rs` and `round_trip.rs` are about: packed with their BF16 they come back, and
//! share what they should.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{
    Tensor, Tensors, assert_same_tree, fp8_blocks, model, options, producers, spec, write_checkpoint,
    write_options,
};
use qstore::{Dtype, Inspection, Silent, Store, inspect, pack, unpack};

/// Packs these folders, checks that they come back, and describes the store.
fn packed(folders: &[(&str, &Tensors)]) -> Inspection {
    let dir = tempfile::tempdir().unwrap();
    for (name, tensors) in folders {
        write_checkpoint(&dir.path().join(name), tensors);
    }
    let specs: Vec<_> = folders.iter().map(|(name, _)| spec(dir.path(), name)).collect();
    let store = dir.path().join("store");
    pack(&specs, &store, &write_options(), &Silent).unwrap();
    let opened = Store::open(&store).unwrap();
    for (name, _) in folders {
        let out = dir.path().join("out").join(name);
        unpack(&opened, &name.parse().unwrap(), &out, &options(), &Silent).unwrap();
        assert_same_tree(&dir.path().join(name), &out);
    }
    inspect(&opened, true).unwrap()
}

fn encodings(inspection: &Inspection, variant: &str, end: &str) -> Vec<(String, f64)> {
    let variant = inspection.variants.iter().find(|found| found.name == variant).unwrap();
    let tensors = variant.tensors.iter().flatten().filter(|tensor| tensor.name.ends_with(end));
    tensors.map(|tensor| (tensor.encoding.clone(), tensor.bits_per_weight.unwrap())).collect()
}

#[test]
fn fp8_blocks_cost_bf16_what_they_leave_open() {
    for (dtype, most) in [(Dtype::BF16, 4.6), (Dtype::F16, 7.6), (Dtype::F32, 20.6)] {
        // Whole blocks, and blocks at the edges that are not.
        let high = model(40, dtype, &[(256, 384), (200, 300)]);
        let inspection = packed(&[("bf16", &high), ("fp8", &fp8_blocks(&high, 128))]);
        assert_eq!(inspection.variants[0].name, "fp8");
        let found = encodings(&inspection, "bf16", "_proj.weight");
        assert_eq!(found.len(), 2);
        for (encoding, bits) in found {
            assert!(encoding == "residual" && bits < most, "{dtype}: {encoding} {bits}");
        }
        let codes = encodings(&inspection, "fp8", "_proj.weight");
        assert!(codes.iter().all(|(_, bits)| *bits < 7.0), "{codes:?}");
        assert!(inspection.variants.iter().all(|variant| variant.unshared.is_empty()));
    }
}

/// A matrix that is no whole number of blocks keeps its floats beside scales that mean nothing.
#[test]
fn scales_beside_floats_mean_nothing() {
    let high = model(41, Dtype::BF16, &[(128, 256), (100, 256)]);
    let mut low = fp8_blocks(&high, 128);
    low.insert(
        "model.layers.1.mlp.up_proj.weight".to_owned(),
        high["model.layers.1.mlp.up_proj.weight"].clone(),
    );
    let inspection = packed(&[("bf16", &high), ("fp8", &low)]);
    let mut found: Vec<_> =
        encodings(&inspection, "bf16", "_proj.weight").into_iter().map(|(name, _)| name).collect();
    found.sort();
    assert_eq!(found, ["reference", "residual"]);
}

/// Twins in the formats that people publish: what each is called, and the bits that a BF16 weight given it takes at
/// most.
fn published(high: &Tensors) -> Vec<(&'static str, Tensors, f64)> {
    vec![
        ("fp8", producers::fp8_rows(high, false), 4.6),
        ("fp8", producers::fp8_rows(high, true), 4.6),
        ("pack-quantized", producers::compressed_ints(high, 4, 128, true, true), 7.4),
        ("pack-quantized", producers::compressed_ints(high, 4, 128, false, true), 7.4),
        ("pack-quantized", producers::compressed_ints(high, 8, 128, true, true), 3.6),
        ("pack-quantized", producers::compressed_ints(high, 2, 64, true, true), 9.4),
        ("int-quantized", producers::compressed_ints(high, 8, 512, true, false), 3.8),
        ("nvfp4", producers::nvfp4(high, false), 6.9),
        ("nvfp4", producers::nvfp4(high, true), 6.9),
        ("mxfp4", producers::mxfp4(high), 7.1),
        ("nf4", producers::nf4(high, false), 7.0),
        ("nf4", producers::nf4(high, true), 7.3),
        ("mlx affine", producers::mlx(high, 4), 7.1),
        ("mlx affine", producers::mlx(high, 8), 3.5),
        ("torchao", producers::torchao(high), 3.8),
        ("torchao", producers::torchao_int4(high), 7.0),
        ("gptq", producers::gptq_like(high, false), 7.9),
        ("awq", producers::gptq_like(high, true), 8.1),
    ]
}

/// BF16 given any one of them costs about what that leaves open.
#[test]
fn formats_that_people_publish() {
    let high = model(42, Dtype::BF16, &[(256, 384), (128, 512)]);
    for (what, low, most) in published(&high) {
        let inspection = packed(&[("bf16", &high), ("low", &low)]);
        assert_eq!(inspection.variants[0].name, "low");
        assert_eq!(inspection.variants[0].scheme, what);
        let unshared: Vec<_> = inspection.variants.iter().flat_map(|variant| &variant.unshared).collect();
        assert!(unshared.is_empty(), "{what}: {unshared:?}");
        let found = encodings(&inspection, "bf16", "_proj.weight");
        assert_eq!(found.len(), 2);
        for (encoding, bits) in found {
            assert!(bits < most, "{what}: {encoding} {bits}");
        }
    }
}

/// What someone made of a quantised folder costs nothing beside it.
#[test]
fn dequantised_floats_cost_nothing() {
    let high = model(45, Dtype::BF16, &[(256, 384)]);
    for (low, values) in [producers::gpt_oss(46), producers::dequantised_fp8(&high)] {
        for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            let of = |tensor: &Tensor| {
                let is_matrix = tensor.shape.len() > 1;
                if is_matrix { Tensor::float(dtype, &tensor.shape, &tensor.values()) } else { tensor.clone() }
            };
            let made: Tensors = values.iter().map(|(name, tensor)| (name.clone(), of(tensor))).collect();
            let inspection = packed(&[("made", &made), ("low", &low)]);
            let variant = inspection.variants.iter().find(|variant| variant.name == "made").unwrap();
            let tensors = variant.tensors.iter().flatten().filter(|tensor| tensor.name.contains("_proj"));
            let (raw, stored): (Vec<u64>, Vec<u64>) =
                tensors.map(|tensor| (tensor.raw_bytes, tensor.stored_bytes)).unzip();
            assert!(
                !raw.is_empty() && stored.iter().sum::<u64>() * 40 < raw.iter().sum(),
                "{dtype}: {stored:?}"
            );
        }
    }
}

/// Six variants of one model take about what the largest and the scales of the others do.
#[test]
fn six_formats_refine_each_other() {
    let high = model(44, Dtype::BF16, &[(256, 512)]);
    let twins = [
        ("fp8", producers::fp8_rows(&high, false)),
        ("int8", producers::compressed_ints(&high, 8, 512, true, false)),
        ("w4", producers::compressed_ints(&high, 4, 128, true, true)),
        ("nvfp4", producers::nvfp4(&high, false)),
        ("nf4", producers::nf4(&high, false)),
    ];
    let folders: Vec<_> =
        std::iter::once(("bf16", &high)).chain(twins.iter().map(|(name, low)| (*name, low))).collect();
    let inspection = packed(&folders);
    let tensors = inspection.variants.iter().flat_map(|variant| variant.tensors.iter().flatten());
    let of_matrix = tensors.filter(|tensor| tensor.name.contains("_proj"));
    let stored: u64 = of_matrix.map(|tensor| tensor.stored_bytes).sum();
    // BF16 alone takes 10.5 bits, the scales 1.0; tables and states are much of so small a matrix.
    assert!(stored * 8 < 256 * 512 * 13, "{stored} bytes");
}

/// With a part missing, cut short or of another type they come back all the same, and it is said what is not shared.
#[test]
fn damaged_ones_are_stored_alone() {
    let high = model(43, Dtype::BF16, &[(256, 384)]);
    let mut refused = 0;
    for (what, low, _) in published(&high) {
        for part in low.keys().filter(|name| name.contains("_proj") && !high.contains_key(*name)) {
            let changes: [&dyn Fn(&mut Tensors); 3] = [
                &|all| drop(all.remove(part)),
                &|all| {
                    let tensor = all.get_mut(part).unwrap();
                    let first = tensor.shape.first().copied().unwrap_or(1);
                    tensor.shape = [&[first / 2], &tensor.shape[1.min(tensor.shape.len())..]].concat();
                    tensor.data.truncate(tensor.data.len() / first.max(1) * (first / 2));
                },
                &|all| {
                    let tensor = all.get_mut(part).unwrap();
                    *tensor = Tensor::new(Dtype::BOOL, &[tensor.data.len()], tensor.data.clone());
                },
            ];
            // Without codes, or with what could be none, there is nothing to share.
            let is_codes = low[part].data.len() * 8 > 256 * 384;
            for (index, change) in changes.iter().enumerate().filter(|(index, _)| !is_codes || *index == 1) {
                let mut damaged = low.clone();
                change(&mut damaged);
                let inspection = packed(&[("bf16", &high), ("low", &damaged)]);
                let is_given = encodings(&inspection, "bf16", "_proj.weight")
                    .iter()
                    .any(|(encoding, _)| encoding.contains("refine") || encoding.contains("residual"));
                let is_said = inspection.variants.iter().any(|variant| !variant.unshared.is_empty());
                assert!(is_given || is_said, "{what}: {part}, change {index}");
                refused += usize::from(is_said);
            }
        }
    }
    assert!(refused > 50, "{refused}");
}
