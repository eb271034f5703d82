//! Deciding how each array of a variant is stored.
//!
//! A [`Planner`] looks at a sample of each array's rows and at the variants below, and returns a [`PlannedArray`]:
//! plain data that, with the array's bytes, determines what is written. Whatever it decides is lossless; a poor
//! decision costs size alone.

mod bundles;
mod by_values;
mod choose;
mod chunk_shape;
mod codes;
mod cut;
mod duplicates;
mod endings;
mod fit;
mod given;
mod lower;
mod matrices;
mod matrix;
mod near;
mod notes;
mod pairs;
mod precision;
mod refine;
mod residual;
mod rounded;
mod sample;
mod sketch;
mod twins;
mod unusable;

use std::sync::Arc;

use qstore_checkpoint::{Result, Source, SourceArray};
use qstore_container::{ArrayRef, ChunkShape, Encoding, VariantName, View};
use qstore_kernels::Classifier;

use crate::codec::Codec;
use crate::decode::{ArrayReader, GivenReader, Rows};

pub(crate) use bundles::{Bundle, Bundles, is_small, most_bundles};
pub(crate) use choose::Chooser;
pub(crate) use chunk_shape::chunk_of;
pub(crate) use cut::PlannedCut;
pub(crate) use duplicates::Duplicates;
use fit::Fit;
pub(crate) use given::Pair;
pub(crate) use lower::Lower;
pub(crate) use pairs::Pairs;
pub(crate) use precision::{Precision, precisions};
use sample::Sample;
pub(crate) use sample::{chunk_bytes, element_bytes};
pub(crate) use unusable::Unusable;

/// Matrices that an array is given at most, beside what these are themselves given, unless a user says otherwise:
/// docs/benchmarks.md has size against time.
pub(crate) const USUAL_LEVELS: u8 = 3;

/// How one array will be stored.
#[derive(Debug)]
pub(crate) struct PlannedArray {
    /// It.
    pub(crate) array: SourceArray,
    /// How it is cut into chunks.
    pub(crate) chunk: ChunkShape,
    /// What to do with each chunk.
    pub(crate) action: Action,
}

/// What is known of an array when its turn comes.
#[derive(Debug)]
pub(crate) enum Planned {
    /// All.
    Now(Arc<PlannedArray>),
    /// That it needs no other array and is one chunk: whoever codes it also plans it, by [`plan_alone`].
    Later { index: usize, chunk: ChunkShape },
}

/// How the planner has an array stored.
#[derive(Debug)]
pub(crate) enum Plan {
    /// As one.
    Whole(Planned),
    /// By parts, which are yet to be planned.
    Parts(PlannedCut),
}

/// What is done with the chunks of an array.
#[derive(Debug)]
pub(crate) enum Action {
    /// Compare them with another array's, which must be equal.
    Refer { to: ArrayRef, view: View, original: Original },
    /// Keep them in the copied file and record their checksums.
    Keep,
    /// Code them.
    Code(Box<Coding>),
}

impl Action {
    /// Whether the transposed matrix is what is coded.
    pub(crate) fn is_transposed(&self) -> bool {
        matches!(self, Self::Code(coding) if coding.encoding.is_transposed())
    }
}

/// The array that a reference stands for.
#[derive(Debug)]
pub(crate) enum Original {
    /// In a variant below.
    Stored(Arc<ArrayReader>),
    /// A matrix of one there.
    Rows(Box<Rows>),
    /// In this source, by index.
    Own(usize),
}

/// Everything that coding a chunk takes beside its bytes.
#[derive(Debug)]
pub(crate) struct Coding {
    pub(crate) encoding: Encoding,
    pub(crate) codec: Codec,
    pub(crate) classifier: Classifier,
    pub(crate) given: Option<GivenReader>,
    /// The shape of chunks, where they are not of the array's own rows.
    pub(crate) chunk: Option<ChunkShape>,
}

/// Plans an array that needs no other, from all of its bytes.
pub(crate) fn plan_alone(array: &SourceArray, chunk: ChunkShape, bytes: &[u8]) -> Coding {
    Fit::raw().or_better(fit::candidates(array, chunk, &Sample::whole(bytes))).coding
}

/// Plans the arrays of one source, in order.
pub(crate) struct Planner<'a> {
    pub(crate) source: &'a Source,
    /// What it is stored as.
    pub(crate) name: &'a VariantName,
    pub(crate) pairs: Pairs,
    pub(crate) duplicates: Duplicates<'a>,
    pub(crate) bundles: Bundles,
    /// For each array whether it is to be bundled.
    pub(crate) small: &'a [bool],
    /// Matrices that an array is given at most.
    pub(crate) levels: usize,
    /// Whether files are kept as they are.
    pub(crate) verbatim: bool,
    /// Parts that there are so far.
    pub(crate) parts: u32,
}

impl Planner<'_> {
    /// Plans array `index`, which is not small; call it for each array once.
    pub(crate) fn plan(&mut self, index: usize) -> Result<Plan> {
        let array = &self.source.arrays[index];
        let action = if self.verbatim {
            Action::Keep
        } else if let Some(((to, view), original)) = self.duplicates.find(index, &self.pairs)? {
            self.pairs.shares(&array.key);
            Action::Refer { to, view, original }
        } else if let Some(action) = self.chooser().twin(array, self.pairs.twins(&array.key))? {
            self.pairs.shares(&array.key);
            action
        } else if let Some(cut) = self.chooser().cut(index, self.parts)? {
            self.parts = self.parts.saturating_add(u32::try_from(cut.len()).unwrap_or(u32::MAX));
            return Ok(Plan::Parts(cut));
        } else {
            return self.chooser().plan(index).map(Plan::Whole);
        };
        let planned = PlannedArray { array: array.clone(), chunk: chunk_of(array), action };
        Ok(Plan::Whole(Planned::Now(Arc::new(planned))))
    }

    /// Plans part `at` of an array that is stored by parts.
    pub(crate) fn plan_part(&self, cut: &PlannedCut, at: usize) -> Result<PlannedArray> {
        self.chooser().plan_part(cut, at)
    }

    fn chooser(&self) -> Chooser<'_> {
        Chooser { source: self.source, name: self.name, pairs: &self.pairs, levels: self.levels }
    }
}
