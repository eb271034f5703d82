//! Deciding how each array of a variant is stored.
//!
//! A [`Planner`] looks at a sample of each array's rows and at the variants below, and returns a [`PlannedArray`]: plain data that, with the
//! array's bytes, determines what is written. Whatever it decides is lossless; a poor decision costs size alone.

mod bundles;
mod duplicates;
mod fit;
mod grid;
mod pairs;
mod residual;
mod sample;

use qstore_container::{ArrayRef, Encoding, Grid};
use qstore_kernels::Classifier;

use crate::codec::Codec;
use crate::decode::ArrayReader;
use crate::error::Result;
use crate::ingest::{Source, SourceArray};
use crate::scheme::FloatKind;

pub(crate) use bundles::{Bundle, Bundles, is_small, most_bundles};
pub(crate) use duplicates::Duplicates;
use fit::Fit;
pub(crate) use grid::grid_of;
pub(crate) use pairs::{Pair, Pairs};
use residual::Way;
pub(crate) use residual::{GivenReaders, transposed};
use sample::{Sample, fits_one_step};
pub(crate) use sample::{chunk_bytes, element_bytes};

/// How one array will be stored.
#[derive(Debug)]
pub(crate) struct PlannedArray {
    /// Its index in the source.
    pub(crate) index: usize,
    /// How it is cut into chunks.
    pub(crate) grid: Grid,
    /// What to do with each chunk.
    pub(crate) action: Action,
}

/// What is known of an array when its turn comes.
#[derive(Debug)]
pub(crate) enum Planned {
    /// All.
    Now(PlannedArray),
    /// That it needs no other array and is one chunk: whoever codes it also plans it, by [`plan_alone`].
    Later { index: usize, grid: Grid },
}

/// What is done with the chunks of an array.
#[derive(Debug)]
pub(crate) enum Action {
    /// Compare them with another array's, which must be equal.
    Refer { to: ArrayRef, original: Original },
    /// Keep them in the copied file and record their checksums.
    Keep,
    /// Code them.
    Code(Box<Coding>),
}

impl Action {
    /// Whether the transposed matrix is what is coded.
    pub(crate) fn is_transposed(&self) -> bool {
        matches!(self, Self::Code(coding) if matches!(coding.encoding, Encoding::Residual { transposed: true, .. }))
    }
}

/// The array that a reference stands for.
#[derive(Debug)]
pub(crate) enum Original {
    /// In a variant below.
    Stored(Box<ArrayReader>),
    /// In this source, by index.
    Own(usize),
}

/// Everything that coding a chunk takes beside its bytes.
#[derive(Debug)]
pub(crate) struct Coding {
    pub(crate) encoding: Encoding,
    pub(crate) codec: Codec,
    pub(crate) classifier: Classifier,
    pub(crate) given: Option<GivenReaders>,
}

/// Plans an array that needs no other, from all of its bytes.
pub(crate) fn plan_alone(array: &SourceArray, grid: Grid, bytes: &[u8]) -> Coding {
    Fit::raw().or_better(fit::candidates(array, grid, &Sample::whole(bytes))).coding
}

/// Plans the arrays of one source, in order.
pub(crate) struct Planner<'a> {
    pub(crate) source: &'a Source,
    pub(crate) pairs: Pairs,
    pub(crate) duplicates: Duplicates<'a>,
    pub(crate) bundles: Bundles,
    /// For each array whether it is to be bundled.
    pub(crate) small: &'a [bool],
    /// Whether files are kept as they are.
    pub(crate) verbatim: bool,
}

impl Planner<'_> {
    /// Plans array `index`, which is not small; call it for each array once.
    pub(crate) fn plan(&mut self, index: usize) -> Result<Planned> {
        let array = &self.source.arrays[index];
        let grid = grid_of(array);
        let action = if self.verbatim {
            Action::Keep
        } else if let Some((to, original)) = self.duplicates.find(index)? {
            Action::Refer { to, original }
        } else if self.pairs.of(&array.key).is_empty() && fits_one_step(array, grid) {
            return Ok(Planned::Later { index, grid });
        } else {
            Action::Code(Box::new(self.coding(array, grid)?))
        };
        let grid = if action.is_transposed() { grid_of(&transposed(array)) } else { grid };
        Ok(Planned::Now(PlannedArray { index, grid, action }))
    }

    /// The cheapest way to code `array`.
    fn coding(&mut self, array: &SourceArray, grid: Grid) -> Result<Coding> {
        let mut best = Fit::raw();
        if let Some(float) = FloatKind::of(array.dtype) {
            for pair in self.pairs.of(&array.key) {
                for way in [Way::Straight, Way::Transposed] {
                    // A square matrix could be either; one that fits is not the other as well.
                    let fit = if best.helps() {
                        None
                    } else {
                        residual::fit(self.source, array, float, pair, way)?
                    };
                    if let Some(fit) = fit.filter(|fit| fit.better_than(&best)) {
                        best = fit;
                    }
                }
            }
        }
        // Where a residual does this well, no other encoding comes near; do not even try one.
        if !best.is_excellent() {
            let sample = Sample::take(self.source, array, grid)?;
            best = best.or_better(fit::candidates(array, grid, &sample));
        }
        if matches!(best.coding.encoding, Encoding::Residual { .. }) {
            self.pairs.used(&array.key);
        }
        Ok(best.coding)
    }
}
