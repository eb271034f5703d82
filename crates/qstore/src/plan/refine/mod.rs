//! Codes and floats given what several matrices below say of their weights, fitted to a few chunks.
//!
//! Which matrices: the one that leaves least, then the one that leaves least with it, and so on, while one saves more
//! than a reader's time is worth and there are not more than allowed. Whatever the codes of one are given is among
//! them, so that a reader decodes no others.

mod candidates;
mod factors;
mod stretches;

use qstore_checkpoint::FloatKind;
use qstore_container::{ArrayRef, ChunkShape, CodeLayout, Dequantization, Encoding, KnownMatrix};
use qstore_kernels::{ClassFit, Classifier, Histograms};
use rayon::prelude::*;

use super::Coding;
use super::codes::add_rows;
use super::fit::{Fit, LEAST_SAVING};
use super::given::GivenGroup;
use super::matrix::{CodedMatrix, Part};
use super::unusable::Unusable;
use crate::codec::{
    self, Codec, Factors, GivenOfChunk, GivenWeights, KnownCodes, KnownWeights, OwnBins, Refine,
    RefineFloats, count_near_zero, layout_of, with_workspace,
};
use crate::decode::{GivenReader, Meaning};
use candidates::{Candidate, Chosen, Told, extended};

/// Weights of a chunk on which sets of matrices are tried: there are many sets.
const TRIAL_WEIGHTS: usize = 1 << 15;

/// What is coded.
pub(super) enum Refined<'a> {
    Floats(FloatKind),
    Codes(&'a CodeLayout, OwnBins, &'a Dequantization<ArrayRef>),
}

impl Refined<'_> {
    fn chunk(&self, matrix: &CodedMatrix) -> ChunkShape {
        match self {
            Self::Floats(_) => matrix.chunk,
            Self::Codes(..) => matrix.tiled(),
        }
    }

    fn encoding(&self, matrix: &CodedMatrix, known: Vec<KnownMatrix>) -> Encoding {
        match self {
            Self::Floats(_) => Encoding::RefineFloats { known, transposed: matrix.transposed },
            Self::Codes(layout, _, own) => {
                Encoding::Refine { known, own: Box::new((*own).clone()), layout: (*layout).clone() }
            }
        }
    }
}

/// Codes `matrix` given at most `most` of `groups`, which come in the order of their variants.
///
/// # Errors
/// Why it cannot be.
pub(super) fn fit(
    matrix: &CodedMatrix,
    refined: &Refined,
    groups: &[GivenGroup],
    most: usize,
) -> Result<Option<Fit>, Unusable> {
    let mut candidates = Candidate::all(matrix, refined, groups)?;
    if candidates.is_empty() {
        return Ok(None);
    }
    let of = candidates.len();
    let codes = candidates.iter().map(|one| Ok((one.group.codes()?, one.group.values.zero_code())));
    let parts = matrix.given_parts(&codes.collect::<Result<Vec<_>, Unusable>>()?)?;
    let trial: Vec<Part> = parts.iter().map(|part| part.beginning(matrix, TRIAL_WEIGHTS, of)).collect();
    if let Refined::Floats(float) = refined {
        for (index, candidate) in candidates.iter_mut().enumerate() {
            if candidate.look_at(&trial, *float, (index, of))
                && let Some(factors) = factors::find(matrix, *float, candidate.group, &parts, (index, of))?
            {
                candidate.multiply(factors, &trial, *float, (index, of));
            }
        }
    }
    let candidates = candidates;
    let set = |chosen: &Chosen| Set::new(&candidates, chosen, refined);
    let weights: usize = trial.iter().map(|part| part.weights(matrix)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a threshold")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a threshold")]
    let saving = (weights as f64 * LEAST_SAVING / 8.0) as u64;
    let mut best: Option<(u64, Chosen)> = None;
    loop {
        let mut better: Option<(u64, Chosen)> = None;
        for index in (0..of).filter(|index| candidates[*index].tells()) {
            for chosen in extended(&candidates, best.as_ref().map(|(_, chosen)| chosen), index, most) {
                let Some(stored) = set(&chosen).stored(matrix, refined, &trial) else { continue };
                if better.as_ref().is_none_or(|(least, _)| stored.bytes < *least) {
                    better = Some((stored.bytes, chosen));
                }
            }
        }
        match (better, &best) {
            (Some((bytes, chosen)), Some((least, _))) if bytes + saving < *least => {
                best = Some((bytes, chosen));
            }
            (Some(first), None) => best = Some(first),
            _ => break,
        }
    }
    let Some((_, chosen)) = best else { return Ok(None) };
    let set = set(&chosen);
    let Some(Stored { bytes, codec, classifier }) = set.stored(matrix, refined, &parts) else {
        return Ok(None);
    };
    let known = chosen.iter().map(|(index, told)| candidates[*index].in_plan(told.as_ref())).collect();
    let read: Vec<&Candidate> = set.read.iter().map(|index| &candidates[*index]).collect();
    let readers = read.iter().map(|one| one.group.codes()).collect::<Result<Vec<_>, _>>()?;
    let fills = read.iter().map(|one| one.group.values.zero_code()).collect();
    let coding = Coding {
        encoding: refined.encoding(matrix, known),
        codec,
        classifier,
        given: Some(GivenReader::new(readers, Meaning::Weights(Box::new(set.known)), fills)),
        chunk: Some(refined.chunk(matrix)),
    };
    Ok(Some(Fit { coding, stored: bytes, of: parts.iter().map(|part| part.raw.len() as u64).sum() }))
}

/// Some candidates of `of`, with what they tell.
struct Set {
    known: KnownWeights,
    /// Those whose codes are read.
    read: Vec<usize>,
    of: usize,
    /// Whether it is stored between which distances from a code's level weights lie, and the factors of that matrix.
    is_around: bool,
    factors: Option<Factors>,
}

/// What a few chunks become.
struct Stored {
    bytes: u64,
    codec: Codec,
    classifier: Classifier,
}

impl Set {
    fn new(candidates: &[Candidate], chosen: &Chosen, refined: &Refined) -> Self {
        let telling = chosen.iter().filter_map(|(index, told)| Some((*index, told.as_ref()?)));
        let known = telling.clone().filter_map(|(index, told)| candidates[index].known(told));
        let own = match refined {
            Refined::Floats(_) => None,
            Refined::Codes(_, own, _) => Some(own.clone()),
        };
        Self {
            known: KnownWeights::new(known.collect(), own),
            read: telling.clone().map(|(index, _)| index).collect(),
            of: candidates.len(),
            is_around: telling.clone().any(|(_, told)| Told::is_around(told)),
            factors: telling
                .clone()
                .find(|(_, told)| told.is_around())
                .and_then(|(index, _)| candidates[index].factors.clone()),
        }
    }

    /// What parts that have the codes of all candidates take, and how. `None` if they cannot be coded so.
    fn stored(&self, matrix: &CodedMatrix, refined: &Refined, parts: &[Part]) -> Option<Stored> {
        let given: Vec<Vec<u8>> = parts.iter().map(|part| part.codes_of(&self.read, self.of)).collect();
        let of_each = |given: &Vec<u8>| (given.len() / self.read.len().max(1)).max(1);
        let codes: Vec<Vec<_>> =
            given.iter().map(|given| given.chunks(of_each(given)).map(KnownCodes::Read).collect()).collect();
        let columns = (0, usize::try_from(matrix.shape()[1]).ok()?);
        let weights = |index: usize| GivenWeights {
            codes: &codes[index],
            first_row: parts[index].rows.start,
            columns,
            known: &self.known,
            factors: self.factors.as_ref(),
        };
        let mut classifier = Classifier::single();
        let codec = match refined {
            Refined::Codes(layout, ..) => {
                Codec::Refine(Refine::new(layout, layout_of(refined.chunk(matrix))))
            }
            Refined::Floats(float) => {
                let (mut near_zero, mut histograms) = ([0; 256], Histograms::default());
                for (index, part) in parts.iter().enumerate() {
                    let mut symbols = Vec::new();
                    if self.is_around {
                        symbols = codec::stretches(*float, &part.raw, weights(index))?;
                        add_rows(&mut histograms, &symbols, matrix.cols());
                    }
                    count_near_zero(*float, &part.raw, weights(index), &symbols, &mut near_zero).ok()?;
                }
                let classes =
                    self.is_around.then(|| ClassFit::new(&histograms, matrix.rows_per_sampled(parts)));
                let tables = classes.map(|classes| {
                    classifier = classes.classifier;
                    classes.tables
                });
                let fitted = RefineFloats::fit(*float, &near_zero, tables, layout_of(matrix.chunk)).ok()?;
                Codec::RefineFloats(fitted.with_factors(self.factors.clone()))
            }
        };
        let encode = |(index, part): (usize, &Part)| {
            let given = GivenOfChunk::Weights(weights(index));
            let coded = with_workspace(|workspace| {
                codec.encode(&part.raw, matrix.cols(), &classifier, given, workspace)
            });
            Some(coded?.len() as u64)
        };
        let bytes = parts.par_iter().enumerate().map(encode).sum::<Option<u64>>()?;
        Some(Stored { bytes, codec, classifier })
    }
}
