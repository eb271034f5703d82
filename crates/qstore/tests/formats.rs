//! Formats other than those that `chains.rs` and `round_trip.rs` are about: packed with their BF16 they come back, and
//! share what they should.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Tensors, assert_same_tree, fp8_blocks, model, options, spec, write_checkpoint, write_options};
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
