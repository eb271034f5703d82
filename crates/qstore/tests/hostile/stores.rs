//! The stores that are attacked.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use qstore::{Dtype, Silent, VariantSpec, WriteOptions, pack};
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use crate::common::experts::{Lie, each, fused};
use crate::common::{
    self, Gptq, Tensor, Tensors, fp8_blocks, gptq, llm_int8, model, scratch, spec, write_checkpoint,
    write_options,
};
use crate::judge::Originals;

/// A store and what it was made of.
#[derive(Debug)]
pub struct Sample {
    _dir: TempDir,
    pub store: PathBuf,
    pub originals: Arc<Originals>,
}

/// A pair in many shards, with an array in each encoding, arrays of several chunks, and weights outside their bins.
pub fn sharded() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| make(1, &[(700, 800), (180, 96)], false, 300_000))
}

/// The same kind of pair in as few and as small files as can be, for cases by the thousand.
pub fn small() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| make(2, &[(60, 256)], false, u64::MAX))
}

/// Another model under the same names and shapes as [`small`].
pub fn other() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| make(3, &[(60, 256)], false, u64::MAX))
}

/// As [`small`], with the lower variant kept as it is.
pub fn kept() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| make(2, &[(60, 256)], true, u64::MAX))
}

/// A chain: weights given codes of 8 bits, and codes given codes of 4 bits.
pub fn chain() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let dir = scratch();
        let mut high = model(4, Dtype::BF16, &[(64, 512)]);
        high.remove("model.embed_tokens.weight");
        let mut rng = rand::rngs::StdRng::seed_from_u64(4);
        let double = common::weights(&mut rng, Dtype::BF16, 32, 192);
        high.insert("double_proj.weight".to_owned(), double);
        high.insert("empty".to_owned(), Tensor::new(Dtype::BF16, &[0, 7], Vec::new()));
        // In LLM.int8() other codes than the weights', so that these are given those of 8 bits; its own are given codes
        // all the same.
        let spread = |f: f32| high.iter().map(|(name, t)| (name.clone(), scaled(t, f))).collect::<Tensors>();
        let mut originals = Originals::default();
        for (name, tensors) in [
            ("bf16", high.clone()),
            ("int8", llm_int8(&spread(1.01))),
            ("gptq8", gptq(&high, Gptq { act_order: true, ..Gptq::of_bits(8) })),
            ("gptq4", gptq(&high, Gptq::of_bits(4))),
        ] {
            let folder = dir.path().join(name);
            write_checkpoint(&folder, &tensors);
            originals.folders.insert(name.to_owned(), common::tree(&folder));
            originals.tensors.insert(name.to_owned(), tensors);
        }
        let store = dir.path().join("store");
        let specs = ["bf16", "int8", "gptq8", "gptq4"].map(|name| spec(dir.path(), name));
        pack(&specs, &store, &write_options(), &Silent).unwrap();
        Sample { _dir: dir, store, originals: Arc::new(originals) }
    })
}

/// Codes given the bins of others, and floats given those of two.
pub fn several() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| of_three(false))
}

/// Floats of which codes that were moved say in which stretch about them each lies: GPTQ's of slightly other weights.
pub fn moved() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let dir = scratch();
        let mut high = model(9, Dtype::BF16, &[(128, 512)]);
        high.remove("model.embed_tokens.weight");
        let mut rng = rand::rngs::StdRng::seed_from_u64(9);
        let mut noisy = high.clone();
        for tensor in noisy.values_mut().filter(|tensor| tensor.dtype == Dtype::BF16) {
            let most = tensor.values().iter().fold(0f32, |most, value| most.max(value.abs()));
            let values = tensor.values().into_iter();
            let moved: Vec<f32> =
                values.map(|value| value + rng.random_range(-0.002..0.002) * most).collect();
            *tensor = Tensor::float(Dtype::BF16, &tensor.shape, &moved);
        }
        let mut originals = Originals::default();
        for (name, tensors) in [("bf16", high), ("gptq8", gptq(&noisy, Gptq::of_bits(8)))] {
            let folder = dir.path().join(name);
            write_checkpoint(&folder, &tensors);
            originals.folders.insert(name.to_owned(), common::tree(&folder));
            originals.tensors.insert(name.to_owned(), tensors);
        }
        let store = dir.path().join("store");
        let specs = ["bf16", "gptq8"].map(|name| spec(dir.path(), name));
        pack(&specs, &store, &write_options(), &Silent).unwrap();
        Sample { _dir: dir, store, originals: Arc::new(originals) }
    })
}

/// GPTQ's codes of 8 and of 4 bits, whose scales are near those of 2 bits.
pub fn near() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let dir = scratch();
        let mut high = model(10, Dtype::BF16, &[(128, 512)]);
        high.remove("model.embed_tokens.weight");
        let mut originals = Originals::default();
        for bits in [2, 4, 8] {
            let name = format!("gptq{bits}");
            let tensors = gptq(&high, Gptq { group: 32, ..Gptq::of_bits(bits) });
            let folder = dir.path().join(&name);
            write_checkpoint(&folder, &tensors);
            originals.folders.insert(name.clone(), common::tree(&folder));
            originals.tensors.insert(name, tensors);
        }
        let store = dir.path().join("store");
        let specs = ["gptq2", "gptq4", "gptq8"].map(|name| spec(dir.path(), name));
        pack(&specs, &store, &write_options(), &Silent).unwrap();
        Sample { _dir: dir, store, originals: Arc::new(originals) }
    })
}

/// As [`several`], with `int8` archived: its codes are given floats.
pub fn archive() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| of_three(true))
}

fn of_three(archived: bool) -> Sample {
    let dir = scratch();
    let mut high = model(8, Dtype::BF16, &[(64, 512)]);
    high.remove("model.embed_tokens.weight");
    let mut originals = Originals::default();
    for (name, tensors) in
        [("bf16", high.clone()), ("int8", llm_int8(&high)), ("fp8", fp8_blocks(&high, 128))]
    {
        let folder = dir.path().join(name);
        write_checkpoint(&folder, &tensors);
        originals.folders.insert(name.to_owned(), common::tree(&folder));
        originals.tensors.insert(name.to_owned(), tensors);
    }
    let store = dir.path().join("store");
    let specs = ["bf16", "int8", "fp8"].map(|name| {
        let archived = archived && name == "int8";
        VariantSpec { archived, ..spec(dir.path(), name) }
    });
    pack(&specs, &store, &write_options(), &Silent).unwrap();
    Sample { _dir: dir, store, originals: Arc::new(originals) }
}

/// Experts: quantised ones of one layer, a tensor each; in `bf16` all of a layer in one tensor, whose parts are given
/// these codes in the first layer and not stored apart in the second; and in `each` a tensor each, which refer to parts
/// in the first layer and to rows in the second.
pub fn experts() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let dir = scratch();
        let [first, second] = ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"];
        let (one, two) = (each(first, 6, Dtype::BF16), each(second, 7, Dtype::BF16));
        let mut fused_both = fused(first, &one, Lie::ColumnsInTurn);
        fused_both.extend(fused(second, &two, Lie::Rows));
        let apart = one.clone().into_iter().chain(two).collect();
        let mut originals = Originals::default();
        for (name, tensors) in [("int8", llm_int8(&one)), ("bf16", fused_both), ("each", apart)] {
            let folder = dir.path().join(name);
            write_checkpoint(&folder, &tensors);
            originals.folders.insert(name.to_owned(), common::tree(&folder));
            originals.tensors.insert(name.to_owned(), tensors);
        }
        let store = dir.path().join("store");
        let specs = ["bf16", "each", "int8"].map(|name| spec(dir.path(), name));
        pack(&specs, &store, &write_options(), &Silent).unwrap();
        Sample { _dir: dir, store, originals: Arc::new(originals) }
    })
}

/// A float tensor, times `factor`.
fn scaled(tensor: &Tensor, factor: f32) -> Tensor {
    let values: Vec<f32> = tensor.values().into_iter().map(|value| value * factor).collect();
    Tensor::float(tensor.dtype, &tensor.shape, &values)
}

fn make(seed: u64, shapes: &[(usize, usize)], verbatim: bool, shard_size: u64) -> Sample {
    let dir = scratch();
    let mut high = model(seed, Dtype::BF16, shapes);
    high.remove("model.embed_tokens.weight");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    high.insert("embed.weight".to_owned(), common::weights(&mut rng, Dtype::BF16, 80, 128));
    high.insert("single.weight".to_owned(), common::weights(&mut rng, Dtype::F32, 60, 70));
    let mut low = llm_int8(&high);
    // A float matrix of 32 bits with a twin, and weights outside their bins.
    let double = common::weights(&mut rng, Dtype::F32, 24, 80);
    high.insert("double_proj.weight".to_owned(), double.clone());
    low.extend(llm_int8(&Tensors::from([("double_proj.weight".to_owned(), double)])));
    let weights = &mut high.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().data;
    for at in (0..weights.len()).step_by(997).map(|at| at / 2 * 2) {
        weights[at..at + 2].copy_from_slice(&[0x81, 0x7f]);
    }
    // Noise, which is stored raw; numbers of 4 bytes, for zstd; nothing at all. Small ones are slices, of bundles like
    // them.
    let mut noise = |bytes: usize| (0..bytes).map(|_| rng.random::<u8>()).collect();
    high.insert("noise".to_owned(), Tensor::new(Dtype::U8, &[20, 30], noise(600)));
    let numbers = |count: u32| (0..count).flat_map(|i| (i * i).to_le_bytes()).collect();
    high.insert("numbers".to_owned(), Tensor::new(Dtype::I32, &[50, 10], numbers(500)));
    if shard_size < u64::MAX {
        high.insert("noises".to_owned(), Tensor::new(Dtype::U8, &[20_000], noise(20_000)));
        high.insert("numbers.more".to_owned(), Tensor::new(Dtype::I32, &[500, 10], numbers(5000)));
    }
    high.insert("empty".to_owned(), Tensor::new(Dtype::BF16, &[0, 7], Vec::new()));

    let mut originals = Originals::default();
    for (name, tensors) in [("bf16", high), ("int8", low)] {
        let folder = dir.path().join(name);
        write_checkpoint(&folder, &tensors);
        fs::write(folder.join("nothing.txt"), "").unwrap();
        fs::create_dir_all(folder.join("sub/empty")).unwrap();
        fs::write(folder.join("sub/notes.txt"), "some notes\n".repeat(40)).unwrap();
        originals.folders.insert(name.to_owned(), common::tree(&folder));
        originals.tensors.insert(name.to_owned(), tensors);
    }
    let store = dir.path().join("store");
    let low = VariantSpec { verbatim, ..spec(dir.path(), "int8") };
    let options = WriteOptions { shard_size, ..write_options() };
    pack(&[spec(dir.path(), "bf16"), low], &store, &options, &Silent).unwrap();
    Sample { _dir: dir, store, originals: Arc::new(originals) }
}
