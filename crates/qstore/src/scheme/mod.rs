//! Quantisation schemes: how a producer's quantised tensors relate to the weights they stand for.
//!
//! A scheme recognises its tensors by name, type and shape; [`Steps`] says what values their codes stand for. Where a code is a function of its weight
//! alone, as with LLM.int8(), the scheme also says which floats its quantiser maps to each code. The list is closed: [`ALL`] names every one.

mod edges;
mod floats;
mod gptq;
mod llm_int8;
mod steps;
mod tensors;

use std::collections::HashSet;
use std::sync::Arc;

use qstore_container::{ArrayKey, ArrayRef, Dtype, QuantGrid, QuantScheme, VariantName};

pub(crate) use floats::FloatKind;
pub(crate) use gptq::Gptq;
pub(crate) use llm_int8::{LlmInt8, quantise_row};
pub(crate) use steps::{GridArray, Run, Steps, floats, is_one_a_row, step_bins, step_factor};
pub(crate) use tensors::Tensors;

/// A tensor as a scheme sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArrayInfo {
    pub(crate) key: ArrayKey,
    /// Its name in its file, which other files may use as well.
    pub(crate) name: String,
    /// The path of its file.
    pub(crate) file: Arc<str>,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
}

impl ArrayInfo {
    /// The tensor `key` of the file at path `file`: one whose name another file uses may be called `FILE:NAME`.
    pub(crate) fn new(key: &ArrayKey, file: &Arc<str>, dtype: Dtype, shape: &[u64]) -> Option<Self> {
        let name = key.tensor()?;
        let own = name.strip_prefix(&**file).and_then(|rest| rest.strip_prefix(':')).unwrap_or(name);
        Some(Self {
            key: key.clone(),
            name: own.to_owned(),
            file: file.clone(),
            dtype,
            shape: shape.to_vec(),
        })
    }

    /// The folder that its file is in.
    pub(crate) fn folder(&self) -> &str {
        self.file.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Its elements.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, dimension| product.saturating_mul(*dimension))
    }

    /// Its bits.
    pub(crate) fn bits(&self) -> u64 {
        self.elements().saturating_mul(self.dtype.bitsize() as u64)
    }
}

/// The tensors that together hold one quantised weight matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuantGroup {
    /// The name that the matrix has in an unquantised checkpoint.
    pub(crate) weight: String,
    /// The folder that the file of its codes is in.
    pub(crate) folder: String,
    /// Rows (output features) and columns (input features).
    pub(crate) shape: [u64; 2],
    /// Its codes.
    pub(crate) codes: ArrayKey,
    /// What they stand for.
    pub(crate) grid: GroupGrid,
}

/// A [`QuantGrid`] within one variant, of which plans know one thing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupGrid {
    LlmInt8 { scale: ArrayKey },
    Gptq { bits: u8, scale: ArrayKey, zeros: ArrayKey, groups: Option<ArrayKey> },
}

impl GroupGrid {
    /// Whose it is.
    pub(crate) fn scheme(&self) -> QuantScheme {
        match self {
            Self::LlmInt8 { .. } => QuantScheme::LlmInt8,
            Self::Gptq { .. } => QuantScheme::Gptq,
        }
    }

    /// The arrays that it is made of.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &ArrayKey> {
        let parts = match self {
            Self::LlmInt8 { scale } => [Some(scale), None, None],
            Self::Gptq { scale, zeros, groups, .. } => [Some(scale), Some(zeros), groups.as_ref()],
        };
        parts.into_iter().flatten()
    }

    /// What plans that are in need of it say, it being in `variant`; zero-points are stored less `zero_offset`.
    pub(crate) fn of_variant(&self, variant: &VariantName, zero_offset: u8) -> QuantGrid {
        let refer = |array: &ArrayKey| ArrayRef { variant: variant.clone(), array: array.clone() };
        match self {
            Self::LlmInt8 { scale } => QuantGrid::LlmInt8 { scale: refer(scale) },
            Self::Gptq { bits, scale, zeros, groups } => QuantGrid::Gptq {
                bits: *bits,
                scale: refer(scale),
                zeros: refer(zeros),
                zero_offset,
                groups: groups.as_ref().map(refer),
            },
        }
    }
}

/// One producer's way to quantise.
pub(crate) trait Scheme: Sync {
    /// Every quantised matrix among a variant's tensors, and those that have the names of one and do not fit each other, with why.
    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>>;
}

/// A tensor that is named as part of a quantised matrix that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

/// Every scheme.
pub(crate) const ALL: [&dyn Scheme; 2] = [&LlmInt8, &Gptq];

/// What schemes make of a variant's tensors.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) groups: Vec<QuantGroup>,
    pub(crate) malformed: Vec<Malformed>,
    /// Of each module that has quantised tensors which no scheme knows the first of these, with its name.
    pub(crate) unknown: Vec<(ArrayKey, String)>,
}

/// Every quantised matrix of a variant, whatever its scheme, and what looks like one.
pub(crate) fn find_all(arrays: &[ArrayInfo]) -> Found {
    let tensors = Tensors::new(arrays);
    let mut found = Found::default();
    for result in ALL.iter().flat_map(|scheme| scheme.find(&tensors)) {
        match result {
            Ok(group) => found.groups.push(group),
            Err(malformed) => found.malformed.push(malformed),
        }
    }
    found.unknown = unknown(arrays, &found);
    found
}

/// Every quantised matrix of a variant, whatever its scheme.
pub(crate) fn find_groups(arrays: &[ArrayInfo]) -> Vec<QuantGroup> {
    find_all(arrays).groups
}

/// Elements from which a tensor of codes is told of.
const MATRIX: u64 = 1024;

fn unknown(arrays: &[ArrayInfo], found: &Found) -> Vec<(ArrayKey, String)> {
    let parts = found.groups.iter().flat_map(|group| group.grid.parts().chain([&group.codes]));
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
        could_be && array.shape.len() >= 2 && array.elements() >= MATRIX
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
