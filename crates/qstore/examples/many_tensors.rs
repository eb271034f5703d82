//! Makes a checkpoint of very many small tensors: `cargo run --release -p qstore --example many_tensors -- COUNT BYTES
//! FOLDER`.
//!
//! Elements are BF16, F32 and U8 in turn, each tensor with a spread of its own; `BYTES` is what each takes, and a
//! multiple of 4.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "test data"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use half::bf16;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, StandardNormal};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, bytes, folder] = &arguments[..] else {
        return Err("usage: many_tensors COUNT BYTES FOLDER".into());
    };
    let (count, bytes): (usize, usize) = (count.parse()?, bytes.parse()?);
    if !bytes.is_multiple_of(4) {
        return Err("BYTES is a multiple of 4".into());
    }
    fs::create_dir_all(folder)?;
    let mut file = BufWriter::new(File::create(Path::new(folder).join("model.safetensors"))?);
    let header = header(count, bytes)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut random = SmallRng::seed_from_u64(1);
    for index in 0..count {
        file.write_all(&data(index, bytes, &mut random))?;
    }
    Ok(file.flush()?)
}

fn header(count: usize, bytes: usize) -> Result<String, std::fmt::Error> {
    let mut text = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    for index in 0..count {
        let (dtype, width) = [("BF16", 2), ("F32", 4), ("U8", 1)][index % 3];
        let (block, part) = (index / 12, index % 12);
        let (elements, begin) = (bytes / width, index * bytes);
        let end = begin + bytes;
        write!(
            text,
            r#","model.blocks.{block}.part_{part}":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[{begin},{end}]}}"#
        )?;
    }
    text.push('}');
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    Ok(text)
}

fn data(index: usize, bytes: usize, random: &mut SmallRng) -> Vec<u8> {
    let spread = 0.01 * f32::exp2((index / 3 % 5) as f32);
    let mut weight = || -> f32 {
        let normal: f32 = StandardNormal.sample(random);
        normal * spread
    };
    match index % 3 {
        0 => (0..bytes / 2).flat_map(|_| bf16::from_f32(weight()).to_le_bytes()).collect(),
        1 => (0..bytes / 4).flat_map(|_| weight().to_le_bytes()).collect(),
        _ => (0..bytes).map(|_| (128.0 + 20.0 * weight() / spread) as u8).collect(),
    }
}
