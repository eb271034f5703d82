//! The blocks of a model, in which readers of GPTQ look for quantised layers.
//!
//! transformers replaces every linear layer whose name begins as one of [`BLOCKS`] says and no other, whatever the
//! folder holds (optimum 2.3, `BLOCK_PATTERNS`); gptqmodel's definitions of models name the same ones.

use super::rule::{self, Choice, Reason, Tensor};

/// Lists of blocks. Readers take the first that the model has.
const BLOCKS: [&str; 8] = [
    "transformer.h",
    "model.decoder.layers",
    "gpt_neox.layers",
    "model.layers",
    "model.language_model.layers",
    "h",
    "decoder.layers",
    "layers",
];

/// The list of blocks that readers find among a model's layers, if they find any.
pub(super) fn find(tensors: &[Tensor<'_>], choices: &[Choice]) -> Option<&'static str> {
    let chosen = || tensors.iter().zip(choices).filter(|(_, choice)| choice.is_quantised());
    BLOCKS.into_iter().find(|list| chosen().any(|(tensor, _)| is_within(list, tensor.name)))
}

/// Leaves alone what lies outside the blocks.
pub(super) fn keep_outside(list: &str, tensors: &[Tensor<'_>], choices: &mut [Choice]) {
    for (tensor, choice) in tensors.iter().zip(choices) {
        if choice.is_quantised() && !is_within(list, tensor.name) {
            *choice = Choice::Kept(Reason::OutsideBlocks);
        }
    }
}

/// The modules within the blocks that are left alone, where readers would not expect it.
pub(super) fn kept_within(list: &str, tensors: &[Tensor<'_>], choices: &[Choice]) -> Vec<String> {
    let mut kept = rule::kept_modules(tensors, choices);
    kept.retain(|module| is_within(list, module));
    kept
}

/// Whether `name` begins with `list` and the number of a block.
fn is_within(list: &str, name: &str) -> bool {
    let rest = name.strip_prefix(list).and_then(|rest| rest.strip_prefix('.'));
    let number = rest.and_then(|rest| rest.split('.').next());
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::rule::Model;
    use qstore_container::Dtype;

    #[test]
    fn readers_look_in_one_list_of_blocks() {
        let names = [
            "lm_head.weight",
            "layers.0.q_proj.weight",
            "model.layers.0.mlp.experts.0.up_proj.weight",
            "model.layers.0.mlp.gate.weight",
            "model.layers.0.q_proj.weight",
            "model.layers.norm.fc.weight",
            "visual.blocks.0.qkv.weight",
        ];
        let tensors = names.map(|name| Tensor { name, dtype: Dtype::BF16, shape: &[32, 32] });
        let model = Model { class: "MixtralForCausalLM", model_type: "mixtral" };
        let mut choices = rule::choose(model, &tensors);
        assert_eq!(find(&tensors, &choices), Some("model.layers"));
        keep_outside("model.layers", &tensors, &mut choices);
        let quantised: Vec<_> = choices.iter().map(|choice| choice.is_quantised()).collect();
        assert_eq!(quantised, [false, false, false, false, true, false, false]);
        assert_eq!(choices[5], Choice::Kept(Reason::OutsideBlocks));
        let kept = kept_within("model.layers", &tensors, &choices);
        assert_eq!(kept, ["model.layers.0.mlp.experts", "model.layers.0.mlp.gate"]);
        assert_eq!(find(&tensors[6..], &choices[4..5]), None);
    }
}
