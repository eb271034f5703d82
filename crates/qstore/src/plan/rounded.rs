//! Codes given floats of a variant below, which is of a higher precision.

use std::sync::Arc;

use qstore_checkpoint::{FloatKind, Result, size};
use qstore_container::{ArrayKey, ArrayRef, CodeLayout, Dequantization, Encoding, Field, View};

use super::codes::fit_shifts;
use super::fit::Fit;
use super::matrix::{CodedMatrix, Part};
use super::unusable::Unusable;
use crate::codec::{Codec, GivenFloats, GivenOfChunk, Shifted, layout_of, shifts};
use crate::decode::{ArrayReader, GivenReader, MatrixReader, Meaning};
use crate::quant::{Dequantizer, Rounder};
use crate::variant::{Variant, is_elsewhere};

/// Floats of a variant below that a matrix of codes may have been made from.
#[derive(Debug, Clone)]
pub(crate) struct FloatPair {
    variant: Arc<Variant>,
    field: Field<ArrayKey>,
}

impl FloatPair {
    /// The matrix of an array of a variant that `view` takes; `None` if readers do not accept that codes are given it.
    pub(super) fn new(variant: &Arc<Variant>, key: &ArrayKey, view: &View) -> Option<Self> {
        // Of what is stored by parts, the part.
        let stored = variant.stored_array(key).ok()?;
        let part = match &stored.encoding {
            Encoding::Parts { parts } => Some(parts.iter().find(|part| part.view == *view)?),
            _ => None,
        };
        let field = match part {
            Some(part) => Field::of(part.array.clone()),
            None => Field { view: view.clone(), ..Field::of(key.clone()) },
        };
        let reader = ArrayReader::open(variant, &field.array).ok()?;
        (!is_elsewhere(&reader.stored().encoding)).then(|| Self { variant: variant.clone(), field })
    }

    /// All of an array of that shape that is given no others; `None` if it is not such.
    pub(super) fn alone(variant: &Arc<Variant>, key: &ArrayKey, shape: &[u64]) -> Result<Option<Self>> {
        let stored = variant.stored_array(key)?;
        let fits = FloatKind::of(stored.dtype).is_some() && stored.shape == shape;
        // Of a reference, what it leads to.
        let is_alone = fits && !ArrayReader::open(variant, key)?.stored().encoding.is_given();
        Ok(Self::new(variant, key, &View::WHOLE).filter(|_| is_alone))
    }

    /// The floats of a few chunks of a matrix, with its own: `floats` reads these, each of so many bytes.
    pub(super) fn parts(matrix: &CodedMatrix, floats: &MatrixReader, width: usize) -> Result<Vec<Part>> {
        matrix.parts_with(|first, rows| {
            let cols = matrix.shape()[1];
            let mut raw = vec![0; rows.saturating_mul(size(cols)).saturating_mul(width)];
            floats.read_elements(first as u64..(first + rows) as u64, 0..cols, &mut raw)?;
            Ok(raw)
        })
    }

    /// It as plans name it.
    pub(super) fn field(&self) -> Field<ArrayRef> {
        let name = self.variant.name();
        self.field.map(&mut |array| ArrayRef { variant: name.clone(), array: array.clone() })
    }

    /// A reader of it, if it has that shape.
    pub(super) fn reader(&self, shape: [u64; 2]) -> Result<Option<(MatrixReader, FloatKind)>> {
        let stored = self.variant.stored_array(&self.field.array)?;
        let Some(float) = FloatKind::of(stored.dtype) else { return Ok(None) };
        let array = ArrayReader::open(&self.variant, &self.field.array)?;
        let reader = MatrixReader::floats(array, &self.field, (stored.dtype, &stored.shape), shape).ok();
        Ok(reader.map(|reader| (reader, float)))
    }

    /// Codes that lie so given these floats; `own` is what they stand for, and `description` what plans say of it.
    ///
    /// # Errors
    /// Why they cannot be.
    pub(super) fn fit(
        &self,
        matrix: &CodedMatrix,
        layout: &CodeLayout,
        (own, description): (&Dequantizer, &Dequantization<ArrayRef>),
    ) -> Result<Option<Fit>, Unusable> {
        let Some((floats, float)) = self.reader(matrix.shape())? else { return Ok(None) };
        let encoding = Encoding::Rounded {
            floats: self.field(),
            own: Box::new(description.clone()),
            layout: layout.clone(),
        };
        let parts = Self::parts(matrix, &floats, float.width())?;
        let rounder = Rounder::new(own.clone());
        let shifted = fit_shifts(
            matrix,
            &parts,
            |part| {
                shifts(
                    layout.packing.as_ref(),
                    &part.raw,
                    matrix.cols(),
                    of_part(part, float, own.cols(), &rounder),
                )
            },
            |tables| Shifted::new(layout, tables, layout_of(matrix.chunk)).map(Codec::Rounded),
            |part| GivenOfChunk::Floats(of_part(part, float, own.cols(), &rounder)),
        )?;
        let meaning = Meaning::Floats(Box::new(rounder), float);
        let reader = GivenReader::new(vec![floats], meaning, Vec::new());
        Ok(Some(shifted.given(encoding, matrix.chunk, reader)))
    }
}

fn of_part<'a>(part: &'a Part, float: FloatKind, cols: usize, rounder: &'a Rounder) -> GivenFloats<'a> {
    GivenFloats { raw: &part.codes, float, first_row: part.rows.start, columns: (0, cols), rounder }
}
