//! Putting a synthetic model into files, as `save_pretrained` would: the same names, order, shards and header.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use qstore_container::Dtype;
use serde_json::{Map, Value, json};

use super::config::{generation_config, model_config, shard_index};
use super::spec::{ModelSpec, TensorSpec};
use super::weights::Weights;
use crate::error::{Error, IoContext as _, Result};
use crate::pipeline::ordered;
use crate::progress::Progress;
use crate::store::Options;

/// Rows are drawn in blocks of about this size: large enough to hand between threads, small enough that a few per thread are little memory.
const BLOCK_BYTES: usize = 4 << 20;

/// Writes a model of these dimensions to the new folder `target`: `config.json`, `generation_config.json` and `model.safetensors`, or shards of
/// at most `options.shard_size` bytes and their index. There is no tokenizer. The files are the same whatever the number of threads.
///
/// # Errors
/// The specification fails [`ModelSpec::check`], `target` exists and is not an empty folder, or it cannot be written.
pub fn synthesise(spec: &ModelSpec, target: &Path, options: &Options, progress: &dyn Progress) -> Result<()> {
    spec.check()?;
    let pool = options.pool()?;
    let window = options.window(&pool);

    if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) || target.is_file() {
        return Err(Error::usage(format!("{}: already exists; name a new folder", target.display())));
    }
    // The folder appears under its name when it is complete. A temporary folder is private, so the model is made in one below it.
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).at(parent, "cannot create")?;
    let scratch = tempfile::Builder::new()
        .prefix(".qstore-")
        .tempdir_in(parent)
        .at(parent, "cannot create a folder in")?;
    let folder = scratch.path().join("model");
    fs::create_dir(&folder).at(&folder, "cannot create")?;

    let tensors = spec.tensors();
    let bytes = spec.weights() * spec.element_bytes();
    progress.begin("making the model", bytes);
    let shards = into_shards(&tensors, spec.element_bytes(), options.shard_size);
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        weight_map.extend(shard.iter().map(|t| (t.name.clone(), Value::from(name.as_str()))));
        write_shard(&folder.join(&name), shard, spec, &pool, window, progress)?;
    }
    if shards.len() > 1 {
        let weight_map: Map<_, _> = weight_map.into_iter().collect();
        write_json(
            &folder.join("model.safetensors.index.json"),
            &shard_index(spec.weights(), bytes, weight_map),
        )?;
    }
    write_json(&folder.join("config.json"), &model_config(spec))?;
    write_json(&folder.join("generation_config.json"), &generation_config())?;

    // An empty folder in the way is replaced by hand: not every system renames over one.
    let _ = fs::remove_dir(target);
    fs::rename(&folder, target).at(target, "cannot create")
}

/// Fills shards as huggingface_hub's `split_state_dict_into_shards_factory` does: in order, a tensor that is larger than a shard in one of its
/// own. Within a shard, tensors are sorted as safetensors sorts them, by name, since all have one type.
fn into_shards(tensors: &[TensorSpec], element_bytes: u64, shard_size: u64) -> Vec<Vec<&TensorSpec>> {
    let mut shards = Vec::new();
    let mut open = Vec::new();
    let mut open_bytes = 0;
    for tensor in tensors {
        let bytes = tensor.weights() * element_bytes;
        if bytes > shard_size {
            shards.push(vec![tensor]);
            continue;
        }
        if open_bytes + bytes > shard_size {
            shards.push(std::mem::take(&mut open));
            open_bytes = 0;
        }
        open.push(tensor);
        open_bytes += bytes;
    }
    if !open.is_empty() {
        shards.push(open);
    }
    for shard in &mut shards {
        shard.sort_by(|a, b| a.name.cmp(&b.name));
    }
    shards
}

fn write_shard(
    path: &Path,
    tensors: &[&TensorSpec],
    spec: &ModelSpec,
    pool: &rayon::ThreadPool,
    window: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let mut file = File::create_new(path).at(path, "cannot create")?;
    file.write_all(&safetensors_header(tensors, spec.dtype, spec.element_bytes()))
        .at(path, "cannot write")?;
    let blocks = tensors.iter().flat_map(|tensor| blocks_of(tensor, spec)).map(Ok);
    let work = |block: Block| Ok(block.bytes(spec.dtype));
    ordered(pool, window, blocks, work, |bytes| {
        file.write_all(&bytes).at(path, "cannot write")?;
        progress.advance(bytes.len() as u64);
        Ok(())
    })
}

/// Some rows of a tensor.
struct Block {
    weights: Arc<Weights>,
    rows: Range<u64>,
}

impl Block {
    fn bytes(&self, dtype: Dtype) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        self.rows.clone().for_each(|row| self.weights.append_row(row, dtype, &mut bytes));
        bytes
    }
}

fn blocks_of(tensor: &TensorSpec, spec: &ModelSpec) -> impl Iterator<Item = Block> + use<> {
    let weights = Arc::new(Weights::new(tensor, spec.seed));
    let (rows, row_bytes) = (tensor.rows, tensor.cols * spec.element_bytes());
    let rows_per_block = (BLOCK_BYTES as u64 / row_bytes).max(1);
    (0..rows.div_ceil(rows_per_block)).map(move |block| {
        let first = block * rows_per_block;
        Block { weights: weights.clone(), rows: first..rows.min(first + rows_per_block) }
    })
}

/// The length and header of a file of these tensors, as the safetensors library writes it: no spaces but those that fill it to 8 bytes.
fn safetensors_header(tensors: &[&TensorSpec], dtype: Dtype, element_bytes: u64) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.weights() * element_bytes;
        let info = json!({ "dtype": dtype, "shape": tensor.shape(), "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), info);
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// As Python's `json.dumps(indent=2)` and a newline.
fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{value:#}\n")).at(path, "cannot write")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn make(spec: &ModelSpec, options: &Options) -> (tempfile::TempDir, BTreeMap<String, Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/model");
        synthesise(spec, &target, options, &Silent).unwrap();
        let files = fs::read_dir(&target).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        });
        let files = files.collect();
        (dir, files)
    }

    #[test]
    fn writes_what_safetensors_would() {
        for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            // Eleven layers, since "layers.10" sorts before "layers.2".
            let spec = ModelSpec { dtype, ..ModelSpec::llama(32, 48, 11, 40) };
            let (_dir, files) = make(&spec, &Options::default());
            let names = ["config.json", "generation_config.json", "model.safetensors"];
            assert!(files.keys().eq(names), "{:?}", files.keys());
            let bytes = &files["model.safetensors"];
            let read = safetensors::SafeTensors::deserialize(bytes).unwrap();
            assert_eq!(read.tensor("model.layers.10.self_attn.k_proj.weight").unwrap().shape(), [32, 32]);
            assert_eq!(read.tensor("model.norm.weight").unwrap().shape(), [32]);
            assert_eq!(read.len(), 11 * 9 + 3);
            let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
            let again = safetensors::serialize(read.tensors(), Some(metadata)).unwrap();
            assert!(again == *bytes, "{dtype:?}: the safetensors library writes other bytes");
        }
    }

    #[test]
    fn the_same_bytes_from_any_number_of_threads() {
        let spec = ModelSpec::llama(256, 700, 2, 3000);
        let with = |threads, seed, memory| {
            let spec = ModelSpec { seed, ..spec.clone() };
            make(&spec, &Options { threads, memory, ..Options::default() }).1
        };
        let one = with(1, 7, 1);
        assert!(one == with(3, 7, 1 << 30));
        assert!(one["model.safetensors"] != with(2, 8, 1 << 30)["model.safetensors"]);
    }

    #[test]
    fn shards_hold_at_most_their_size_and_all_tensors() {
        let spec = ModelSpec { tied: true, ..ModelSpec::llama(64, 128, 3, 400) };
        // The embedding has 51,200 bytes, more than a shard.
        let (_dir, files) = make(&spec, &Options { shard_size: 50_000, ..Options::default() });
        let index: Value = serde_json::from_slice(&files["model.safetensors.index.json"]).unwrap();
        assert_eq!(index["metadata"]["total_size"], spec.weights() * 2);
        let map = index["weight_map"].as_object().unwrap();
        assert!(map.keys().is_sorted() && map.len() == spec.tensors().len());
        assert!(!map.contains_key("lm_head.weight"), "a tied head is not stored");
        for (tensor, file) in map {
            let bytes = &files[file.as_str().unwrap()];
            safetensors::SafeTensors::deserialize(bytes).unwrap().tensor(tensor).unwrap();
        }
        let shards: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".safetensors")).collect();
        assert!(shards.len() > 2);
        assert!(shards[0].0.starts_with("model-00001-of-0000"), "{}", shards[0].0);
        assert_eq!(map["model.embed_tokens.weight"], shards[0].0.as_str());
        assert!(shards.iter().skip(1).all(|(_, bytes)| bytes.len() < 50_000 + 2_000));
    }

    #[test]
    fn replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ModelSpec::llama(8, 8, 1, 8);
        fs::write(dir.path().join("precious"), "x").unwrap();
        let error = synthesise(&spec, dir.path(), &Options::default(), &Silent).unwrap_err();
        assert!(error.to_string().contains("already exists"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        synthesise(&spec, &empty, &Options::default(), &Silent).unwrap();
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 3);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing temporary is left");
    }
}
