//! Quantisation schemes: how a producer's quantised tensors relate to the weights they stand for.
//!
//! A scheme recognises its tensors by name, type and shape; [`Steps`] says what values their codes stand for. Where a code is a function of its weight
//! alone, as with LLM.int8(), the scheme also says which floats its quantiser maps to each code. The list is closed: [`ALL`] names every one.

mod edges;
mod floats;
mod gptq;
mod llm_int8;
mod steps;

use qstore_container::{ArrayKey, ArrayRef, Dtype, QuantGrid, QuantScheme, VariantName};

pub(crate) use floats::FloatKind;
pub(crate) use gptq::Gptq;
pub(crate) use llm_int8::{LlmInt8, quantise_row};
pub(crate) use steps::{GridArray, Run, Steps, step_bins, step_factor};

/// An array as a scheme sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArrayInfo {
    pub(crate) key: ArrayKey,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
}

/// The tensors that together hold one quantised weight matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QuantGroup {
    /// The name that the matrix has in an unquantised checkpoint.
    pub(crate) weight: String,
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
    /// Every quantised matrix among a variant's arrays.
    fn find(&self, arrays: &[ArrayInfo]) -> Vec<QuantGroup>;

    /// Arrays that have the names of the scheme's but do not fit each other, and why.
    fn strangers(&self, _arrays: &[ArrayInfo]) -> Vec<(String, &'static str)> {
        Vec::new()
    }
}

/// Every scheme.
pub(crate) const ALL: [&dyn Scheme; 2] = [&LlmInt8, &Gptq];

/// Every quantised matrix of a variant, whatever its scheme.
pub(crate) fn find_groups(arrays: &[ArrayInfo]) -> Vec<QuantGroup> {
    ALL.iter().flat_map(|scheme| scheme.find(arrays)).collect()
}

/// Arrays that have names of some scheme's but do not fit each other, and why.
pub(crate) fn find_strangers(arrays: &[ArrayInfo]) -> Vec<(String, &'static str)> {
    ALL.iter().flat_map(|scheme| scheme.strangers(arrays)).collect()
}
