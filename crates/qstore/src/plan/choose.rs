//! The cheapest way to code one array by itself or given what its [`Pairs`] offer.

use std::sync::Arc;

use qstore_checkpoint::{FloatKind, Result, Source, SourceArray};
use qstore_container::{ArrayKey, ChunkShape, CodeLayout, VariantName, Why};

use super::fit::{self, Fit};
use super::given::GivenGroup;
use super::matrix::CodedMatrix;
use super::refine::Refined;
use super::rounded::FloatPair;
use super::sample::{Sample, element_bytes, fits_one_step};
use super::unusable::Unusable;
use super::{Action, Pair, Pairs, Planned, PlannedArray, chunk_of, codes, given, near, refine, residual};
use crate::codec::OwnBins;
use crate::formats::QuantGroup;

/// Bytes that tell what kind of floats an array has.
const BEGINNING: u64 = 64 << 10;

/// Chooses for the arrays of one source, in any order.
pub(crate) struct Chooser<'a> {
    pub(crate) source: &'a Source,
    /// What it is stored as.
    pub(crate) name: &'a VariantName,
    pub(crate) pairs: &'a Pairs,
    /// Matrices that an array may be given at most.
    pub(crate) levels: usize,
}

/// What an array may be given.
pub(super) struct Offers<'a> {
    /// What notes call it: itself, or what it is a part of.
    pub(super) key: &'a ArrayKey,
    pub(super) pairs: &'a [Pair],
    /// What its codes may be given.
    pub(super) floats: &'a [FloatPair],
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
        let floats = self.pairs.floats(&array.key);
        let fit = self.fit(array, chunk, &Offers { key: &array.key, pairs, floats, own })?;
        let coding = Box::new(fit.coding);
        if coding.encoding.is_given() {
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
            best = self.given_bins(array, float, offers, best)?;
        }
        if let Some(group) = offers.own {
            best = self.codes(array, group, offers, best)?;
        }
        // Where a residual does this well, no other encoding comes near; do not even try one.
        if !best.is_excellent() && !best.is_packed() {
            let sample = Sample::take(self.source, array, chunk)?;
            best = best.or_better(fit::candidates(array, chunk, &sample));
        }
        if near::is_worthwhile(self.pairs, array)
            && let Some(matrix) = CodedMatrix::weights(self.source, array, false)
        {
            best = near::or_near(best, &matrix, self.pairs.scales(&array.key))?;
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

    /// The better of `best` and a way to code floats given the bins of several matrices below.
    fn given_bins(
        &self,
        array: &SourceArray,
        float: FloatKind,
        offers: &Offers,
        mut best: Fit,
    ) -> Result<Fit> {
        for transposed in [false, true] {
            let Some(matrix) = CodedMatrix::weights(self.source, array, transposed) else { continue };
            let groups = groups_for(&matrix, offers)?;
            let fit = refine::fit(&matrix, &Refined::Floats(float), &groups, self.levels);
            best = best.or_refined(Unusable::skip(fit)?.flatten(), element_bytes(array) * 8);
        }
        Ok(best)
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
        let parts = matrix.given_parts(&[(likeliest.codes()?, likeliest.values.zero_code())])?;
        if let Some(fit) = residual::fit_values(matrix, float, &likeliest, &parts)? {
            return Ok(Some(fit));
        }
        let fit = residual::fit_bins(matrix, float, &pair.open_all(matrix.shape())?, &parts)?;
        if fit.as_ref().is_some_and(Fit::helps) {
            return Ok(fit);
        }
        // A quantiser that rounds in no known way has moved its weights.
        Ok(residual::fit_steps(matrix, float, &likeliest, &parts)?.or(fit))
    }

    /// The best of `best` and the ways to code the codes of one of the source's own quantised matrices.
    fn codes(&self, array: &SourceArray, group: &QuantGroup, offers: &Offers, best: Fit) -> Result<Fit> {
        let field = &group.matrix().codes;
        let Some(layout) = CodeLayout::of(field) else { return Ok(best) };
        let matrix = CodedMatrix::codes(self.source, array, layout.clone());
        let Some(matrix) = matrix.filter(|matrix| matrix.shape() == group.shape()) else { return Ok(best) };
        let mut fits = Vec::new();
        if layout.packing.is_some() {
            fits.extend(codes::fit_packed(&matrix, &layout)?);
        }
        if offers.pairs.is_empty() && offers.floats.is_empty() {
            return Ok(best.or_better(fits));
        }
        let sample = matrix.first_codes()?;
        let (description, own) = match given::open_own(self.source, self.name, group, &sample) {
            Ok(own) => own,
            Err(Unusable::Because(why)) => {
                self.pairs.refuse_own(group, &why);
                return Ok(best.or_better(fits));
            }
            Err(Unusable::Failed(error)) => return Err(error),
        };
        for floats in offers.floats {
            let fit = floats.fit(&matrix, &layout, (&own, &description));
            fits.extend(Unusable::skip(fit)?.flatten());
        }
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
        let best = best.or_better(fits);
        let Some(own) = own.rule().and_then(|_| OwnBins::new(own)) else { return Ok(best) };
        let refined = Refined::Codes(&layout, own, &description);
        let fit = refine::fit(&matrix, &refined, &groups_for(&matrix, offers)?, self.levels);
        Ok(best.or_refined(Unusable::skip(fit)?.flatten(), layout.bits().into()))
    }
}

/// The matrices below that may be `matrix`, opened.
fn groups_for<'a>(matrix: &CodedMatrix, offers: &Offers<'a>) -> Result<Vec<GivenGroup<'a>>> {
    let alike = offers.pairs.iter().filter(|pair| {
        let is_square = matrix.shape()[0] == matrix.shape()[1];
        pair.could_be(matrix.shape()) && (is_square || pair.group.shape() == matrix.shape())
    });
    let opened = alike.map(|pair| Unusable::skip(pair.open(matrix.shape())));
    Ok(opened.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
