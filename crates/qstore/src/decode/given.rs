//! What residuals are given: codes of lower variants, row by row, and what they stand for.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use qstore_checkpoint::{Error, FloatKind, IoContext as _, Result, size, zeroed};
use qstore_container::{ArrayKey, ArrayRef, Dequantization, Dtype, FormatError, VariantName};

use super::bytes::ArrayBytes;
use super::codes::CodeReader;
use crate::codec::{
    Bins, GivenBins, GivenCodes, GivenOfChunk, GivenSubdivisions, Predictor, Subdivisions, at_least,
};
use crate::fetch::{Fetched, Group, Needs};
use crate::quant::{Arrays, Dequantizer};
use crate::variant::about_array;

/// What the chunks of one array are given.
#[derive(Debug)]
pub(crate) struct GivenReader {
    codes: CodeReader,
    /// Opened when it is first needed.
    meaning: OnceLock<Opened>,
    described: Option<Described>,
}

/// What the codes mean, and what stands for those that there are not.
#[derive(Debug)]
struct Opened {
    meaning: Meaning,
    fill: u8,
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

/// What a plan says that the codes mean.
#[derive(Debug)]
pub(super) struct Described {
    /// The variant, the file and the array that errors name.
    pub(super) variant: VariantName,
    pub(super) path: PathBuf,
    pub(super) key: ArrayKey,
    pub(super) given: Dequantization<ArrayRef>,
    /// Of the quantised matrix.
    pub(super) given_shape: [u64; 2],
    pub(super) given_bits: u8,
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
    /// Floats, with scales in so many subdivisions, by their base-2 logarithm.
    Subdivisions(i8, FloatKind),
    /// Codes of so many bits, which stand for this.
    Codes(Box<Dequantization<ArrayRef>>, u8),
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
    /// Codes, and what they mean; `fill` stands for those that there are not.
    pub(crate) fn new(codes: CodeReader, meaning: Meaning, fill: u8) -> Self {
        Self { codes, meaning: Opened { meaning, fill }.into(), described: None }
    }

    /// Codes, and what a plan says of them.
    pub(super) fn described(codes: CodeReader, described: Described) -> Self {
        Self { codes, meaning: OnceLock::new(), described: Some(described) }
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
        self.codes.needs(rows, columns, needs)
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
        let Opened { meaning, fill } = self.open(from)?;
        let codes = at_least(buffer, rows.len().saturating_mul(columns.len()));
        let first_row = rows.start;
        let wanted = columns.start as u64..columns.end as u64;
        self.codes.decode(from, rows.start as u64, wanted, *fill, codes)?;
        Ok(match meaning {
            Meaning::Bins(bins) => work(GivenOfChunk::Bins(GivenBins { codes, first_row, bins })),
            Meaning::Subdivisions(subdivisions) => {
                work(GivenOfChunk::Subdivisions(GivenSubdivisions { codes, first_row, subdivisions }))
            }
            Meaning::Codes(predictor) => {
                let columns = (columns.start, columns.end);
                work(GivenOfChunk::Codes(GivenCodes { codes, first_row, columns, predictor }))
            }
        })
    }

    /// Reads what it takes, and calls `work` with what a block is given.
    pub(crate) fn read_block<R>(
        &self,
        block: [Range<usize>; 2],
        buffer: &mut Vec<u8>,
        work: impl FnOnce(GivenOfChunk) -> R,
    ) -> Result<R> {
        let from = self.codes.fetch(|needs| self.needs(block.clone(), needs))?;
        self.with_block(&from, block, buffer, work)
    }

    fn open(&self, from: &Fetched) -> Result<&Opened> {
        if let Some(opened) = self.meaning.get() {
            return Ok(opened);
        }
        let described = self.described.as_ref().ok_or_else(|| Error::internal("codes without a meaning"))?;
        let opened = described.open(from)?;
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
        let values = Dequantizer::open(&self.given, self.given_shape, self.given_bits, &arrays);
        let values = values.map_err(|e| e.explain(wrong("given")))?.resized(self.shape.map(size));
        let fill = values.zero_code();
        let meaning = match &self.kind {
            Kind::Bins(float) => {
                let bins = Bins::new(&values, *float);
                Meaning::Bins(bins.ok_or_else(|| damaged("given.levels: codes that have no bins"))?)
            }
            Kind::Subdivisions(subdivisions, float) => {
                Meaning::Subdivisions(Box::new(Subdivisions::new(values, *subdivisions, *float)))
            }
            Kind::Codes(own, bits) => {
                let own = Dequantizer::open(own, self.shape, *bits, &arrays);
                let own = own.map_err(|e| e.explain(wrong("own")))?;
                Meaning::Codes(Box::new(Predictor::new(own, values)))
            }
        };
        Ok(Opened { meaning, fill })
    }
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
