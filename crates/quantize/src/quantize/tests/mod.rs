//! The whole way, from a folder to a folder.

mod gptq;
mod int8;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use half::{bf16, f16};
use qstore_checkpoint::Silent;
use qstore_container::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::*;

/// A tensor: type, shape, bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Tensor>;

/// Weights that look random, of a size that neither vanishes nor overflows in FP16.
fn weights(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32
    };
    (0..count).map(|_| next() * next() * 0.2).collect()
}

fn tensor(dtype: Dtype, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = match dtype {
        Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
    };
    (dtype, shape.to_vec(), bytes)
}

fn matrix(dtype: Dtype, rows: usize, cols: usize, seed: u32) -> Tensor {
    tensor(dtype, &[rows, cols], &weights(rows * cols, seed))
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let pairs = || tensor.2.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match tensor.0 {
        Dtype::BF16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        Dtype::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        _ => tensor.2.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
    }
}

fn file_of(tensors: &Tensors) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let format = [("format".to_owned(), "pt".to_owned())];
    safetensors::serialize(views, Some(format.into())).unwrap()
}

fn write_model(folder: &Path, config: &str, tensors: &Tensors) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config).unwrap();
    fs::write(folder.join("model.safetensors"), file_of(tensors)).unwrap();
}

fn read_file(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    tensors.map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn files_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Collects warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn begin(&self, _: &str, _: u64) -> Result<(), crate::Stop> {
        Ok(())
    }
    fn advance(&self, _: u64) -> Result<(), crate::Stop> {
        Ok(())
    }
    fn warn(&self, text: &str) -> Result<(), crate::Stop> {
        self.0.lock().unwrap().push(text.to_owned());
        Ok(())
    }
}

impl Warnings {
    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","dtype":"bfloat16"}"#;
