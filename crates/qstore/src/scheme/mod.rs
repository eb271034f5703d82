//! Quantisation schemes: how a producer's quantised tensors relate to the weights they stand for.
//!
//! A scheme recognises its tensors by name and type and says, for a row's scale, which floats its quantiser maps to each code. The list is
//! closed: [`ALL`] names every one, and [`of`] finds the one that a stored plan names.

mod floats;
mod llm_int8;

use qstore_container::{ArrayKey, Dtype, QuantScheme, Rounding};
use qstore_kernels::BinTable;

pub(crate) use floats::FloatKind;
pub(crate) use llm_int8::{LlmInt8, quantise_row};

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
    /// Who wrote it.
    pub(crate) scheme: QuantScheme,
    /// The name that the matrix has in an unquantised checkpoint.
    pub(crate) weight: String,
    /// Rows (output features) and columns (input features).
    pub(crate) shape: [u64; 2],
    /// Its codes, one I8 a weight.
    pub(crate) codes: ArrayKey,
    /// Its scales, one F32 a row.
    pub(crate) scale: ArrayKey,
}

/// One producer's way to quantise.
pub(crate) trait Scheme: Sync {
    /// The name it has in plans.
    fn id(&self) -> QuantScheme;

    /// Every quantised matrix among a variant's arrays.
    fn find(&self, arrays: &[ArrayInfo]) -> Vec<QuantGroup>;

    /// The floats of kind `float` that each code stands for in a row of this `scale`.
    fn bins(&self, rounding: Rounding, scale: f32, float: FloatKind) -> BinTable;
}

/// Every scheme.
pub(crate) const ALL: [&dyn Scheme; 1] = [&LlmInt8];

/// The scheme of a name in a plan.
pub(crate) fn of(id: QuantScheme) -> &'static dyn Scheme {
    match id {
        QuantScheme::LlmInt8 => &LlmInt8,
    }
}

/// Every quantised matrix of a variant, whatever its scheme.
pub(crate) fn find_groups(arrays: &[ArrayInfo]) -> Vec<QuantGroup> {
    ALL.iter().flat_map(|scheme| scheme.find(arrays)).collect()
}
