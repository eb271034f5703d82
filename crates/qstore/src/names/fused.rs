//! Tensors of several weight matrices: all experts of a layer, or projections of the same input.

use qstore_container::View;
use serde_json::Value;

use super::ArrayInfo;
use super::canonical;
use super::canonical::is_number;

/// Projections that are stored as one matrix, with their output features one after another.
const FUSED: [(&str, &[&str]); 3] = [
    ("gate_up_proj", &["gate_proj", "up_proj"]),
    ("gate_up", &["gate_proj", "up_proj"]),
    ("qkv_proj", &["q_proj", "k_proj", "v_proj"]),
];

/// Matrices that a tensor is cut into at most.
const MOST_PARTS: u64 = 1 << 12;
/// Weights of a part at least: of fewer, tables take more than is saved.
const LEAST_WEIGHTS: u64 = 512;

/// A way to see a tensor as several matrices. Together they have each of its elements once, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) parts: Vec<CutPart>,
}

/// A matrix of a [`Cut`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CutPart {
    /// Its canonical name.
    pub(crate) name: String,
    pub(crate) view: View,
    /// Output and input features.
    pub(crate) shape: [u64; 2],
}

/// The projections that a matrix of that name has, `gate_up_proj` as well as `down_proj`.
fn projections(name: &str) -> Vec<&str> {
    let known = FUSED.iter().find(|(fused, _)| *fused == name);
    known.map_or_else(|| vec![name], |(_, projections)| projections.to_vec())
}

/// What precedes `experts.` in the name of a tensor of all experts of a layer, and the name of their projection.
fn of_experts(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let (module, projection) = name.rsplit_once('.')?;
    (module == "experts" || module.ends_with(".experts"))
        .then_some((module, projection))
        .filter(|(_, p)| !is_number(p))
}

/// A matrix of an expert within a tensor of all of them.
pub(crate) struct Expert {
    pub(crate) number: u64,
    /// Which of the projections that the tensor has it is, and of how many.
    pub(crate) projection: (u64, u64),
    /// The name that it has where each is a tensor.
    pub(crate) name: String,
}

/// The matrices that a tensor of that name has, which is one of `experts` experts; none if it is no such tensor.
pub(crate) fn experts(name: &str, experts: u64) -> Vec<Expert> {
    let Some((module, fused)) = of_experts(name) else { return Vec::new() };
    let projections = projections(fused);
    let count = projections.len() as u64;
    if experts.saturating_mul(count) > MOST_PARTS {
        return Vec::new();
    }
    let all =
        (0..experts).flat_map(|number| (0..).zip(&projections).map(move |projection| (number, projection)));
    let expert = |(number, (index, projection))| Expert {
        number,
        projection: (index, count),
        name: format!("{module}.{number}.{projection}.weight"),
    };
    all.map(expert).collect()
}

/// The ways to cut a tensor. Files do not say in which order experts and projections lie; shapes and trials tell.
pub(crate) fn cuts(array: &ArrayInfo, config: &Value) -> Vec<Cut> {
    let cuts = match array.shape[..] {
        [experts, rows, cols] => cuts_of_experts(&array.name, [experts, rows, cols]),
        [rows, cols] => cuts_of_matrix(&array.name, [rows, cols], config),
        _ => Vec::new(),
    };
    let is_worth =
        |cut: &Cut| cut.parts.iter().all(|part| part.shape[0].saturating_mul(part.shape[1]) >= LEAST_WEIGHTS);
    cuts.into_iter().filter(is_worth).collect()
}

fn cuts_of_experts(name: &str, [count, rows, cols]: [u64; 3]) -> Vec<Cut> {
    let experts = experts(name, count);
    let Some((_, projections)) = experts.first().map(|expert| expert.projection) else { return Vec::new() };
    if count.checked_mul(rows).is_none() {
        return Vec::new();
    }
    // The layouts that there are: output features in rows or columns, projections one after another or in turn.
    let mut layouts = Vec::new();
    for (transposed, outputs) in [(false, rows), (true, cols)] {
        if outputs.is_multiple_of(projections) && outputs > 0 {
            let outputs = outputs / projections;
            layouts.push((transposed, outputs, None));
            if projections > 1 {
                layouts.push((transposed, outputs, Some([outputs, projections].into())));
            }
        }
    }
    let cut = |(transposed, outputs, order): (bool, u64, Option<_>)| {
        let part = |expert: &Expert| {
            let slab = [expert.number * rows, (expert.number + 1) * rows];
            let taken = [expert.projection.0 * outputs, (expert.projection.0 + 1) * outputs];
            // Rows as they lie are a slab of their own.
            let view = if transposed || order.is_some() {
                View { slab: Some(slab.into()), transposed, order, rows: Some(taken.into()), pitch: None }
            } else {
                View { slab: Some([slab[0] + taken[0], slab[0] + taken[1]].into()), ..View::WHOLE }
            };
            let inputs = if transposed { rows } else { cols };
            CutPart { name: canonical(&expert.name).into_owned(), view, shape: [outputs, inputs] }
        };
        Cut { parts: experts.iter().map(part).collect() }
    };
    layouts.into_iter().map(cut).collect()
}

fn cuts_of_matrix(name: &str, [rows, cols]: [u64; 2], config: &Value) -> Vec<Cut> {
    let Some((module, projection)) = name.strip_suffix(".weight").and_then(|name| name.rsplit_once('.'))
    else {
        return Vec::new();
    };
    let names = projections(projection);
    let Some(shares) = shares(&names, config) else { return Vec::new() };
    let all: u64 = shares.iter().sum();
    let outputs = rows / all.max(1);
    if names.len() < 2 || outputs == 0 || outputs * all != rows {
        return Vec::new();
    }
    let mut next = 0;
    let part = |(projection, share): (&&str, &u64)| {
        let slab = [next, next + outputs * share];
        next = slab[1];
        CutPart {
            name: canonical(&format!("{module}.{projection}.weight")).into_owned(),
            view: View { slab: Some(slab.into()), ..View::WHOLE },
            shape: [slab[1] - slab[0], cols],
        }
    };
    vec![Cut { parts: names.iter().zip(&shares).map(part).collect() }]
}

/// How many of all output features each projection has, in proportion.
fn shares(names: &[&str], config: &Value) -> Option<Vec<u64>> {
    if !names.contains(&"q_proj") {
        return Some(vec![1; names.len()]);
    }
    let number = |name: &str| {
        let known = [config, &config["text_config"]].into_iter().find_map(|config| config[name].as_u64());
        known.filter(|count| (1..1 << 20).contains(count))
    };
    let heads = number("num_attention_heads")?;
    let key_value = number("num_key_value_heads").unwrap_or(heads);
    Some(vec![heads, key_value, key_value])
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_container::{ArrayKey, Dtype};

    fn cut(name: &str, shape: &[u64], config: &str) -> Vec<Cut> {
        let key = ArrayKey::Tensor(name.to_owned());
        let array = ArrayInfo::new(&key, &"model.safetensors".into(), Dtype::BF16, shape).unwrap();
        cuts(&array, &serde_json::from_str(config).unwrap())
    }

    #[test]
    fn experts_are_cut_every_way_that_there_is() {
        let cuts = cut("model.layers.1.mlp.experts.gate_up_proj", &[2, 64, 32], "null");
        let shapes: Vec<_> = cuts.iter().map(|cut| cut.parts[0].shape).collect();
        assert_eq!(shapes, [[32, 32], [32, 32], [16, 64], [16, 64]]);
        for cut in &cuts {
            let names: Vec<_> = cut.parts.iter().map(|part| &part.name[..]).collect();
            assert_eq!(names[1], "model.layers.1.mlp.experts.0.up_proj.weight");
            assert_eq!(names[2], "model.layers.1.mlp.experts.1.gate_proj.weight");
            // Each element once.
            let mut seen = vec![0; 2 * 64 * 32];
            for part in &cut.parts {
                let placed = part.view.place(&[2, 64, 32]).unwrap();
                assert_eq!(placed.shape, part.shape);
                for row in 0..part.shape[0] {
                    (0..part.shape[1]).for_each(|column| seen[placed.element(row, column) as usize] += 1);
                }
            }
            assert!(seen.iter().all(|times| *times == 1));
        }
        // The first rows of an expert are its gate's, or every other one is.
        let first = |cut: &Cut, row| cut.parts[0].view.place(&[2, 64, 32]).unwrap().element(row, 0);
        assert_eq!(cuts.iter().map(|cut| first(cut, 1)).collect::<Vec<_>>(), [32, 64, 1, 2]);
        let down = cut("layers.1.block_sparse_moe.experts.w2.weight", &[2, 64, 32], "null");
        assert_eq!(down[0].parts[1].name, "layers.1.mlp.experts.1.down_proj.weight");
        assert_eq!(down.len(), 2);
        for (name, shape) in [
            ("model.layers.1.conv.weight", &[2, 64, 32][..]),
            ("mlp.experts.gate_up_proj", &[2, 3, 7]),
            ("mlp.experts.gate_up_proj", &[u64::MAX, 64, 64]),
            ("mlp.experts.gate_up_proj", &[2, u64::MAX, 64]),
            ("mlp.experts.3.weight", &[2, 64, 64]),
        ] {
            assert_eq!(cut(name, shape, "null"), []);
        }
    }

    #[test]
    fn heads_share_the_rows_of_a_fused_matrix() {
        let config = r#"{"text_config":{"num_attention_heads":6,"num_key_value_heads":1}}"#;
        let cuts = cut("model.layers.0.self_attn.qkv_proj.weight", &[256, 48], config);
        let parts: Vec<_> = cuts[0].parts.iter().map(|part| (&part.name[25..], part.shape[0])).collect();
        assert_eq!(parts, [("q_proj.weight", 192), ("k_proj.weight", 32), ("v_proj.weight", 32)]);
        assert_eq!(cut("model.layers.0.self_attn.qkv_proj.weight", &[256, 48], "null"), []);
        assert_eq!(cut("model.layers.0.self_attn.qkv_proj.weight", &[250, 48], config), []);
        assert_eq!(cut("model.layers.0.mlp.gate_up_proj.weight", &[64, 48], "null")[0].parts.len(), 2);
        assert_eq!(cut("model.layers.0.mlp.down_proj.weight", &[64, 48], "null"), []);
    }
}
