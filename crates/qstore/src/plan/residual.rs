//! Floats given the codes of a quantised matrix below, fitted to a few chunks.

use qstore_container::{Encoding, Rounding};
use qstore_kernels::{ClassFit, Classifier, Histograms, Rows, SymbolTable, code_bucket};
use rayon::prelude::*;

use super::fit::Fit;
use super::given::GivenGroup;
use super::matrix::{Matrix, Part};
use super::{Coding, Pair};
use crate::codec::{
    BinRule, Codec, Given, GivenRows, GivenSteps, Residual, RowBins, StepGrid, StepResidual, count_zeros,
    layout_of, split, with_workspace,
};
use crate::decode::GivenReader;
use crate::error::Result;
use crate::scheme::{FloatKind, GroupGrid};

/// The residual of `matrix` given the codes of `pair`, with the rounding rule that fits best, where a code follows from its weight alone.
pub(super) fn fit_bins(matrix: &Matrix, float: FloatKind, pair: &Pair) -> Result<Option<Fit>> {
    let GroupGrid::LlmInt8 { scale } = &pair.group.grid else { return Ok(None) };
    // Either may equal, by chance, an array that is stored as a residual; readers refuse residuals given residuals.
    let (Some(codes), Some(scales)) = (pair.code_reader()?, pair.lower.scales(scale)?) else {
        return Ok(None);
    };
    let parts = matrix.given_parts(&codes)?;
    let cols = matrix.cols();
    let mut best: Option<(Trial, Residual, Rounding, RowBins)> = None;
    for rounding in Rounding::ALL {
        let bins = RowBins::new(BinRule::LlmInt8 { rounding, float }, scales.clone());
        let mut zeros = [0; 256];
        for Part { raw, codes, rows } in &parts {
            bins.with_rows(rows.clone(), |bins| {
                count_zeros(float, raw, cols, GivenRows { codes, bins }, &mut zeros);
            });
        }
        let Ok(residual) = Residual::fit(float, &zeros, layout_of(matrix.grid)) else { continue };
        let tried = try_bins(&parts, cols, &residual, &bins);
        let exceptions = tried.exceptions;
        if best.as_ref().is_none_or(|(least, ..)| tried.stored < least.stored) {
            best = Some((tried, residual, rounding, bins));
        }
        if exceptions == 0 {
            break;
        }
    }
    Ok(best.map(|(tried, residual, rounding, bins)| Fit {
        coding: Coding {
            encoding: Encoding::Residual {
                codes: pair.refer(&pair.group.codes),
                scale: pair.refer(match &pair.group.grid {
                    GroupGrid::LlmInt8 { scale } | GroupGrid::Gptq { scale, .. } => scale,
                }),
                scheme: pair.group.grid.scheme(),
                rounding,
                transposed: matrix.turned,
            },
            codec: Codec::Residual(residual),
            classifier: Classifier::single(),
            given: Some(GivenReader::of_bins(codes, bins)),
            grid: Some(matrix.grid),
        },
        stored: tried.stored,
        of: tried.of,
    }))
}

/// What a residual makes of a sample.
struct Trial {
    stored: u64,
    of: u64,
    exceptions: u64,
}

fn try_bins(parts: &[Part], cols: usize, residual: &Residual, bins: &RowBins) -> Trial {
    let encode = |Part { raw, codes, rows }: &Part| {
        let of = raw.len() as u64;
        let coded = with_workspace(|workspace| {
            bins.with_rows(rows.clone(), |bins| {
                residual.encode(raw, cols, GivenRows { codes, bins }, workspace)
            })
        });
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

/// How many steps to a scale are worth a trial: as many as leave most codes' multiples below 128.
fn steps_to_try(bits: Option<u8>) -> &'static [u8] {
    match bits {
        None | Some(8) => &[1],
        Some(4) => &[8, 4],
        Some(_) => &[16, 8],
    }
}

/// The step residual of `matrix` given the codes of `pair`, with the number of steps that costs least.
pub(super) fn fit_steps(matrix: &Matrix, float: FloatKind, given: &GivenGroup) -> Result<Option<Fit>> {
    let parts = matrix.given_parts(&given.codes()?)?;
    let mut best: Option<Fit> = None;
    for &steps in steps_to_try(given.steps.bits()) {
        let Some(grid) = StepGrid::new(given.steps.clone(), steps, float) else { return Ok(None) };
        let fit = try_steps(matrix, float, &parts, &grid)?;
        let Some((codec, classifier, stored)) = fit else { continue };
        let encoding = Encoding::StepResidual { given: given.in_plan(), steps, transposed: matrix.turned };
        let reader = GivenReader::of_steps(given.codes()?, grid);
        let coding = Coding { encoding, codec, classifier, given: Some(reader), grid: Some(matrix.grid) };
        let fit = Fit { coding, stored, of: parts.iter().map(|part| part.raw.len() as u64).sum() };
        if best.as_ref().is_none_or(|best| fit.better_than(best)) {
            best = Some(fit);
        }
    }
    Ok(best)
}

fn try_steps(
    matrix: &Matrix,
    float: FloatKind,
    parts: &[Part],
    grid: &StepGrid,
) -> Result<Option<(Codec, Classifier, u64)>> {
    let mut histograms = Histograms::default();
    let mut zeros = [0; 256];
    for part in parts {
        let given = GivenSteps { codes: &part.codes, first_row: part.rows.start, grid };
        let Some(split) = split(&part.raw, given) else { return Ok(None) };
        for row in Rows::new(split.shifts.len(), matrix.cols()).iter() {
            let row = &split.shifts[row];
            histograms.add_row(code_bucket(row), row.iter().copied());
        }
        split.count_zeros(given, &mut zeros);
    }
    let classes = ClassFit::new(&histograms, matrix.rows_per_sampled(parts));
    let layout = layout_of(matrix.grid);
    let Ok(residual) = StepResidual::new(float, classes.tables, SymbolTable::from_histogram(&zeros), layout)
    else {
        return Ok(None);
    };
    let codec = Codec::StepResidual(residual);
    let encode = |part: &Part| {
        let given = Given::Steps(GivenSteps { codes: &part.codes, first_row: part.rows.start, grid });
        let coded = with_workspace(|workspace| {
            codec.encode(&part.raw, matrix.cols(), &classes.classifier, given, workspace)
        });
        coded.map_or(part.raw.len(), |coded| coded.len()) as u64
    };
    let stored = parts.par_iter().map(encode).sum();
    Ok(Some((codec, classes.classifier, stored)))
}
