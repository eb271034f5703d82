//! Chunks of 16-bit floats without a twin: the high bits of the magnitude are coded, sign and low bits are kept as they
//! are.
//!
//! ```text
//! exceptions  u32
//! classes     ceil(log2(tables)) bits a row, as a bit plane
//! states      a u32 for each lane
//! plane       shift + 1 bits an element: low bits of the magnitude, sign above them
//! exceptions  x (index in the chunk u32, value u16)
//! words       u16 ...
//! ```
//!
//! The coded symbol of a magnitude `m` (15 bits) is 0 where `m >> shift` is 0, and `(m >> shift) - base + 1` where that
//! lies in 1 to 255. All others (tiny or huge values far from the bulk) are exceptions, coded as the likeliest symbol
//! of their row's table.
//!
//! With `shift` equal to the mantissa's width the symbol is the exponent; a smaller `shift` adds leading mantissa bits,
//! which are not quite evenly spread either.

use crate::Half;
use crate::backend::Backend;
use crate::bits::{pack_plane, plane_bytes};
use crate::classes::{BUCKETS, Classifier};
use crate::codes::{Exceptions, Input, Tables};
use crate::error::{DecodeError, EncodeError};
use crate::floats;
use crate::rows::Rows;
use crate::scratch::{Scratch, at_least};
use crate::stream::Layout;
use crate::table::SymbolTable;

const MAGNITUDE: u16 = 0x7fff;

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

    /// The symbol of `value`, or 0; and 1 if it has none. Without a branch.
    #[inline(always)]
    pub(crate) fn symbol_or_none(self, value: u16) -> (u16, u16) {
        let high = (value & MAGNITUDE) >> self.shift;
        // Symbol 1 and up; below the base it wraps around to a large number.
        let symbol = high.wrapping_sub(self.base - 1);
        let is_zero = high == 0;
        let is_symbol = !is_zero & (symbol.wrapping_sub(1) < 255);
        (if is_symbol { symbol } else { 0 }, u16::from(!is_zero & !is_symbol))
    }

    /// Bits of a value that are kept raw.
    pub(crate) fn plane_width(self) -> u32 {
        self.shift + 1
    }

    /// Low bits of the magnitude, and the sign above them.
    #[inline(always)]
    pub(crate) fn low(self, value: u16) -> u16 {
        let mask = (1 << self.shift) - 1;
        (value & mask) | (value >> 15) << self.shift
    }

    /// The value of a symbol and raw bits, which may have others above them.
    #[inline(always)]
    pub(crate) fn join(self, symbol: u8, low: u16) -> u16 {
        let high =
            if symbol == 0 { 0 } else { (self.base - 1).wrapping_add(u16::from(symbol)) << self.shift };
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
    bucket_of(window, mantissa_bits, sum, count)
}

/// The bucket of a row whose `count` symbols add up to `sum`.
fn bucket_of(window: SplitWindow, mantissa_bits: u32, sum: u64, count: u64) -> u8 {
    // In eighths of a binade, modulo the number of buckets: the means of a tensor's rows rarely lie more than 8 binades
    // apart.
    let binades = (sum * 8).checked_div(count).unwrap_or(0) >> mantissa_bits.saturating_sub(window.shift);
    (binades % BUCKETS as u64).to_le_bytes()[0]
}

/// Codes chunks of 16-bit floats with the window and tables of one tensor.
#[derive(Debug, Clone)]
pub struct SplitCoder {
    window: SplitWindow,
    mantissa_bits: u32,
    tables: Tables,
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
        layout: Layout,
    ) -> Result<Self, DecodeError> {
        Ok(Self { window, mantissa_bits, tables: Tables::new(tables, layout)? })
    }

    /// The same coder on another backend, for tests and measurements. What it writes is the same.
    #[must_use]
    pub fn on(self, backend: Backend) -> Self {
        Self { tables: self.tables.on(backend), ..self }
    }

    /// How its streams are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.tables.layout()
    }

    /// The window.
    #[must_use]
    pub fn window(&self) -> SplitWindow {
        self.window
    }

    /// The tables, one for each class.
    #[must_use]
    pub fn tables(&self) -> &[SymbolTable] {
        self.tables.all()
    }

    /// One chunk.
    ///
    /// # Errors
    /// Too many elements, or so many exceptions that it would not shrink.
    pub fn encode(
        &self,
        values: &[Half],
        cols: usize,
        classifier: &Classifier,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, EncodeError> {
        let rows = Rows::new(values.len(), cols);
        let mut exceptions = Exceptions::new(values.len())?;
        let symbols = at_least(&mut scratch.symbols, values.len());
        let mut classes = Vec::with_capacity(rows.count());
        for range in rows.iter() {
            let (symbols, values) = (&mut symbols[range.clone()], &values[range.clone()]);
            let (sum, missing) = floats::cut(self.tables.backend(), self.window, values, symbols);
            let count = (values.len() - missing) as u64;
            let class = classifier.class(bucket_of(self.window, self.mantissa_bits, sum, count));
            classes.push(class);
            if missing > 0 {
                let likeliest = self.tables.of(class)?.likeliest();
                let cells = symbols.iter_mut().zip(values).enumerate();
                for (column, (symbol, value)) in cells {
                    if self.window.symbol(u16::from_le_bytes(*value)).is_none() {
                        exceptions.push(range.start + column);
                        *symbol = likeliest;
                    }
                }
            }
        }
        let words = &mut scratch.words;
        let states = self.tables.encode(symbols, rows, &classes, words, &mut exceptions)?;
        let (words, width) = (words.words(), self.window.plane_width());
        let mut out = Vec::with_capacity(2048 + plane_bytes(values.len(), width) + words.len());
        out.extend(exceptions.count()?.to_le_bytes());
        pack_plane(classes.iter().map(|&c| u16::from(c)), self.tables.class_width(), &mut out);
        states.write(&mut out);
        floats::append_lows(self.tables.backend(), self.window, values, &mut out);
        for index in exceptions.sorted() {
            out.extend(index.to_le_bytes());
            out.extend(values[index as usize]);
        }
        out.extend(words);
        Ok(out)
    }

    /// Decodes a chunk of `out.len()` values in rows of `cols`.
    ///
    /// # Errors
    /// The chunk is truncated or damaged; `out` then holds anything.
    pub fn decode(
        &self,
        chunk: &[u8],
        cols: usize,
        scratch: &mut Scratch,
        out: &mut [Half],
    ) -> Result<(), DecodeError> {
        let rows = Rows::new(out.len(), cols);
        let mut input = Input(chunk);
        let exceptions = input.u32()? as usize;
        let classes = input.classes(rows.count(), self.tables.all().len())?;
        let states = input.states(self.tables.layout())?;
        let plane = input.take(plane_bytes(out.len(), self.window.plane_width()))?;
        let exceptions = input.items::<6>(exceptions)?;
        let symbols = at_least(&mut scratch.symbols, out.len());
        self.tables.decode(states, input.0, rows, &classes, symbols)?;
        floats::join(self.tables.backend(), self.window, symbols, plane, out);
        patch(exceptions, out)
    }
}

/// Puts the exceptions (index u32, value u16) in place.
pub(crate) fn patch(exceptions: &[[u8; 6]], out: &mut [Half]) -> Result<(), DecodeError> {
    for &[a, b, c, d, low, high] in exceptions {
        let index = u32::from_le_bytes([a, b, c, d]) as usize;
        *out.get_mut(index).ok_or(DecodeError::Corrupt("an exception outside the chunk"))? = [low, high];
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
        let coder = SplitCoder::new(window, 7, fit.tables, Layout::Wide).unwrap();
        let values: Vec<Half> = values.iter().map(|value| value.to_le_bytes()).collect();
        let scratch = &mut Scratch::default();
        let chunk = coder.encode(&values, cols, &fit.classifier, scratch).ok()?;
        let mut back = vec![[0; 2]; values.len()];
        coder.decode(&chunk, cols, scratch, &mut back).unwrap();
        assert_eq!(back, values);
        for cut in 0..chunk.len().min(700) {
            assert!(coder.decode(&chunk[..cut], cols, scratch, &mut back).is_err(), "cut at {cut}");
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
