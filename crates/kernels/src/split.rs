//! Chunks of 16-bit floats without a twin: the high bits of the magnitude are coded, sign and low bits are kept as they are.
//!
//! ```text
//! exceptions  u32
//! classes     ceil(log2(tables)) bits a row, as a bit plane
//! states      64 x u32
//! plane       shift + 1 bits an element: low bits of the magnitude, sign above them
//! exceptions  x (index in the chunk u32, value u16)
//! words       u16 ...
//! ```
//!
//! The coded symbol of a magnitude `m` (15 bits) is 0 where `m >> shift` is 0, and `(m >> shift) - base + 1` where that lies in 1 to 255. All
//! others (tiny or huge values far from the bulk) are exceptions, coded as the likeliest symbol of their row's table.
//!
//! With `shift` equal to the mantissa's width the symbol is the exponent; a smaller `shift` adds leading mantissa bits, which are not quite
//! evenly spread either.

use crate::bits::{pack_plane, plane_bytes, unpack_plane};
use crate::classes::{BUCKETS, Classifier, class_width};
use crate::codes::{Exceptions, Input, decode_symbols, encode_symbols};
use crate::error::{DecodeError, EncodeError};
use crate::rans::STATE_BYTES;
use crate::rows::Rows;
use crate::table::{Slot, SymbolTable};

const MAGNITUDE: u16 = 0x7fff;
const SIGN: u16 = 0x8000;

/// Which part of a magnitude is the symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitWindow {
    shift: u32,
    base: u16,
}

impl SplitWindow {
    /// `shift` (1 to 14) low bits kept raw; `base` (at least 1) the high part that gets symbol 1.
    ///
    /// # Errors
    /// Values outside these ranges.
    pub fn new(shift: u32, base: u16) -> Result<Self, DecodeError> {
        if !(1..=14).contains(&shift) || base == 0 || base > MAGNITUDE {
            return Err(DecodeError::Corrupt("a float split out of range"));
        }
        Ok(Self { shift, base })
    }

    /// The window of this `shift` that holds most of `histogram`, which counts high parts `magnitude >> shift`.
    #[must_use]
    pub fn best(shift: u32, histogram: &[u64]) -> Self {
        let sums: Vec<u64> = std::iter::once(0)
            .chain(histogram.iter().scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            }))
            .collect();
        let held = |base: usize| sums[(base + 255).min(sums.len() - 1)] - sums[base.min(sums.len() - 1)];
        let base = (1..sums.len().max(2)).rev().max_by_key(|&base| held(base)).unwrap_or(1);
        Self { shift: shift.clamp(1, 14), base: u16::try_from(base).unwrap_or(1) }
    }

    /// Low magnitude bits kept raw.
    #[must_use]
    pub fn shift(&self) -> u32 {
        self.shift
    }

    /// The high part of symbol 1.
    #[must_use]
    pub fn base(&self) -> u16 {
        self.base
    }

    /// The symbol of `value`, if it has one.
    #[must_use]
    pub fn symbol(&self, value: u16) -> Option<u8> {
        match (value & MAGNITUDE) >> self.shift {
            0 => Some(0),
            high => u8::try_from(high.checked_sub(self.base)? + 1).ok(),
        }
    }

    fn plane_width(self) -> u32 {
        self.shift + 1
    }

    fn low(self, value: u16) -> u16 {
        let mask = (1 << self.shift) - 1;
        (value & mask) | u16::from(value & SIGN != 0) << self.shift
    }

    fn join(self, symbol: u8, low: u16) -> u16 {
        let high = match symbol {
            0 => 0,
            s => (self.base + u16::from(s) - 1) << self.shift,
        };
        let mask = (1 << self.shift) - 1;
        (high & MAGNITUDE) | (low & mask) | (low >> self.shift) << 15
    }
}

/// Counts of `magnitude >> shift` over `values`.
#[must_use]
pub fn split_histogram(values: impl Iterator<Item = u16>, shift: u32) -> Vec<u64> {
    let mut histogram = vec![0; 1 << (15 - shift.min(15))];
    for value in values {
        histogram[usize::from((value & MAGNITUDE) >> shift)] += 1;
    }
    histogram
}

/// The bucket of a row of symbols under a window: its mean symbol, rows of equal spread together.
#[must_use]
pub fn split_bucket(window: SplitWindow, mantissa_bits: u32, row: impl Iterator<Item = u16>) -> u8 {
    let (sum, count) = row
        .filter_map(|value| window.symbol(value))
        .fold((0u64, 0u64), |(sum, count), s| (sum + u64::from(s), count + 1));
    // In eighths of a binade, modulo the number of buckets: the means of a tensor's rows rarely lie more than 8 binades apart.
    let binades = (sum * 8).checked_div(count).unwrap_or(0) >> mantissa_bits.saturating_sub(window.shift);
    (binades % BUCKETS as u64).to_le_bytes()[0]
}

/// Codes chunks of 16-bit floats with the window and tables of one tensor.
#[derive(Debug, Clone)]
pub struct SplitCoder {
    window: SplitWindow,
    mantissa_bits: u32,
    tables: Vec<SymbolTable>,
    slots: Vec<Vec<Slot>>,
}

impl SplitCoder {
    /// A coder for a tensor with these tables (1 to 16).
    ///
    /// # Errors
    /// No table, or more than 16.
    pub fn new(
        window: SplitWindow,
        mantissa_bits: u32,
        tables: Vec<SymbolTable>,
    ) -> Result<Self, DecodeError> {
        if !(1..=crate::classes::MAX_CLASSES).contains(&tables.len()) {
            return Err(DecodeError::Corrupt("a number of row classes other than 1 to 16"));
        }
        let slots = tables.iter().map(SymbolTable::slots).collect();
        Ok(Self { window, mantissa_bits, tables, slots })
    }

    /// The window.
    #[must_use]
    pub fn window(&self) -> SplitWindow {
        self.window
    }

    /// The tables, one for each class.
    #[must_use]
    pub fn tables(&self) -> &[SymbolTable] {
        &self.tables
    }

    /// One chunk.
    ///
    /// # Errors
    /// Too many elements, or so many exceptions that it would not shrink.
    pub fn encode(
        &self,
        values: &[u16],
        cols: usize,
        classifier: &Classifier,
    ) -> Result<Vec<u8>, EncodeError> {
        let rows = Rows::new(values.len(), cols);
        let classes: Vec<u8> = rows
            .iter()
            .map(|row| split_bucket(self.window, self.mantissa_bits, values[row].iter().copied()))
            .map(|bucket| classifier.class(bucket))
            .collect();
        let mut exceptions = Exceptions::new(values.len())?;
        let mut symbols = vec![0; values.len()];
        let cells = symbols.iter_mut().zip(values).enumerate();
        for (index, (symbol, &value)) in cells {
            let table = &self.tables[usize::from(classes[index / cols.max(1)])];
            *symbol = match self.window.symbol(value) {
                Some(s) if table.frequency(s) > 0 => s,
                _ => {
                    exceptions.push(index);
                    table.likeliest()
                }
            };
        }
        let stream = encode_symbols(&symbols, rows, &classes, &self.tables, |_| ())?;
        let mut out = Vec::with_capacity(values.len() * 2);
        out.extend(exceptions.count()?.to_le_bytes());
        pack_plane(classes.iter().map(|&c| u16::from(c)), class_width(self.tables.len()), &mut out);
        out.extend(stream.states);
        let lows = values.iter().map(|&v| self.window.low(v));
        pack_plane(lows, self.window.plane_width(), &mut out);
        for index in exceptions.sorted() {
            out.extend(index.to_le_bytes());
            out.extend(values[index as usize].to_le_bytes());
        }
        out.extend(stream.words);
        Ok(out)
    }

    /// Decodes a chunk of `out.len()` values in rows of `cols`.
    ///
    /// # Errors
    /// The chunk is truncated or damaged; `out` then holds anything.
    pub fn decode(&self, chunk: &[u8], cols: usize, out: &mut [u16]) -> Result<(), DecodeError> {
        let rows = Rows::new(out.len(), cols);
        let mut input = Input(chunk);
        let exceptions = input.u32()? as usize;
        let classes = input.classes(rows.count(), self.tables.len())?;
        let states = input.array::<STATE_BYTES>()?;
        let width = self.window.plane_width();
        let plane = input.take(plane_bytes(out.len(), width))?;
        let exceptions = input.items::<6>(exceptions)?;
        let mut symbols = vec![0; out.len()];
        decode_symbols(states, input.0, rows, &classes, &self.slots, &mut symbols)?;
        unpack_plane(plane, out.len(), width, |index, low| {
            out[index] = self.window.join(symbols[index], low);
        })?;
        patch(exceptions, out)
    }
}

/// Puts the exceptions (index u32, value u16) in place.
pub(crate) fn patch(exceptions: &[[u8; 6]], out: &mut [u16]) -> Result<(), DecodeError> {
    for &[a, b, c, d, low, high] in exceptions {
        let index = u32::from_le_bytes([a, b, c, d]) as usize;
        *out.get_mut(index).ok_or(DecodeError::Corrupt("an exception outside the chunk"))? =
            u16::from_le_bytes([low, high]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::{ClassFit, Histograms};
    use proptest::prelude::*;

    fn round_trip(values: &[u16], cols: usize, shift: u32) -> Option<usize> {
        let window = SplitWindow::best(shift, &split_histogram(values.iter().copied(), shift));
        let mut histograms = Histograms::default();
        for row in Rows::new(values.len(), cols).iter() {
            let row = &values[row];
            let bucket = split_bucket(window, 7, row.iter().copied());
            histograms.add_row(bucket, row.iter().filter_map(|&v| window.symbol(v)));
        }
        let fit = ClassFit::new(&histograms, 1);
        let coder = SplitCoder::new(window, 7, fit.tables).unwrap();
        let chunk = coder.encode(values, cols, &fit.classifier).ok()?;
        let mut back = vec![0; values.len()];
        coder.decode(&chunk, cols, &mut back).unwrap();
        assert_eq!(back, values);
        for cut in 0..chunk.len().min(400) {
            assert!(coder.decode(&chunk[..cut], cols, &mut back).is_err(), "cut at {cut}");
        }
        Some(chunk.len())
    }

    proptest! {
        #[test]
        fn any_values(values in proptest::collection::vec(any::<u16>(), 0..2000), cols in 1usize..300, shift in 1u32..=14) {
            let _ = round_trip(&values, cols, shift);
        }

        #[test]
        fn values_near_each_other(values in proptest::collection::vec(0x3c00u16..0x3f80, 64..2000), cols in 1usize..300, shift in 4u32..=7) {
            prop_assert!(round_trip(&values, cols, shift).is_some());
        }
    }

    #[test]
    fn specials_survive_as_exceptions() {
        let mut values = vec![0x3d12u16; 1000];
        values[..7].copy_from_slice(&[0x7f80, 0xff80, 0x7fc1, 0x8000, 0, 1, 0x8001]);
        assert!(round_trip(&values, 100, 7).is_some());
        assert!(round_trip(&values, 100, 4).is_some());
    }

    #[test]
    fn the_window_prefers_the_bulk() {
        let mut histogram = vec![0; 1 << 11];
        histogram[0] = 1_000_000;
        histogram[500] = 10;
        histogram[700] = 20;
        histogram[1900] = 15;
        let window = SplitWindow::best(4, &histogram);
        assert!(window.symbol(500 << 4).is_some() && window.symbol(700 << 4).is_some());
        assert_eq!(window.symbol(0), Some(0));
        assert_eq!(window.symbol(1900 << 4), None);
    }
}
