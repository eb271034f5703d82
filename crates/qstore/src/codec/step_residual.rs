//! Floats given codes that their quantiser has moved.
//!
//! GPTQ feeds the error of one weight into the next ones before it rounds them, so a code is not that of its weight
//! rounded, though seldom far from it. The weight is counted in subdivisions of its scale: what is coded first is by
//! how many its multiple lies off the code's, and then its place among the floats that are nearest to that multiple.
//!
//! ```text
//! length  u32   bytes of the shifts
//! shifts  ...   how far multiples lie off those of the codes, coded as codes are
//! places  ...   coded as a residual given the multiples
//! ```

use qstore_checkpoint::FloatKind;
use qstore_kernels::{
    Backend, Classifier, CodeRange, CodesCoder, DecodeError, ExpectRun, Layout, ResidualCoder, SymbolTable,
    ZeroRun, add_expected, add_multiples, nearest_byte,
};

use super::head::{read_tables, write_tables};
use super::places::{Binned, Places};
use super::workspace::{Workspace, at_least};
use crate::quant::{ColumnRun, Dequantizer, Quantizer};

/// The multiples that weights are counted in, for one matrix of codes and one type of floats.
#[derive(Debug)]
pub(crate) struct Subdivisions {
    float: FloatKind,
    /// How many a scale has: a power of two, of this exponent.
    exponent: i8,
    values: Dequantizer,
    runs: Vec<ColumnRun>,
    places: Places,
}

/// The multiples that there are bins of.
const MULTIPLES: CodeRange = CodeRange { least: -127.0, most: 127.0 };

/// What a chunk of floats is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenSubdivisions<'a> {
    /// The code of each weight.
    pub(crate) codes: &'a [u8],
    /// The row that they begin with.
    pub(crate) first_row: usize,
    pub(crate) subdivisions: &'a Subdivisions,
}

impl Subdivisions {
    /// `2^exponent` of each scale, -8 to 7.
    pub(crate) fn new(values: Dequantizer, exponent: i8, float: FloatKind) -> Self {
        let quantizer = Quantizer::subdivided(power(exponent), values.is_symmetric(), float);
        let (tile_rows, tiles) = values.tiling();
        let scale = |tile: usize, group| values.row(tile * tile_rows).scale(group);
        let places = Places::new(quantizer, values.columns(), (tile_rows, tiles), scale);
        Self { float, exponent, runs: values.columns().runs(), values, places }
    }

    /// Whether chunks of so many weights can be coded.
    pub(crate) fn fits(&self, weights: usize) -> bool {
        self.places.fits(weights)
    }

    /// Adds the codes as multiples of a subdivision to `out`, modulo 256.
    fn add_multiples(&self, given: GivenSubdivisions, out: &mut [u8]) {
        let cols = self.values.cols().max(1);
        let rows = given.codes.chunks(cols).zip(out.chunks_mut(cols));
        // Integers are shifted, whatever else is rounded.
        let Some(shift) = u32::try_from(self.exponent).ok().filter(|_| self.values.is_integer()) else {
            let ratio = power(self.exponent);
            let mut runs = Vec::with_capacity(self.runs.len());
            for (row, (codes, out)) in (given.first_row..).zip(rows) {
                let values = self.values.row(row);
                runs.clear();
                runs.extend(self.runs.iter().map(|run| {
                    let offset = -(values.zero(run.group) * ratio);
                    ExpectRun { len: run.end - run.start, ratio, offset }
                }));
                add_expected(Backend::best(), &runs, codes, self.values.levels().level_of(), MULTIPLES, out);
            }
            return;
        };
        let mut runs = Vec::with_capacity(self.runs.len());
        let mut ranks = Vec::new();
        for (row, (codes, out)) in (given.first_row..).zip(rows) {
            let values = self.values.row(row);
            runs.clear();
            let of_run =
                |run: &ColumnRun| ZeroRun { len: run.end - run.start, zero: values.zero_byte(run.group) };
            runs.extend(self.runs.iter().map(of_run));
            let codes = if self.values.levels().ranks_are_codes() {
                codes
            } else {
                ranks.clear();
                ranks.extend_from_slice(codes);
                self.values.levels().to_ranks(&mut ranks);
                &ranks
            };
            add_multiples(Backend::best(), &runs, codes, shift, out);
        }
    }

    /// The multiple that each weight is nearest to, from -127 to 127.
    fn nearest(&self, raw: &[u8], first_row: usize, out: &mut [u8]) {
        let width = self.float.width();
        let cols = self.values.cols().max(1);
        let rows = raw.chunks(cols * width).zip(out.chunks_mut(cols));
        for (row, (raw, out)) in (first_row..).zip(rows) {
            let values = self.values.row(row);
            for run in &self.runs {
                let factor = Quantizer::factor(power(self.exponent), values.scale(run.group));
                let weights = raw[run.start * width..run.end * width].chunks_exact(width);
                for (weight, out) in weights.zip(&mut out[run.start..run.end]) {
                    *out = nearest_byte(self.float.read(weight) * factor, MULTIPLES);
                }
            }
        }
    }
}

/// Two to that power, -126 to 127.
fn power(exponent: i8) -> f32 {
    f32::from_bits(u32::from((i16::from(exponent) + 127).unsigned_abs()) << 23)
}

/// Codes floats of one kind given the codes of one array.
#[derive(Debug, Clone)]
pub(crate) struct StepResidual {
    float: FloatKind,
    shifts: CodesCoder,
    places: ResidualCoder,
}

impl StepResidual {
    pub(crate) fn new(
        float: FloatKind,
        tables: Vec<SymbolTable>,
        zeros: SymbolTable,
        layout: Layout,
    ) -> Result<Self, DecodeError> {
        let shifts = CodesCoder::new(tables, layout)?;
        Ok(Self { float, shifts, places: ResidualCoder::new(float.mantissa_bits(), zeros, layout)? })
    }

    /// The floats.
    pub(crate) fn float(&self) -> FloatKind {
        self.float
    }

    pub(crate) fn open(float: FloatKind, layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        let tables = read_tables(head)?;
        Self::new(float, tables, SymbolTable::read(head)?, layout)
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = write_tables(self.shifts.tables());
        self.places.zero_table().write(&mut head);
        head
    }

    pub(crate) fn encode(
        &self,
        raw: &[u8],
        given: GivenSubdivisions,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let Split { shifts, multiples } = split(raw, given)?;
        let GivenSubdivisions { first_row, subdivisions, .. } = given;
        let cols = subdivisions.places.cols();
        let shifts = self.shifts.encode(&shifts, cols, classifier, &mut workspace.scratch).ok()?;
        let binned = Binned { float: self.float, first_row, bins: &multiples };
        let places = subdivisions.places.encode(&self.places, raw, binned, workspace)?;
        let mut out = u32::try_from(shifts.len()).ok()?.to_le_bytes().to_vec();
        out.extend(shifts);
        out.extend(places);
        Some(out)
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        given: GivenSubdivisions,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let (length, rest) = stored.split_first_chunk().ok_or(DecodeError::Truncated)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::Truncated)?;
        let (shifts, coded) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        let GivenSubdivisions { codes, first_row, subdivisions } = given;
        let places = &subdivisions.places;
        let mut buffer = std::mem::take(&mut workspace.fine);
        let multiples = at_least(&mut buffer, codes.len());
        let decoded = self.shifts.decode(shifts, places.cols(), multiples).and_then(|()| {
            subdivisions.add_multiples(given, multiples);
            let binned = Binned { float: self.float, first_row, bins: multiples };
            places.decode(&self.places, coded, binned, workspace, out)
        });
        workspace.fine = buffer;
        decoded
    }
}

/// A chunk in its parts.
pub(crate) struct Split {
    /// How far multiples lie off those of the codes, modulo 256.
    pub(crate) shifts: Vec<u8>,
    /// The multiple that each weight is nearest to.
    multiples: Vec<u8>,
}

impl Split {
    /// Counts the symbols that the multiples of 0 take.
    pub(crate) fn count_zeros(&self, raw: &[u8], given: GivenSubdivisions, into: &mut [u64; 256]) {
        let GivenSubdivisions { first_row, subdivisions, .. } = given;
        let binned = Binned { float: subdivisions.float, first_row, bins: &self.multiples };
        subdivisions.places.count_zeros(raw, binned, into);
    }
}

/// Takes a chunk apart; `None` if there are not as many codes, or no whole rows.
pub(crate) fn split(raw: &[u8], given: GivenSubdivisions) -> Option<Split> {
    let GivenSubdivisions { codes, first_row, subdivisions } = given;
    if codes.len() * subdivisions.float.width() != raw.len() || !subdivisions.fits(codes.len()) {
        return None;
    }
    let mut multiples = vec![0; codes.len()];
    subdivisions.nearest(raw, first_row, &mut multiples);
    let mut shifts = vec![0; codes.len()];
    subdivisions.add_multiples(given, &mut shifts);
    shifts.iter_mut().zip(&multiples).for_each(|(shift, multiple)| *shift = multiple.wrapping_sub(*shift));
    Some(Split { shifts, multiples })
}
