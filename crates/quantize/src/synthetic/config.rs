//! The small files beside the weights: what transformers 4 and 5 need to build the model.

use serde_json::{Value, json};

use qstore_container::Dtype;

use super::spec::ModelSpec;

/// `config.json` of a `LlamaForCausalLM`, keys sorted as `save_pretrained` sorts them. Rotary positions keep their
/// default base, so that transformers 4, which has another key for it, builds the same model.
pub(super) fn model_config(spec: &ModelSpec) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "dtype": torch_name(spec.dtype),
        "eos_token_id": 2,
        "head_dim": spec.head_width(),
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "initializer_range": 0.02,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": 2048,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.kv_heads,
        "pad_token_id": null,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-6,
        "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default" },
        "tie_word_embeddings": spec.tied,
        "use_cache": true,
        "vocab_size": spec.vocab,
    })
}

/// `generation_config.json`.
pub(super) fn generation_config() -> Value {
    json!({ "_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2, "use_cache": true })
}

/// The element type as PyTorch names it.
fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    }
}
