//! Where each tensor of a new checkpoint lies: in which file, at which byte, under which header.
//!
//! This is what `save_pretrained` does with the tensors of a model that was loaded: huggingface_hub's greedy division
//! into shards over the names in transformers' order, and the order and header of the safetensors library within each.

use std::cmp::Reverse;
use std::collections::HashMap;

use qstore_checkpoint::{Error, Result};
use qstore_container::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, json};

use super::python_json;

/// Bytes of tensors in a file at most: transformers 5 divides a model only above this.
pub(crate) const MAX_SHARD_BYTES: u64 = 50_000_000_000;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewTensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: u64,
}

impl NewTensor {
    /// A tensor whose elements take whole bytes.
    pub(crate) fn new(name: &str, dtype: Dtype, shape: &[u64]) -> Self {
        let bytes = shape.iter().product::<u64>() * (dtype.bitsize() as u64 / 8);
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }
}

/// Where a tensor's first byte goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Index of the file.
    pub(crate) file: usize,
    /// Offset in the file, header included.
    pub(crate) offset: u64,
}

/// A safetensors file to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewFile {
    pub(crate) name: String,
    /// The length field and the header.
    pub(crate) head: Vec<u8>,
    /// Size of the whole.
    pub(crate) bytes: u64,
}

/// The files of a checkpoint.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) files: Vec<NewFile>,
    /// A place for each tensor, in the order given.
    pub(crate) places: Vec<Place>,
}

/// Lays out `tensors` in files of at most `max_bytes` of tensors each, a larger tensor in one of its own.
///
/// # Errors
/// [`Error::Usage`] for a header that no reader would accept.
pub(crate) fn lay_out(tensors: &[NewTensor], max_bytes: u64) -> Result<Layout> {
    let shards = divide(tensors, max_bytes);
    let mut layout =
        Layout { files: Vec::with_capacity(shards.len()), places: vec![Place::default(); tensors.len()] };
    for (index, mut shard) in shards.iter().cloned().enumerate() {
        // Wide types first, so that all are aligned; this is the order of the library's serialiser.
        shard.sort_by_key(|&at| (Reverse(tensors[at].dtype), &tensors[at].name));
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let head = head_of(shard.iter().map(|&at| &tensors[at]))
            .map_err(|e| Error::usage(format!("{name}: {e}")))?;
        let mut offset = head.len() as u64;
        for at in shard {
            layout.places[at] = Place { file: index, offset };
            offset += tensors[at].bytes;
        }
        layout.files.push(NewFile { name, head, bytes: offset });
    }
    Ok(layout)
}

/// Tensors by shard, as huggingface_hub's `split_state_dict_into_shards_factory` divides them.
fn divide(tensors: &[NewTensor], max_bytes: u64) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_cached_key(|&at| natural_key(&tensors[at].name));
    let (mut shards, mut open, mut open_bytes) = (Vec::new(), Vec::new(), 0);
    for at in order {
        let bytes = tensors[at].bytes;
        if bytes > max_bytes {
            shards.push(vec![at]);
            continue;
        }
        if open_bytes + bytes > max_bytes {
            shards.push(std::mem::take(&mut open));
            open_bytes = 0;
        }
        open.push(at);
        open_bytes += bytes;
    }
    if !open.is_empty() || shards.is_empty() {
        shards.push(open);
    }
    shards
}

/// A part of a name between dots, in the order of transformers' `dot_natural_key`: numbers before text, and both by
/// value.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NamePart {
    Number(Digits),
    Text(String, Option<Digits>),
}

/// A number of any length: how many digits it has without leading zeros, and these.
type Digits = (usize, String);

fn natural_key(name: &str) -> Vec<NamePart> {
    let digits = |text: &str| {
        let text = text.trim_start_matches('0');
        (text.len(), text.to_owned())
    };
    let part = |part: &str| {
        let text = part.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = &part[text.len()..];
        match (text, number) {
            ("", "") => NamePart::Text(String::new(), None),
            ("", number) => NamePart::Number(digits(number)),
            (text, "") => NamePart::Text(text.to_owned(), None),
            (text, number) => NamePart::Text(text.to_owned(), Some(digits(number))),
        }
    };
    name.split('.').map(part).collect()
}

/// The length field and header of a file of these tensors, as the safetensors library writes it.
fn head_of<'a>(tensors: impl Iterator<Item = &'a NewTensor>) -> Result<Vec<u8>, String> {
    let too_large = |_| "it is too large for this machine".to_owned();
    let mut end = 0;
    let mut infos = Vec::new();
    for tensor in tensors {
        let begin = end;
        end += usize::try_from(tensor.bytes).map_err(too_large)?;
        let shape = tensor.shape.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>();
        let info =
            TensorInfo { dtype: tensor.dtype, shape: shape.map_err(too_large)?, data_offsets: (begin, end) };
        infos.push((tensor.name.clone(), info));
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| e.to_string())?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = text.len() as u64;
    if length > qstore_container::limits::MAX_HEADER_BYTES {
        return Err(format!("its header would have {length} bytes, more than readers accept"));
    }
    Ok([&length.to_le_bytes(), text.as_slice()].concat())
}

/// The text of `model.safetensors.index.json` for several files; `parameters` counts the model's weights.
pub(super) fn index(tensors: &[NewTensor], layout: &Layout, parameters: u64) -> String {
    let size: u64 = tensors.iter().map(|t| t.bytes).sum();
    let map: Map<_, _> = tensors
        .iter()
        .zip(&layout.places)
        .map(|(tensor, place)| (tensor.name.clone(), layout.files[place.file].name.as_str().into()))
        .collect();
    python_json::print(json!({
        "metadata": { "total_parameters": parameters, "total_size": size },
        "weight_map": map,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::tensor::TensorView;

    fn names(tensors: &[NewTensor], max: u64) -> Vec<Vec<&str>> {
        let shards = divide(tensors, max);
        shards.iter().map(|s| s.iter().map(|&at| tensors[at].name.as_str()).collect()).collect()
    }

    #[test]
    fn names_are_in_the_order_of_transformers() {
        // The right order is Python's: sorted(names, key=dot_natural_key).
        let want = [
            "0.x", "9.x", "10.x", "", "a", "a.01", "a.1.b", "a.1.c", "a.b", "a1", "a2", "a02.z", "a10",
            "a_1", "aa",
        ];
        let mut shuffled = want;
        shuffled.reverse();
        let tensors: Vec<_> = shuffled.iter().map(|name| NewTensor::new(name, Dtype::U8, &[1])).collect();
        assert_eq!(names(&tensors, 100), [want]);
    }

    #[test]
    fn shards_are_those_of_huggingface_hub() {
        let sizes = [("a", 6), ("b", 6), ("c", 2), ("d", 12), ("e", 6), ("f", 2), ("g", 2)];
        let tensors: Vec<_> =
            sizes.iter().map(|&(name, size)| NewTensor::new(name, Dtype::I8, &[size])).collect();
        assert_eq!(names(&tensors, 10), [vec!["a"], vec!["d"], vec!["b", "c"], vec!["e", "f", "g"]]);
        let layout = lay_out(&tensors, 10).unwrap();
        assert_eq!(layout.files[3].name, "model-00004-of-00004.safetensors");
        let text = index(&tensors, &layout, 7);
        assert!(text.starts_with("{\n  \"metadata\": {\n    \"total_parameters\": 7,\n    \"total_size\": 36\n  },\n  \"weight_map\": {\n    \"a\": \"model-00001-of-00004.safetensors\",\n"), "{text}");
        assert_eq!(lay_out(&tensors, 36).unwrap().files[0].name, "model.safetensors");
    }

    proptest! {
        #[test]
        fn headers_are_those_of_the_safetensors_library(
            shapes in proptest::collection::btree_map(
                "[a-z\"é\\\\.0-9]{1,12}", (0usize..6, proptest::collection::vec(0u64..5, 0..3)), 1..20,
            ),
        ) {
            let dtypes = [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::I8, Dtype::U8, Dtype::I64];
            let tensors: Vec<_> =
                shapes.iter().map(|(name, (dtype, shape))| NewTensor::new(name, dtypes[*dtype], shape)).collect();
            let layout = lay_out(&tensors, MAX_SHARD_BYTES).unwrap();
            let data: Vec<Vec<u8>> =
                tensors.iter().zip(1..).map(|(t, fill)| vec![fill; t.bytes as usize]).collect();
            let views = tensors.iter().zip(&data).map(|(t, data)| {
                let shape = t.shape.iter().map(|&d| d as usize).collect();
                (t.name.as_str(), TensorView::new(t.dtype, shape, data).unwrap())
            });
            let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            let want = safetensors::serialize(views, Some(format)).unwrap();
            let file = &layout.files[0];
            prop_assert_eq!(file.bytes, want.len() as u64);
            let mut got = vec![0; want.len()];
            got[..file.head.len()].copy_from_slice(&file.head);
            for (place, data) in layout.places.iter().zip(&data) {
                got[place.offset as usize..][..data.len()].copy_from_slice(data);
            }
            prop_assert_eq!(got, want);
        }
    }
}
