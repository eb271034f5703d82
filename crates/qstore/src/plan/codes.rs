//! Quantisation codes by themselves, where they are packed, and given those of a variant below.

use qstore_container::{Encoding, QuantGrid};
use qstore_kernels::{ClassFit, Classifier, Histograms, Rows, code_bucket};
use rayon::prelude::*;

use super::Coding;
use super::fit::Fit;
use super::given::GivenGroup;
use super::matrix::{Matrix, Part};
use crate::codec::{
    CodeResidual, Codec, Given, GivenCodes, Packed, Predictor, Symbols, layout_of, shifts, with_workspace,
};
use crate::decode::GivenReader;
use crate::error::Result;
use crate::scheme::Steps;

/// Packed codes with tables of their own.
pub(super) fn fit_packed(matrix: &Matrix, bits: u8) -> Result<Option<Fit>> {
    let parts = matrix.parts()?;
    let symbols = Symbols::of(bits);
    let cols = symbols.cols(matrix.cols());
    let mut histograms = Histograms::default();
    for part in &parts {
        symbols.with(&part.raw, &mut Vec::new(), |symbols| add_rows(&mut histograms, symbols, cols));
    }
    let classes = ClassFit::new(&histograms, matrix.rows_per_sampled(&parts));
    let Ok(packed) = Packed::new(bits, classes.tables, layout_of(matrix.grid)) else { return Ok(None) };
    let codec = Codec::Packed(packed);
    let stored = stored(matrix, &parts, &codec, &classes.classifier, |_| Given::Nothing);
    let coding = Coding {
        encoding: Encoding::Packed { bits },
        codec,
        classifier: classes.classifier,
        given: None,
        grid: Some(matrix.grid),
    };
    Ok(Some(Fit { coding, stored, of: bytes_of(&parts) }))
}

/// Codes given those of a lower variant; `own` is what they stand for, and `own_grid` what plans say of it.
pub(super) fn fit_given(
    matrix: &Matrix,
    (own, own_grid): (&Steps, &QuantGrid),
    given: &GivenGroup,
) -> Result<Option<Fit>> {
    let pair = given.pair;
    if !pair.lower.chunks_meet(&pair.group.codes, matrix.shape()[0], matrix.grid.rows_per_chunk)? {
        return Ok(None);
    }
    let parts = matrix.given_parts(&given.codes()?)?;
    let predictor = Predictor::new(own.clone(), given.steps.clone());
    let mut histograms = Histograms::default();
    for part in &parts {
        let shifts = with_workspace(|workspace| shifts(&part.raw, of_part(part, &predictor), workspace));
        let Some(shifts) = shifts else { return Ok(None) };
        add_rows(&mut histograms, &shifts, predictor.cols());
    }
    let classes = ClassFit::new(&histograms, matrix.rows_per_sampled(&parts));
    let Ok(residual) = CodeResidual::new(classes.tables, layout_of(matrix.grid)) else { return Ok(None) };
    let codec = Codec::CodeResidual(residual);
    let stored =
        stored(matrix, &parts, &codec, &classes.classifier, |part| Given::Codes(of_part(part, &predictor)));
    let encoding = Encoding::CodeResidual { given: given.in_plan(), own: own_grid.clone() };
    let reader = GivenReader::of_codes(given.codes()?, predictor);
    let coding = Coding {
        encoding,
        codec,
        classifier: classes.classifier,
        given: Some(reader),
        grid: Some(matrix.grid),
    };
    Ok(Some(Fit { coding, stored, of: bytes_of(&parts) }))
}

fn of_part<'a>(part: &'a Part, predictor: &'a Predictor) -> GivenCodes<'a> {
    GivenCodes { codes: &part.codes, first_row: part.rows.start, predictor }
}

fn add_rows(histograms: &mut Histograms, symbols: &[u8], cols: usize) {
    for row in Rows::new(symbols.len(), cols).iter() {
        let row = &symbols[row];
        histograms.add_row(code_bucket(row), row.iter().copied());
    }
}

fn bytes_of(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.raw.len() as u64).sum()
}

fn stored<'p>(
    matrix: &Matrix,
    parts: &'p [Part],
    codec: &Codec,
    classifier: &Classifier,
    given: impl Fn(&'p Part) -> Given<'p> + Sync,
) -> u64 {
    let encode = |part: &'p Part| {
        let coded = with_workspace(|workspace| {
            codec.encode(&part.raw, matrix.cols(), classifier, given(part), workspace)
        });
        coded.map_or(part.raw.len(), |coded| coded.len()) as u64
    };
    parts.par_iter().map(encode).sum()
}
