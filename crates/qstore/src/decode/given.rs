//! What residuals are given: codes of lower variants, row by row, and what they stand for.

use std::ops::Range;
use std::sync::Arc;

use qstore_container::{ArrayRef, CodeLayout, Dequantization, Dtype, Encoding, QuantMatrix, StoredArray};

use super::array::ArrayReader;
use super::codes::CodeReader;
use super::variant::Variant;
use crate::codec::{
    Bins, Given, GivenBins, GivenCodes, GivenSubdivisions, Predictor, Subdivisions, at_least,
};
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::memory::size;
use crate::quant::{Arrays, Dequantizer, FloatKind};

/// What the chunks of one array are given.
#[derive(Debug)]
pub(crate) struct GivenReader {
    codes: CodeReader,
    meaning: Meaning,
}

/// What the codes mean for the array.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// The bins of floats.
    Bins(Bins),
    /// Multiples of subdivisions of scales.
    Subdivisions(Box<Subdivisions>),
    /// Other codes.
    Codes(Box<Predictor>),
}

impl GivenReader {
    /// Codes, and what they mean.
    pub(crate) fn new(codes: CodeReader, meaning: Meaning) -> Self {
        Self { codes, meaning }
    }

    /// What the array `index` of shard `shard` is given, if anything.
    pub(super) fn of_array(variant: &Arc<Variant>, shard: usize, index: usize) -> Result<Option<Self>> {
        let file = variant.shard(shard);
        let array = &file.plan.arrays[index];
        let damaged = |what: &str| Error::damaged(&file.path, format!("{}: {what}", array.key));
        let Some(given) = array.encoding.given() else { return Ok(None) };
        let shape = coded_shape(array).ok_or_else(|| damaged("a residual that is no matrix"))?;
        let (codes, values) = open(variant, given, shape, |what| damaged(&format!("given.{what}")))?;
        let float = || FloatKind::of_stored(array).ok_or_else(|| damaged("a residual of other elements"));
        let meaning = match &array.encoding {
            Encoding::Residual { .. } => {
                let bins = Bins::new(&values, float()?);
                Meaning::Bins(bins.ok_or_else(|| damaged("given.levels: codes that have no bins"))?)
            }
            Encoding::StepResidual { subdivisions, .. } => {
                Meaning::Subdivisions(Box::new(Subdivisions::new(values, *subdivisions, float()?)))
            }
            Encoding::CodeResidual { own, layout, .. } => {
                let own = open_own(variant, own, layout, shape, |what| damaged(&format!("own.{what}")))?;
                Meaning::Codes(Box::new(Predictor::new(own, values)))
            }
            _ => return Ok(None),
        };
        Ok(Some(Self::new(codes, meaning)))
    }

    /// Calls `work` with what a block of rows and columns is given, of codes where it is one of those; floats come in whole rows. `buffer` is for the codes.
    pub(crate) fn with_block<R>(
        &self,
        (rows, columns): (Range<usize>, Range<usize>),
        buffer: &mut Vec<u8>,
        work: impl FnOnce(Given) -> R,
    ) -> Result<R> {
        let codes = at_least(buffer, rows.len().saturating_mul(columns.len()));
        let first_row = rows.start;
        self.codes.read_block(rows.start as u64, columns.start as u64..columns.end as u64, codes)?;
        Ok(match &self.meaning {
            Meaning::Bins(bins) => work(Given::Bins(GivenBins { codes, first_row, bins })),
            Meaning::Subdivisions(subdivisions) => {
                work(Given::Subdivisions(GivenSubdivisions { codes, first_row, subdivisions }))
            }
            Meaning::Codes(predictor) => {
                let columns = (columns.start, columns.end);
                work(Given::Codes(GivenCodes { codes, first_row, columns, predictor }))
            }
        })
    }
}

/// Rows and columns of what is coded of a matrix: of its weights, or of its codes.
pub(super) fn coded_shape(array: &StoredArray) -> Option<[u64; 2]> {
    let &[first, second] = &array.shape[..] else { return None };
    match array.encoding.layout() {
        Some(layout) => layout.codes_of([first, second]),
        None if array.encoding.is_transposed() => Some([second, first]),
        None => Some([first, second]),
    }
}

/// A quantised matrix that an array of `variant` is given, in rows of the array.
fn open(
    variant: &Arc<Variant>,
    given: &QuantMatrix<ArrayRef>,
    shape: [u64; 2],
    damaged: impl Fn(&str) -> Error,
) -> Result<(CodeReader, Dequantizer)> {
    let explain = |error: qstore_container::FormatError| damaged(&error.to_string());
    let values = Dequantizer::open(&given.values, given.shape, given.bits(), &Referred(variant));
    let values = values.map_err(|e| e.explain(explain))?.resized(shape.map(size));
    let stored = variant.stored(&given.codes.array)?;
    let codes = CodeReader::new(
        variant.referred_array(&given.codes.array)?,
        &given.codes,
        (stored.dtype, &stored.shape),
        given.shape,
        (shape[1], values.zero_code()),
    );
    Ok((codes.map_err(|e| damaged(&format!("codes.{e}")))?, values))
}

/// What the codes of an array of `variant` stand for.
fn open_own(
    variant: &Arc<Variant>,
    own: &Dequantization<ArrayRef>,
    layout: &CodeLayout,
    shape: [u64; 2],
    damaged: impl Fn(&str) -> Error,
) -> Result<Dequantizer> {
    let opened = Dequantizer::open(own, shape, layout.bits(), &Referred(variant));
    opened.map_err(|e| e.explain(|error| damaged(&error.to_string())))
}

/// The arrays that a variant refers to.
struct Referred<'a>(&'a Arc<Variant>);

impl Arrays<ArrayRef> for Referred<'_> {
    fn describe(&self, array: &ArrayRef) -> Result<(Dtype, Vec<u64>)> {
        let stored = self.0.stored(array)?;
        Ok((stored.dtype, stored.shape.clone()))
    }

    fn read(&self, array: &ArrayRef, bytes: Range<u64>) -> Result<Vec<u8>> {
        read_part(&self.0.referred_array(array)?, bytes)
    }
}

/// Some bytes of a small array.
pub(crate) fn read_part(reader: &ArrayReader, bytes: Range<u64>) -> Result<Vec<u8>> {
    let mut out = zeroed(bytes.end.saturating_sub(bytes.start)).at(reader.folder(), "cannot hold scales")?;
    reader.read(bytes.start, &mut out)?;
    Ok(out)
}
