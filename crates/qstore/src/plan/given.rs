//! A quantised matrix of a variant below, and what its codes stand for.

use qstore_checkpoint::{Result, Source, size};
use qstore_container::{ArrayKey, ArrayRef, Dequantization, QuantMatrix, VariantName};

use super::lower::Lower;
use super::unusable::Unusable;
use crate::decode::MatrixReader;
use crate::formats::QuantGroup;
use crate::quant::Dequantizer;

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
    /// Why its codes are of no use.
    pub(crate) fn open_all(&self, shape: [u64; 2]) -> Result<Vec<GivenGroup<'_>>, Unusable> {
        let open = |matrix| {
            if !self.lower.can_be_given(matrix)? {
                return Err(Unusable::because("its codes or scales are floats elsewhere"));
            }
            let values = Dequantizer::open(&matrix.values, matrix.shape, matrix.bits(), &self.lower)?;
            Ok(GivenGroup { pair: self, matrix, values: values.resized(shape.map(size)) })
        };
        self.group.candidates.iter().map(open).collect()
    }

    /// What its codes most likely stand for, for a matrix of this shape.
    ///
    /// # Errors
    /// Why they are of no use.
    pub(crate) fn open(&self, shape: [u64; 2]) -> Result<GivenGroup<'_>, Unusable> {
        let all = self.open_all(shape)?;
        let first = all.first().ok_or_else(of_no_format)?;
        let codes = first.codes()?;
        if codes.is_too_large() {
            return Err(Unusable::because(
                "its codes are kept as they are, and are too many to be read by rows",
            ));
        }
        let [rows, cols] = shape;
        let rows = rows.min(CODES_OF_MEAN / cols.max(1)).max(1);
        let mut sample = vec![0; size(rows.saturating_mul(cols))];
        if is_ambiguous(&self.group.candidates) {
            codes.read(0, 0..cols, first.values.zero_code(), &mut sample)?;
        }
        let best = likeliest(all.iter().map(|one| &one.values), &sample);
        all.into_iter().nth(best).ok_or_else(of_no_format)
    }
}

impl GivenGroup<'_> {
    /// What plans say of it.
    pub(super) fn in_plan(&self) -> QuantMatrix<ArrayRef> {
        self.matrix.map(|array| self.pair.refer(array))
    }

    /// A reader of the codes.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn codes(&self) -> Result<MatrixReader, Unusable> {
        self.pair.lower.codes(self.matrix)
    }
}

/// Whether two matrices may be one, to which rows or columns were added: an eighth of them at most, and up to 128 of
/// few.
pub(super) fn could_be(one: [u64; 2], other: [u64; 2]) -> bool {
    let near = |a: u64, b: u64| a.abs_diff(b) <= (a.max(b) / 8).max(128).min(a.min(b) / 2);
    near(one[0], other[0]) && near(one[1], other[1])
}

/// What the codes of a matrix of `source`, which will be variant `name`, stand for; `sample` are those of its first
/// rows.
///
/// # Errors
/// What does not fit.
pub(super) fn open_own(
    source: &Source,
    name: &VariantName,
    group: &QuantGroup,
    sample: &[u8],
) -> Result<(Dequantization<ArrayRef>, Dequantizer), Unusable> {
    let open = |matrix: &QuantMatrix<ArrayKey>| {
        Dequantizer::open(&matrix.values, matrix.shape, matrix.bits(), source)
    };
    let opened = group.candidates.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let best = likeliest(opened.iter(), sample);
    let in_plan = |matrix: &QuantMatrix<ArrayKey>| {
        matrix.map(|array| ArrayRef { variant: name.clone(), array: array.clone() }).values
    };
    let found = group.candidates.get(best).map(in_plan).zip(opened.into_iter().nth(best));
    found.ok_or_else(of_no_format)
}

fn of_no_format() -> Unusable {
    Unusable::because("it is of no format")
}

/// Whether candidates differ in what levels there are, or which of them stands for 0.
fn is_ambiguous(candidates: &[QuantMatrix<ArrayKey>]) -> bool {
    let differ = |one: &Dequantization<_>, other: &Dequantization<_>| {
        one.zero != other.zero || one.levels != other.levels
    };
    candidates.windows(2).any(|two| differ(&two[0].values, &two[1].values))
}

/// Of things that the codes `sample` of the first rows may stand for the index of the likeliest, which has levels for
/// all of them: weights are 0 on average, so the levels that stand for 0 are near the mean of all.
fn likeliest<'a>(values: impl Iterator<Item = &'a Dequantizer>, sample: &[u8]) -> usize {
    let off = values.enumerate().filter(|(_, values)| values.levels().has_all(sample));
    let off = off.map(|(index, values)| (index, values.mean_off(sample).abs()));
    off.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(index, _)| index)
}
