//! Chunks of 16-bit floats given their quantisation codes.
//!
//! A quantiser maps a bin of neighbouring floats to each code. Given the code `q` of a weight `w` and the row's
//! scale, what is left of `w` is its place in the bin: `r = m - lo[|q|]`, where `m` is the magnitude of `w` (its 15 low
//! bits, which order floats of one sign) and `lo[k]` the least magnitude that the quantiser maps to `k` or more. It is
//! coded as an evenly spread number: slot `s` of 65,536 means `r = s / f[|q|]`. The bins come from the caller
//! ([`BinTable`]); a bin that does not fit the weights costs size, never correctness.
//!
//! Codes of 0 say little: their bin reaches down to zero across all binades. Those weights form a list of their own in
//! the order of the chunk, coded ahead of the others in the same lanes, as rows of one long row: symbol `(lo[1] >>
//! mantissa) - (m >> mantissa)`, the number of binades below the bin's edge, with sign and mantissa kept raw.
//!
//! ```text
//! exceptions  u32
//! states      a u32 for each lane
//! plane       mantissa + 1 bits for each code of 0: mantissa, sign above it
//! exceptions  x (index in the chunk u32, value u16)
//! words       u16 ...
//! ```
//!
//! A weight whose sign differs from its code's, or whose `r` has no slot, is an exception; the stream then has `r = 0`
//! (or the zero table's likeliest symbol) in its place. `|q|` counts as at most 127.

use crate::Half;
use std::sync::OnceLock;

use crate::backend::Backend;
use crate::bins::{self, BinTable, MAGNITUDE, StreamInputs, ZEROS_SLACK};
use crate::bits::{pack_plane, plane_bytes, unpack_plane};
use crate::codes::{Exceptions, Input};
use crate::error::{DecodeError, EncodeError};
use crate::rows::Rows;
use crate::scratch::{Scratch, at_least};
use crate::split::patch;
use crate::stream::{Layout, States, WordReader};
use crate::symbols::{self, DecodeTable, EncodeTable};
use crate::table::SymbolTable;

/// The symbols that codes of 0 would take in a chunk, for a histogram.
pub fn zero_symbols<'a>(
    codes: &'a [u8],
    values: &'a [Half],
    rows: Rows<'a>,
    bins: &'a [&'a BinTable],
    mantissa_bits: u32,
) -> impl Iterator<Item = u8> + 'a {
    bins.iter().zip(rows.iter()).flat_map(move |(bins, range)| {
        let top = bins.zero_top(mantissa_bits);
        let (codes, values) = (codes.get(range.clone()), values.get(range));
        let both = codes.unwrap_or_default().iter().zip(values.unwrap_or_default());
        let zeros = both.filter(|(code, _)| **code == 0);
        zeros.filter_map(move |(_, value)| zero_symbol(*value, top, mantissa_bits))
    })
}

fn zero_symbol(value: Half, top: u16, mantissa_bits: u32) -> Option<u8> {
    u8::try_from(top.checked_sub((u16::from_le_bytes(value) & MAGNITUDE) >> mantissa_bits)?).ok()
}

/// Codes chunks of 16-bit floats given their codes.
#[derive(Debug, Clone)]
pub struct ResidualCoder {
    backend: Backend,
    layout: Layout,
    mantissa_bits: u32,
    zero: Box<SymbolTable>,
    decode_zero: DecodeTable,
    /// Made when the first chunk is encoded; readers need none.
    encode_zero: OnceLock<EncodeTable>,
}

impl ResidualCoder {
    /// A coder for floats with `mantissa_bits` stored mantissa bits (7 for BF16, 10 for FP16), `zero` being the table
    /// of the codes of 0.
    ///
    /// # Errors
    /// `mantissa_bits` outside 1 to 14.
    pub fn new(mantissa_bits: u32, zero: SymbolTable, layout: Layout) -> Result<Self, DecodeError> {
        if !(1..=14).contains(&mantissa_bits) {
            return Err(DecodeError::Corrupt("a mantissa width out of range"));
        }
        let backend = Backend::best();
        let decode_zero = DecodeTable::new(&zero, layout, backend);
        Ok(Self {
            backend,
            layout,
            mantissa_bits,
            zero: Box::new(zero),
            decode_zero,
            encode_zero: OnceLock::new(),
        })
    }

    /// The same coder on another backend, for tests and measurements. What it writes is the same.
    #[must_use]
    pub fn on(self, backend: Backend) -> Self {
        let decode_zero = DecodeTable::new(&self.zero, self.layout, backend);
        Self { backend, decode_zero, ..self }
    }

    /// How its streams are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The table of codes of 0.
    #[must_use]
    pub fn zero_table(&self) -> &SymbolTable {
        &self.zero
    }

    /// One chunk: `values` given `codes`, both in these rows.
    ///
    /// # Errors
    /// Slices or bins that do not fit each other, or so many exceptions that the chunk would not shrink.
    pub fn encode(
        &self,
        codes: &[u8],
        values: &[Half],
        rows: Rows,
        bins: &[&BinTable],
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, EncodeError> {
        if codes.len() != values.len() || rows.len() != values.len() || bins.len() != rows.count() {
            return Err(EncodeError::Shape);
        }
        let mut exceptions = Exceptions::new(values.len())?;
        let words = &mut scratch.words;
        // One word an element at most, in the one part or in the other.
        words.begin(values.len());
        let mut states = States::first(self.layout);
        for (row, bins) in bins.iter().enumerate().rev() {
            let range = rows.range(row);
            let start = range.start;
            let (codes, values) = (&codes[range.clone()], &values[range]);
            bins::encode_row(self.backend, &mut states, words, bins, codes, values, &mut |column| {
                exceptions.push(start + column);
            });
        }
        let Scratch { symbols, zeros, .. } = scratch;
        let zeros = self.zeros(codes, values, rows, bins, zeros, symbols, &mut exceptions);
        let words = &mut scratch.words;
        let encode_zero = self.encode_zero.get_or_init(|| EncodeTable::new(&self.zero, self.layout));
        let symbols = &scratch.symbols[..zeros];
        // Those that the table lacks have been replaced.
        symbols::encode_row(self.backend, &mut states, words, encode_zero, symbols, &mut |_| {});
        let zeros = &scratch.zeros[..zeros];
        let words = words.words();
        let mut out = Vec::with_capacity(2048 + zeros.len() * 2 + words.len());
        out.extend(exceptions.count()?.to_le_bytes());
        states.write(&mut out);
        pack_plane(zeros.iter().map(|zero| self.zero_raw(*zero)), self.mantissa_bits + 1, &mut out);
        for index in exceptions.sorted() {
            out.extend(index.to_le_bytes());
            out.extend(values[index as usize]);
        }
        out.extend(words);
        Ok(out)
    }

    /// Lists the values of codes of 0 and their symbols; returns how many there are.
    #[expect(clippy::too_many_arguments, reason = "two lists that are kept from chunk to chunk")]
    fn zeros(
        &self,
        codes: &[u8],
        values: &[Half],
        rows: Rows,
        bins: &[&BinTable],
        list: &mut Vec<Half>,
        symbols: &mut Vec<u8>,
        exceptions: &mut Exceptions,
    ) -> usize {
        let list = at_least(list, values.len() + ZEROS_SLACK);
        let symbols = at_least(symbols, values.len());
        let mut listed = 0;
        for (bins, range) in bins.iter().zip(rows.iter()) {
            let top = bins.zero_top(self.mantissa_bits);
            let codes = &codes[range.clone()];
            let count = bins::list_zeros(self.backend, codes, &values[range.clone()], &mut list[listed..]);
            let symbols = symbols[listed..].iter_mut();
            for (nth, (value, into)) in list[listed..listed + count].iter().zip(symbols).enumerate() {
                let symbol = zero_symbol(*value, top, self.mantissa_bits);
                *into = symbol.filter(|&symbol| self.zero.frequency(symbol) > 0).unwrap_or_else(|| {
                    let column = memchr::memchr_iter(0, codes).nth(nth);
                    column.into_iter().for_each(|column| exceptions.push(range.start + column));
                    self.zero.likeliest()
                });
            }
            listed += count;
        }
        listed
    }

    /// Decodes a chunk of `out.len()` values in these rows given their `codes`.
    ///
    /// # Errors
    /// The chunk is truncated or damaged, or `codes` or `bins` do not fit it; `out` then holds anything.
    pub fn decode(
        &self,
        chunk: &[u8],
        codes: &[u8],
        rows: Rows,
        bins: &[&BinTable],
        scratch: &mut Scratch,
        out: &mut [Half],
    ) -> Result<(), DecodeError> {
        if codes.len() != out.len() || rows.len() != out.len() {
            return Err(DecodeError::Corrupt("codes of another length than the weights"));
        }
        if bins.len() != rows.count() {
            return Err(DecodeError::Corrupt("another number of scales than of rows"));
        }
        let mut input = Input(chunk);
        let exceptions = input.u32()? as usize;
        let mut states = input.states(self.layout)?;
        let zeros_of_row: Vec<usize> = rows.iter().map(|range| count_zeros(&codes[range])).collect();
        let zero_count = zeros_of_row.iter().sum();
        let plane = input.take(plane_bytes(zero_count, self.mantissa_bits + 1))?;
        let exceptions = input.items::<6>(exceptions)?;
        let mut words = WordReader::new(input.0)?;

        let symbols = at_least(&mut scratch.symbols, zero_count);
        symbols::decode_row(self.backend, &mut states, &mut words, &self.decode_zero, symbols)?;
        let zeros = at_least(&mut scratch.zeros, zero_count + ZEROS_SLACK);
        unpack_plane(plane, zero_count, self.mantissa_bits + 1, |index, raw| {
            zeros[index] = raw.to_le_bytes();
        })?;
        let mut rest = (&symbols[..], &mut zeros[..zero_count]);
        for (bins, &count) in bins.iter().zip(&zeros_of_row) {
            let top = bins.zero_top(self.mantissa_bits);
            let (symbols, after) = (rest.0.split_at(count), rest.1.split_at_mut(count));
            for (value, &symbol) in after.0.iter_mut().zip(symbols.0) {
                *value = self.zero_value(symbol, u16::from_le_bytes(*value), top).to_le_bytes();
            }
            rest = (symbols.1, after.1);
        }

        let given = StreamInputs { rows, bins, codes, zeros };
        bins::decode(self.backend, &mut states, &mut words, &given, out)?;
        words.finish()?;
        states.finish()?;
        patch(exceptions, out)
    }

    /// Mantissa, and the sign above it.
    fn zero_raw(&self, value: Half) -> u16 {
        let value = u16::from_le_bytes(value);
        let mask = (1 << self.mantissa_bits) - 1;
        (value & mask) | (value >> 15) << self.mantissa_bits
    }

    fn zero_value(&self, symbol: u8, raw: u16, top: u16) -> u16 {
        let mask = (1 << self.mantissa_bits) - 1;
        let exponent = top.saturating_sub(u16::from(symbol));
        exponent << self.mantissa_bits | raw & mask | (raw >> self.mantissa_bits) << 15
    }
}

fn count_zeros(codes: &[u8]) -> usize {
    // Short sums, so that compilers make vector code of it.
    let count_of = |part: &[u8]| part.iter().map(|&code| u8::from(code == 0)).sum::<u8>();
    codes.chunks(128).map(|part| usize::from(count_of(part))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::SIGN;
    use proptest::prelude::*;

    fn halves(values: &[u16]) -> Vec<Half> {
        values.iter().map(|value| value.to_le_bytes()).collect()
    }

    /// Bins of a quantiser that multiplies magnitudes by a step.
    fn linear_bins(first: u16, step: u16) -> BinTable {
        let (mut lo, mut width) = ([0; 128], [step; 128]);
        width[0] = first;
        for (k, lo) in (0u16..).zip(&mut lo).skip(1) {
            *lo = first.saturating_add(step.saturating_mul(k - 1)).min(0x7fff);
        }
        BinTable::new(&lo, &width)
    }

    fn coder(codes: &[u8], values: &[Half], cols: usize, bins: &[&BinTable]) -> ResidualCoder {
        let mut histogram = [0; 256];
        zero_symbols(codes, values, Rows::new(values.len(), cols), bins, 7)
            .for_each(|s| histogram[usize::from(s)] += 1);
        ResidualCoder::new(7, SymbolTable::from_histogram(&histogram), Layout::Wide).unwrap()
    }

    fn round_trip(codes: &[u8], values: &[u16], cols: usize, bins: &[&BinTable]) -> Option<usize> {
        let values = &halves(values)[..];
        let coder = coder(codes, values, cols, bins);
        let scratch = &mut Scratch::default();
        let chunk = coder.encode(codes, values, Rows::new(values.len(), cols), bins, scratch).ok()?;
        let mut back = vec![[0; 2]; values.len()];
        coder.decode(&chunk, codes, Rows::new(values.len(), cols), bins, scratch, &mut back).unwrap();
        assert_eq!(back, values);
        for cut in 0..chunk.len().min(700) {
            let cut_chunk = &chunk[..cut];
            assert!(
                coder
                    .decode(cut_chunk, codes, Rows::new(values.len(), cols), bins, scratch, &mut back)
                    .is_err(),
                "cut at {cut}"
            );
        }
        Some(chunk.len())
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
            let table = linear_bins(first, step);
            let bins = vec![&table; values.len().div_ceil(cols)];
            let _ = round_trip(&codes, &values, cols, &bins);
        }

        #[test]
        fn values_in_their_bins(
            seeds in proptest::collection::vec((any::<i8>(), any::<u16>()), 64..3000),
            cols in 1usize..300,
            step in 1u16..200,
        ) {
            let table = linear_bins(0x1000, step);
            let bins = vec![&table; seeds.len().div_ceil(cols)];
            let codes: Vec<u8> = seeds.iter().map(|(q, _)| q.cast_unsigned()).collect();
            let values: Vec<u16> = seeds.iter().map(|&(q, r)| match q.unsigned_abs().min(127) {
                0 => (r % 0x1000) | (r & SIGN),
                k => (0x1000 + step * (u16::from(k) - 1) + r % step) | if q < 0 { SIGN } else { 0 },
            }).collect();
            let bytes = round_trip(&codes, &values, cols, &bins).unwrap();
            // log2(step) bits a weight, 8 raw and at most 12 coded for each code of 0, states and a little for
            // rounding.
            let zeros = codes.iter().filter(|&&q| q == 0).count();
            let bits = f64::from(step).log2() * seeds.len() as f64 + 20.0 * zeros as f64;
            prop_assert!(bytes as f64 <= bits * 1.02 / 8.0 + 700.0, "{bytes} bytes for {bits} bits");
        }
    }

    #[test]
    fn damage_never_panics() {
        let values: Vec<u16> = (0..1500u16).map(|i| 0x1000 + i * 7 % 700).collect();
        let codes: Vec<u8> = values.iter().map(|v| u8::try_from((v - 0x1000) / 20).unwrap()).collect();
        let table = linear_bins(0x1000 + 20, 20);
        let bins = [&table; 15];
        let values = halves(&values);
        let coder = coder(&codes, &values, 100, &bins);
        let scratch = &mut Scratch::default();
        let chunk = coder.encode(&codes, &values, Rows::new(values.len(), 100), &bins, scratch).unwrap();
        let mut back = vec![[0; 2]; values.len()];
        coder.decode(&chunk, &codes, Rows::new(values.len(), 100), &bins, scratch, &mut back).unwrap();
        assert_eq!(back, values);
        for bit in 0..chunk.len() * 8 {
            let mut bad = chunk.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let result = coder.decode(&bad, &codes, Rows::new(values.len(), 100), &bins, scratch, &mut back);
            assert!(result.is_err() || back != values, "bit {bit} has no effect");
        }
        assert!(
            coder
                .decode(&chunk, &codes[1..], Rows::new(values.len(), 100), &bins, scratch, &mut back)
                .is_err()
        );
        assert!(
            coder.decode(&chunk, &codes, Rows::new(values.len(), 10), &bins, scratch, &mut back).is_err()
        );
    }
}
