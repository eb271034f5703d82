//! How floats became codes.

use serde::{Deserialize, Serialize};

/// What a value is rounded to, to nearest, ties to even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounded {
    /// Nothing but IEEE binary32, in which all is computed.
    #[default]
    F32,
    /// IEEE binary16.
    F16,
    /// The high half of a binary32.
    Bf16,
}

impl Rounded {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a weight `w` is brought to the scale of levels. `s` is its scale; where the last of several factors of it is a
/// constant divisor, `a` is the scale without that and `b` the divisor, else `a` is `s` and `b` is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inverse {
    /// `fl(w / s)`.
    Division,
    /// `fl(w * fl(r * b))`, where `r` is `fl(1 / a)`.
    Reciprocal,
    /// The same with the binary32 above `r`: a GPU's approximate reciprocal may be off by one.
    ReciprocalUp,
    /// The same with the binary32 below `r`.
    ReciprocalDown,
    /// `fl(w * fl(b / a))`.
    Quotient,
    /// `fl(w * fl(r * b))`, where `r` is `fl(1 / a)`, rounded to BF16. Its scales are the reciprocals of `r`.
    ReciprocalBf16,
    /// `fl(w / s)`, of scales by which a bias is a whole number of steps: `fl(bias / rint(fl(bias / s)))` of each that
    /// is stored, which is a rounded one.
    Anchored,
}

/// How a quantiser that rounds each weight by itself arrives at a code: the level that is nearest to the weight divided
/// by its scale, ties to the code that is even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What weights are rounded to first.
    #[serde(default, skip_serializing_if = "Rounded::is_default")]
    pub weights: Rounded,
    /// How they are divided by their scales.
    pub inverse: Inverse,
    /// What the result is rounded to.
    #[serde(default, skip_serializing_if = "Rounded::is_default")]
    pub result: Rounded,
}
