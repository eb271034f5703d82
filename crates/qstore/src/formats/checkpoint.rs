//! A variant's tensors, and what its configuration says of them.

use std::collections::HashMap;
use std::sync::Arc;

use qstore_container::{ArrayKey, Dtype};
use serde_json::Value;

use crate::shard_name::ShardSet;

/// A tensor as a format sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArrayInfo {
    pub(crate) key: ArrayKey,
    /// Its name in its file, which other files may use as well.
    pub(crate) name: String,
    /// The path of its file.
    pub(crate) file: Arc<str>,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
}

impl ArrayInfo {
    /// The tensor `key` of the file at path `file`: one whose name another file uses may be called `FILE:NAME`.
    pub(crate) fn new(key: &ArrayKey, file: &Arc<str>, dtype: Dtype, shape: &[u64]) -> Option<Self> {
        let name = key.tensor()?;
        let own = name.strip_prefix(&**file).and_then(|rest| rest.strip_prefix(':')).unwrap_or(name);
        Some(Self {
            key: key.clone(),
            name: own.to_owned(),
            file: file.clone(),
            dtype,
            shape: shape.to_vec(),
        })
    }

    /// The folder that its file is in.
    pub(crate) fn folder(&self) -> &str {
        self.file.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Its elements.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, dimension| product.saturating_mul(*dimension))
    }

    /// Its bits.
    pub(crate) fn bits(&self) -> u64 {
        self.elements().saturating_mul(self.dtype.bitsize() as u64)
    }
}

/// What a variant's folder says of itself: its tensors, and its `config.json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoint {
    pub(crate) tensors: Vec<ArrayInfo>,
    /// `config.json`; null where there is none.
    pub(crate) config: Value,
}

impl Checkpoint {
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

    /// The tensor of that name that belongs to `of`: in its file, else in another shard of it, else in its folder, else the only one.
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
        let checkpoint = Checkpoint { tensors, config: Value::Null };
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
            let checkpoint =
                Checkpoint { tensors: Vec::new(), config: serde_json::from_str(config).unwrap() };
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
