//! What residuals are given: matrices of other variants, row by row, and what their codes stand for.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use qstore_checkpoint::{Error, FloatKind, IoContext as _, Result, size, zeroed};
use qstore_container::{ArrayKey, ArrayRef, Dequantization, Dtype, FormatError, QuantMatrix, VariantName};

use super::bytes::ArrayBytes;
use super::kept;
use super::matrix::MatrixReader;
use crate::codec::{
    Bins, Expected, GivenBins, GivenCodes, GivenFloats, GivenNear, GivenOfChunk, GivenSubdivisions,
    GivenValues, GivenWeights, KnownBins, KnownCodes, KnownWeights, OwnBins, Predictor, Subdivisions,
    at_least,
};
use crate::fetch::{Fetched, Group, Needs};
use crate::quant::{Arrays, Dequantizer, Rounder};
use crate::variant::about_array;

/// What the chunks of one array are given.
#[derive(Debug)]
pub(crate) struct GivenReader {
    /// Of each matrix that it is given.
    matrices: Vec<MatrixReader>,
    /// For each whether its codes are refined by what is known from those before, and nothing else.
    in_step: Vec<bool>,
    /// Opened when it is first needed.
    meaning: OnceLock<Opened>,
    described: Option<Described>,
}

/// What the codes mean, and for each matrix what stands for those that there are not.
#[derive(Debug)]
struct Opened {
    meaning: Meaning,
    fills: Vec<u8>,
}

/// What the codes mean for the array.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// The bins of floats.
    Bins(Bins),
    /// Floats that were made of them.
    Values(Box<Dequantizer>),
    /// Multiples of subdivisions of scales.
    Subdivisions(Box<Subdivisions>),
    /// Other codes.
    Codes(Box<Predictor>),
    /// Intervals of weights.
    Weights(Box<KnownWeights>),
    /// Codes that floats of this kind are rounded to.
    Floats(Box<Rounder>, FloatKind),
    /// Floats that are near ones of this kind, times this.
    Near(FloatKind, f32),
}

/// What a plan says that the codes mean.
#[derive(Debug)]
pub(super) struct Described {
    /// The variant, the file and the array that errors name.
    pub(super) variant: VariantName,
    pub(super) path: PathBuf,
    pub(super) key: ArrayKey,
    /// The quantised matrices, which are as many as there are readers of codes.
    pub(super) given: Vec<QuantMatrix<ArrayRef>>,
    /// Rows and columns of what is coded.
    pub(super) shape: [u64; 2],
    pub(super) kind: Kind,
    /// Where the values lie.
    pub(super) values: Vec<Value>,
    /// What these need: every chunk asks for it until one has been decoded.
    pub(super) values_group: Group,
}

/// What is given codes.
#[derive(Debug)]
pub(super) enum Kind {
    /// Floats that follow from them.
    Bins(FloatKind),
    /// Floats that were made of them.
    Values,
    /// Floats, with scales in so many subdivisions, by their base-2 logarithm.
    Subdivisions(i8, FloatKind),
    /// Codes of so many bits, which stand for this.
    Codes(Box<Dequantization<ArrayRef>>, u8),
    /// Floats of which this is known.
    Floats(Vec<Told>),
    /// Codes of so many bits, of whose weights this is known.
    Refined(Vec<Told>, Box<Dequantization<ArrayRef>>, u8),
    /// Codes of so many bits, which floats of this kind are rounded to.
    Rounded(FloatKind, Box<Dequantization<ArrayRef>>, u8),
    /// Floats that are near ones of this kind, times this.
    Near(FloatKind, f32),
}

/// What the codes of a matrix tell of weights.
#[derive(Debug)]
pub(super) enum Told {
    /// In which bin each lies, the outermost of which end at these levels.
    Bins([f32; 2]),
    /// About which level, where a symbol says between which distances from it.
    Around(Vec<f32>),
}

/// An array that says what codes stand for; once for each field that lies in it.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) name: ArrayRef,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    /// Those of the array that the field lies in.
    pub(super) bytes: Range<u64>,
    pub(super) array: Arc<dyn ArrayBytes>,
}

impl GivenReader {
    /// Matrices, and what their codes mean; for each there is a code that stands for those that there are not.
    pub(crate) fn new(matrices: Vec<MatrixReader>, meaning: Meaning, fills: Vec<u8>) -> Self {
        Self {
            in_step: vec![false; matrices.len()],
            matrices,
            meaning: Opened { meaning, fills }.into(),
            described: None,
        }
    }

    /// Matrices, each with whether its codes are refined by what is known from those before, and what a plan says of
    /// them.
    pub(super) fn described(matrices: Vec<(MatrixReader, bool)>, described: Described) -> Self {
        let (matrices, in_step) = matrices.into_iter().unzip();
        Self { matrices, in_step, meaning: OnceLock::new(), described: Some(described) }
    }

    /// Adds what a block of rows and columns needs.
    pub(crate) fn needs(&self, [rows, columns]: [Range<usize>; 2], needs: &mut Needs) -> Result<()> {
        if let (None, Some(Described { values, values_group, .. })) = (self.meaning.get(), &self.described) {
            let each = |listed: &mut Needs| {
                values.iter().try_for_each(|value| value.array.needs(value.bytes.clone(), listed))
            };
            values_group.add_to(needs, each)?;
        }
        let [rows, columns] = [rows, columns].map(|range| range.start as u64..range.end as u64);
        self.matrices.iter().try_for_each(|matrix| matrix.needs(rows.clone(), columns.clone(), needs))
    }

    /// Calls `work` with what a block of rows and columns is given, of codes where it is one of those; floats come in
    /// whole rows. `buffer` is for the codes.
    pub(crate) fn with_block<R>(
        &self,
        from: &Fetched,
        [rows, columns]: [Range<usize>; 2],
        buffer: &mut Vec<u8>,
        work: impl FnOnce(GivenOfChunk) -> R,
    ) -> Result<R> {
        let Opened { meaning, fills } = self.open(from)?;
        match meaning {
            Meaning::Floats(rounder, float) => {
                let (first_row, of_columns) = (rows.start, (columns.start, columns.end));
                let raw = self.floats(from, [rows, columns], *float, buffer)?;
                let given = GivenFloats { raw, float: *float, first_row, columns: of_columns, rounder };
                return Ok(work(GivenOfChunk::Floats(given)));
            }
            Meaning::Near(float, times) => {
                let raw = self.floats(from, [rows, columns], *float, buffer)?;
                let given = GivenNear { raw, float: *float, times: *times };
                return Ok(work(GivenOfChunk::Expected(Expected::Floats(given))));
            }
            _ => {}
        }
        let of_each = rows.len().saturating_mul(columns.len());
        let codes = at_least(buffer, of_each.saturating_mul(self.matrices.len()));
        let first_row = rows.start;
        let of_rows = rows.start as u64..rows.end as u64;
        let wanted = columns.start as u64..columns.end as u64;
        let mut stored = Vec::with_capacity(self.matrices.len());
        let matrices = self.matrices.iter().zip(fills).zip(codes.chunks_mut(of_each.max(1)));
        let decode = || -> Result<()> {
            for (((reader, fill), codes), in_step) in matrices.zip(&self.in_step) {
                let chunk = if *in_step { reader.stored_chunk(from, &of_rows, &wanted)? } else { None };
                if chunk.is_none() {
                    reader.decode(from, of_rows.start, wanted.clone(), *fill, codes)?;
                }
                stored.push(chunk);
            }
            Ok(())
        };
        // Later ones may be given the codes of earlier ones.
        if self.matrices.len() > 1 { kept::keeping(decode) } else { decode() }?;
        let codes = &*codes;
        Ok(match meaning {
            Meaning::Bins(bins) => work(GivenOfChunk::Bins(GivenBins { codes, first_row, bins })),
            Meaning::Values(values) => {
                let given = GivenValues { codes, first_row, values };
                work(GivenOfChunk::Expected(Expected::Values(given)))
            }
            Meaning::Subdivisions(subdivisions) => {
                work(GivenOfChunk::Subdivisions(GivenSubdivisions { codes, first_row, subdivisions }))
            }
            Meaning::Codes(predictor) => {
                let columns = (columns.start, columns.end);
                work(GivenOfChunk::Codes(GivenCodes { codes, first_row, columns, predictor }))
            }
            Meaning::Weights(known) => {
                let columns = (columns.start, columns.end);
                let read = codes.chunks(of_each.max(1)).map(KnownCodes::Read);
                let codes: Vec<_> = read.zip(stored).map(|(read, stored)| stored.unwrap_or(read)).collect();
                work(GivenOfChunk::Weights(GivenWeights {
                    codes: &codes,
                    first_row,
                    columns,
                    known,
                    factors: None,
                }))
            }
            Meaning::Floats(..) | Meaning::Near(..) => {
                return Err(Error::internal("floats in place of codes"));
            }
        })
    }

    /// The floats of a block that it is given.
    fn floats<'b>(
        &self,
        from: &Fetched,
        [rows, columns]: [Range<usize>; 2],
        float: FloatKind,
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8]> {
        let first = self.matrices.first().ok_or_else(|| Error::internal("given no floats"))?;
        let count = rows.len().saturating_mul(columns.len());
        let raw = at_least(buffer, count.saturating_mul(float.width()));
        let [rows, columns] = [rows, columns].map(|range| range.start as u64..range.end as u64);
        first.decode_words(from, rows, columns, raw)?;
        Ok(raw)
    }

    /// Reads what it takes, and calls `work` with what a block is given.
    pub(crate) fn read_block<R>(
        &self,
        block: [Range<usize>; 2],
        buffer: &mut Vec<u8>,
        work: impl FnOnce(GivenOfChunk) -> R,
    ) -> Result<R> {
        let first = self.matrices.first().ok_or_else(|| Error::internal("given no matrix"))?;
        let from = first.fetch(|needs| self.needs(block.clone(), needs))?;
        self.with_block(&from, block, buffer, work)
    }

    fn open(&self, from: &Fetched) -> Result<&Opened> {
        if let Some(opened) = self.meaning.get() {
            return Ok(opened);
        }
        let described = self.described.as_ref().ok_or_else(|| Error::internal("codes without a meaning"))?;
        let opened = kept::pausing(|| described.open(from))?;
        Ok(self.meaning.get_or_init(|| opened))
    }
}

impl Described {
    fn open(&self, from: &Fetched) -> Result<Opened> {
        let arrays = FetchedValues { values: &self.values, from };
        let damaged = |what: &str| {
            let error = Error::damaged(&self.path, format!("{}: {what}", self.key));
            about_array(error, &self.variant, &self.key)
        };
        let wrong = |field: &'static str| move |error: FormatError| damaged(&format!("{field}.{error}"));
        let open = |given: &QuantMatrix<ArrayRef>| {
            let values = Dequantizer::open(&given.values, given.shape, given.bits(), &arrays);
            Ok(values.map_err(|e| e.explain(wrong("given")))?.resized(self.shape.map(size)))
        };
        let values: Vec<Dequantizer> = self.given.iter().map(open).collect::<Result<_>>()?;
        let fills = values.iter().map(Dequantizer::zero_code).collect();
        let open_own = |own, bits| {
            let own = Dequantizer::open(own, self.shape, bits, &arrays);
            own.map_err(|e| e.explain(wrong("own")))
        };
        let no_bins = || damaged("given.levels: codes that have no bins");
        let known = |told: &[Told], values: Vec<Dequantizer>| {
            let bins = values.into_iter().zip(&self.given).zip(told);
            let bins = bins.map(|((values, given), told)| match told {
                Told::Bins(ends) => KnownBins::new(values, given.shape, *ends),
                Told::Around(around) => KnownBins::new(values, given.shape, [0.0; 2])?.moved(around),
            });
            bins.collect::<Option<Vec<_>>>().ok_or_else(no_bins)
        };
        let meaning = match &self.kind {
            Kind::Bins(float) => Meaning::Bins(Bins::new(&only(values)?, *float).ok_or_else(no_bins)?),
            Kind::Values => Meaning::Values(Box::new(only(values)?)),
            Kind::Subdivisions(subdivisions, float) => {
                Meaning::Subdivisions(Box::new(Subdivisions::new(only(values)?, *subdivisions, *float)))
            }
            Kind::Codes(own, bits) => {
                Meaning::Codes(Box::new(Predictor::new(open_own(own, *bits)?, only(values)?)))
            }
            Kind::Floats(ends) => Meaning::Weights(Box::new(KnownWeights::new(known(ends, values)?, None))),
            Kind::Near(float, times) => Meaning::Near(*float, *times),
            Kind::Rounded(float, own, bits) => {
                Meaning::Floats(Box::new(Rounder::new(open_own(own, *bits)?)), *float)
            }
            Kind::Refined(ends, own, bits) => {
                let own = OwnBins::new(open_own(own, *bits)?);
                let own = own.ok_or_else(|| damaged("own.levels: codes that have no bins"))?;
                Meaning::Weights(Box::new(KnownWeights::new(known(ends, values)?, Some(own))))
            }
        };
        Ok(Opened { meaning, fills })
    }
}

/// What codes of the one matrix that an array is given stand for.
fn only(values: Vec<Dequantizer>) -> Result<Dequantizer> {
    values.into_iter().next().ok_or_else(|| Error::internal("given no codes"))
}

/// The arrays of a description, from what was fetched.
struct FetchedValues<'a> {
    values: &'a [Value],
    from: &'a Fetched,
}

impl FetchedValues<'_> {
    fn find(&self, name: &ArrayRef) -> Result<&Value> {
        let found = self.values.iter().find(|value| value.name == *name);
        found.ok_or_else(|| Error::internal(format!("{}: not among the arrays of a description", name.array)))
    }
}

impl Arrays<ArrayRef> for FetchedValues<'_> {
    fn describe(&self, array: &ArrayRef) -> Result<(Dtype, Vec<u64>)> {
        let value = self.find(array)?;
        Ok((value.dtype, value.shape.clone()))
    }

    fn read(&self, array: &ArrayRef, bytes: Range<u64>) -> Result<Vec<u8>> {
        let array = &self.find(array)?.array;
        let mut out = zeroed(bytes.end.saturating_sub(bytes.start)).at(array.path(), "cannot hold scales")?;
        array.decode(self.from, bytes.start, &mut out)?;
        Ok(out)
    }
}
