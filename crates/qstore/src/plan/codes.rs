//! Quantisation codes by themselves, where they are packed, and given those of a variant below.

use qstore_checkpoint::{Result, size};
use qstore_container::{ArrayRef, ChunkShape, CodeLayout, Dequantization, Encoding};
use qstore_kernels::{ClassFit, Classifier, DecodeError, Histograms, Rows, SymbolTable, code_bucket};
use rayon::prelude::*;

use super::Coding;
use super::fit::Fit;
use super::given::GivenGroup;
use super::matrix::{CodedMatrix, Part};
use super::unusable::Unusable;
use crate::codec::{
    Codec, Codes, GivenCodes, GivenOfChunk, Predictor, Shifted as ShiftedCodec, Symbols, layout_of, shifts,
    with_workspace,
};
use crate::decode::{GivenReader, Meaning};
use crate::quant::Dequantizer;

/// Packed codes with tables of their own.
pub(super) fn fit_packed(matrix: &CodedMatrix, layout: &CodeLayout) -> Result<Option<Fit>> {
    let parts = matrix.parts()?;
    let symbols = Symbols::of(layout);
    let cols = symbols.cols(matrix.cols());
    let mut histograms = Histograms::default();
    for part in &parts {
        add_rows(&mut histograms, &symbols.read(&part.raw, matrix.cols()), cols);
    }
    let classes = ClassFit::new(&histograms, matrix.rows_per_sampled(&parts));
    let chunk = matrix.tiled();
    let Ok(codes) = Codes::new(layout, classes.tables, layout_of(chunk)) else { return Ok(None) };
    let codec = Codec::Codes(codes);
    let stored = stored(matrix, &parts, &codec, &classes.classifier, |_| GivenOfChunk::Nothing);
    let coding = Coding {
        encoding: Encoding::Codes { layout: layout.clone() },
        codec,
        classifier: classes.classifier,
        given: None,
        chunk: Some(chunk),
    };
    Ok(Some(Fit { coding, stored, of: bytes_of(&parts) }))
}

/// Codes that lie so given those of a lower variant; `own` is what they stand for, and `description` what plans say of
/// it.
///
/// # Errors
/// Why they cannot be.
pub(super) fn fit_given(
    matrix: &CodedMatrix,
    layout: &CodeLayout,
    (own, description): (&Dequantizer, &Dequantization<ArrayRef>),
    given: &GivenGroup,
) -> Result<Fit, Unusable> {
    let encoding = Encoding::CodeResidual {
        given: Box::new(given.in_plan()),
        own: Box::new(description.clone()),
        layout: layout.clone(),
    };
    // Where what is given is not cut across, each chunk that is would have to decode all of it.
    let key = &given.matrix.codes.array;
    let chunk = if given.pair.lower.is_cut_across(key)? { matrix.tiled() } else { matrix.chunk };
    if !given.pair.lower.chunks_align(key, &matrix.as_stored(chunk, &encoding))? {
        return Err(in_other_chunks());
    }
    let parts = matrix.given_parts(&[(given.codes()?, given.values.zero_code())])?;
    let predictor = Predictor::new(own.clone(), given.values.clone());
    let shifted = fit_shifts(
        matrix,
        &parts,
        |part| shifts(layout.packing.as_ref(), &part.raw, matrix.cols(), of_part(part, &predictor)),
        |tables| ShiftedCodec::new(layout, tables, layout_of(chunk)).map(Codec::CodeResidual),
        |part| GivenOfChunk::Codes(of_part(part, &predictor)),
    )?;
    let reader = GivenReader::new(
        vec![given.codes()?],
        Meaning::Codes(Box::new(predictor)),
        vec![given.values.zero_code()],
    );
    Ok(shifted.given(encoding, chunk, reader))
}

/// Codes as how far they lie off those that something lets expect.
pub(super) struct Shifted {
    codec: Codec,
    classifier: Classifier,
    stored: u64,
    of: u64,
}

impl Shifted {
    /// The same in chunks of this shape, with what `reader` reads.
    pub(super) fn given(self, encoding: Encoding, chunk: ChunkShape, reader: GivenReader) -> Fit {
        let Self { codec, classifier, stored, of } = self;
        let coding = Coding { encoding, codec, classifier, given: Some(reader), chunk: Some(chunk) };
        Fit { coding, stored, of }
    }
}

/// Fits tables to the `shifts` of a few chunks, of which `codec` makes a codec.
///
/// # Errors
/// What is given is of other rows.
pub(super) fn fit_shifts<'p>(
    matrix: &CodedMatrix,
    parts: &'p [Part],
    shifts: impl Fn(&'p Part) -> Option<Vec<u8>>,
    codec: impl FnOnce(Vec<SymbolTable>) -> Result<Codec, DecodeError>,
    given: impl Fn(&'p Part) -> GivenOfChunk<'p> + Sync,
) -> Result<Shifted, Unusable> {
    let cols = size(matrix.shape()[1]);
    let mut histograms = Histograms::default();
    for part in parts {
        let shifts = shifts(part).ok_or_else(in_other_chunks)?;
        add_rows(&mut histograms, &shifts, cols);
    }
    let classes = ClassFit::new(&histograms, matrix.rows_per_sampled(parts));
    let codec = codec(classes.tables).map_err(Unusable::because)?;
    let stored = stored(matrix, parts, &codec, &classes.classifier, given);
    Ok(Shifted { codec, classifier: classes.classifier, stored, of: bytes_of(parts) })
}

fn in_other_chunks() -> Unusable {
    Unusable::because("its codes lie in chunks of other rows")
}

fn of_part<'a>(part: &'a Part, predictor: &'a Predictor) -> GivenCodes<'a> {
    GivenCodes { codes: &part.codes, first_row: part.rows.start, columns: (0, predictor.cols()), predictor }
}

/// Adds the symbols of rows of so many columns.
pub(super) fn add_rows(histograms: &mut Histograms, symbols: &[u8], cols: usize) {
    for row in Rows::new(symbols.len(), cols).iter() {
        let row = &symbols[row];
        histograms.add_row(code_bucket(row), row.iter().copied());
    }
}

fn bytes_of(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.raw.len() as u64).sum()
}

fn stored<'p>(
    matrix: &CodedMatrix,
    parts: &'p [Part],
    codec: &Codec,
    classifier: &Classifier,
    given: impl Fn(&'p Part) -> GivenOfChunk<'p> + Sync,
) -> u64 {
    let encode = |part: &'p Part| {
        let coded = with_workspace(|workspace| {
            codec.encode(&part.raw, matrix.cols(), classifier, given(part), workspace)
        });
        coded.map_or(part.raw.len(), |coded| coded.len()) as u64
    };
    parts.par_iter().map(encode).sum()
}
