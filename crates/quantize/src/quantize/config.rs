//! A model's `config.json`: what it says about the model, and what it says after quantisation.

use std::path::{Path, PathBuf};

use qstore_checkpoint::{Error, FloatKind, Result};
use serde_json::{Map, Value};

use super::rule::Model;
use crate::save::python_json;

/// Bytes of a `config.json` at most; real ones have a few thousand.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// The `config.json` of a model that is not quantised.
#[derive(Debug)]
pub(super) struct Config {
    path: PathBuf,
    json: Map<String, Value>,
}

impl Config {
    /// Takes the text of the file at `path`, which is only named in errors.
    ///
    /// # Errors
    /// [`Error::Input`] for what is no JSON object, or the configuration of a model that is quantised already.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        let json =
            python_json::parse(text).map_err(|e| Error::input(path, format!("it is not JSON: {e}")))?;
        let Value::Object(json) = json else {
            return Err(Error::input(path, "it is not the configuration of a model"));
        };
        let within = ["text_config", "llm_config", "language_config"]
            .iter()
            .filter_map(|key| member(&json, key)?.as_object());
        for part in std::iter::once(&json).chain(within) {
            for key in ["quantization_config", "compression_config"] {
                if let Some(entry) = member(part, key) {
                    let method = entry.get("quant_method").and_then(Value::as_str).unwrap_or("some method");
                    let what = format!(
                        "the model is quantized already ({key}: {method}); give the folder that it was made from"
                    );
                    return Err(Error::input(path, what));
                }
            }
        }
        Ok(Self { path: path.to_owned(), json })
    }

    /// What decides which modules are quantised.
    pub(super) fn model(&self) -> Model<'_> {
        let class = self.json.get("architectures").and_then(|list| list.get(0));
        let model_type = self.json.get("model_type").and_then(Value::as_str);
        Model {
            class: class.and_then(Value::as_str).unwrap_or_default(),
            model_type: model_type.unwrap_or_default(),
        }
    }

    /// The type that transformers loads the model in by default, if it says.
    ///
    /// # Errors
    /// [`Error::Input`] for a type that is none of the three that can be quantised.
    pub(super) fn dtype(&self) -> Result<Option<FloatKind>> {
        let Some((key, value)) =
            ["dtype", "torch_dtype"].iter().find_map(|k| Some((k, member(&self.json, k)?)))
        else {
            return Ok(None);
        };
        let name = value.as_str().unwrap_or_default();
        match name.strip_prefix("torch.").unwrap_or(name) {
            "bfloat16" => Ok(Some(FloatKind::Bf16)),
            "float16" => Ok(Some(FloatKind::F16)),
            "float32" => Ok(Some(FloatKind::F32)),
            _ => {
                let value = python_json::print(value.clone());
                let what = format!("its {key} is {}, not bfloat16, float16 or float32", value.trim_end());
                Err(Error::input(&self.path, what))
            }
        }
    }

    /// Whether it says that the output head is the table of input embeddings.
    pub(super) fn ties_embeddings(&self) -> bool {
        [Some(&self.json), self.json.get("text_config").and_then(Value::as_object)]
            .into_iter()
            .flatten()
            .any(|part| part.get("tie_word_embeddings") == Some(&Value::Bool(true)))
    }

    /// The text of the file beside the quantised tensors, as `save_pretrained` would write it, with what it says of
    /// their quantisation.
    pub(super) fn quantized(&self, dtype: FloatKind, quantization_config: Value) -> String {
        let mut json = self.json.clone();
        json.insert("quantization_config".to_owned(), quantization_config);
        json.remove("_name_or_path");
        // Configurations of older versions say `torch_dtype`, which they need to go on reading it; newer ones say
        // `dtype` and pass it on to their parts.
        if member(&json, "torch_dtype").is_none() || member(&json, "dtype").is_some() {
            json.remove("torch_dtype");
            set_dtype(&mut json, dtype);
            let parts = json.values_mut().filter_map(Value::as_object_mut);
            for part in parts.filter(|part| member(part, "model_type").is_some()) {
                part.remove("torch_dtype");
                set_dtype(part, dtype);
            }
        }
        python_json::print(Value::Object(json))
    }
}

/// The member `key`. A `null` counts as absent, as transformers treats it.
fn member<'a>(json: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    json.get(key).filter(|value| !value.is_null())
}

fn set_dtype(json: &mut Map<String, Value>, dtype: FloatKind) {
    let name = match dtype {
        FloatKind::Bf16 => "bfloat16",
        FloatKind::F16 | FloatKind::ShortF16 => "float16",
        FloatKind::F32 => "float32",
    };
    json.insert("dtype".to_owned(), name.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::int8::quantization_config;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(Path::new("config.json"), text)
    }

    #[test]
    fn writes_what_transformers_writes() {
        // The text that transformers 5.23 with bitsandbytes 0.50.2 saved for a model with these settings.
        let source = r#"{
  "architectures": ["LlavaForConditionalGeneration"], "_name_or_path": "x", "dtype": "bfloat16", "eps": 1e-06,
  "text_config": {"model_type": "llama", "hidden_size": 8}, "rope_parameters": {"rope_type": "default"},
  "vision_config": {"model_type": "clip_vision_model", "dtype": null}}"#;
        let want = r#"{
  "architectures": [
    "LlavaForConditionalGeneration"
  ],
  "dtype": "bfloat16",
  "eps": 1e-06,
  "quantization_config": {
    "_load_in_4bit": false,
    "_load_in_8bit": true,
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": false,
    "llm_int8_enable_fp32_cpu_offload": false,
    "llm_int8_has_fp16_weight": false,
    "llm_int8_skip_modules": null,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": false,
    "load_in_8bit": true,
    "quant_method": "bitsandbytes"
  },
  "rope_parameters": {
    "rope_type": "default"
  },
  "text_config": {
    "dtype": "bfloat16",
    "hidden_size": 8,
    "model_type": "llama"
  },
  "vision_config": {
    "dtype": "bfloat16",
    "model_type": "clip_vision_model"
  }
}
"#;
        let config = parse(source).unwrap();
        assert_eq!(config.quantized(FloatKind::Bf16, quantization_config(None)), want);
        let listed = config.quantized(FloatKind::Bf16, quantization_config(Some(&["lm_head".to_owned()])));
        assert!(listed.contains("\"llm_int8_skip_modules\": [\n      \"lm_head\"\n    ],"), "{listed}");
    }

    #[test]
    fn the_type_is_said_as_the_source_says_it() {
        let old = parse(r#"{"torch_dtype":"float16","text_config":{"model_type":"llama"}}"#).unwrap();
        assert_eq!(old.dtype().unwrap(), Some(FloatKind::F16));
        let text = old.quantized(FloatKind::F16, quantization_config(None));
        assert!(text.contains("\"torch_dtype\"") && !text.contains("\"dtype\""), "{text}");
        let silent = parse(r#"{"dtype":null}"#).unwrap();
        assert_eq!(silent.dtype().unwrap(), None);
        assert!(
            silent.quantized(FloatKind::F32, quantization_config(None)).contains("\"dtype\": \"float32\"")
        );
        assert!(
            parse(r#"{"dtype":"float64"}"#).unwrap().dtype().unwrap_err().to_string().contains("float64")
        );
    }

    #[test]
    fn refuses_quantised_models() {
        for text in [
            r#"{"quantization_config":{"quant_method":"gptq"}}"#,
            r#"{"text_config":{"quantization_config":{}}}"#,
            r#"{"compression_config":{}}"#,
        ] {
            assert!(parse(text).unwrap_err().to_string().contains("quantized already"), "{text}");
        }
        assert!(parse("[]").is_err() && parse("{").is_err());
        parse(r#"{"quantization_config":null}"#).unwrap();
    }

    #[test]
    fn knows_the_class_and_tying() {
        let config = parse(r#"{"architectures":["A","B"],"model_type":"m","tie_word_embeddings":false,"text_config":{"tie_word_embeddings":true}}"#).unwrap();
        assert_eq!((config.model().class, config.model().model_type), ("A", "m"));
        assert!(config.ties_embeddings());
        let bare = parse("{}").unwrap();
        assert_eq!((bare.model().class, bare.model().model_type), ("", ""));
        assert!(!bare.ties_embeddings());
    }
}
