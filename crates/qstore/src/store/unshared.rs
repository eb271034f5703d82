//! Why matrices share less than one would expect, in a user's words.

use qstore_container::{Unshared, Why};
use serde::Serialize;

/// Matrices that are stored by themselves for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnsharedInspection {
    /// The variant that they could have shared with, where it is about one.
    pub with: Option<String>,
    /// Why, as plans and programs call it: `no-counterpart`, `other-shape`, `fused-experts`, `not-made-from`, `floats`,
    /// `nothing-higher`, `unknown-format`, `unusable` or `malformed`.
    pub reason: &'static str,
    /// The first of them.
    pub first: String,
    /// How many there are.
    pub matrices: u64,
    /// All of that as a sentence.
    pub text: String,
}

impl UnsharedInspection {
    pub(super) fn new(note: &Unshared) -> Self {
        let Unshared { with, first, matrices, why } = note;
        let with = with.as_ref().map(ToString::to_string);
        let lower = with.as_deref().unwrap_or("another");
        let one = *matrices == 1;
        let (matrix, are, have) = if one { ("matrix", "is", "has") } else { ("matrices", "are", "have") };
        let of = |shape: &[u64]| shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        // Names may hold anything.
        let shown: String = first
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect();
        let (reason, what) = match why {
            Why::NoCounterpart => (
                "no-counterpart",
                format!(
                    "{matrices} quantised {matrix} of {lower} {have} no counterpart of its name and shape here"
                ),
            ),
            Why::OtherShape { here, there } => (
                "other-shape",
                format!(
                    "{matrices} {matrix} {are} not stored given {lower}, whose shapes differ: {} here, {} there",
                    of(here),
                    of(there)
                ),
            ),
            Why::FusedExperts => (
                "fused-experts",
                format!(
                    "{matrices} {matrix} of experts {are} not stored given {lower}: one of the two has all experts of a layer in one tensor of a name that is not known, the other a tensor each"
                ),
            ),
            Why::NotMadeFrom => (
                "not-made-from",
                format!(
                    "{matrices} {matrix} {are} not stored given {lower}, whose codes stand for other values; is it the same model?"
                ),
            ),
            Why::Floats => {
                let whose = with.as_ref().map_or("another file here".to_owned(), ToString::to_string);
                (
                    "floats",
                    format!(
                        "{matrices} {matrix} {are} stored alone: {whose} has other floats of that name, and floats are not stored given floats yet"
                    ),
                )
            }
            Why::NothingHigher => (
                "nothing-higher",
                format!(
                    "{matrices} quantised {matrix} {are} archived, and no variant that is served has the weights: they take as much as if they were stored alone; add a variant that has them, or store this one anew without archiving it"
                ),
            ),
            Why::UnknownFormat { method } => {
                let method = method.as_ref().map_or(String::new(), |method| format!(" ({method})"));
                (
                    "unknown-format",
                    format!(
                        "{matrices} {matrix} {are} quantised in a format that is not known{method}: no more than equal tensors are shared"
                    ),
                )
            }
            Why::Unusable { what } => (
                "unusable",
                format!("{matrices} quantised {matrix} of {lower} {are} of no use to this variant: {what}"),
            ),
            Why::Malformed { what } => (
                "malformed",
                format!(
                    "{matrices} {matrix} with the names of quantised ones {are} stored as they are: {what}"
                ),
            ),
            _ => ("other", format!("{matrices} {matrix} {are} stored alone")),
        };
        let such = if one { format!("{what} ({shown})") } else { format!("{what} (such as {shown})") };
        Self { with, reason, first: first.clone(), matrices: *matrices, text: such }
    }
}
