//! The cheapest way to code one array by itself or given what its [`Pairs`] offer.

use std::sync::Arc;

use qstore_checkpoint::{FloatKind, Result, Source, SourceArray};
use qstore_container::{ArrayKey, ChunkShape, CodeLayout, VariantName, View, Why};

use super::fit::{self, Fit};
use super::matrix::CodedMatrix;
use super::sample::{Sample, fits_one_step};
use super::unusable::Unusable;
use super::{Action, Pair, Pairs, Planned, PlannedArray, chunk_of, codes, given, residual};
use crate::formats::QuantGroup;

/// Bytes that tell what kind of floats an array has.
const BEGINNING: u64 = 64 << 10;

/// Chooses for the arrays of one source, in any order.
pub(crate) struct Chooser<'a> {
    pub(crate) source: &'a Source,
    /// What it is stored as.
    pub(crate) name: &'a VariantName,
    pub(crate) pairs: &'a Pairs,
}

/// What an array may be given.
pub(super) struct Offers<'a> {
    /// What notes call it: itself, or what it is a part of.
    pub(super) key: &'a ArrayKey,
    pub(super) pairs: &'a [Pair],
    /// What its own codes are.
    pub(super) own: Option<&'a QuantGroup>,
}

impl Chooser<'_> {
    /// Plans array `index`, which equals no other.
    pub(crate) fn plan(&self, index: usize) -> Result<Planned> {
        let array = &self.source.arrays[index];
        let chunk = chunk_of(array);
        if self.is_unpaired(array) && fits_one_step(array, chunk) {
            return Ok(Planned::Later { index, chunk });
        }
        let (pairs, own) = (self.pairs.of(&array.key), self.pairs.own(&array.key));
        let fit = self.fit(array, chunk, &Offers { key: &array.key, pairs, own })?;
        let coding = Box::new(fit.coding);
        if coding.encoding.is_residual() {
            self.pairs.shares(&array.key);
        }
        let chunk = coding.chunk.unwrap_or(chunk);
        let planned = PlannedArray { array: array.clone(), chunk, action: Action::Code(coding) };
        Ok(Planned::Now(Arc::new(planned)))
    }

    /// Whether an array needs no other, and is no matrix of codes whose meaning is known.
    fn is_unpaired(&self, array: &SourceArray) -> bool {
        !self.pairs.is_paired(&array.key)
    }

    /// The cheapest way to code `array`.
    pub(super) fn fit(&self, array: &SourceArray, chunk: ChunkShape, offers: &Offers) -> Result<Fit> {
        let mut best = Fit::raw();
        if !offers.pairs.is_empty()
            && let Some(float) = FloatKind::fitting(array.dtype, &self.beginning(array)?)
        {
            best = best.or_better(self.given_codes(array, float, offers)?);
        }
        if let Some(group) = offers.own {
            best = best.or_better(self.codes(array, group, offers)?);
        }
        // Where a residual does this well, no other encoding comes near; do not even try one.
        if !best.is_excellent() && !best.is_packed() {
            let sample = Sample::take(self.source, array, chunk)?;
            best = best.or_better(fit::candidates(array, chunk, &sample));
        }
        Ok(best)
    }

    /// The first bytes of an array, whole floats.
    fn beginning(&self, array: &SourceArray) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(array.bytes.min(BEGINNING)).unwrap_or(0)];
        self.source.read(array, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Ways to code floats given codes of variants below.
    fn given_codes(&self, array: &SourceArray, float: FloatKind, offers: &Offers) -> Result<Vec<Fit>> {
        let mut fits = Vec::new();
        for pair in offers.pairs {
            let likely = pair.is_transposed(&array.shape);
            for transposed in [likely, !likely] {
                let Some(matrix) = CodedMatrix::weights(self.source, array, transposed) else { continue };
                if !pair.could_be(matrix.shape()) {
                    continue;
                }
                let fit = match self.given_matrix(&matrix, float, pair) {
                    Ok(fit) => fit,
                    Err(Unusable::Because(what)) => {
                        self.pairs.refuse(offers.key, pair, Why::Unusable { what });
                        break;
                    }
                    Err(Unusable::Failed(error)) => return Err(error),
                };
                // A square matrix could be either; one that fits is not the other as well.
                let is_decided = fit.as_ref().is_some_and(Fit::is_excellent);
                fits.extend(fit);
                if is_decided {
                    break;
                }
            }
        }
        Ok(fits)
    }

    /// A way to code floats given a matrix of codes.
    ///
    /// # Errors
    /// Why there is none.
    fn given_matrix(
        &self,
        matrix: &CodedMatrix,
        float: FloatKind,
        pair: &Pair,
    ) -> Result<Option<Fit>, Unusable> {
        let likeliest = pair.open(matrix.shape())?;
        let parts = matrix.given_parts(&likeliest.codes()?, likeliest.values.zero_code())?;
        let fit = residual::fit_bins(matrix, float, &pair.open_all(matrix.shape())?, &parts)?;
        if fit.as_ref().is_some_and(Fit::helps) {
            return Ok(fit);
        }
        // A quantiser that rounds in no known way has moved its weights.
        Ok(residual::fit_steps(matrix, float, &likeliest, &parts)?.or(fit))
    }

    /// Ways to code the codes of one of the source's own quantised matrices.
    fn codes(&self, array: &SourceArray, group: &QuantGroup, offers: &Offers) -> Result<Vec<Fit>> {
        let mut fits = Vec::new();
        let field = &group.matrix().codes;
        let layout =
            CodeLayout { transposed: field.view == View::TRANSPOSED, packing: field.packing.clone() };
        let is_all = layout.is_of(field);
        let matrix = CodedMatrix::codes(self.source, array, layout.clone());
        let Some(matrix) = matrix.filter(|matrix| is_all && matrix.shape() == group.shape()) else {
            return Ok(fits);
        };
        if layout.packing.is_some() {
            fits.extend(codes::fit_packed(&matrix, &layout)?);
        }
        if offers.pairs.is_empty() {
            return Ok(fits);
        }
        let sample = matrix.first_codes()?;
        let (description, own) = match given::open_own(self.source, self.name, group, &sample) {
            Ok(own) => own,
            Err(Unusable::Because(why)) => {
                self.pairs.refuse_own(group, &why);
                return Ok(fits);
            }
            Err(Unusable::Failed(error)) => return Err(error),
        };
        for pair in offers.pairs {
            let given = pair.open(matrix.shape());
            let fit =
                given.and_then(|given| codes::fit_given(&matrix, &layout, (&own, &description), &given));
            match fit {
                Ok(fit) => fits.push(fit),
                Err(Unusable::Because(what)) => self.pairs.refuse(offers.key, pair, Why::Unusable { what }),
                Err(Unusable::Failed(error)) => return Err(error),
            }
        }
        Ok(fits)
    }
}
