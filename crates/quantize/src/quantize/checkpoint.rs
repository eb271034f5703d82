//! The files of a source folder: which hold the weights that transformers would load, which belong to the model besides
//! them, and which are further copies of the weights.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use qstore_checkpoint::{Error, Result, Source, SourceArray, SourceContent, zeroed};
use qstore_container::SafetensorsHeader;
use serde_json::Value;

use super::config::{self, Config};
use super::gptq;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A tensor of a checkpoint.
#[derive(Debug)]
pub(super) struct SourceTensor<'a> {
    pub(super) name: String,
    pub(super) array: &'a SourceArray,
}

/// The tensors of the model in a folder, by name.
///
/// # Errors
/// No safetensors weights, a shard or tensor that the index names and that is not there, or a name that two shards use.
pub(super) fn tensors(source: &Source) -> Result<Vec<SourceTensor<'_>>> {
    // transformers prefers a single file to an index, where both are there.
    if let Some(file) = find(source, SINGLE) {
        let mut tensors = tensors_of(source, file)?;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        return Ok(tensors);
    }
    let Some(index) = find(source, INDEX) else {
        let what = format!(
            "it has neither {SINGLE} nor {INDEX}; save the model with save_pretrained of transformers first"
        );
        return Err(Error::input(source.path(), what));
    };
    let path = source.path().join(INDEX);
    let value: Value = serde_json::from_slice(&read_text(source, index)?)
        .map_err(|e| Error::input(&path, format!("it is not JSON: {e}")))?;
    let map: HashMap<&str, &str> = value
        .get("weight_map")
        .and_then(Value::as_object)
        .map(|map| map.iter().filter_map(|(name, shard)| Some((name.as_str(), shard.as_str()?))).collect())
        .unwrap_or_default();
    let mut tensors: Vec<SourceTensor<'_>> = Vec::new();
    for shard in map.values().collect::<BTreeSet<_>>() {
        let missing = || Error::input(&path, format!("it names the shard {shard}, which is not there"));
        tensors.extend(tensors_of(source, find(source, shard).ok_or_else(missing)?)?);
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        let what = format!("two of its shards have a tensor {}; which one counts?", pair[0].name);
        return Err(Error::input(path, what));
    }
    for (name, shard) in &map {
        let found = tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        if !found.is_ok_and(|at| source.files[tensors[at].array.file].path.as_str() == *shard) {
            return Err(Error::input(path, format!("the tensor {name} is not in {shard}, as it says")));
        }
    }
    Ok(tensors)
}

/// The folder's `config.json`.
///
/// # Errors
/// There is none, or it is none of a model that can be quantised.
pub(super) fn config(source: &Source) -> Result<Config> {
    let Some(file) = find(source, "config.json") else {
        let what = if find(source, "adapter_config.json").is_some() {
            "it has no config.json: it holds an adapter; merge that into its model first"
        } else {
            "it has no config.json; give the folder of a Hugging Face model"
        };
        return Err(Error::input(source.path(), what));
    };
    let path = source.path().join("config.json");
    if source.files[file].bytes > config::MAX_BYTES {
        return Err(Error::input(path, "it is too large for the configuration of a model"));
    }
    let text =
        String::from_utf8(read_text(source, file)?).map_err(|_| Error::input(&path, "it is not UTF-8"))?;
    Config::parse(&path, &text)
}

/// What happens to a file that is not made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Belongs to the quantised model as it is: tokenizer, generation settings, code, documentation.
    Copied,
    /// Made anew: the configuration, the weights and their index.
    Replaced,
    /// The weights once more, or what training left behind; of no use beside quantised weights.
    LeftOut,
}

/// What happens to `file` of a folder whose weights are `tensors`.
pub(super) fn fate(file: usize, path: &str, tensors: &[SourceTensor<'_>]) -> Fate {
    if ["config.json", INDEX, gptq::FILE].contains(&path)
        || tensors.iter().any(|tensor| tensor.array.file == file)
    {
        return Fate::Replaced;
    }
    // Subfolders hold parts of the model (a sentence encoder's pooling), but these hold it in other formats, or what
    // tools keep there.
    if let Some((folder, _)) = path.split_once('/') {
        let other = ["onnx", "openvino", "coreml", "original", ".git", ".cache", ".huggingface"];
        return if other.contains(&folder) { Fate::LeftOut } else { Fate::Copied };
    }
    let name = path.strip_suffix(".index.json").unwrap_or(path);
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let copies = match extension {
        "safetensors" | "gguf" | "onnx" | "onnx_data" | "msgpack" | "h5" | "ot" | "ckpt" | "pth" => true,
        "bin" => stem.starts_with("pytorch_model") || stem == "training_args",
        "pt" => ["optimizer", "scheduler", "scaler"].contains(&stem),
        _ => false,
    };
    if copies { Fate::LeftOut } else { Fate::Copied }
}

/// The index of a file in the source.
fn find(source: &Source, path: &str) -> Option<usize> {
    source.files.iter().position(|file| file.path.as_str() == path)
}

/// The bytes of a small file.
fn read_text(source: &Source, file: usize) -> Result<Vec<u8>> {
    let file = &source.files[file];
    let path: PathBuf = source.path().join(file.path.as_str());
    let SourceContent::Opaque(array) = &file.content else {
        return Err(Error::input(path, "it is a safetensors file, but not named as one"));
    };
    let array = &source.arrays[*array];
    let mut bytes = zeroed(array.bytes).map_err(|e| Error::Io { path, what: "cannot read", source: e })?;
    source.read(array, 0, &mut bytes)?;
    Ok(bytes)
}

/// The tensors of a safetensors file under their own names: a source qualifies those that several files use.
fn tensors_of(source: &Source, file: usize) -> Result<Vec<SourceTensor<'_>>> {
    let file = &source.files[file];
    let path = source.path().join(file.path.as_str());
    let SourceContent::Safetensors { header, arrays } = &file.content else {
        return Err(Error::input(path, "it is not named as a safetensors file"));
    };
    let header = SafetensorsHeader::parse(header.clone().into_bytes(), file.bytes)
        .map_err(|e| Error::input(&path, e))?;
    let spans = header.tensors.into_iter();
    Ok(spans
        .zip(arrays)
        .map(|(span, &at)| SourceTensor { name: span.name, array: &source.arrays[at] })
        .collect())
}
