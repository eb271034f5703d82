//! The command line.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use qstore::VariantName;
use qstore_quantize::GroupSize;

use crate::values::{Analyzed, NamedFolder, analyzed, given_only, named_folder, size};

/// Keep one model in every precision that you use, in about the space of the largest one alone.
///
/// A store holds several variants of one model, such as BF16 and INT8, each as a Hugging Face folder. The lowest
/// precision is stored by itself, each higher one as what it adds to that. Every variant can be loaded from the store,
/// and every file comes back byte for byte.
#[derive(Debug, Parser)]
#[command(name = "qstore", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  qstore demo                                          see what it does, with a small made-up model
  qstore quantize ./Llama --to int8 -o ./Llama-int8    make the INT8 variant, if you have none
  qstore pack bf16=./Llama int8=./Llama-int8 -o ./Llama-store
  qstore inspect ./Llama-store
  qstore unpack ./Llama-store bf16 -o ./Llama-again

Exit status: 0 done, 1 a check failed or something is damaged or cannot be read, 2 wrong use, 130 interrupted.";

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// Worker threads; all cores by default. Results never depend on it
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Memory to work in, such as 512MiB or 2GB; 1GiB by default
    #[arg(long, value_name = "SIZE", global = true, value_parser = size)]
    pub(crate) memory: Option<u64>,
    /// No progress, no summaries: print only results that were asked for, warnings and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// For commands that write safetensors files.
#[derive(Debug, Args)]
pub(crate) struct ShardSize {
    /// Largest size of one written file, such as 5GB (the default); more is split, as checkpoints are
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) shard_size: Option<u64>,
}

/// For commands whose result programs read.
#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Print JSON, with sizes in bytes, and nothing else to standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pack(Pack),
    Add(Add),
    Remove(Remove),
    Unpack(Unpack),
    Inspect(Inspect),
    Verify(Verify),
    Load(Load),
    Quantize(Quantize),
    Analyze(Analyze),
    Bench(Bench),
    Demo(Demo),
    /// One measurement of `bench`, as JSON from standard input to standard output
    #[command(hide = true)]
    BenchWorker,
}

/// Make a store of one or more variants of a model.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qstore pack bf16=./Llama int8=./Llama-int8 -o ./store
Any tool loads ./store/int8 as it is:
  qstore pack bf16=./Llama int8=./Llama-int8 --verbatim int8 -o ./store
A chain, each stored given the ones below:
  qstore pack bf16=./Llama gptq8=./Llama-8bit gptq4=./Llama-4bit -o ./store
Versions that few fetch, at the price of their scales:
  qstore pack bf16=./Llama int8=./Llama-int8 fp8=./Llama-fp8 --archive int8,fp8 -o ./store
Without the history of a clone:
  qstore pack bf16=./Llama int8=./Llama-int8 --exclude .git -o ./store

There is a store when it is complete; an interrupted pack leaves none. The model folders are only read.")]
pub(crate) struct Pack {
    /// A name that you choose and the folder of that variant, once for each; their order does not matter
    #[arg(value_name = "NAME=DIR", required = true, value_parser = named_folder)]
    pub(crate) variants: Vec<NamedFolder>,
    /// The folder to make the store in; must be new or empty, and may be a mount point
    #[arg(short, long, value_name = "STORE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) verbatim: Verbatim,
    #[command(flatten)]
    pub(crate) given: GivenOnly,
    #[command(flatten)]
    pub(crate) roles: Roles,
    #[command(flatten)]
    pub(crate) contents: Contents,
    #[command(flatten)]
    pub(crate) shard_size: ShardSize,
}

/// Variants to keep as they are.
#[derive(Debug, Args)]
pub(crate) struct Verbatim {
    /// Keep this variant's files as they are, so that any tool loads them from the store; takes more space. Can be
    /// repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) verbatim: Vec<VariantName>,
}

/// What of the folders is stored.
#[derive(Debug, Default, Args)]
pub(crate) struct Contents {
    /// Leave out what matches: a name anywhere (.git, '*.bin') or a path in the folder ('original/*'). Recorded in the
    /// store. Can be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Refuse incomplete folders (shards missing, downloads under way, Git LFS pointers) instead of warning
    #[arg(long)]
    pub(crate) strict: bool,
}

/// What variants may be stored given.
#[derive(Debug, Args)]
pub(crate) struct GivenOnly {
    /// Store this variant given that other one alone, as in bf16:int8, where else each tensor is given whichever lower
    /// one saves most. Can be repeated
    #[arg(long, value_name = "NAME:LOWER", value_parser = given_only)]
    pub(crate) given: Vec<(VariantName, VariantName)>,
    /// Store this variant by itself, so that reading it reads no other. Can be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) independent: Vec<VariantName>,
    /// Give a matrix those of at most so many other variants, beside what these are themselves given; 3 if not said.
    /// Fewer decode faster, more take less; it is kept with each variant that is stored here
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) levels: Option<u8>,
}

/// Which variants are archived.
#[derive(Debug, Default, Args)]
pub(crate) struct Roles {
    /// Archive these variants: they are stored given higher ones that are served, such as int8 given bf16, so that they
    /// take little but their scales (where calibration has moved codes, half a bit a weight more); reading one reads
    /// what it is given
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) archive: Vec<VariantName>,
    /// Archive all variants but these
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "archive")]
    pub(crate) served: Vec<VariantName>,
}

/// Add a variant to a store.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qstore add ./store int8=./Llama-int8")]
pub(crate) struct Add {
    /// The store
    pub(crate) store: PathBuf,
    /// A name that you choose and the folder of the variant
    #[arg(value_name = "NAME=DIR", value_parser = named_folder)]
    pub(crate) variant: NamedFolder,
    #[command(flatten)]
    pub(crate) verbatim: Verbatim,
    #[command(flatten)]
    pub(crate) given: GivenOnly,
    /// Archive it: it is stored given higher ones that are served, so that it takes little but its scales; reading it
    /// reads those. To archive one that is stored, or serve one that is archived: remove it, and add it again
    #[arg(long)]
    pub(crate) archive: bool,
    #[command(flatten)]
    pub(crate) contents: Contents,
    #[command(flatten)]
    pub(crate) shard_size: ShardSize,
}

/// Remove a variant from a store; those that were stored given it are stored anew first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  qstore remove ./store int8")]
pub(crate) struct Remove {
    /// The store
    pub(crate) store: PathBuf,
    /// The variant
    pub(crate) name: VariantName,
    #[command(flatten)]
    pub(crate) shard_size: ShardSize,
}

/// Restore a variant's folder, every file byte for byte.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  qstore unpack ./store bf16 -o ./Llama

Files appear when all of them are there, each with the SHA-256 of the packed one.")]
pub(crate) struct Unpack {
    /// The store
    pub(crate) store: PathBuf,
    /// The variant
    pub(crate) name: VariantName,
    /// The folder to make; must be new or empty, and may be a mount point
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

/// Show what a store holds and what it takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  qstore inspect ./store\n  qstore inspect ./store --tensors | less\n  qstore inspect ./store --json"
)]
pub(crate) struct Inspect {
    /// The store
    pub(crate) store: PathBuf,
    /// Show every tensor and file too: how it is stored and what it takes, to the last byte of the store
    #[arg(long)]
    pub(crate) tensors: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// Check that every file of a store's variants comes back as it was packed; exit with 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qstore verify ./store\n  qstore verify ./store int8 --quick")]
pub(crate) struct Verify {
    /// The store
    pub(crate) store: PathBuf,
    /// Only this variant
    pub(crate) name: Option<VariantName>,
    /// Check only that the stored bytes are those that were written, without decoding them
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// Decode every tensor of a variant into memory; report time, bytes read, rate and peak memory.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  qstore load ./store int8\n  qstore load ./store bf16 --threads 4 --json"
)]
pub(crate) struct Load {
    /// The store
    pub(crate) store: PathBuf,
    /// The variant
    pub(crate) name: VariantName,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// Make a model's low-precision variant, as bitsandbytes and transformers would save it, or in the format of GPTQ.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qstore quantize ./Llama --to int8 -o ./Llama-int8
  qstore quantize ./Llama --to gptq4 -o ./Llama-gptq4
  qstore quantize ./Llama --to gptq4 --group-size 32 --asymmetric -o ./Llama-gptq4

Needs no GPU and no Python. transformers loads the folder as any other, given bitsandbytes or gptqmodel and optimum. GPTQ proper makes up for
the error of each weight in others, by what it sees of calibration texts; here each is rounded to nearest.")]
pub(crate) struct Quantize {
    /// The model's folder: BF16, FP16 or FP32 weights in safetensors files
    #[arg(value_name = "DIR")]
    pub(crate) source: PathBuf,
    /// The precision to make
    #[arg(long, value_name = "PRECISION")]
    pub(crate) to: Precision,
    /// The folder to make; must be new or empty
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// GPTQ: input features that share a scale: 16, 32, 64, 128 (the default), 256, 512, 1024, or -1 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) group_size: Option<GroupSize>,
    /// GPTQ: codes for the range from the least weight of a group to the largest, with a zero-point of its own
    #[arg(long)]
    pub(crate) asymmetric: bool,
}

/// A precision that `quantize` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// LLM.int8(): 8-bit codes and a scale for each output feature
    Int8,
    /// 8-bit codes in the format of GPTQ, rounded to nearest
    Gptq8,
    /// 4-bit codes in the format of GPTQ, rounded to nearest
    Gptq4,
}

/// Measure bits a weight: of each variant alone, given each quantised one below it, and of all together.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qstore analyze ./store
  qstore analyze bf16=./Llama gptq8=./Llama-8bit gptq4=./Llama-4bit
  qstore analyze bf16=./Llama int8=./Llama-int8 --json --resume ./analysis.jsonl > ./analysis.json

The figures, of the weights of quantised matrices, are of each variant:
  stored       as they lie in their file
  entropy      order-0, of each matrix; given a lower variant, conditional on its codes
  Huffman      with its table; given a lower variant, one for each scale and code, as published
  Zstd         level 3, of the bytes in the file
  ZipNN-style  exponents by Huffman, the rest as it is; of codes all bytes by Huffman
  ours         what `qstore pack` stores, measured by coding all of it
And of a store, which of folders is packed into a temporary folder:
  codes        weights or codes, given all that the variant is stored given
  scales       with zero-points and groups
  exceptions   weights that no table, bin or interval has
  overhead     tables, states of coders, plans, headers, the manifest
docs/analyze.md has the definitions. What is given is only read.")]
pub(crate) struct Analyze {
    /// A store; or a name that you choose and the folder of that variant, once for each, in any order
    #[arg(value_name = "STORE|NAME=DIR", required = true, value_parser = analyzed)]
    pub(crate) inputs: Vec<Analyzed>,
    /// Show every matrix too
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Draw the figures into this file, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) chart: Option<PathBuf>,
    /// Add results to this file as they come; run again with the same file, an interrupted analysis goes on where it
    /// was
    #[arg(long, value_name = "FILE")]
    pub(crate) resume: Option<PathBuf>,
    /// Make the temporary folder, which takes as much as the store would, in here; in the system's by default
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) given: GivenOnly,
    #[command(flatten)]
    pub(crate) roles: Roles,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// Measure a store against what people use instead, over the same bytes: sizes, times and memory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qstore bench bf16=./Llama int8=./Llama-int8
  qstore bench bf16=./Llama int8=./Llama-int8 -o ./report               tables, JSON and charts
  qstore bench bf16=./Llama int8=./Llama-int8 --peers none,zstd,ours --repeats 3
  qstore bench bf16=./Llama int8=./Llama-int8 --bandwidth 20,50,100,200,500,1000,1500

Every peer stores all variants, then loads the lowest, the highest and all of them; whatever it loads is compared with the folders, which are
only read. safetensors and zipnn are Python packages: without them these two are named as absent, and how to get them. The temporary
folder takes up to the size of all variants for each peer and is removed at the end; an interrupted run leaves its folder
qstore-bench-* there.")]
pub(crate) struct Bench {
    /// A name that you choose and the folder of that variant, once for each; their order does not matter
    #[arg(value_name = "NAME=DIR", required_unless_present = "kernels", value_parser = named_folder)]
    pub(crate) variants: Vec<NamedFolder>,
    /// Time the coders by themselves against memcpy, each backend that this processor has, on made-up weights; then it
    /// needs no variants
    #[arg(long, conflicts_with_all = ["variants", "peers", "bandwidth", "cache", "output", "dir", "python"])]
    pub(crate) kernels: bool,
    /// What to measure, separated by commas; all but zstd-1 by default
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = PossibleValuesParser::new(qstore_bench::peer_names()))]
    pub(crate) peers: Vec<String>,
    /// How often to measure everything
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Measure loads also with stored bytes arriving at these speeds in MiB/s, such as 20,100,500; the slowest takes
    /// long
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) bandwidth: Vec<u32>,
    /// What the system's page cache holds when a load begins: the stored files, nothing, or each in turn
    #[arg(long, value_name = "STATE", default_value = "both")]
    pub(crate) cache: CacheState,
    /// Write report.md, report.json and charts into this folder; must be new or empty
    #[arg(short, long, value_name = "REPORT")]
    pub(crate) output: Option<PathBuf>,
    /// Make the temporary folder in here; beside the report or in the system's temporary folder by default
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The Python interpreter that has safetensors and zipnn
    #[arg(long, value_name = "PATH", default_value = "python3")]
    pub(crate) python: PathBuf,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// What the page cache holds when a load begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheState {
    /// The stored files
    Warm,
    /// None of them, as after a start of the machine
    Dropped,
    /// One measurement each
    Both,
}

/// See what a store does: make a small model and its INT8 variant, pack both, restore and compare both, load both.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qstore demo                     some seconds and 0.4 GB of temporary files
  qstore demo --model ./Llama     on your own model
  qstore demo --keep ./demo       look at the folders afterwards
  qstore demo --hidden 2048 --intermediate 8192 --layers 20 --vocab 32000 --keep ./demo
                                  a pair of 4 GB; the folders take 10 GB

Without --keep everything is made below the system's temporary folder (TMPDIR) and removed at the end; an interrupted demo
leaves its folder qstore-demo-* there. The demo itself compares restored files with the originals, byte by byte.")]
pub(crate) struct Demo {
    /// Use the model in this folder (BF16, FP16 or FP32 in safetensors files) instead of a made-up one
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Work in this new or empty folder and keep everything there
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) made_up: MadeUp,
    #[command(flatten)]
    pub(crate) shard_size: ShardSize,
}

/// The made-up model.
#[derive(Debug, Args)]
#[command(next_help_heading = "The made-up model")]
pub(crate) struct MadeUp {
    /// Width of the model (hidden_size)
    #[arg(long, value_name = "N", conflicts_with = "model")]
    pub(crate) hidden: Option<u32>,
    /// Width of its feed-forward blocks (intermediate_size)
    #[arg(long, value_name = "N", conflicts_with = "model")]
    pub(crate) intermediate: Option<u32>,
    /// Decoder layers (num_hidden_layers)
    #[arg(long, value_name = "N", conflicts_with = "model")]
    pub(crate) layers: Option<u32>,
    /// Tokens (vocab_size)
    #[arg(long, value_name = "N", conflicts_with = "model")]
    pub(crate) vocab: Option<u32>,
    /// Use the token embedding as the output head (tie_word_embeddings)
    #[arg(long, conflicts_with = "model")]
    pub(crate) tied: bool,
    /// Type of the weights
    #[arg(long, value_name = "TYPE", conflicts_with = "model")]
    pub(crate) dtype: Option<FloatType>,
    /// Another seed makes other weights
    #[arg(long, value_name = "N", conflicts_with = "model")]
    pub(crate) seed: Option<u64>,
}

/// Types that weights come in before they are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FloatType {
    Bf16,
    Fp16,
    Fp32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
