//! Codes and floats given what several matrices below say of their weights, fitted to a few chunks.
//!
//! Which matrices: the one that leaves least, then the one that leaves least with it, and so on, while one saves more
//! than a reader's time is worth and there are not more than allowed. Whatever the codes of one are given is among them, so
//! that a reader decodes no others.

use qstore_checkpoint::FloatKind;
use qstore_container::{ArrayRef, ChunkShape, CodeLayout, Dequantization, Encoding, Finite, KnownMatrix};
use qstore_kernels::Classifier;
use rayon::prelude::*;

use super::Coding;
use super::fit::{Fit, LEAST_SAVING};
use super::given::GivenGroup;
use super::matrix::{CodedMatrix, Part};
use super::unusable::Unusable;
use crate::codec::{
    Codec, GivenOfChunk, GivenWeights, KnownBins, KnownCodes, KnownWeights, OwnBins, Refine, RefineFloats,
    count_wide, layout_of, with_workspace,
};
use crate::decode::{GivenReader, Meaning};

/// Weights of a chunk on which sets of matrices are tried: there are many sets.
const TRIAL_WEIGHTS: usize = 1 << 15;
/// How many steps beyond the outermost levels their bins may end: where another level would begin, or at the levels
/// themselves, as the greatest weight became the greatest level, or far beyond, as weights were cut off.
const STEPS_BEYOND: [f32; 3] = [0.5, 0.0, 8.0];

/// A matrix below that may be among those that an array is given.
struct Candidate<'a> {
    group: &'a GivenGroup<'a>,
    /// `None` if its codes say nothing of their weights.
    bins: Option<KnownBins>,
    /// Where its bins may end. What others take for it, since readers can then decode the codes of both in step.
    ends: Vec<[f32; 2]>,
    /// The candidates that its codes are given, which come before it.
    needs: Vec<usize>,
}

/// Those of some candidates that are chosen, each with the levels at which its bins end, if it says anything.
type Chosen = Vec<(usize, Option<[f32; 2]>)>;

/// What is coded.
pub(super) enum Refined<'a> {
    Floats(FloatKind),
    Codes(&'a CodeLayout, OwnBins, &'a Dequantization<ArrayRef>),
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
    let candidates = candidates(matrix, refined, groups)?;
    if candidates.iter().all(|candidate| candidate.bins.is_none()) {
        return Ok(None);
    }
    let codes = candidates.iter().map(|one| Ok((one.group.codes()?, one.group.values.zero_code())));
    let parts = matrix.given_parts(&codes.collect::<Result<Vec<_>, Unusable>>()?)?;
    let trial: Vec<Part> =
        parts.iter().map(|part| part.beginning(matrix, TRIAL_WEIGHTS, candidates.len())).collect();
    let weights: usize = trial.iter().map(|part| part.weights(matrix)).sum();
    let try_on = |parts: &[Part], chosen: &Chosen| {
        let known = known_of(&candidates, chosen, refined);
        stored(matrix, refined, parts, &known, (&saying(chosen), candidates.len()))
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a threshold"
    )]
    let saving = (weights as f64 * LEAST_SAVING / 8.0) as u64;
    let mut best: Option<(u64, Chosen)> = None;
    loop {
        let mut better: Option<(u64, Chosen)> = None;
        for index in 0..candidates.len() {
            for chosen in extended(&candidates, best.as_ref().map(|(_, chosen)| chosen), index, most) {
                let Some((bytes, _)) = try_on(&trial, &chosen) else { continue };
                if better.as_ref().is_none_or(|(least, _)| bytes < *least) {
                    better = Some((bytes, chosen));
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
    let Some((bytes, codec)) = try_on(&parts, &chosen) else { return Ok(None) };
    let encoding = encoding(matrix, refined, known_in_plan(&candidates, &chosen));
    let of_chosen: Vec<&Candidate> = saying(&chosen).iter().map(|index| &candidates[*index]).collect();
    let readers = of_chosen.iter().map(|one| one.group.codes()).collect::<Result<Vec<_>, _>>()?;
    let fills = of_chosen.iter().map(|one| one.group.values.zero_code()).collect();
    let known = known_of(&candidates, &chosen, refined);
    let coding = Coding {
        encoding,
        codec,
        classifier: Classifier::single(),
        given: Some(GivenReader::new(readers, Meaning::Weights(Box::new(known)), fills)),
        chunk: Some(chunk_of(matrix, refined)),
    };
    Ok(Some(Fit { coding, stored: bytes, of: parts.iter().map(|part| part.raw.len() as u64).sum() }))
}

/// The matrices of which readers accept that `matrix` is given them.
fn candidates<'a>(
    matrix: &CodedMatrix,
    refined: &Refined,
    groups: &'a [GivenGroup],
) -> Result<Vec<Candidate<'a>>, Unusable> {
    let mut found: Vec<(ArrayRef, Candidate)> = Vec::new();
    for group in groups {
        let (lower, key) = (&group.pair.lower, &group.matrix.codes.array);
        let (source, given) = lower.source_and_given(key)?;
        let place = |array: &ArrayRef| found.iter().position(|(known, _)| known == array);
        let needs: Option<Vec<usize>> = given.iter().map(|(array, _)| place(array)).collect();
        let Some(needs) = needs.filter(|_| place(&source).is_none()) else { continue };
        for (index, (_, ends)) in needs.iter().zip(&given) {
            if let Some(ends) = ends {
                found[*index].1.ends = vec![ends.map(Finite::get)];
            }
        }
        let encoding = encoding(matrix, refined, Vec::new());
        let is_aligned = matches!(refined, Refined::Floats(_))
            || lower.chunks_align(key, &matrix.as_stored(chunk_of(matrix, refined), &encoding))?;
        if !is_aligned {
            continue;
        }
        let rounds = group.values.rule().is_some();
        let bins = KnownBins::new(group.values.clone(), group.matrix.shape, [0.0; 2]).filter(|_| rounds);
        let beyond = |bins: &KnownBins| STEPS_BEYOND.iter().map(|steps| bins.beyond(*steps)).collect();
        let ends = bins.as_ref().map(beyond).unwrap_or_default();
        found.push((source, Candidate { group, bins, ends, needs }));
    }
    Ok(found.into_iter().map(|(_, candidate)| candidate).collect())
}

fn chunk_of(matrix: &CodedMatrix, refined: &Refined) -> ChunkShape {
    match refined {
        Refined::Floats(_) => matrix.chunk,
        Refined::Codes(..) => matrix.tiled(),
    }
}

/// Every way to choose one more of at most `most`, together with what its codes need.
fn extended(candidates: &[Candidate], chosen: Option<&Chosen>, index: usize, most: usize) -> Vec<Chosen> {
    let chosen = chosen.cloned().unwrap_or_default();
    if chosen.iter().any(|(known, ends)| *known == index && ends.is_some()) {
        return Vec::new();
    }
    let mut with: Chosen = chosen.into_iter().filter(|(known, _)| *known != index).collect();
    let mut left = candidates[index].needs.clone();
    while let Some(needed) = left.pop() {
        if with.iter().all(|(known, _)| *known != needed) {
            // What has to be decoded anyway may as well tell what it knows.
            with.push((needed, candidates[needed].ends.first().copied()));
            left.extend(&candidates[needed].needs);
        }
    }
    if with.len() >= most {
        return Vec::new();
    }
    let ending = candidates[index].ends.iter().map(|ends| {
        let mut all = with.clone();
        all.push((index, Some(*ends)));
        all.sort_unstable_by_key(|(index, _)| *index);
        all
    });
    ending.collect()
}

/// Those that say something.
fn saying(chosen: &Chosen) -> Vec<usize> {
    chosen.iter().filter(|(_, ends)| ends.is_some()).map(|(index, _)| *index).collect()
}

fn known_of(candidates: &[Candidate], chosen: &Chosen, refined: &Refined) -> KnownWeights {
    let bins =
        chosen.iter().filter_map(|(index, ends)| Some(candidates[*index].bins.as_ref()?.ending((*ends)?)));
    let own = match refined {
        Refined::Floats(_) => None,
        Refined::Codes(_, own, _) => Some(own.clone()),
    };
    KnownWeights::new(bins.collect(), own)
}

fn known_in_plan(candidates: &[Candidate], chosen: &Chosen) -> Vec<KnownMatrix> {
    let of = |(index, ends): &(usize, Option<[f32; 2]>)| KnownMatrix {
        matrix: candidates[*index].group.in_plan(),
        ends: ends.and_then(|[least, most]| Some([least.try_into().ok()?, most.try_into().ok()?])),
    };
    chosen.iter().map(of).collect()
}

fn encoding(matrix: &CodedMatrix, refined: &Refined, known: Vec<KnownMatrix>) -> Encoding {
    match refined {
        Refined::Floats(_) => Encoding::RefineFloats { known, transposed: matrix.transposed },
        Refined::Codes(layout, _, own) => {
            Encoding::Refine { known, own: Box::new((*own).clone()), layout: (*layout).clone() }
        }
    }
}

/// What the parts take, of whose `of` matrices these are given, and the codec. `None` if they cannot be coded so.
fn stored(
    matrix: &CodedMatrix,
    refined: &Refined,
    parts: &[Part],
    known: &KnownWeights,
    (saying, of): (&[usize], usize),
) -> Option<(u64, Codec)> {
    let given: Vec<Vec<u8>> = parts.iter().map(|part| part.codes_of(saying, of)).collect();
    let columns = (0, usize::try_from(matrix.shape()[1]).ok()?);
    let of_each = |given: &Vec<u8>| (given.len() / saying.len().max(1)).max(1);
    let codes: Vec<Vec<_>> =
        given.iter().map(|given| given.chunks(of_each(given)).map(KnownCodes::Read).collect()).collect();
    let weights = |index: usize| GivenWeights {
        codes: &codes[index],
        first_row: parts[index].rows.start,
        columns,
        known,
    };
    let codec = match refined {
        Refined::Codes(layout, ..) => {
            Codec::Refine(Refine::new(layout, layout_of(chunk_of(matrix, refined))))
        }
        Refined::Floats(float) => {
            let mut wide = [0; 256];
            for (index, part) in parts.iter().enumerate() {
                count_wide(*float, &part.raw, weights(index), &mut wide).ok()?;
            }
            Codec::RefineFloats(RefineFloats::fit(*float, &wide, layout_of(matrix.chunk)))
        }
    };
    let encode = |(index, part): (usize, &Part)| {
        let given = GivenOfChunk::Weights(weights(index));
        let coded = with_workspace(|workspace| {
            codec.encode(&part.raw, matrix.cols(), &Classifier::single(), given, workspace)
        });
        Some(coded?.len() as u64)
    };
    let bytes = parts.par_iter().enumerate().map(encode).sum::<Option<u64>>()?;
    Some((bytes, codec))
}
