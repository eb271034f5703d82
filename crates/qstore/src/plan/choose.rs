//! The cheapest way to code one array by itself or given what its [`Pairs`] offer.

use qstore_container::{Grid, VariantName, Why};

use super::fit::{self, Fit};
use super::matrix::Matrix;
use super::sample::{Sample, fits_one_step};
use super::{Action, Coding, Pairs, Planned, PlannedArray, codes, given, grid_of, residual};
use crate::error::Result;
use crate::ingest::{Source, SourceArray};
use crate::scheme::{FloatKind, GroupGrid, QuantGroup};

/// Bytes that tell what kind of floats an array has.
const BEGINNING: u64 = 64 << 10;

/// Chooses for the arrays of one source, in any order.
pub(crate) struct Chooser<'a> {
    pub(crate) source: &'a Source,
    /// What it is stored as.
    pub(crate) name: &'a VariantName,
    pub(crate) pairs: &'a Pairs,
}

impl Chooser<'_> {
    /// Plans array `index`, which equals no other.
    pub(crate) fn plan(&self, index: usize) -> Result<Planned> {
        let array = &self.source.arrays[index];
        let grid = grid_of(array);
        if self.is_unpaired(array) && fits_one_step(array, grid) {
            return Ok(Planned::Later { index, grid });
        }
        let coding = Box::new(self.coding(array, grid)?);
        let grid = coding.grid.unwrap_or(grid);
        Ok(Planned::Now(PlannedArray { index, grid, action: Action::Code(coding) }))
    }

    /// Whether an array needs no other, and is no matrix of codes whose meaning is known.
    fn is_unpaired(&self, array: &SourceArray) -> bool {
        !self.pairs.is_paired(&array.key)
    }

    /// The cheapest way to code `array`.
    fn coding(&self, array: &SourceArray, grid: Grid) -> Result<Coding> {
        let mut best = Fit::raw();
        if !self.pairs.of(&array.key).is_empty()
            && let Some(float) = FloatKind::fitting(array.dtype, &self.beginning(array)?)
        {
            best = best.or_better(self.given_codes(array, float)?);
        }
        if let Some(group) = self.pairs.own(&array.key) {
            best = best.or_better(self.codes(array, group)?);
        }
        // Where a residual does this well, no other encoding comes near; do not even try one.
        if !best.is_excellent() && !best.is_packed() {
            let sample = Sample::take(self.source, array, grid)?;
            best = best.or_better(fit::candidates(array, grid, &sample));
        }
        if best.coding.encoding.is_residual() {
            self.pairs.shares(&array.key);
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
    fn given_codes(&self, array: &SourceArray, float: FloatKind) -> Result<Vec<Fit>> {
        let mut fits = Vec::new();
        for pair in self.pairs.of(&array.key) {
            for turned in [false, true] {
                let Some(matrix) = Matrix::new(self.source, array, turned) else { continue };
                if matrix.shape() != pair.group.shape {
                    continue;
                }
                let mut fit = residual::fit_bins(&matrix, float, pair)?;
                let mut refused = None;
                // A quantiser that rounds in no known way has moved its weights.
                if fit.as_ref().is_none_or(|fit| !fit.helps()) {
                    match pair.open()? {
                        Ok(given) if given.steps.stride().is_none() => refused = Some(Why::UnevenGroups),
                        Ok(given) => fit = residual::fit_steps(&matrix, float, &given)?.or(fit),
                        Err(what) => refused = Some(Why::Unusable { what }),
                    }
                }
                // A square matrix could be either; one that fits is not the other as well.
                let is_decided = refused.is_some() || fit.as_ref().is_some_and(Fit::is_excellent);
                fits.extend(fit);
                if let Some(why) = refused {
                    self.pairs.refuse(&array.key, pair, why);
                }
                if is_decided {
                    break;
                }
            }
        }
        Ok(fits)
    }

    /// Ways to code the codes of one of the source's own quantised matrices.
    fn codes(&self, array: &SourceArray, group: &QuantGroup) -> Result<Vec<Fit>> {
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
        let pairs = self.pairs.of(&array.key);
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
                Ok(given) => match codes::fit_given(&matrix, (&steps, &grid), &given)? {
                    Some(fit) => fits.push(fit),
                    None => {
                        let what = "its codes lie in chunks of other rows".to_owned();
                        self.pairs.refuse(&array.key, pair, Why::Unusable { what });
                    }
                },
                Err(what) => self.pairs.refuse(&array.key, pair, Why::Unusable { what }),
            }
        }
        Ok(fits)
    }
}
