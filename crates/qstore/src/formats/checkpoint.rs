//! A variant's tensors, and what its configuration says of them.

use std::collections::HashMap;

use qstore_checkpoint::{Result, ShardSet};
use qstore_container::ArrayKey;
use serde_json::Value;

use super::says_more;
use crate::names::ArrayInfo;

/// The largest `config.json` that is looked at.
const CONFIG_BYTES: u64 = 1 << 24;

/// The largest tensor whose content is looked at to tell what others are.
const FACT_BITS: u64 = 8 << 12;

/// What a variant's folder says of itself: its tensors, and its `config.json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoint {
    pub(crate) tensors: Vec<ArrayInfo>,
    /// `config.json`; null where there is none.
    pub(crate) config: Value,
    /// The bytes of small tensors that say what others are.
    pub(crate) facts: HashMap<ArrayKey, Vec<u8>>,
}

impl Checkpoint {
    /// Of a folder with these tensors and files of so many bytes; `read` has the bytes of an array.
    ///
    /// # Errors
    /// What `read` returns. A `config.json` that is no JSON is some other file of that name.
    pub(crate) fn new(
        tensors: Vec<ArrayInfo>,
        files: impl IntoIterator<Item = (ArrayKey, u64)>,
        mut read: impl FnMut(&ArrayKey) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let config = match files.into_iter().find(|(key, bytes)| is_config(key, *bytes)) {
            Some((key, _)) => serde_json::from_slice(&read(&key)?).unwrap_or_default(),
            None => Value::Null,
        };
        let mut facts = HashMap::new();
        for tensor in tensors.iter().filter(|tensor| says_more(&tensor.name) && tensor.bits() <= FACT_BITS) {
            facts.insert(tensor.key.clone(), read(&tensor.key)?);
        }
        Ok(Self { tensors, config, facts })
    }

    /// What `config.json` says of how the variant is quantised.
    pub(crate) fn quantization_config(&self) -> &Value {
        &self.config["quantization_config"]
    }

    /// What it calls that.
    pub(crate) fn quant_method(&self) -> Option<&str> {
        let method = self.quantization_config()["quant_method"].as_str()?;
        // It ends up in the manifest and on terminals, so it has to look like a name.
        let is_name = method.len() <= 64 && method.bytes().all(|b| b.is_ascii_graphic());
        is_name.then_some(method)
    }
}

/// Whether an array of so many bytes is a variant's `config.json`.
fn is_config(key: &ArrayKey, bytes: u64) -> bool {
    matches!(key, ArrayKey::File(path) if path.as_str() == "config.json") && bytes <= CONFIG_BYTES
}

/// A variant's tensors by name. A folder may hold two sets of weights with the same names.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    by_name: HashMap<&'a str, Vec<&'a ArrayInfo>>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Self {
        let all = &checkpoint.tensors;
        let mut by_name: HashMap<&str, Vec<&ArrayInfo>> = HashMap::with_capacity(all.len());
        for array in all {
            by_name.entry(&array.name).or_default().push(array);
        }
        Self { checkpoint, by_name }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a ArrayInfo> + use<'a> {
        self.checkpoint.tensors.iter()
    }

    /// The bytes of a tensor whose name a format's [`Format::facts`](super::Format::facts) ends.
    pub(super) fn fact(&self, tensor: &ArrayInfo) -> Option<&'a [u8]> {
        self.checkpoint.facts.get(&tensor.key).map(Vec::as_slice)
    }

    /// The tensor of that name that belongs to `of`: in its file, else in another shard of it, else in its folder, else
    /// the only one.
    pub(super) fn beside(&self, of: &ArrayInfo, name: &str) -> Option<&'a ArrayInfo> {
        let named = self.by_name.get(name)?;
        if let [only] = named[..] {
            return Some(only);
        }
        let find = |is_near: &dyn Fn(&ArrayInfo) -> bool| named.iter().find(|other| is_near(other)).copied();
        find(&|other| other.file == of.file)
            .or_else(|| find(&|other| set_of(&other.file) == set_of(&of.file)))
            .or_else(|| find(&|other| other.folder() == of.folder()))
    }
}

/// The set of weights that a file is of: alone, or as a shard.
fn set_of(file: &str) -> Result<ShardSet<'_>, &str> {
    ShardSet::of(file).map(|(set, _)| set).ok_or(file)
}

#[cfg(test)]
mod tests {
    use qstore_container::Dtype;

    use super::*;

    #[test]
    fn each_set_of_weights_keeps_to_itself() {
        let files = [
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "unet/a.safetensors",
            "unet/b.safetensors",
        ];
        let tensor = |file: &str, name: &str| {
            let key = ArrayKey::Tensor(format!("{file}:{name}"));
            ArrayInfo::new(&key, &file.into(), Dtype::U8, &[]).unwrap()
        };
        let tensors = vec![
            tensor(files[0], "x.weight"),
            tensor(files[0], "x.SCB"),
            tensor(files[1], "x.weight"),
            tensor(files[2], "x.SCB"),
            tensor(files[3], "x.weight"),
            tensor(files[4], "x.SCB"),
            tensor(files[4], "only"),
        ];
        let checkpoint = Checkpoint { tensors, ..Checkpoint::default() };
        let (all, tensors) = (&checkpoint.tensors, Tensors::new(&checkpoint));
        for (codes, scales) in [(0, 1), (2, 3), (4, 5)] {
            assert_eq!(tensors.beside(&all[codes], "x.SCB"), Some(&all[scales]));
        }
        assert_eq!(tensors.beside(&all[0], "only"), Some(&all[6]));
        assert_eq!(tensors.beside(&all[0], "none"), None);
        assert_eq!(all[6].name, "only");
        assert_eq!(all[5].folder(), "unet");
    }

    #[test]
    fn methods_are_names() {
        let method = |config: &str| {
            let config = serde_json::from_str(config).unwrap();
            let checkpoint = Checkpoint { config, ..Checkpoint::default() };
            checkpoint.quant_method().map(str::to_owned)
        };
        assert_eq!(method(r#"{"quantization_config":{"quant_method":"fp8"}}"#).as_deref(), Some("fp8"));
        for none in [
            "null",
            "[]",
            "{}",
            r#"{"quantization_config":{"quant_method":"a\u001bb"}}"#,
            r#"{"quantization_config":3}"#,
        ] {
            assert_eq!(method(none), None);
        }
    }
}
