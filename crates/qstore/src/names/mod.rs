//! What producers call weight matrices, and which of them they store as one tensor.
//!
//! What is known is data: a line in [`canonical`]'s list for a name, one in [`fused`]'s for a tensor of several
//! matrices.

mod array_info;
mod canonical;
mod fused;

pub(crate) use array_info::ArrayInfo;
pub(crate) use canonical::canonical;
pub(crate) use fused::{Cut, CutPart, Expert, cuts, experts};
