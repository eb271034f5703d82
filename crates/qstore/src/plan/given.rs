//! A quantised matrix of a variant below, and what its codes stand for.

use qstore_container::{ArrayKey, ArrayRef, Dequantization, QuantMatrix, VariantName};

use super::lower::Lower;
use crate::decode::CodeReader;
use crate::error::Result;
use crate::formats::QuantGroup;
use crate::ingest::Source;
use crate::memory::size;
use crate::quant::{Dequantizer, OpenError};

/// Codes whose mean tells what they stand for, where files do not say.
const CODES_OF_MEAN: u64 = 1 << 18;

/// A quantised matrix of a variant below.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) lower: Lower,
    pub(crate) group: QuantGroup,
}

/// The same with what its codes stand for, for a matrix that may have other rows and columns.
#[derive(Debug, Clone)]
pub(crate) struct GivenGroup<'a> {
    pub(super) pair: &'a Pair,
    pub(super) matrix: &'a QuantMatrix<ArrayKey>,
    pub(crate) values: Dequantizer,
}

impl Pair {
    /// What plans call one of the variant's arrays.
    fn refer(&self, array: &ArrayKey) -> ArrayRef {
        ArrayRef { variant: self.lower.name().clone(), array: array.clone() }
    }

    /// Whether an array of this shape more likely holds the transposed of its matrix.
    pub(super) fn is_transposed(&self, shape: &[u64]) -> bool {
        let [rows, cols] = self.group.shape();
        *shape == [cols, rows] && rows != cols
    }

    /// Whether a matrix of this shape may be its own: the same, or one of the two with more rows and columns.
    pub(super) fn could_be(&self, shape: [u64; 2]) -> bool {
        could_be(self.group.shape(), shape)
    }

    /// Opens each thing that its codes may stand for, for a matrix of this shape.
    ///
    /// # Errors
    /// Arrays that cannot be read. The inner error says why they are of no use.
    pub(crate) fn open_all(&self, shape: [u64; 2]) -> Result<Result<Vec<GivenGroup<'_>>, String>> {
        let mut all = Vec::new();
        for matrix in &self.group.candidates {
            if !self.lower.can_be_given(matrix)? {
                return Ok(Err("its codes or scales are floats elsewhere".to_owned()));
            }
            let values = match Dequantizer::open(&matrix.values, matrix.shape, matrix.bits(), &self.lower) {
                Ok(values) => values.resized(shape.map(size)),
                Err(OpenError::Misfit(error)) => return Ok(Err(error.to_string())),
                Err(OpenError::Fetch(error)) => return Err(error),
            };
            all.push(GivenGroup { pair: self, matrix, values });
        }
        Ok(Ok(all))
    }

    /// What its codes most likely stand for, for a matrix of this shape. The inner error says why they are of no use.
    pub(crate) fn open(&self, shape: [u64; 2]) -> Result<Result<GivenGroup<'_>, String>> {
        let all = match self.open_all(shape)? {
            Ok(all) => all,
            Err(why) => return Ok(Err(why)),
        };
        let Some(first) = all.first() else { return Ok(Err("it is of no format".to_owned())) };
        let codes = match first.codes()? {
            Ok(codes) if codes.is_too_large() => {
                let why = "its codes are kept as they are, and are too many to be read by rows";
                return Ok(Err(why.to_owned()));
            }
            Ok(codes) => codes,
            Err(why) => return Ok(Err(why)),
        };
        let [rows, cols] = shape;
        let rows = rows.min(CODES_OF_MEAN / cols.max(1)).max(1);
        let mut sample = vec![0; size(rows.saturating_mul(cols))];
        if is_ambiguous(&self.group.candidates) {
            codes.read(0, 0..cols, first.values.zero_code(), &mut sample)?;
        }
        let best = likeliest(all.iter().map(|one| &one.values), &sample);
        Ok(all.into_iter().nth(best).ok_or_else(|| "it is of no format".to_owned()))
    }
}

impl GivenGroup<'_> {
    /// What plans say of it.
    pub(super) fn in_plan(&self) -> QuantMatrix<ArrayRef> {
        self.matrix.map(|array| self.pair.refer(array))
    }

    /// A reader of the codes. The inner error says why there is none.
    pub(super) fn codes(&self) -> Result<Result<CodeReader, String>> {
        self.pair.lower.codes(self.matrix)
    }
}

/// Whether two matrices may be one, to which rows or columns were added: an eighth of them at most, and up to 128 of few.
pub(super) fn could_be(one: [u64; 2], other: [u64; 2]) -> bool {
    let near = |a: u64, b: u64| a.abs_diff(b) <= (a.max(b) / 8).max(128).min(a.min(b) / 2);
    near(one[0], other[0]) && near(one[1], other[1])
}

/// What the codes of a matrix of `source`, which will be variant `name`, stand for; `sample` are those of its first rows. The inner error says what does not
/// fit.
pub(super) fn open_own(
    source: &Source,
    name: &VariantName,
    group: &QuantGroup,
    sample: &[u8],
) -> Result<Result<(Dequantization<ArrayRef>, Dequantizer), String>> {
    let mut opened = Vec::new();
    for matrix in &group.candidates {
        match Dequantizer::open(&matrix.values, matrix.shape, matrix.bits(), source) {
            Ok(values) => opened.push(values),
            Err(OpenError::Misfit(error)) => return Ok(Err(error.to_string())),
            Err(OpenError::Fetch(error)) => return Err(error),
        }
    }
    let best = likeliest(opened.iter(), sample);
    let in_plan = |matrix: &QuantMatrix<ArrayKey>| {
        matrix.map(|array| ArrayRef { variant: name.clone(), array: array.clone() }).values
    };
    let found = group.candidates.get(best).map(in_plan).zip(opened.into_iter().nth(best));
    Ok(found.ok_or_else(|| "it is of no format".to_owned()))
}

/// Whether candidates differ in what level stands for 0.
fn is_ambiguous(candidates: &[QuantMatrix<ArrayKey>]) -> bool {
    candidates.windows(2).any(|two| two[0].values.zero != two[1].values.zero)
}

/// Of things that the codes `sample` of the first rows may stand for the index of the likeliest: weights are 0 on average, so the levels that stand for 0 are near
/// the mean of all.
fn likeliest<'a>(values: impl Iterator<Item = &'a Dequantizer>, sample: &[u8]) -> usize {
    let off = values.map(|values| values.mean_off(sample).abs()).enumerate();
    off.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(index, _)| index)
}
