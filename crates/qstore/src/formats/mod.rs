//! Quantised formats: how a producer's tensors form quantised matrices, described as data.
//!
//! A format is a file here and an entry of [`ALL`]. It finds its tensors by names, types and shapes and by what
//! `config.json` says, and returns what the rest of the library goes by: a [`QuantMatrix`]. Nothing else knows of it.

mod awq;
mod checkpoint;
mod compressed_ints;
mod fp4;
mod fp8;
mod gptq;
mod llm_int8;
mod mlx;
mod mxfp4_experts;
mod nf4;
mod scales;
mod torchao;

use std::collections::HashSet;

use qstore_container::{ArrayKey, Dtype, QuantMatrix};

use crate::names::ArrayInfo;
pub(crate) use checkpoint::{Checkpoint, Tensors};

/// The tensors that together hold one quantised weight matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuantGroup {
    /// The name that the matrix has in an unquantised checkpoint.
    pub(crate) weight: String,
    /// The folder that the file of its codes is in.
    pub(crate) folder: String,
    /// The name of its format.
    pub(crate) format: &'static str,
    /// What it is. Where files do not say, several things that it may be, which differ in what codes stand for; a trial
    /// tells.
    pub(crate) candidates: Vec<QuantMatrix<ArrayKey>>,
}

impl QuantGroup {
    /// What it most likely is.
    pub(crate) fn matrix(&self) -> &QuantMatrix<ArrayKey> {
        // Formats return one at least.
        &self.candidates[0]
    }

    /// The array of its codes.
    pub(crate) fn codes(&self) -> &ArrayKey {
        &self.matrix().codes.array
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [u64; 2] {
        self.matrix().shape
    }

    /// The arrays that say what its codes stand for.
    pub(crate) fn value_arrays(&self) -> impl Iterator<Item = &ArrayKey> {
        self.matrix().values.arrays()
    }
}

/// One producer's way to quantise.
trait Format: Sync {
    /// What `config.json` calls it: beginnings of its `quant_method`.
    fn methods(&self) -> &'static [&'static str];

    /// Ends of the names of small tensors whose content it goes by.
    fn facts(&self) -> &'static [&'static str] {
        &[]
    }

    /// Every quantised matrix among a variant's tensors, and those that have the names of one and do not fit each
    /// other, with why.
    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>>;
}

/// A tensor that is named as part of a quantised matrix that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

/// Every format.
const ALL: &[&dyn Format] = &[
    &llm_int8::LlmInt8,
    &gptq::Gptq,
    &fp8::Fp8,
    &compressed_ints::CompressedInts,
    &fp4::Fp4,
    &mxfp4_experts::Mxfp4Experts,
    &nf4::Nf4,
    &awq::Awq,
    &mlx::Mlx,
    &torchao::Torchao,
];

/// Whether a tensor of that name says something of others that a format goes by.
fn says_more(name: &str) -> bool {
    ALL.iter().flat_map(|format| format.facts()).any(|end| name.ends_with(end))
}

/// What formats make of a variant's tensors.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) groups: Vec<QuantGroup>,
    pub(crate) malformed: Vec<Malformed>,
    /// Of each module that has quantised tensors which no format knows the first of these, with its name.
    pub(crate) unknown: Vec<(ArrayKey, String)>,
}

/// Every quantised matrix of a variant, whatever its format, and what looks like one.
pub(crate) fn find_all(checkpoint: &Checkpoint) -> Found {
    let tensors = Tensors::new(checkpoint);
    let mut found = Found::default();
    for result in ALL.iter().flat_map(|format| format.find(&tensors)) {
        match result {
            // Descriptions are checked where they are read, and would be refused there.
            Ok(group)
                if group.candidates.is_empty() || group.candidates.iter().any(|one| one.check().is_err()) =>
            {
                found.malformed.push(Malformed { name: group.weight, why: "its shapes are absurd" });
            }
            Ok(group) => found.groups.push(group),
            Err(malformed) => found.malformed.push(malformed),
        }
    }
    // What is malformed for one format may be of another that has the same names.
    let whole: HashSet<&str> = found.groups.iter().map(|group| module(&group.weight)).collect();
    found.malformed.retain(|one| !whole.contains(module(&one.name)));
    found.unknown = unknown(&checkpoint.tensors, &found);
    found
}

/// Every quantised matrix of a variant, whatever its format.
pub(crate) fn find_groups(checkpoint: &Checkpoint) -> Vec<QuantGroup> {
    find_all(checkpoint).groups
}

/// The format of a variant: that of its first quantised matrix, else what its `config.json` says.
pub(crate) fn format_of(checkpoint: &Checkpoint) -> Option<String> {
    let first = find_groups(checkpoint).first().map(|group| group.format);
    first.or(checkpoint.quant_method()).map(str::to_owned)
}

/// Whether there is a format for what `config.json` calls so. Formats share names: what is malformed for one may be of
/// another.
pub(crate) fn is_known_method(method: &str) -> bool {
    ALL.iter().flat_map(|format| format.methods()).any(|known| method.starts_with(known))
}

/// Elements from which a tensor of codes is told of.
const MATRIX: u64 = 1024;

fn unknown(arrays: &[ArrayInfo], found: &Found) -> Vec<(ArrayKey, String)> {
    let parts = found.groups.iter().flat_map(|group| group.matrix().arrays());
    let known: HashSet<&ArrayKey> = parts.collect();
    let malformed: HashSet<&str> = found.malformed.iter().map(|one| module(&one.name)).collect();
    let scales = arrays.iter().filter(|array| is_scale(&array.name));
    let scaled: HashSet<&str> = scales.map(|array| module(&array.name)).collect();
    let is_codes = |array: &&ArrayInfo| {
        use Dtype::{BF16, BOOL, C64, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        let is_weight = || {
            let last = array.name.rsplit('.').next().unwrap_or_default();
            scaled.contains(module(&array.name))
                || ["weight", "data", "blocks"].iter().any(|part| last.contains(part))
        };
        let could_be = match array.dtype {
            BOOL | I64 | U64 | F64 | C64 | F32 | BF16 | F16 => false,
            // Masks and positions are whole numbers as well.
            I8 | U8 | I16 | U16 | I32 | U32 => is_weight(),
            _ => true,
        };
        could_be && !is_scale(&array.name) && array.shape.len() >= 2 && array.elements() >= MATRIX
    };
    let codes = arrays.iter().filter(is_codes).filter(|array| !known.contains(&array.key));
    let codes = codes.filter(|array| !malformed.contains(module(&array.name)));
    let mut modules = HashSet::new();
    let firsts = codes.filter(|array| modules.insert((array.folder(), module(&array.name))));
    firsts.map(|array| (array.key.clone(), array.name.clone())).collect()
}

/// Whether a tensor of this name says what codes beside it stand for.
fn is_scale(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    ["scale", "absmax", "zero", "SCB"].iter().any(|part| last.contains(part))
}

/// The module that a tensor is of, by its name: `model.layers.0.mlp.up_proj` of `model.layers.0.mlp.up_proj.weight`.
fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}
