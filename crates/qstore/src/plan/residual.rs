//! Floats given the codes of a quantised matrix below, fitted to a few chunks.

use qstore_checkpoint::{FloatKind, Result};
use qstore_container::Encoding;
use qstore_kernels::{ClassFit, Classifier, Histograms, Rows, SymbolTable, code_bucket};
use rayon::prelude::*;

use super::Coding;
use super::fit::Fit;
use super::given::GivenGroup;
use super::matrix::{CodedMatrix, Part};
use super::unusable::Unusable;
use crate::codec::{
    Bins, Codec, Expected, GivenBins, GivenOfChunk, GivenSubdivisions, GivenValues, Near, Residual,
    StepResidual, Subdivisions, count_zeros, layout_of, split, with_workspace,
};
use crate::decode::{GivenReader, MatrixReader, Meaning};
use crate::quant::{Dequantizer, LevelKind};

/// The residual of `matrix` given the codes of one of these, which are the same with different rules: that whose rule
/// fits best. `None` if no code follows from its weight alone.
pub(super) fn fit_bins(
    matrix: &CodedMatrix,
    float: FloatKind,
    given: &[GivenGroup],
    parts: &[Part],
) -> Result<Option<Fit>> {
    let mut best: Option<(Trial, Residual, &GivenGroup)> = None;
    for group in given {
        let Some(bins) = Bins::new(&group.values, float) else { continue };
        let mut zeros = [0; 256];
        for part in parts {
            count_zeros(float, &part.raw, of_part(part, &bins), &mut zeros);
        }
        let Ok(residual) = Residual::fit(float, &zeros, layout_of(matrix.chunk)) else { continue };
        let tried = try_bins(parts, &residual, &bins);
        let exceptions = tried.exceptions;
        if best.as_ref().is_none_or(|(least, ..)| tried.stored < least.stored) {
            best = Some((tried, residual, group));
        }
        if exceptions == 0 {
            break;
        }
    }
    let Some((tried, residual, group)) = best else { return Ok(None) };
    let (Some(codes), Some(bins)) = (Unusable::skip(group.codes())?, Bins::new(&group.values, float)) else {
        return Ok(None);
    };
    let coding = Coding {
        encoding: Encoding::Residual { given: Box::new(group.in_plan()), transposed: matrix.transposed },
        codec: Codec::Residual(residual),
        classifier: Classifier::single(),
        given: Some(GivenReader::new(vec![codes], Meaning::Bins(bins), vec![group.values.zero_code()])),
        chunk: Some(matrix.chunk),
    };
    Ok(Some(Fit { coding, stored: tried.stored, of: tried.of }))
}

/// Weights that tell whether floats were made of codes.
const WEIGHTS_THAT_TELL: usize = 1 << 12;
/// How many times smaller they become then.
const TELLING: u64 = 8;

/// The floats of `matrix` as what codes stand for. `None` unless they were made of them.
pub(super) fn fit_values(
    matrix: &CodedMatrix,
    float: FloatKind,
    given: &GivenGroup,
    parts: &[Part],
) -> Result<Option<Fit>> {
    let near = Near::new(float);
    let stored = |part: &Part| {
        let of_part = GivenValues { codes: &part.codes, first_row: part.rows.start, values: &given.values };
        near.encode(&part.raw, Expected::Values(of_part)).map_or(part.raw.len(), |coded| coded.len()) as u64
    };
    let size = |part: &Part| part.raw.len() as u64;
    let likely = parts.first().map(|part| part.beginning(matrix, WEIGHTS_THAT_TELL, 1));
    if likely.is_none_or(|part| stored(&part) * TELLING > size(&part)) {
        return Ok(None);
    }
    let Some(codes) = Unusable::skip(given.codes())? else { return Ok(None) };
    let meaning = Meaning::Values(Box::new(given.values.clone()));
    let coding = Coding {
        encoding: Encoding::Dequantized { given: Box::new(given.in_plan()), transposed: matrix.transposed },
        codec: Codec::Near(near),
        classifier: Classifier::single(),
        given: Some(GivenReader::new(vec![codes], meaning, vec![given.values.zero_code()])),
        chunk: Some(matrix.chunk),
    };
    let fit = Fit { coding, stored: parts.iter().map(stored).sum(), of: parts.iter().map(size).sum() };
    Ok((fit.stored * TELLING <= fit.of).then_some(fit))
}

fn of_part<'a>(part: &'a Part, bins: &'a Bins) -> GivenBins<'a> {
    GivenBins { codes: &part.codes, first_row: part.rows.start, bins }
}

/// What a residual makes of a sample.
struct Trial {
    stored: u64,
    of: u64,
    exceptions: u64,
}

fn try_bins(parts: &[Part], residual: &Residual, bins: &Bins) -> Trial {
    let encode = |part: &Part| {
        let of = part.raw.len() as u64;
        let coded = with_workspace(|workspace| residual.encode(&part.raw, of_part(part, bins), workspace));
        match coded {
            Some(coded) => {
                Trial { stored: coded.len() as u64, of, exceptions: u64::from(residual.exceptions(&coded)) }
            }
            None => Trial { stored: of, of, exceptions: of },
        }
    };
    let trials: Vec<Trial> = parts.par_iter().map(encode).collect();
    let sum = |of: fn(&Trial) -> u64| trials.iter().map(of).sum();
    Trial {
        stored: sum(|trial| trial.stored),
        of: sum(|trial| trial.of),
        exceptions: sum(|trial| trial.exceptions),
    }
}

/// Into how many subdivisions of a scale, by their base-2 logarithm, a trial is worth while: as many as leave most
/// codes' multiples below 128.
fn exponents_to_try(values: &Dequantizer) -> Vec<i8> {
    let levels = values.levels();
    let most = match levels.kind() {
        // Half of the codes on either side of 0; few bits leave the places of weights to fine subdivisions.
        LevelKind::Unsigned | LevelKind::Signed { .. } => f32::from(1u8 << (levels.bits() - 1).clamp(2, 6)),
        LevelKind::Float(_) | LevelKind::Table => levels.magnitude(),
    };
    let room = (127.0 / most).log2().floor();
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a binary32")]
    let finest = if room.is_finite() { room.max(-100.0) as i8 } else { return Vec::new() };
    let finest = finest.min(4);
    let coarser = if levels.bits() == 8 { None } else { Some(finest - 1) };
    std::iter::once(finest).chain(coarser).filter(|exponent| (-8..=7).contains(exponent)).collect()
}

/// The step residual of `matrix` given the codes of `given`, with the number of subdivisions that costs least. `None`
/// if there are too many groups.
pub(super) fn fit_steps(
    matrix: &CodedMatrix,
    float: FloatKind,
    given: &GivenGroup,
    parts: &[Part],
) -> Result<Option<Fit>> {
    let mut best: Option<Fit> = None;
    for exponent in exponents_to_try(&given.values) {
        let subdivisions = Subdivisions::new(given.values.clone(), exponent, float);
        let fit = try_steps(matrix, float, parts, &subdivisions);
        let (Some((codec, classifier, stored)), Some(codes)) = (fit, Unusable::skip(given.codes())?) else {
            return Ok(best);
        };
        let coding = Coding {
            encoding: Encoding::StepResidual {
                given: Box::new(given.in_plan()),
                subdivisions: exponent,
                transposed: matrix.transposed,
            },
            codec,
            classifier,
            given: Some(reader(codes, subdivisions, given.values.zero_code())),
            chunk: Some(matrix.chunk),
        };
        let fit = Fit { coding, stored, of: parts.iter().map(|part| part.raw.len() as u64).sum() };
        if best.as_ref().is_none_or(|best| fit.better_than(best)) {
            best = Some(fit);
        }
    }
    Ok(best)
}

fn reader(codes: MatrixReader, subdivisions: Subdivisions, fill: u8) -> GivenReader {
    GivenReader::new(vec![codes], Meaning::Subdivisions(Box::new(subdivisions)), vec![fill])
}

fn try_steps(
    matrix: &CodedMatrix,
    float: FloatKind,
    parts: &[Part],
    subdivisions: &Subdivisions,
) -> Option<(Codec, Classifier, u64)> {
    let mut histograms = Histograms::default();
    let mut zeros = [0; 256];
    for part in parts {
        let split = split(&part.raw, steps_of_part(part, subdivisions))?;
        for row in Rows::new(split.shifts.len(), matrix.cols()).iter() {
            let row = &split.shifts[row];
            histograms.add_row(code_bucket(row), row.iter().copied());
        }
        split.count_zeros(&part.raw, steps_of_part(part, subdivisions), &mut zeros);
    }
    let classes = ClassFit::new(&histograms, matrix.rows_per_sampled(parts));
    let layout = layout_of(matrix.chunk);
    let zeros = SymbolTable::from_histogram(&zeros);
    let codec = Codec::StepResidual(StepResidual::new(float, classes.tables, zeros, layout).ok()?);
    let encode = |part: &Part| {
        let given = GivenOfChunk::Subdivisions(steps_of_part(part, subdivisions));
        let coded = with_workspace(|workspace| {
            codec.encode(&part.raw, matrix.cols(), &classes.classifier, given, workspace)
        });
        coded.map_or(part.raw.len(), |coded| coded.len()) as u64
    };
    let stored = parts.par_iter().map(encode).sum();
    Some((codec, classes.classifier, stored))
}

fn steps_of_part<'a>(part: &'a Part, subdivisions: &'a Subdivisions) -> GivenSubdivisions<'a> {
    GivenSubdivisions { codes: &part.codes, first_row: part.rows.start, subdivisions }
}
