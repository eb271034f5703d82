//! Quantised matrices, described as data.
//!
//! A producer's format is no case here: it is a [`QuantMatrix`] that says where codes, scales and zero-points lie, and
//! what a code stands for. `docs/format.md` has the arithmetic.

mod field;
mod levels;
mod matrix;
mod rule;

pub use field::{Axis, Field, Packing};
pub use levels::{Finite, Levels, MiniFloat, Number};
pub use matrix::{
    ColumnGroups, Dequantization, Factor, Nested, Numbers, QuantMatrix, Scale, Zero, ZeroCodes,
};
pub use rule::{Inverse, Rounded, Rule};
