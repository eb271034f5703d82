//! Tensors of several matrices: all experts of a layer, or projections side by side. Whatever the other variant has as
//! tensors of their own is shared with them, in whatever order they lie; else all of it is stored alone. A report
//! behind it: GPTQ stores an expert each, transformers' classes one BF16 tensor for all experts, and nothing was
//! shared.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "tests"
)]

mod common;

use std::fs;

use common::experts::{EXPERTS, Lie, each, fused};
use common::{
    Gptq, Tensor, Tensors, assert_same_tree, check_blocks, fp8_blocks, gptq, llm_int8, options, spec,
    weights, write_checkpoint, write_options,
};
use qstore::{Dtype, Inspection, Silent, Store, VariantInspection, inspect, load, pack, unpack};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

const MODULE: &str = "model.layers.0.mlp.experts";

/// Packs these, in this order where they are equally precise, and checks that each comes back by files, by tensors and
/// by parts of tensors.
fn packed(folders: &[(&str, &Tensors)]) -> Inspection {
    packed_with(folders, "{}")
}

fn packed_with(folders: &[(&str, &Tensors)], config: &str) -> Inspection {
    let dir = common::scratch();
    for (name, tensors) in folders {
        write_checkpoint(&dir.path().join(name), tensors);
        fs::write(dir.path().join(name).join("config.json"), config).unwrap();
    }
    let specs: Vec<_> = folders.iter().map(|(name, _)| spec(dir.path(), name)).collect();
    let store = dir.path().join("store");
    pack(&specs, &store, &write_options(), &Silent).unwrap();
    let opened = Store::open(&store).unwrap();
    for (name, tensors) in folders {
        let out = dir.path().join("out").join(name);
        unpack(&opened, &name.parse().unwrap(), &out, &options(), &Silent).unwrap();
        assert_same_tree(&dir.path().join(name), &out);
        let variant = opened.variant(&name.parse().unwrap()).unwrap();
        for loaded in load(&variant, &options(), &Silent).unwrap() {
            assert!(*loaded.data == tensors[&loaded.name].data, "{}", loaded.name);
            let tensor = qstore::Tensor::open(&variant, &loaded.name).unwrap();
            check_blocks(&tensor, &loaded.data, &options());
            let rows = tensor.shape().first().copied().unwrap_or(0);
            let row = loaded.data.len() / rows.max(1) as usize;
            for (start, end) in [(0, rows), (rows / 2, rows), (rows / 3, rows / 2)] {
                let some = tensor.read_rows(start..end, &options()).unwrap();
                assert!(*some == loaded.data[start as usize * row..end as usize * row]);
            }
        }
    }
    inspect(&opened, true).unwrap()
}

fn variant<'a>(inspection: &'a Inspection, name: &str) -> &'a VariantInspection {
    inspection.variants.iter().find(|variant| variant.name == name).unwrap()
}

/// Bits a weight of the tensors whose names end so.
fn bits(inspection: &Inspection, name: &str, end: &str) -> f64 {
    let tensors = variant(inspection, name).tensors.iter().flatten();
    let found: Vec<_> = tensors.filter(|tensor| tensor.name.contains(end)).collect();
    assert!(!found.is_empty());
    let stored: u64 = found.iter().map(|tensor| tensor.stored_bytes).sum();
    let weights: u64 = found.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
    stored as f64 * 8.0 / weights as f64
}

#[test]
fn fused_floats_are_given_the_codes_of_each_expert() {
    for (number, lie) in
        [Lie::Rows, Lie::RowsInTurn, Lie::Columns, Lie::ColumnsInTurn].into_iter().enumerate()
    {
        let high = each(MODULE, 70 + number as u64, Dtype::BF16);
        let together = fused(MODULE, &high, lie);
        for (low, most) in
            [(llm_int8(&high), 4.7), (gptq(&high, Gptq::of_bits(4)), 8.6), (fp8_blocks(&high, 128), 4.9)]
        {
            let inspection = packed(&[("high", &together), ("low", &low)]);
            let found = bits(&inspection, "high", "experts");
            assert!(found < most, "{lie:?}: {found} bits");
            let high = variant(&inspection, "high");
            assert!(high.unshared.is_empty(), "{:?}", high.unshared);
            let tensors = high.tensors.iter().flatten().filter(|tensor| tensor.name.contains("experts"));
            assert!(tensors.into_iter().all(|tensor| tensor.encoding == "parts"));
        }
    }
}

#[test]
fn what_lies_elsewhere_costs_nothing() {
    for lie in [Lie::Rows, Lie::RowsInTurn, Lie::Columns, Lie::ColumnsInTurn] {
        for dtype in [Dtype::BF16, Dtype::F32] {
            let apart = each(MODULE, 80, dtype);
            let together = fused(MODULE, &apart, lie);
            for folders in [[("a", &apart), ("b", &together)], [("a", &together), ("b", &apart)]] {
                let inspection = packed(&folders);
                let found = bits(&inspection, "b", "experts");
                assert!(found == 0.0, "{lie:?}: {found} bits");
                assert!(variant(&inspection, "b").unshared.is_empty());
            }
        }
    }
}

/// Codes below, one matrix each, then all matrices in one tensor, then one each again, then all in one in another
/// order.
#[test]
fn all_of_them_together() {
    let apart = each(MODULE, 81, Dtype::BF16);
    let (rows, columns) = (fused(MODULE, &apart, Lie::Rows), fused(MODULE, &apart, Lie::ColumnsInTurn));
    let codes = gptq(&apart, Gptq::of_bits(4));
    for order in [["c", "f", "e", "g"], ["c", "e", "f", "g"], ["c", "g", "f", "e"]] {
        let of = |name: &str| match name {
            "c" => &codes,
            "f" => &rows,
            "e" => &apart,
            _ => &columns,
        };
        // Equal precisions come in the order of their names.
        let names = ["a", "b", "c", "d"];
        let folders: Vec<_> = names.iter().zip(order).map(|(name, content)| (*name, of(content))).collect();
        let inspection = packed(&folders);
        for name in &names[2..] {
            assert!(bits(&inspection, name, "experts") == 0.0, "{order:?} {name}");
        }
    }
}

#[test]
fn projections_side_by_side() {
    let mut rng = StdRng::seed_from_u64(82);
    let mut apart = Tensors::new();
    let stem = "model.layers.0.self_attn";
    for (name, rows) in [("q_proj", 192), ("k_proj", 64), ("v_proj", 64)] {
        apart.insert(format!("{stem}.{name}.weight"), weights(&mut rng, Dtype::BF16, rows, 128));
    }
    let all = ["q_proj", "k_proj", "v_proj"].map(|name| apart[&format!("{stem}.{name}.weight")].data.clone());
    let together = Tensors::from([(
        format!("{stem}.qkv_proj.weight"),
        Tensor::new(Dtype::BF16, &[320, 128], all.concat()),
    )]);
    let config = r#"{"num_attention_heads": 6, "num_key_value_heads": 2}"#;
    let inspection = packed_with(&[("high", &together), ("low", &llm_int8(&apart))], config);
    assert!(bits(&inspection, "high", "qkv") < 4.7);
    let inspection = packed_with(&[("a", &apart), ("b", &together)], config);
    assert!(bits(&inspection, "b", "qkv") == 0.0);
    // Without the heads nobody knows where one ends.
    let inspection = packed_with(&[("high", &together), ("low", &llm_int8(&apart))], "{}");
    assert_eq!(variant(&inspection, "high").tensors.iter().flatten().next().unwrap().encoding, "float-split");
}

/// Scales of all experts in one tensor, as transformers writes FP8, beside codes an expert each.
#[test]
fn scales_of_all_experts_in_one_tensor() {
    let high = each(MODULE, 83, Dtype::BF16);
    let mut low = fp8_blocks(&high, 32);
    for (fused, projections) in
        [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"])]
    {
        let parts = (0..EXPERTS)
            .flat_map(|e| projections.iter().map(move |p| format!("{MODULE}.{e}.{p}.weight_scale_inv")));
        let parts: Vec<Tensor> = parts.map(|name| low.remove(&name).unwrap()).collect();
        let rows = parts[0].shape[0] * projections.len();
        let data = parts.iter().flat_map(|part| part.data.clone()).collect();
        let shape = [EXPERTS, rows, parts[0].shape[1]];
        low.insert(format!("{MODULE}.{fused}_scale_inv"), Tensor::new(Dtype::F32, &shape, data));
    }
    let config = r#"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}"#;
    for together in [high.clone(), fused(MODULE, &high, Lie::Rows)] {
        let inspection = packed_with(&[("high", &together), ("low", &low)], config);
        let found = bits(&inspection, "high", "experts");
        assert!(found < 4.9, "{found}");
    }
}

/// Names of a fused tensor that hold something else: all of it is stored, alone.
#[test]
fn what_only_has_the_name_is_stored_alone() {
    let apart = each(MODULE, 84, Dtype::BF16);
    let other = fused(MODULE, &each(MODULE, 85, Dtype::BF16), Lie::Rows);
    let inspection = packed(&[("high", &other), ("low", &llm_int8(&apart))]);
    let tensors = variant(&inspection, "high").tensors.iter().flatten();
    let fused: Vec<_> = tensors.filter(|tensor| tensor.name.contains("experts")).collect();
    assert!(fused.iter().all(|tensor| tensor.encoding == "float-split"), "{fused:?}");
    assert_eq!(variant(&inspection, "high").unshared.len(), 1);
    let inspection = packed(&[("a", &apart), ("b", &other)]);
    assert!(bits(&inspection, "b", "experts") > 10.0);
}
