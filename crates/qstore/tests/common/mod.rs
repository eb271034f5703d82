//! Checkpoints for the tests, made without the library: safetensors files through the safetensors crate, LLM.int8()
//! from its definition.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "test data"
)]

pub mod experts;
pub mod producers;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use qstore::{Dtype, Options, Progress, VariantSpec, WriteOptions};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, StandardNormal};
use safetensors::tensor::TensorView;

/// A tensor by value.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn new(dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Self {
        assert_eq!(shape.iter().product::<usize>() * dtype.bitsize() / 8, data.len());
        Self { dtype, shape: shape.to_vec(), data }
    }

    /// `values` in a float type.
    pub fn float(dtype: Dtype, shape: &[usize], values: &[f32]) -> Self {
        let data = match dtype {
            Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => panic!("no float type"),
        };
        Self::new(dtype, shape, data)
    }

    /// The values of a float tensor.
    pub fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::BF16 => self.data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => self.data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F32 => self.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            _ => panic!("no float type"),
        }
    }
}

pub type Tensors = BTreeMap<String, Tensor>;

/// Writes `tensors` to one safetensors file.
pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, t)| (n, TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// A folder with one `model.safetensors`, a config and a tokenizer.
pub fn write_checkpoint(folder: &Path, tensors: &Tensors) {
    fs::create_dir_all(folder).unwrap();
    write_tensors(&folder.join("model.safetensors"), tensors);
    fs::write(folder.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    let tokens: String = (0..500).map(|i| format!("\"token{i}\": {i},\n")).collect();
    fs::write(folder.join("tokenizer.json"), tokens).unwrap();
}

/// Normal weights, each row with a spread of its own.
pub fn weights(rng: &mut StdRng, dtype: Dtype, rows: usize, cols: usize) -> Tensor {
    let mut values = Vec::with_capacity(rows * cols);
    for _ in 0..rows {
        let sigma = 0.02 * f32::exp(rng.random_range(-0.3..0.3));
        let normal = |rng: &mut StdRng| -> f32 { StandardNormal.sample(rng) };
        values.extend((0..cols).map(|_| sigma * normal(rng)));
    }
    Tensor::float(dtype, &[rows, cols], &values)
}

/// A small model: matrices of `shapes`, an embedding, norms and a bias.
pub fn model(seed: u64, dtype: Dtype, shapes: &[(usize, usize)]) -> Tensors {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    for (i, &(rows, cols)) in shapes.iter().enumerate() {
        tensors.insert(format!("model.layers.{i}.mlp.up_proj.weight"), weights(&mut rng, dtype, rows, cols));
        let norm: Vec<f32> = (0..cols).map(|_| 1.0 + rng.random_range(-0.1..0.1)).collect();
        tensors.insert(format!("model.layers.{i}.norm.weight"), Tensor::float(dtype, &[cols], &norm));
    }
    tensors.insert("model.embed_tokens.weight".to_owned(), weights(&mut rng, dtype, 300, 64));
    tensors.insert("model.layers.0.mlp.up_proj.bias".to_owned(), weights(&mut rng, dtype, 1, 100));
    tensors
}

/// The LLM.int8() twin: every `*_proj.weight` becomes codes and scales, from the definition.
pub fn llm_int8(tensors: &Tensors) -> Tensors {
    scaled_int8(tensors, 1.0)
}

/// The same with scales that are so many times as large.
pub fn scaled_int8(tensors: &Tensors, times: f32) -> Tensors {
    let mut twin = Tensors::new();
    for (name, tensor) in tensors {
        let Some(stem) = name.strip_suffix("_proj.weight") else {
            twin.insert(name.clone(), tensor.clone());
            continue;
        };
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in tensor.values().chunks(tensor.shape[1].max(1)).take(tensor.shape[0]) {
            let row: Vec<f32> = row.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
            let scale = row.iter().fold(0f32, |m, v| m.max(v.abs())) * times;
            let factor = (1.0 / scale) * 127.0;
            codes.extend(row.iter().map(|v| (v * factor).round_ties_even() as i8 as u8));
            scales.push(scale);
        }
        scales.resize(tensor.shape[0], 0.0);
        let scales: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        twin.insert(name.clone(), Tensor::new(Dtype::I8, &tensor.shape, codes));
        twin.insert(format!("{stem}_proj.SCB"), Tensor::new(Dtype::F32, &tensor.shape[..1], scales));
        twin.insert(format!("{stem}_proj.weight_format"), Tensor::new(Dtype::U8, &[], vec![0]));
    }
    twin
}

/// So many tiny matrices in BF16, and their LLM.int8() twins under another prefix: experts of a large mixture.
pub fn renamed_pair(count: usize) -> [Tensors; 2] {
    let matrix = weights(&mut StdRng::seed_from_u64(32), Dtype::BF16, 8, 16);
    let name = |i: usize| format!("model.layers.{}.mlp.experts.{}.up_proj.weight", i / 256, i % 256);
    let high: Tensors = (0..count).map(|i| (name(i), matrix.clone())).collect();
    let low =
        llm_int8(&high).into_iter().map(|(name, tensor)| (format!("transformer.{name}"), tensor)).collect();
    [high, low]
}

/// Writes a model and its INT8 twin to `folder/bf16` and `folder/int8`.
pub fn write_pair(folder: &Path, tensors: &Tensors) {
    write_checkpoint(&folder.join("bf16"), tensors);
    write_checkpoint(&folder.join("int8"), &llm_int8(tensors));
    fs::write(
        folder.join("int8/config.json"),
        r#"{"quantization_config": {"quant_method": "bitsandbytes"}}"#,
    )
    .unwrap();
}

/// The variant of this name in a folder of the same name.
pub fn spec(parent: &Path, name: &str) -> VariantSpec {
    VariantSpec::new(name.parse().unwrap(), parent.join(name))
}

/// Two threads and small shards, so that tests meet both.
pub fn options() -> Options {
    Options { threads: 2, ..Options::default() }
}

/// The same for what writes.
pub fn write_options() -> WriteOptions {
    options().into()
}

/// Keeps warnings.
#[derive(Debug, Default)]
pub struct Warnings(pub std::sync::Mutex<Vec<String>>);

impl Progress for Warnings {
    fn begin(&self, _: &str, _: u64) -> Result<(), qstore::Stop> {
        Ok(())
    }
    fn advance(&self, _: u64) -> Result<(), qstore::Stop> {
        Ok(())
    }
    fn warn(&self, text: &str) -> Result<(), qstore::Stop> {
        self.0.lock().unwrap().push(text.to_owned());
        Ok(())
    }
}

impl Warnings {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Every file and empty folder below `root` with its bytes.
pub fn tree(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1).follow_links(true) {
        let entry = entry.unwrap();
        let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if entry.file_type().is_file() {
            found.insert(name, Some(fs::read(entry.path()).unwrap()));
        } else if fs::read_dir(entry.path()).unwrap().next().is_none() {
            found.insert(name, None);
        }
    }
    found
}

/// Panics unless two folders hold the same.
pub fn assert_same_tree(left: &Path, right: &Path) {
    let (left, right) = (tree(left), tree(right));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    for (name, bytes) in &left {
        assert!(right[name] == *bytes, "{name} differs");
    }
}

/// A folder in memory where there is such a place: tests that restore files by the thousand would wait for a disk,
/// since each file is synced.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

/// Copies a folder that has no links.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// How [`gptq`] quantises.
#[derive(Debug, Clone, Copy)]
pub struct Gptq {
    pub bits: u8,
    /// Columns of a group.
    pub group: usize,
    /// Whether groups are spread over the columns.
    pub act_order: bool,
    /// Whether zero-points are other than the middle of the codes.
    pub asymmetric: bool,
    /// What stored zero-points lack: 1 in checkpoint format `gptq`, 0 in `gptq_v2`.
    pub zero_offset: u8,
    pub scales: Dtype,
}

impl Gptq {
    pub fn of_bits(bits: u8) -> Self {
        Self { bits, group: 64, act_order: false, asymmetric: false, zero_offset: 1, scales: Dtype::F16 }
    }
}

/// The bits of `codes`, low bits first, in words of 32.
pub fn pack_words(codes: impl IntoIterator<Item = u32>, bits: u8) -> Vec<u32> {
    let (mut words, mut used) = (Vec::new(), 32);
    for code in codes {
        for bit in 0..bits {
            if used == 32 {
                words.push(0);
                used = 0;
            }
            *words.last_mut().unwrap() |= (code >> bit & 1) << used;
            used += 1;
        }
    }
    words
}

/// An I32 tensor.
pub fn words(shape: &[usize], words: &[u32]) -> Tensor {
    Tensor::new(Dtype::I32, shape, words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// The four tensors of a matrix of codes, in rows, under the name `base`.
pub fn gptq_tensors(
    base: &str,
    [rows, cols]: [usize; 2],
    how: Gptq,
    (codes, scales, zeros, group_of): (&[u32], &[f32], &[u32], &[u32]),
) -> Tensors {
    let groups = scales.len() / rows;
    let bits = usize::from(how.bits);
    let by_row: Vec<Vec<u32>> =
        codes.chunks(cols).map(|row| pack_words(row.iter().copied(), how.bits)).collect();
    let high = cols * bits / 32;
    let qweight: Vec<u32> = (0..high).flat_map(|word| by_row.iter().map(move |row| row[word])).collect();
    let stored = zeros.chunks(rows).flat_map(|group| {
        let less = group.iter().map(|zero| zero.wrapping_sub(how.zero_offset.into()) & ((1 << bits) - 1));
        pack_words(less, how.bits)
    });
    let stored: Vec<u32> = stored.collect();
    Tensors::from([
        (format!("{base}.qweight"), words(&[high, rows], &qweight)),
        (format!("{base}.qzeros"), words(&[groups, rows * bits / 32], &stored)),
        (format!("{base}.scales"), Tensor::float(how.scales, &[groups, rows], scales)),
        (format!("{base}.g_idx"), words(&[cols], group_of)),
    ])
}

/// The GPTQ twin: every `*_proj.weight` is rounded to the nearest, and some codes are then moved by one, as error
/// feedback does.
pub fn gptq(tensors: &Tensors, how: Gptq) -> Tensors {
    let mut rng = StdRng::seed_from_u64(u64::from(how.bits));
    let mut twin = Tensors::new();
    for (name, tensor) in tensors {
        let Some(stem) = name.strip_suffix("_proj.weight") else {
            twin.insert(name.clone(), tensor.clone());
            continue;
        };
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        let values = tensor.values();
        let groups = cols.div_ceil(how.group);
        let mut group_of: Vec<u32> = (0..cols).map(|column| (column / how.group) as u32).collect();
        if how.act_order {
            rand::seq::SliceRandom::shuffle(&mut group_of[..], &mut rng);
        }
        let most = f32::from(u8::MAX >> (8 - how.bits));
        let middle = if how.asymmetric { (most / 3.0).floor() } else { ((most + 1.0) / 2.0).floor() };
        let (mut scales, mut zeros) = (vec![0.0; groups * rows], vec![0; groups * rows]);
        for (index, value) in values.iter().enumerate() {
            let scale: &mut f32 = &mut scales[group_of[index % cols] as usize * rows + index / cols];
            *scale = scale.max(value.abs() / middle);
        }
        let scales = Tensor::float(how.scales, &[groups, rows], &scales).values();
        zeros.fill(middle as u32);
        let codes: Vec<u32> = values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let scale = scales[group_of[index % cols] as usize * rows + index / cols];
                let moved = [0.0, 0.0, 0.0, 0.0, 1.0, -1.0][rng.random_range(0..6)];
                (value / scale + middle + moved).round_ties_even().clamp(0.0, most) as u32
            })
            .collect();
        let all = (&codes[..], &scales[..], &zeros[..], &group_of[..]);
        twin.extend(gptq_tensors(&format!("{stem}_proj"), [rows, cols], how, all));
    }
    twin
}

/// The FP8 twin with a scale for each block of `block` x `block` weights, as transformers makes it: codes `F8_E4M3` and
/// `weight_scale_inv`.
pub fn fp8_blocks(tensors: &Tensors, block: usize) -> Tensors {
    let level = |magnitude: u8| {
        let (exponent, mantissa) = (i32::from(magnitude >> 3), f32::from(magnitude & 7));
        if exponent == 0 { mantissa * 2f32.powi(-9) } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) }
    };
    let levels: Vec<f32> = (0..127).map(level).collect();
    // The nearest, of two the even one.
    let code = |value: f32| {
        let above = levels.partition_point(|level| *level < value.abs()).min(126);
        let below = above.saturating_sub(1);
        let (down, up) = (value.abs() - levels[below], levels[above] - value.abs());
        let magnitude = if down < up || down == up && below % 2 == 0 { below } else { above };
        magnitude as u8 | if value.is_sign_negative() { 0x80 } else { 0 }
    };
    let mut twin = Tensors::new();
    for (name, tensor) in tensors {
        let Some(stem) = name.strip_suffix("_proj.weight") else {
            twin.insert(name.clone(), tensor.clone());
            continue;
        };
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let wide = cols.div_ceil(block);
        let block_of = |index: usize| index / cols / block * wide + index % cols / block;
        let mut scales = vec![0f32; rows.div_ceil(block) * wide];
        for (index, value) in values.iter().enumerate() {
            let scale = &mut scales[block_of(index)];
            *scale = scale.max(value.abs() / 448.0);
        }
        let codes =
            values.iter().enumerate().map(|(index, value)| code(value * (1.0 / scales[block_of(index)])));
        twin.insert(name.clone(), Tensor::new(Dtype::F8_E4M3, &tensor.shape, codes.collect()));
        let scales = Tensor::float(Dtype::F32, &[rows.div_ceil(block), wide], &scales);
        twin.insert(format!("{stem}_proj.weight_scale_inv"), scales);
    }
    twin
}

/// Reads columns of a tensor, and of some of its rows, and compares them with `data`, which is all of it.
pub fn check_blocks(tensor: &qstore::Tensor, data: &[u8], options: &Options) {
    let Some((cols, before)) = tensor.shape().split_last() else { return };
    let (cols, rows) = (*cols as usize, before.iter().product::<u64>() as usize);
    let Some(width) = data.len().checked_div(rows * cols).filter(|width| *width > 0) else { return };
    if !data.len().is_multiple_of(rows * cols) {
        return;
    }
    for (rows, columns) in
        [(0..rows, cols / 3..cols - cols / 4), (rows / 3..rows - rows / 4, 0..1), (rows - 1..rows, 0..cols)]
    {
        let lines = data.chunks_exact(cols * width).skip(rows.start).take(rows.len());
        let want: Vec<u8> =
            lines.flat_map(|line| &line[columns.start * width..columns.end * width]).copied().collect();
        let [rows, columns] = [rows, columns].map(|range| range.start as u64..range.end as u64);
        let some = tensor.read_block(rows, columns.clone(), options).unwrap();
        assert!(*some == want, "columns {columns:?} of {}", tensor.name());
    }
}
