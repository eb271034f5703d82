//! Chunks of 16-bit floats given their quantisation codes.
//!
//! A quantiser maps a bin of neighbouring floats to each code. Given the code `q` of a weight `w` and the row's scale, what is left of `w` is
//! its place in the bin: `r = m - lo[|q|]`, where `m` is the magnitude of `w` (its 15 low bits, which order floats of one sign) and
//! `lo[k]` the least magnitude that the quantiser maps to `k` or more. It is coded as an evenly spread number: slot `s` of 65,536 means
//! `r = s / f[|q|]`. The bins come from the caller ([`RowBins`]); a bin that does not fit the weights costs size, never correctness.
//!
//! Codes of 0 say little: their bin reaches down to zero across all binades. Those weights form a list of their own in the order of the
//! chunk, coded ahead of the others in the same lanes, as rows of one long row: symbol `(lo[1] >> mantissa) - (m >> mantissa)`, the
//! number of binades below the bin's edge, with sign and mantissa kept raw.
//!
//! ```text
//! exceptions  u32
//! states      64 x u32
//! plane       mantissa + 1 bits for each code of 0: mantissa, sign above it
//! exceptions  x (index in the chunk u32, value u16)
//! words       u16 ...
//! ```
//!
//! A weight whose sign differs from its code's, or whose `r` has no slot, is an exception; the stream then has `r = 0` (or the zero table's
//! likeliest symbol) in its place. `|q|` counts as at most 127.

use crate::bits::{pack_plane, plane_bytes, unpack_plane};
use crate::codes::{Exceptions, Input};
use crate::error::{DecodeError, EncodeError};
use crate::rans::{LANES, LaneDecoder, LaneEncoder, STATE_BYTES};
use crate::rows::Rows;
use crate::split::patch;
use crate::table::{Slot, SymbolTable, TABLE_BITS};

const MAGNITUDE: u16 = 0x7fff;
const SIGN: u16 = 0x8000;
/// Slots of the uniform coder: `2^RESIDUAL_BITS`.
const RESIDUAL_BITS: u32 = 16;

/// The bins of one row scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinTable {
    lo: [u16; 128],
    frequency: [u16; 128],
    /// `floor(2^32 / frequency) + 1`: `(slot * reciprocal) >> 32` is `slot / frequency` exactly, as both are below 2^16.
    reciprocal: [u32; 128],
}

impl BinTable {
    /// From each bin's least magnitude and the number of magnitudes in it, for codes of 0 to 127. A width of 0 counts as 1.
    #[must_use]
    pub fn new(bins: &[(u16, u16); 128]) -> Self {
        let mut table = Self { lo: [0; 128], frequency: [0; 128], reciprocal: [0; 128] };
        for (k, &(lo, width)) in bins.iter().enumerate() {
            // Magnitudes have 15 bits, so a frequency lies between 2 and 65,535 and its reciprocal below 2^32.
            let width = width.clamp(1, 1 << 15);
            let frequency = (65_536 / u32::from(width)).min(65_535);
            table.lo[k] = lo;
            table.frequency[k] = u16::try_from(frequency).unwrap_or(u16::MAX);
            table.reciprocal[k] = u32::try_from((1u64 << 32) / u64::from(frequency) + 1).unwrap_or(u32::MAX);
        }
        table
    }

    fn zero_top(&self, mantissa_bits: u32) -> u16 {
        self.lo[1] >> mantissa_bits
    }
}

/// The bins of each row of a chunk; rows of equal scale share a table.
#[derive(Debug, Clone, Default)]
pub struct RowBins {
    tables: Vec<BinTable>,
    of_row: Vec<u32>,
}

impl RowBins {
    /// Adds a row that has the bins of table `table`, which [`add_table`](Self::add_table) returned.
    pub fn add_row(&mut self, table: u32) {
        self.of_row.push(table);
    }

    /// Adds a table, for rows to refer to.
    pub fn add_table(&mut self, table: BinTable) -> u32 {
        self.tables.push(table);
        u32::try_from(self.tables.len() - 1).unwrap_or(u32::MAX)
    }

    fn row(&self, row: usize) -> Option<&BinTable> {
        self.tables.get(*self.of_row.get(row)? as usize)
    }
}

/// The symbols that codes of 0 would take in a chunk, for a histogram.
pub fn zero_symbols<'a>(
    codes: &'a [u8],
    values: &'a [u16],
    cols: usize,
    bins: &'a RowBins,
    mantissa_bits: u32,
) -> impl Iterator<Item = u8> + 'a {
    let zeros = codes.iter().zip(values).enumerate().filter(|(_, (q, _))| **q == 0);
    zeros.filter_map(move |(index, (_, &value))| {
        let top = bins.row(index / cols.max(1))?.zero_top(mantissa_bits);
        zero_symbol(value, top, mantissa_bits)
    })
}

fn zero_symbol(value: u16, top: u16, mantissa_bits: u32) -> Option<u8> {
    u8::try_from(top.checked_sub((value & MAGNITUDE) >> mantissa_bits)?).ok()
}

/// Codes chunks of 16-bit floats given their codes.
#[derive(Debug, Clone)]
pub struct ResidualCoder {
    mantissa_bits: u32,
    zero: Box<SymbolTable>,
    zero_slots: Vec<Slot>,
}

/// A code of 0 in the list ahead of the main stream.
#[derive(Clone)]
struct Zero {
    symbol: u8,
    raw: u16,
}

impl ResidualCoder {
    /// A coder for floats with `mantissa_bits` stored mantissa bits (7 for BF16, 10 for FP16), `zero` being the table of the codes of 0.
    ///
    /// # Errors
    /// `mantissa_bits` outside 1 to 14.
    pub fn new(mantissa_bits: u32, zero: SymbolTable) -> Result<Self, DecodeError> {
        if !(1..=14).contains(&mantissa_bits) {
            return Err(DecodeError::Corrupt("a mantissa width out of range"));
        }
        let zero_slots = zero.slots();
        Ok(Self { mantissa_bits, zero: Box::new(zero), zero_slots })
    }

    /// The table of codes of 0.
    #[must_use]
    pub fn zero_table(&self) -> &SymbolTable {
        &self.zero
    }

    /// One chunk: `values` given `codes`, both in rows of `cols`.
    ///
    /// # Errors
    /// Slices or bins that do not fit each other, or so many exceptions that the chunk would not shrink.
    pub fn encode(
        &self,
        codes: &[u8],
        values: &[u16],
        cols: usize,
        bins: &RowBins,
    ) -> Result<Vec<u8>, EncodeError> {
        let rows = Rows::new(values.len(), cols);
        if codes.len() != values.len() {
            return Err(EncodeError::Shape);
        }
        let mut exceptions = Exceptions::new(values.len())?;
        let mut encoder = LaneEncoder::new(values.len() / 4);
        let mut zeros = Vec::new();
        for row in (0..rows.count()).rev() {
            let bins = bins.row(row).ok_or(EncodeError::Shape)?;
            let range = rows.range(row);
            let cells = codes[range.clone()].iter().zip(&values[range.clone()]);
            for (column, (&code, &value)) in cells.enumerate().rev() {
                if code == 0 {
                    let symbol = zero_symbol(value, bins.zero_top(self.mantissa_bits), self.mantissa_bits);
                    let symbol = symbol.filter(|&s| self.zero.frequency(s) > 0).unwrap_or_else(|| {
                        exceptions.push(range.start + column);
                        self.zero.likeliest()
                    });
                    let raw = self.zero_raw(value);
                    zeros.push(Zero { symbol, raw });
                    continue;
                }
                let k = bin_of(code);
                let frequency = u32::from(bins.frequency[k]);
                let place = (value & MAGNITUDE).checked_sub(bins.lo[k]).map(u32::from);
                let fits = place.filter(|r| (r + 1) * frequency <= 1 << RESIDUAL_BITS);
                let place = fits.filter(|_| (value & SIGN != 0) == is_negative(code)).unwrap_or_else(|| {
                    exceptions.push(range.start + column);
                    0
                });
                encoder.put(column % LANES, place * frequency, frequency, RESIDUAL_BITS);
            }
        }
        // The list was gathered backwards, and the encoder runs backwards.
        let last = zeros.len();
        for (reverse, zero) in zeros.iter().enumerate() {
            let lane = (last - 1 - reverse) % LANES;
            let (start, frequency) = (self.zero.start(zero.symbol), self.zero.frequency(zero.symbol));
            encoder.put(lane, start, frequency, TABLE_BITS);
        }
        let (states, words) = encoder.finish();
        let mut out = Vec::with_capacity(values.len());
        out.extend(exceptions.count()?.to_le_bytes());
        out.extend(states);
        pack_plane(zeros.iter().rev().map(|z| z.raw), self.mantissa_bits + 1, &mut out);
        for index in exceptions.sorted() {
            out.extend(index.to_le_bytes());
            out.extend(values[index as usize].to_le_bytes());
        }
        out.extend(words.flatten());
        Ok(out)
    }

    /// Decodes a chunk of `out.len()` values in rows of `cols` given their `codes`.
    ///
    /// # Errors
    /// The chunk is truncated or damaged, or `codes` or `bins` do not fit it; `out` then holds anything.
    pub fn decode(
        &self,
        chunk: &[u8],
        codes: &[u8],
        cols: usize,
        bins: &RowBins,
        out: &mut [u16],
    ) -> Result<(), DecodeError> {
        let rows = Rows::new(out.len(), cols);
        if codes.len() != out.len() {
            return Err(DecodeError::Corrupt("codes of another length than the weights"));
        }
        let mut input = Input(chunk);
        let exceptions = input.u32()? as usize;
        let states = input.array::<STATE_BYTES>()?;
        let zero_count = codes.iter().filter(|&&q| q == 0).count();
        let plane = input.take(plane_bytes(zero_count, self.mantissa_bits + 1))?;
        let exceptions = input.items::<6>(exceptions)?;
        let mut decoder = LaneDecoder::new(states, input.0)?;

        let mut zeros = vec![Zero { symbol: 0, raw: 0 }; zero_count];
        unpack_plane(plane, zero_count, self.mantissa_bits + 1, |index, raw| zeros[index].raw = raw)?;
        for (index, zero) in zeros.iter_mut().enumerate() {
            let lane = index % LANES;
            let slot = self.zero_slots[decoder.slot(lane, TABLE_BITS) as usize];
            decoder.advance(lane, slot.offset(), slot.frequency(), TABLE_BITS)?;
            zero.symbol = slot.symbol();
        }

        let mut zeros = zeros.iter();
        for row in 0..rows.count() {
            let bins = bins.row(row).ok_or(DecodeError::Corrupt("a row without a scale"))?;
            let range = rows.range(row);
            let cells = codes[range.clone()].iter().zip(&mut out[range]);
            for (column, (&code, value)) in cells.enumerate() {
                if code == 0 {
                    let zero = zeros.next().ok_or(DecodeError::Truncated)?;
                    *value = self.zero_value(zero, bins.zero_top(self.mantissa_bits));
                    continue;
                }
                let k = bin_of(code);
                let lane = column % LANES;
                let slot = decoder.slot(lane, RESIDUAL_BITS);
                let frequency = u32::from(bins.frequency[k]);
                // The product's high half is below 2^16.
                let place = ((u64::from(slot) * u64::from(bins.reciprocal[k])) >> 32) as u32;
                decoder.advance(lane, slot - place * frequency, frequency, RESIDUAL_BITS)?;
                let magnitude = bins.lo[k].wrapping_add(place as u16) & MAGNITUDE;
                *value = magnitude | if is_negative(code) { SIGN } else { 0 };
            }
        }
        decoder.finish()?;
        patch(exceptions, out)
    }

    fn zero_raw(&self, value: u16) -> u16 {
        let mask = (1 << self.mantissa_bits) - 1;
        (value & mask) | (value >> 15) << self.mantissa_bits
    }

    fn zero_value(&self, zero: &Zero, top: u16) -> u16 {
        let mask = (1 << self.mantissa_bits) - 1;
        let exponent = top.saturating_sub(u16::from(zero.symbol));
        exponent << self.mantissa_bits | zero.raw & mask | (zero.raw >> self.mantissa_bits) << 15
    }
}

fn is_negative(code: u8) -> bool {
    code.cast_signed() < 0
}

fn bin_of(code: u8) -> usize {
    usize::from(code.cast_signed().unsigned_abs().min(127))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bins of a quantiser that multiplies magnitudes by a step.
    fn linear_bins(first: u16, step: u16) -> BinTable {
        let mut bins = [(0, first); 128];
        for (k, bin) in (0u16..).zip(&mut bins).skip(1) {
            *bin = (first.saturating_add(step.saturating_mul(k - 1)).min(0x7fff), step);
        }
        BinTable::new(&bins)
    }

    fn coder(codes: &[u8], values: &[u16], cols: usize, bins: &RowBins) -> ResidualCoder {
        let mut histogram = [0; 256];
        zero_symbols(codes, values, cols, bins, 7).for_each(|s| histogram[usize::from(s)] += 1);
        ResidualCoder::new(7, SymbolTable::from_histogram(&histogram)).unwrap()
    }

    fn round_trip(codes: &[u8], values: &[u16], cols: usize, bins: &RowBins) -> Option<usize> {
        let coder = coder(codes, values, cols, bins);
        let chunk = coder.encode(codes, values, cols, bins).ok()?;
        let mut back = vec![0; values.len()];
        coder.decode(&chunk, codes, cols, bins, &mut back).unwrap();
        assert_eq!(back, values);
        for cut in 0..chunk.len().min(300) {
            assert!(coder.decode(&chunk[..cut], codes, cols, bins, &mut back).is_err(), "cut at {cut}");
        }
        Some(chunk.len())
    }

    #[test]
    fn the_reciprocal_divides_exactly() {
        for width in 1..=u16::MAX {
            let table = BinTable::new(&[(0, width); 128]);
            let (f, reciprocal) = (u64::from(table.frequency[127]), u64::from(table.reciprocal[127]));
            for slot in [0, 1, f - 1, f, f + 1, 2 * f - 1, 65_535 / f * f, 65_535].map(|s| s.min(65_535)) {
                assert_eq!((slot * reciprocal) >> 32, slot / f, "{slot} / {f}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_values_given_any_codes(
            pairs in proptest::collection::vec(any::<(u8, u16)>(), 0..2000),
            cols in 1usize..300,
            first in 1u16..0x7f00,
            step in 0u16..300,
        ) {
            let (codes, values): (Vec<u8>, Vec<u16>) = pairs.into_iter().unzip();
            let mut bins = RowBins::default();
            let table = bins.add_table(linear_bins(first, step));
            Rows::new(values.len(), cols).iter().for_each(|_| bins.add_row(table));
            let _ = round_trip(&codes, &values, cols, &bins);
        }

        #[test]
        fn values_in_their_bins(
            seeds in proptest::collection::vec((any::<i8>(), any::<u16>()), 64..3000),
            cols in 1usize..300,
            step in 1u16..200,
        ) {
            let mut bins = RowBins::default();
            let table = bins.add_table(linear_bins(0x1000, step));
            Rows::new(seeds.len(), cols).iter().for_each(|_| bins.add_row(table));
            let codes: Vec<u8> = seeds.iter().map(|(q, _)| q.cast_unsigned()).collect();
            let values: Vec<u16> = seeds.iter().map(|&(q, r)| match q.unsigned_abs().min(127) {
                0 => (r % 0x1000) | (r & SIGN),
                k => (0x1000 + step * (u16::from(k) - 1) + r % step) | if q < 0 { SIGN } else { 0 },
            }).collect();
            let bytes = round_trip(&codes, &values, cols, &bins).unwrap();
            // log2(step) bits a weight, 8 raw and at most 12 coded for each code of 0, states and a little for rounding.
            let zeros = codes.iter().filter(|&&q| q == 0).count();
            let bits = f64::from(step).log2() * seeds.len() as f64 + 20.0 * zeros as f64;
            prop_assert!(bytes as f64 <= bits * 1.02 / 8.0 + 400.0, "{bytes} bytes for {bits} bits");
        }
    }

    #[test]
    fn damage_never_panics() {
        let values: Vec<u16> = (0..1500u16).map(|i| 0x1000 + i * 7 % 700).collect();
        let codes: Vec<u8> = values.iter().map(|v| u8::try_from((v - 0x1000) / 20).unwrap()).collect();
        let mut bins = RowBins::default();
        let table = bins.add_table(linear_bins(0x1000 + 20, 20));
        (0..15).for_each(|_| bins.add_row(table));
        let coder = coder(&codes, &values, 100, &bins);
        let chunk = coder.encode(&codes, &values, 100, &bins).unwrap();
        let mut back = vec![0; values.len()];
        coder.decode(&chunk, &codes, 100, &bins, &mut back).unwrap();
        assert_eq!(back, values);
        for bit in 0..chunk.len() * 8 {
            let mut bad = chunk.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let result = coder.decode(&bad, &codes, 100, &bins, &mut back);
            assert!(result.is_err() || back != values, "bit {bit} has no effect");
        }
        assert!(coder.decode(&chunk, &codes[1..], 100, &bins, &mut back).is_err());
        assert!(coder.decode(&chunk, &codes, 10, &bins, &mut back).is_err());
    }
}
