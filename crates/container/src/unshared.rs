//! Why matrices of a variant share less with another than one would expect.

use serde::{Deserialize, Serialize};

use crate::VariantName;
use crate::limits::MAX_NOTE_TEXT;

/// Matrices of a variant that are stored by themselves for one reason. It describes, and decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unshared {
    /// The variant that they could have shared with, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<VariantName>,
    /// The first of them.
    pub first: String,
    /// How many there are.
    pub matrices: u64,
    /// Why.
    pub why: Why,
}

/// Why matrices are stored by themselves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Why {
    /// Quantised in the other variant under names and shapes that this one does not have.
    NoCounterpart,
    /// Of another shape in the other variant, as where a quantiser has padded them. The shapes are those of the first.
    OtherShape {
        /// Here.
        here: Vec<u64>,
        /// There.
        there: Vec<u64>,
    },
    /// All experts of a layer are one tensor in one of the two, and a tensor each in the other.
    FusedExperts,
    /// Tried, and not close to what the other variant's codes stand for.
    NotMadeFrom,
    /// Floats in both variants, which are not stored given floats.
    Floats,
    /// Archived, where no served variant has the floats that its codes were made from.
    NothingHigher,
    /// Quantised in a format that is stored as it is.
    UnknownFormat {
        /// What the variant's configuration calls it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<String>,
    },
    /// Quantised in the other variant in a way that is of no use.
    Unusable {
        /// What the matter is.
        what: String,
    },
    /// Named as a quantised matrix, and none.
    Malformed {
        /// What does not fit.
        what: String,
    },
}

impl Unshared {
    pub(crate) fn is_within_limits(&self) -> bool {
        let texts = match &self.why {
            Why::OtherShape { here, there } => return here.len().max(there.len()) <= MAX_NOTE_TEXT,
            Why::UnknownFormat { method } => method.as_deref(),
            Why::Unusable { what } | Why::Malformed { what } => Some(what.as_str()),
            _ => None,
        };
        texts.into_iter().chain([self.first.as_str()]).all(|text| text.len() <= MAX_NOTE_TEXT)
    }
}
