//! Putting a synthetic model into files, as `save_pretrained` would: the same names, order, shards and header.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use qstore_checkpoint::{NewFolder, Progress, Result, WriteOptions, ordered};
use qstore_container::Dtype;

use super::config::{generation_config, model_config};
use super::spec::{ModelSpec, TensorSpec};
use super::weights::Weights;
use crate::save::{NewTensor, TensorFiles, lay_out, python_json, write_index};

/// Rows are drawn in blocks of about this size: large enough to hand between threads, small enough that a few per
/// thread are little memory.
const BLOCK_BYTES: usize = 4 << 20;

/// Writes a model of these dimensions to the new folder `target`: `config.json`, `generation_config.json` and
/// `model.safetensors`, or shards of at most `options.shard_size` bytes and their index. There is no tokenizer. The
/// files are the same whatever the number of threads.
///
/// # Errors
/// The specification fails [`ModelSpec::check`], `target` exists and is not an empty folder, or it cannot be written.
pub fn synthesise(
    spec: &ModelSpec,
    target: &Path,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<()> {
    spec.check()?;
    let pool = options.machine().pool()?;
    let window = options.machine().window(&pool);
    let folder = NewFolder::begin(target)?;
    let tensors = spec.tensors();
    let new_tensors: Vec<_> = tensors.iter().map(|tensor| new_tensor(tensor, spec)).collect();
    let layout = lay_out(&new_tensors, options.shard_size)?;
    folder.check_room(layout.files.iter().map(|file| file.bytes))?;
    progress.begin("making the model", new_tensors.iter().map(|t| t.bytes).sum())?;
    let mut files = TensorFiles::create(&folder, &layout)?;
    let blocks = tensors.iter().enumerate().flat_map(|(index, tensor)| blocks_of(index, tensor, spec));
    let work = |block: Block| Ok((block.tensor, block.offset, block.bytes(spec.dtype)));
    ordered(
        &pool,
        window,
        blocks.map(Ok),
        |_| 0,
        work,
        |(tensor, offset, bytes)| {
            files.write(tensor, offset, &bytes)?;
            Ok(progress.advance(bytes.len() as u64)?)
        },
    )?;
    files.finish(&folder)?;
    write_index(&folder, &new_tensors, &layout, spec.weights())?;
    for (name, value) in
        [("config.json", model_config(spec)), ("generation_config.json", generation_config())]
    {
        folder.write(name, &mut python_json::print(value).as_bytes())?;
    }
    folder.commit(progress)
}

fn new_tensor(tensor: &TensorSpec, spec: &ModelSpec) -> NewTensor {
    NewTensor {
        name: tensor.name.clone(),
        dtype: spec.dtype,
        shape: tensor.shape(),
        bytes: tensor.weights() * spec.element_bytes(),
    }
}

/// Some rows of a tensor.
struct Block {
    /// Index of the tensor.
    tensor: usize,
    /// Of its first byte, in the tensor.
    offset: u64,
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

fn blocks_of(index: usize, tensor: &TensorSpec, spec: &ModelSpec) -> impl Iterator<Item = Block> + use<> {
    let weights = Arc::new(Weights::new(tensor, spec.seed));
    let (rows, row_bytes) = (tensor.rows, tensor.cols * spec.element_bytes());
    let rows_per_block = (BLOCK_BYTES as u64 / row_bytes).max(1);
    (0..rows.div_ceil(rows_per_block)).map(move |block| {
        let first = block * rows_per_block;
        let rows = first..rows.min(first + rows_per_block);
        Block { tensor: index, offset: first * row_bytes, weights: weights.clone(), rows }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use qstore_checkpoint::Silent;
    use serde_json::Value;

    use super::*;

    fn make(spec: &ModelSpec, options: &WriteOptions) -> (tempfile::TempDir, BTreeMap<String, Vec<u8>>) {
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
            let (_dir, files) = make(&spec, &WriteOptions::default());
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
            make(&spec, &WriteOptions { threads, memory, ..WriteOptions::default() }).1
        };
        let one = with(1, 7, 1);
        assert!(one == with(3, 7, 1 << 30));
        assert!(one["model.safetensors"] != with(2, 8, 1 << 30)["model.safetensors"]);
    }

    #[test]
    fn shards_hold_at_most_their_size_and_all_tensors() {
        let spec = ModelSpec { tied: true, ..ModelSpec::llama(64, 128, 3, 400) };
        // The embedding has 51,200 bytes, more than a shard.
        let (_dir, files) = make(&spec, &WriteOptions { shard_size: 50_000, ..WriteOptions::default() });
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
        let error = synthesise(&spec, dir.path(), &WriteOptions::default(), &Silent).unwrap_err();
        assert!(error.to_string().contains("not an empty folder"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        synthesise(&spec, &empty, &WriteOptions::default(), &Silent).unwrap();
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 3);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing temporary is left");
    }
}
