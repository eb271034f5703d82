//! What transformers' model classes say about quantisation that names and shapes of tensors do not.
//!
//! transformers decides module by module, with the class at hand; here there is only a folder. What its classes add is
//! written down in the tables below, taken from transformers 5.23.

/// Classes for which the rule in [`super::rule`] was compared with transformers and found to choose the same modules.
const VERIFIED: &str = include_str!("verified_classes.txt");

/// Whether the folder rule is known to choose what transformers chooses for class `class`.
pub(super) fn is_verified(class: &str) -> bool {
    VERIFIED.lines().any(|line| line == class)
}

/// `model_type`s whose layers are `Conv1D` modules: their weights lie as [in, out], and bitsandbytes turns them. Names
/// do not tell: GPT-BigCode has the same ones and ordinary linear layers.
pub(super) fn has_conv1d_layers(model_type: &str) -> bool {
    ["gpt2", "openai-gpt", "gpt-sw3", "imagegpt", "decision_transformer"].contains(&model_type)
}

/// `model_type`s whose layers are subclasses of `nn.Linear` (Falcon, I-BERT) that transformers leaves alone, and could
/// not load as INT8.
pub(super) fn has_no_convertible_layers(model_type: &str) -> bool {
    ["falcon", "RefinedWeb", "RefinedWebModel", "ibert"].contains(&model_type)
}

/// Modules that a family of classes keeps in FP32.
struct KeptInFp32 {
    /// What the names of the classes begin with.
    family: &'static str,
    /// `_keep_in_fp32_modules`: FP32 when the model is loaded in FP16. These are never quantised.
    with_fp16: &'static [&'static str],
    /// `_keep_in_fp32_modules_strict`: FP32 when the model is loaded in FP16 or BF16.
    always: &'static [&'static str],
}

const fn with_fp16(family: &'static str, with_fp16: &'static [&'static str]) -> KeptInFp32 {
    KeptInFp32 { family, with_fp16, always: &[] }
}

const fn always(family: &'static str, always: &'static [&'static str]) -> KeptInFp32 {
    KeptInFp32 { family, with_fp16: &[], always }
}

/// A name may match several families (`Inkling` and `Inkling2`); the longest counts.
const KEPT_IN_FP32: &[KeptInFp32] = &[
    with_fp16(
        "Afmoe",
        &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_mlp_layernorm",
            "post_mlp_layernorm",
            "q_norm",
            "k_norm",
            "norm",
            "expert_bias",
        ],
    ),
    with_fp16("AXK2", &["indexer.weights_proj"]),
    always("BailingHybrid", &["conv1d", "dt_bias", "A_log"]),
    always("Beam", &["mlp.gate.weight"]),
    with_fp16("Blip2", &["query_tokens", "qformer"]),
    with_fp16("DeepseekV32", &["indexer.weights_proj"]),
    always("Ernie4_5_Moe", &["gate.weight", "moe_statics"]),
    always("Ernie4_5_VLMoe", &["gate.weight", "moe_statics"]),
    always("Flint", &["gate.weight", "sinks"]),
    with_fp16("GlmMoeDsa", &["indexer.weights_proj"]),
    with_fp16("GptOss", &["post_attention_layernorm", "input_layernorm", "norm"]),
    always("GraniteSpeech5", &["conv.norm"]),
    with_fp16("InstructBlip", &["query_tokens"]),
    always("KyutaiSpeechToText", &["codec_model"]),
    with_fp16("LongcatFlash", &["classifier.weight"]),
    KeptInFp32 {
        family: "MistralLarge4",
        with_fp16: &["indexer.weights_proj"],
        always: &["rotary_emb", "mlp.gate.weight"],
    },
    with_fp16("MT5", &["wo"]),
    always("OpenAIPrivacyFilter", &["sinks"]),
    with_fp16("Pop2Piano", &["wo"]),
    with_fp16("Rwkv", &["time_decay", "time_first"]),
    with_fp16("T5", &["wo"]),
    with_fp16("T5Gemma", &[]),
    with_fp16("Udop", &["wo"]),
    with_fp16("UMT5", &["wo"]),
    always("VoxtralForConditionalGeneration", &["embed_positions"]),
];

fn kept_in_fp32(class: &str) -> Option<&'static KeptInFp32> {
    KEPT_IN_FP32.iter().filter(|kept| class.starts_with(kept.family)).max_by_key(|kept| kept.family.len())
}

/// Whether class `class` names module `module` among those that it keeps in FP32 where FP16 would lose too much; these
/// are not quantised.
pub(super) fn is_too_fine_for_int8(class: &str, module: &str) -> bool {
    kept_in_fp32(class).is_some_and(|kept| kept.with_fp16.iter().any(|key| skip_key_matches(key, module)))
}

/// Whether the tensor is in FP32 after class `class` was loaded in a 16-bit type, which is FP16 or not.
pub(super) fn is_loaded_as_fp32(class: &str, tensor: &str, fp16: bool) -> bool {
    // Every mixture of experts that has this tensor keeps it.
    if tensor.contains("e_score_correction_bias") {
        return true;
    }
    kept_in_fp32(class).is_some_and(|kept| {
        let fp16_keys = if fp16 { kept.with_fp16 } else { &[] };
        fp16_keys.iter().chain(kept.always).any(|key| tensor.contains(key))
    })
}

/// Whether an entry `key` of `llm_int8_skip_modules` covers `module`: as what it begins with, up to a dot, or as what
/// it ends with (transformers' `should_convert_module`; keys are taken literally, which agrees for the keys that we
/// write).
pub(super) fn skip_key_matches(key: &str, module: &str) -> bool {
    let prefix = module.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    prefix || module.ends_with(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_classes() {
        assert!(is_verified("LlamaForCausalLM") && is_verified("BertModel"));
        assert!(!is_verified("Llama") && !is_verified("") && !is_verified("# Classes"));
        assert!(VERIFIED.lines().filter(|line| !line.starts_with('#')).is_sorted());
    }

    #[test]
    fn the_longest_family_counts() {
        assert!(is_too_fine_for_int8(
            "T5ForConditionalGeneration",
            "encoder.block.0.layer.1.DenseReluDense.wo"
        ));
        assert!(!is_too_fine_for_int8("T5GemmaModel", "encoder.wo"));
        assert!(is_loaded_as_fp32("T5Model", "encoder.block.0.layer.1.DenseReluDense.wo.weight", true));
        assert!(!is_loaded_as_fp32("T5Model", "encoder.block.0.layer.1.DenseReluDense.wo.weight", false));
        assert!(is_loaded_as_fp32(
            "Glm4MoeForCausalLM",
            "model.layers.1.mlp.gate.e_score_correction_bias",
            false
        ));
        assert!(is_loaded_as_fp32("Ernie4_5_MoeModel", "layers.1.mlp.gate.weight", false));
    }

    #[test]
    fn skip_keys_match_as_in_transformers() {
        for (key, module, want) in [
            ("lm_head", "lm_head", true),
            ("layer.1", "layer.1.attn", true),
            ("layer.1", "layer.11.attn", false),
            ("fc1", "model.decoder.layers.23.fc1", true),
            ("head", "lm_head", true),
            ("decoder", "decoder.layers.0.fc1", true),
            ("decoder", "model.decoder.layers.0.fc1", false),
        ] {
            assert_eq!(skip_key_matches(key, module), want, "{key} {module}");
        }
    }
}
