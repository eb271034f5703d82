//! Codes and floats given what the codes of several matrices say of their weights.
//!
//! Each of these codes says that its weight lies between two edges; what all of them leave is an interval. Of a matrix
//! that has fewer rows or columns, and where a scale or zero-point is no number, codes tell nothing.

mod codes;
mod factors;
mod floats;
mod known;
mod scaled;

pub(crate) use codes::Refine;
pub(crate) use factors::Factors;
pub(crate) use floats::{RefineFloats, count_near_zero, stretches};
pub(crate) use known::{GivenWeights, KnownBins, KnownCodes, KnownWeights, OwnBins};
