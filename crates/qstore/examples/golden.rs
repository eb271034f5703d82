//! Makes the golden stores: `cargo run -p qstore --example golden -- crates/qstore/tests/golden/v1`.
//!
//! Run it once for each version of the format. Stores that are there already stay as they are: that today's code reads
//! what yesterday's wrote is what they are for.
#![allow(clippy::panic, missing_docs, reason = "a tool for developers")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test data")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::{Gptq, Tensor, Tensors, gptq, llm_int8, model, spec, tree, write_checkpoint, write_pair};
use qstore::{Dtype, GivenRule, Silent, VariantName, VariantSpec, WriteOptions, pack};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sha2::{Digest as _, Sha256};

/// Whether it was made, or why not.
type Made = Result<(), Box<dyn Error>>;

fn main() -> Made {
    let root = std::env::args().nth(1).ok_or("usage: golden FOLDER")?;
    let root = Path::new(&root);
    pair(root, "bf16", Dtype::BF16)?;
    pair(root, "f16", Dtype::F16)?;
    pair(root, "f32", Dtype::F32)?;
    specials(root)?;
    shards_and_kept_files(root)?;
    every_dtype(root)?;
    transposed(root)?;
    bundles(root)?;
    wide(root)?;
    chain(root)?;
    short(root)?;
    odd_folders(root)?;
    fp8(root)?;
    Ok(())
}

/// What variants are called.
const VARIANTS: [&str; 7] = ["bf16", "f16", "int8", "fp8", "gptq8", "gptq4", "gptq3"];

/// [`keep_as`] with one variant kept as it is, or none.
fn keep(root: &Path, name: &str, work: &Path, verbatim: &str, shard_size: u64) -> Made {
    keep_as(root, name, work, shard_size, |spec| spec.verbatim = spec.name.as_str() == verbatim)
}

/// Packs the variants that are in `work` into `root/name`, with the SHA-256 of every original file beside the store;
/// `change` says how each is kept.
fn keep_as(root: &Path, name: &str, work: &Path, shard_size: u64, change: impl Fn(&mut VariantSpec)) -> Made {
    let folder = root.join(name);
    if folder.exists() {
        println!("{name}: there already");
        return Ok(());
    }
    let mut expected = String::new();
    let mut specs = Vec::new();
    for variant in VARIANTS.into_iter().filter(|variant| work.join(variant).exists()) {
        let mut spec = spec(work, variant);
        change(&mut spec);
        specs.push(spec);
        for (path, bytes) in tree(&work.join(variant)) {
            let Some(bytes) = bytes else { continue };
            let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            writeln!(expected, "{digest}  {variant}/{path}")?;
        }
    }
    fs::create_dir_all(&folder)?;
    pack(&specs, &folder.join("store"), &WriteOptions { shard_size, ..WriteOptions::default() }, &Silent)?;
    fs::write(folder.join("expected.sha256"), expected)?;
    println!("{name}: made");
    Ok(())
}

/// Rows of two kinds, so that there are two classes: in every other row one outlier makes all other codes small.
fn two_kinds_of_rows(tensors: &mut Tensors, dtype: Dtype) {
    let mut values = common::weights(&mut StdRng::seed_from_u64(5), Dtype::F32, 400, 200).values();
    values.chunks_mut(200).step_by(2).for_each(|row| row[7] = 0.5);
    tensors.insert("two.up_proj.weight".to_owned(), Tensor::float(dtype, &[400, 200], &values));
    values.chunks_mut(200).step_by(3).for_each(|row| row.iter_mut().for_each(|v| *v *= 40.0));
    tensors.insert("two.table".to_owned(), Tensor::float(dtype, &[400, 200], &values));
}

fn pair(root: &Path, name: &str, dtype: Dtype) -> Made {
    let work = tempfile::tempdir()?;
    let mut tensors = model(21, dtype, &[(96, 160), (10, 1000)]);
    two_kinds_of_rows(&mut tensors, dtype);
    write_pair(work.path(), &tensors);
    keep(root, &format!("pair-{name}"), work.path(), "", u64::MAX)?;
    Ok(())
}

fn specials(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let mut high = model(22, Dtype::BF16, &[(64, 200)]);
    let name = "model.layers.0.mlp.up_proj";
    let mut low = llm_int8(&high);
    let weights = &mut high.get_mut(&format!("{name}.weight")).ok_or("no such tensor")?.data;
    for (i, special) in [0x7f80u16, 0xff80, 0x7fc1, 0x8000, 0, 1, 0x8001, 0x7f7f].iter().enumerate() {
        let at = 2 * (i * 201 + 17);
        weights[at..at + 2].copy_from_slice(&special.to_le_bytes());
    }
    low.get_mut(&format!("{name}.weight")).ok_or("no such tensor")?.data[5] = 0x80;
    let scales = &mut low.get_mut(&format!("{name}.SCB")).ok_or("no such tensor")?.data;
    for (row, scale) in
        [0.0f32, f32::NAN, f32::INFINITY, -1.0, f32::MIN_POSITIVE, f32::MAX].iter().enumerate()
    {
        scales[4 * row..4 * row + 4].copy_from_slice(&scale.to_le_bytes());
    }
    write_checkpoint(&work.path().join("bf16"), &high);
    write_checkpoint(&work.path().join("int8"), &low);
    keep(root, "specials", work.path(), "", u64::MAX)?;
    Ok(())
}

fn shards_and_kept_files(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    write_pair(work.path(), &model(23, Dtype::BF16, &[(64, 128), (64, 128)]));
    fs::create_dir_all(work.path().join("bf16/1_Pooling"))?;
    fs::create_dir_all(work.path().join("bf16/empty"))?;
    fs::write(work.path().join("bf16/1_Pooling/config.json"), "{}")?;
    fs::copy(work.path().join("bf16/model.safetensors"), work.path().join("bf16/again.safetensors"))?;
    keep(root, "verbatim-and-shards", work.path(), "int8", 20_000)?;
    Ok(())
}

fn transposed(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let name = "model.layers.0.mlp.up_proj.weight";
    let mut tensors = model(24, Dtype::BF16, &[(120, 160)]);
    let twin = llm_int8(&tensors);
    let weights = turned(&tensors[name]);
    tensors.insert(name.to_owned(), weights);
    write_checkpoint(&work.path().join("bf16"), &tensors);
    write_checkpoint(&work.path().join("int8"), &twin);
    keep(root, "transposed", work.path(), "", u64::MAX)?;
    Ok(())
}

/// Small tensors of several types in several bundles and shards, some of them in both variants, some twice in one.
fn bundles(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let mut high = model(25, Dtype::BF16, &[(30, 40), (64, 160)]);
    let mut rng = StdRng::seed_from_u64(25);
    let small = [Dtype::BF16, Dtype::F32, Dtype::F16, Dtype::U8, Dtype::I64, Dtype::F4, Dtype::BOOL];
    for (index, dtype) in small.into_iter().cycle().take(120).enumerate() {
        let shape = [index % 5, 2 + 3 * (index % 7) * (index % 3) * 2];
        let tensor = match dtype {
            Dtype::BF16 | Dtype::F32 | Dtype::F16 => common::weights(&mut rng, dtype, shape[0], shape[1]),
            _ => {
                let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                Tensor::new(dtype, &shape, (0..bytes).map(|b| (b * index % 3) as u8 % 2).collect())
            }
        };
        high.insert(format!("blocks.{}.{index}", index / 10), tensor);
    }
    high.insert("bundle:0".to_owned(), Tensor::new(Dtype::U8, &[], vec![9]));
    let again = high["blocks.1.14"].clone();
    high.insert("blocks.again".to_owned(), again);
    let mut low = llm_int8(&high);
    low.remove("blocks.2.21");
    low.insert("blocks.0.0".to_owned(), common::weights(&mut rng, Dtype::BF16, 9, 50));
    write_checkpoint(&work.path().join("bf16"), &high);
    write_checkpoint(&work.path().join("int8"), &low);
    keep(root, "bundles", work.path(), "", 20_000)?;
    Ok(())
}

/// Arrays of more than a million elements, whose coders have 128 lanes; elements are of few kinds, which keeps the
/// files small. The rows of one are no multiple of the lanes.
fn wide(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let mut tensors = model(26, Dtype::BF16, &[(30, 40)]);
    for (name, cols) in [("wide.up_proj.weight", 192), ("wide.down_proj.weight", 1001)] {
        let rows = 1_060_000 / cols;
        let value = |index: usize| {
            let random = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let random = (random ^ random >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40;
            match random % 64 {
                0 => (random % 1000) as f32 / 2000.0 - 0.25,
                1..12 => -0.25,
                _ => 0.25,
            }
        };
        let values: Vec<f32> = (0..rows * cols).map(value).collect();
        tensors.insert(name.to_owned(), Tensor::float(Dtype::BF16, &[rows, cols], &values));
    }
    write_pair(work.path(), &tensors);
    keep(root, "wide", work.path(), "", u64::MAX)?;
    Ok(())
}

/// A float tensor, times `factor`, in its own type.
fn scaled(tensor: &Tensor, factor: f32) -> Tensor {
    let values: Vec<f32> = tensor.values().into_iter().map(|value| value * factor).collect();
    Tensor::float(tensor.dtype, &tensor.shape, &values)
}

/// A matrix the other way round.
fn turned(tensor: &Tensor) -> Tensor {
    let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
    let values: Vec<f32> =
        (0..cols).flat_map(|c| (0..rows).map(move |r| r * cols + c)).map(|at| values[at]).collect();
    Tensor::float(tensor.dtype, &[cols, rows], &values)
}

/// Five variants: floats given codes that follow from them or were moved, codes given codes, and packed codes. Each
/// matrix is unlike the others in one respect.
fn chain(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let mut rng = StdRng::seed_from_u64(27);
    let mut add = |tensors: &mut Tensors, name: &str, dtype, rows, cols| {
        let weights = common::weights(&mut rng, dtype, rows, cols);
        tensors.insert(format!("model.layers.{name}_proj.weight"), weights);
    };
    let (mut exact, mut moved, mut others) = (Tensors::new(), Tensors::new(), Tensors::new());
    // The lowest variant's codes are packed alone, as they are too long for a bundle.
    add(&mut exact, "0.up", Dtype::BF16, 192, 256);
    // Of these the codes in LLM.int8() are not the weights', so that weights are given steps.
    add(&mut moved, "0.down", Dtype::BF16, 96, 128);
    add(&mut moved, "1.up", Dtype::F32, 32, 192);
    add(&mut moved, "1.down", Dtype::BF16, 64, 160);
    others.insert("model.norm.weight".to_owned(), common::weights(&mut rng, Dtype::BF16, 1, 100));

    let mut bf16: Tensors = [&exact, &moved, &others].into_iter().flatten().map(owned).collect();
    // As GPT-2 keeps them.
    let conv = bf16.get_mut("model.layers.1.down_proj.weight").ok_or("no such tensor")?;
    *conv = turned(conv);
    write_checkpoint(&work.path().join("bf16"), &bf16);

    let mut int8 = llm_int8(&exact);
    int8.extend(llm_int8(&moved.iter().map(|(name, t)| (name.clone(), scaled(t, 1.01))).collect()));
    int8.extend(others.clone());
    write_checkpoint(&work.path().join("int8"), &int8);

    let eight = Gptq { scales: Dtype::F32, zero_offset: 0, ..Gptq::of_bits(8) };
    let four = Gptq { act_order: true, asymmetric: true, ..Gptq::of_bits(4) };
    let three = Gptq { group: 32, scales: Dtype::BF16, ..Gptq::of_bits(3) };
    let quantised: Tensors = [&exact, &moved].into_iter().flatten().map(owned).collect();
    for (name, how) in [("gptq8", eight), ("gptq4", four), ("gptq3", three)] {
        let mut tensors = gptq(&quantised, how);
        tensors.extend(others.clone());
        // Groups of one size need no list.
        if name == "gptq3" {
            tensors.retain(|name, _| !name.ends_with(".g_idx"));
        }
        write_checkpoint(&work.path().join(name), &tensors);
    }
    keep(root, "chain", work.path(), "", u64::MAX)?;
    Ok(())
}

fn owned((name, tensor): (&String, &Tensor)) -> (String, Tensor) {
    (name.clone(), tensor.clone())
}

/// FP16 that was once BF16, alone, given codes that follow from it, and given moved ones in eight steps and groups in
/// any order; a few of its numbers are too small to keep their zeros. One variant may be given no others than it is.
fn short(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let bf16 = model(28, Dtype::BF16, &[(192, 192), (96, 128)]);
    let f16 = |(name, tensor): (&String, &Tensor)| {
        let mut values = tensor.values();
        values.iter_mut().step_by(997).for_each(|value| *value *= 3e-4);
        (name.clone(), Tensor::float(Dtype::F16, &tensor.shape, &values))
    };
    let high: Tensors = bf16.iter().map(f16).collect();
    write_checkpoint(&work.path().join("f16"), &high);
    let how = Gptq { group: 32, act_order: true, ..Gptq::of_bits(4) };
    write_checkpoint(&work.path().join("gptq4"), &gptq(&high, how));
    // One matrix has codes of 4 bits alone.
    let exact = high.into_iter().filter(|(name, _)| !name.contains("layers.1.")).collect();
    write_checkpoint(&work.path().join("int8"), &llm_int8(&exact));
    let gptq4: VariantName = "gptq4".parse()?;
    keep_as(root, "short", work.path(), u64::MAX, |spec| {
        if spec.name.as_str() == "int8" {
            spec.given = GivenRule::Only(vec![gptq4.clone()]);
        }
    })?;
    Ok(())
}

fn every_dtype(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let mut tensors = Tensors::new();
    let all =
        [Dtype::BOOL, Dtype::U8, Dtype::I8, Dtype::F8_E4M3, Dtype::I16, Dtype::F16, Dtype::BF16, Dtype::I32];
    for dtype in all.into_iter().chain([Dtype::F32, Dtype::F64, Dtype::I64, Dtype::C64, Dtype::F4]) {
        for (i, shape) in [&[][..], &[0, 5], &[30, 40], &[5, 8, 6]].into_iter().enumerate() {
            let bits = shape.iter().product::<usize>() * dtype.bitsize();
            if bits.is_multiple_of(8) {
                let data =
                    (0..bits / 8).map(|b| if i == 2 { b / 7 % 5 } else { b * 31 % 251 } as u8).collect();
                tensors.insert(format!("t.{dtype}.{i}"), Tensor::new(dtype, shape, data));
            }
        }
    }
    write_checkpoint(&work.path().join("bf16"), &tensors);
    keep(root, "dtypes", work.path(), "", u64::MAX)?;
    Ok(())
}

/// FP8 with a scale for each block, and 16 and 32 bits given it; noise, which nothing makes smaller.
fn fp8(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let mut bf16 = model(32, Dtype::BF16, &[(96, 192), (40, 200)]);
    let f32 = model(33, Dtype::F32, &[(70, 64)]);
    bf16.insert("extra.up_proj.weight".to_owned(), f32["model.layers.0.mlp.up_proj.weight"].clone());
    let mut rng = StdRng::seed_from_u64(34);
    let noise: Vec<u8> = (0..20_000).map(|_| rand::RngExt::random(&mut rng)).collect();
    bf16.insert("noise".to_owned(), Tensor::new(Dtype::U8, &[20_000], noise));
    write_checkpoint(&work.path().join("bf16"), &bf16);
    write_checkpoint(&work.path().join("fp8"), &common::fp8_blocks(&bf16, 128));
    keep(root, "fp8", work.path(), "", u64::MAX)?;
    Ok(())
}

/// Two sets of weights in a folder, scales in a column of F16, files left out, and matrices that share nothing, which
/// the manifest says.
fn odd_folders(root: &Path) -> Made {
    let work = tempfile::tempdir()?;
    let high = model(31, Dtype::BF16, &[(64, 200), (48, 120)]);
    write_checkpoint(&work.path().join("bf16"), &high);
    common::write_tensors(&work.path().join("bf16/consolidated.safetensors"), &high);
    let mut low = llm_int8(&high);
    for (name, tensor) in low.iter_mut().filter(|(name, _)| name.ends_with(".SCB")) {
        let rows = tensor.shape[0];
        let shape = if name.contains(".0.") { [rows, 1] } else { [1, rows] };
        *tensor = Tensor::float(Dtype::F16, &shape, &tensor.values());
    }
    write_checkpoint(&work.path().join("int8"), &low);
    // Padded, and of another shape altogether, so that it pairs with nothing.
    let mut padded = high.clone();
    for (layer, rows, cols) in [(0, 96, 200), (1, 192, 120)] {
        let name = format!("model.layers.{layer}.mlp.up_proj.weight");
        let weights = padded.get_mut(&name).ok_or("no such tensor")?;
        let mut values = weights.values();
        values.resize(rows * cols, 0.0);
        *weights = Tensor::float(Dtype::BF16, &[rows, cols], &values);
    }
    write_checkpoint(&work.path().join("gptq8"), &gptq(&padded, Gptq { group: 40, ..Gptq::of_bits(8) }));
    keep_as(root, "odd-folders", work.path(), u64::MAX, |spec| {
        spec.exclude = vec!["empty.part".to_owned()];
        drop(fs::create_dir(spec.folder.join("empty.part")));
    })?;
    Ok(())
}
