//! Deciding how each array of a variant is stored.
//!
//! A [`Planner`] looks at a sample of each array's rows and at the variants below, and returns a [`PlannedArray`]: plain data that, with the
//! array's bytes, determines what is written. Whatever it decides is lossless; a poor decision costs size alone.

mod bundles;
mod codes;
mod duplicates;
mod fit;
mod given;
mod grid;
mod matrix;
mod pairs;
mod residual;
mod sample;

use qstore_container::{ArrayRef, Encoding, Grid, VariantName};
use qstore_kernels::Classifier;

use crate::codec::Codec;
use crate::decode::{ArrayReader, GivenReader};
use crate::error::Result;
use crate::ingest::{Source, SourceArray};
use crate::scheme::{FloatKind, GroupGrid, QuantGroup};

pub(crate) use bundles::{Bundle, Bundles, is_small, most_bundles};
pub(crate) use duplicates::Duplicates;
use fit::Fit;
pub(crate) use given::Pair;
pub(crate) use grid::grid_of;
use matrix::Matrix;
pub(crate) use pairs::Pairs;
use sample::{Sample, fits_one_step};
pub(crate) use sample::{chunk_bytes, element_bytes};

/// Bytes that tell what kind of floats an array has.
const BEGINNING: u64 = 64 << 10;

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
        matches!(self, Self::Code(coding) if coding.encoding.is_transposed())
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
    pub(crate) given: Option<GivenReader>,
    /// The grid, where it is not that of the array's own rows.
    pub(crate) grid: Option<Grid>,
}

/// Plans an array that needs no other, from all of its bytes.
pub(crate) fn plan_alone(array: &SourceArray, grid: Grid, bytes: &[u8]) -> Coding {
    Fit::raw().or_better(fit::candidates(array, grid, &Sample::whole(bytes))).coding
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
        } else if let Some((to, original)) = self.duplicates.find(index, &self.pairs)? {
            Action::Refer { to, original }
        } else if self.stands_alone(array) && fits_one_step(array, grid) {
            return Ok(Planned::Later { index, grid });
        } else {
            Action::Code(Box::new(self.coding(array, grid)?))
        };
        let grid = match &action {
            Action::Code(coding) => coding.grid.unwrap_or(grid),
            _ => grid,
        };
        Ok(Planned::Now(PlannedArray { index, grid, action }))
    }

    /// Whether an array needs no other, and is no matrix of codes whose meaning is known.
    fn stands_alone(&self, array: &SourceArray) -> bool {
        self.pairs.of(&array.key).is_empty() && self.pairs.own(&array.key).is_none()
    }

    /// The cheapest way to code `array`.
    fn coding(&mut self, array: &SourceArray, grid: Grid) -> Result<Coding> {
        let mut best = Fit::raw();
        if !self.pairs.of(&array.key).is_empty()
            && let Some(float) = FloatKind::fitting(array.dtype, &self.beginning(array)?)
        {
            best = best.or_better(self.given_codes(array, float)?);
        }
        if let Some(group) = self.pairs.own(&array.key).cloned() {
            best = best.or_better(self.codes(array, &group)?);
        }
        // Where a residual does this well, no other encoding comes near; do not even try one.
        if !best.is_excellent() && !best.is_packed() {
            let sample = Sample::take(self.source, array, grid)?;
            best = best.or_better(fit::candidates(array, grid, &sample));
        }
        if best.coding.encoding.is_residual() {
            self.pairs.used(&array.key);
        }
        Ok(best.coding)
    }

    /// The first bytes of an array, whole floats.
    fn beginning(&self, array: &SourceArray) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(array.bytes.min(BEGINNING)).unwrap_or(0)];
        self.source.read(array, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Ways to code floats given codes of variants below.
    fn given_codes(&mut self, array: &SourceArray, float: FloatKind) -> Result<Vec<Fit>> {
        let mut fits = Vec::new();
        for pair in self.pairs.of(&array.key).to_vec() {
            for turned in [false, true] {
                let Some(matrix) = Matrix::new(self.source, array, turned) else { continue };
                if matrix.shape() != pair.group.shape {
                    continue;
                }
                let mut fit = residual::fit_bins(&matrix, float, &pair)?;
                // A quantiser that rounds in no known way has moved its weights.
                if fit.as_ref().is_none_or(|fit| !fit.helps()) {
                    match pair.open()? {
                        Ok(given) => fit = residual::fit_steps(&matrix, float, &given)?.or(fit),
                        Err(why) => self.pairs.refuse(&pair, &why),
                    }
                }
                // A square matrix could be either; one that fits is not the other as well.
                let fits_well = fit.as_ref().is_some_and(Fit::is_excellent);
                fits.extend(fit);
                if fits_well {
                    break;
                }
            }
        }
        Ok(fits)
    }

    /// Ways to code the codes of one of the source's own quantised matrices.
    fn codes(&mut self, array: &SourceArray, group: &QuantGroup) -> Result<Vec<Fit>> {
        let bits = match group.grid {
            GroupGrid::LlmInt8 { .. } => None,
            GroupGrid::Gptq { bits, .. } => Some(bits),
        };
        let matrix = match bits {
            None => Matrix::new(self.source, array, false),
            Some(bits) => Matrix::packed(self.source, array, bits),
        };
        let mut fits = Vec::new();
        let Some(matrix) = matrix.filter(|matrix| matrix.shape() == group.shape) else { return Ok(fits) };
        if let Some(bits) = bits {
            fits.extend(codes::fit_packed(&matrix, bits)?);
        }
        let pairs = self.pairs.of(&array.key).to_vec();
        if pairs.is_empty() {
            return Ok(fits);
        }
        let (grid, steps) = match given::open_own(self.source, self.name, group, &matrix.first_codes()?)? {
            Ok(own) => own,
            Err(why) => {
                self.pairs.refuse_own(group, &why);
                return Ok(fits);
            }
        };
        for pair in pairs {
            match pair.open()? {
                Ok(given) => fits.extend(codes::fit_given(&matrix, (&steps, &grid), &given)?),
                Err(why) => self.pairs.refuse(&pair, &why),
            }
        }
        Ok(fits)
    }
}
