//! What a GPTQ folder says about its quantisation.

use serde_json::{Map, Value, json};

use crate::quantize::precision::{Gptq, ZeroPoint};

/// The file that says the same as `quantization_config` in `config.json`, for readers that look here.
pub(crate) const FILE: &str = "quantize_config.json";

/// What gptqmodel 7 saves; `kept` names the modules within the model's blocks that are not quantised, or what the names
/// of several begin with.
pub(crate) fn quantization_config(gptq: &Gptq, kept: &[String]) -> Value {
    let symmetric = gptq.zero_point == ZeroPoint::Symmetric;
    let mut quantizer = vec![concat!("qstore:", env!("CARGO_PKG_VERSION")).to_owned()];
    if !symmetric {
        // gptqmodel refuses zero-points other than the middle unless a release of its own from 0.9 on stored them, as
        // earlier ones could store a zero-point of 0, less one, wrongly. There is none of 0 here (see `group`), so what
        // it asks for holds.
        quantizer.push("gptqmodel:7.7.0".to_owned());
    }
    let mut config = json!({
        "bits": gptq.bits.count(),
        "group_size": gptq.group_size.number(),
        "desc_act": false,
        "lm_head": false,
        "method": "gptq",
        "quant_method": "gptq",
        "format": "gptq",
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        // `weight_only` is what gptqmodel notes of matrices that it rounded to nearest.
        "meta": { "quantizer": quantizer, "weight_only": { "smooth": null } },
        "sym": symmetric,
    });
    if !kept.is_empty() {
        // Readers expect every linear layer of a block to be quantised, but those that a pattern after "-:" matches
        // from the beginning.
        let patterns = kept.iter().map(|module| (format!("-:^{}(\\.|$)", escaped(module)), json!({})));
        config["dynamic"] = patterns.collect::<Map<_, _>>().into();
    }
    config
}

/// A regular expression for `name`.
fn escaped(name: &str) -> String {
    let special = |c: char| !c.is_alphanumeric() && c != '_';
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::precision::{GptqBits, GroupSize};

    #[test]
    fn says_what_readers_look_for() {
        let gptq =
            Gptq { bits: GptqBits::Four, group_size: GroupSize::ROW, zero_point: ZeroPoint::Symmetric };
        let config = quantization_config(&gptq, &[]);
        assert_eq!(
            (&config["bits"], &config["group_size"], &config["sym"]),
            (&4.into(), &(-1).into(), &true.into())
        );
        assert_eq!(config.get("dynamic"), None);
        let config = quantization_config(
            &Gptq { zero_point: ZeroPoint::MinMax, ..gptq },
            &["model.layers.0.mlp.gate".to_owned()],
        );
        assert_eq!(config["dynamic"], json!({ "-:^model\\.layers\\.0\\.mlp\\.gate(\\.|$)": {} }));
        // As gptqmodel asks whether it may load zero-points.
        assert_eq!(config["meta"]["quantizer"][1], "gptqmodel:7.7.0");
    }
}
