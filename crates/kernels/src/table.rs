//! Order-0 frequency tables over 256 symbols.

use crate::cost::log2_q16;
use crate::error::DecodeError;

/// Frequencies of a table add up to `2^TABLE_BITS`.
pub const TABLE_BITS: u32 = 12;
const TOTAL: u32 = 1 << TABLE_BITS;
/// A decoder packs (symbol, frequency, offset) in 8 + 12 + 12 bits, so no frequency is 4096 itself.
const MAX_FREQUENCY: u16 = 4095;

/// A table of symbol frequencies. Symbols of frequency 0 cannot be coded with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolTable {
    frequency: [u16; 256],
    start: [u16; 256],
}

impl SymbolTable {
    /// The table that codes `histogram` at nearly the least cost. Exactly the symbols with a count (and, where only one
    /// has, a neighbour) get a frequency.
    #[must_use]
    pub fn from_histogram(histogram: &[u64; 256]) -> Self {
        let total: u128 = histogram.iter().map(|&c| u128::from(c)).sum();
        let mut frequency = [0u16; 256];
        if total == 0 {
            frequency[0] = 1;
        }
        let mut sum = 0u32;
        let mut remainders: Vec<(u128, usize)> = Vec::new();
        for (symbol, &count) in histogram.iter().enumerate().filter(|(_, c)| **c > 0) {
            let scaled = u128::from(count) * u128::from(TOTAL);
            // The quotient is at most TOTAL.
            frequency[symbol] = u16::try_from(scaled / total).unwrap_or(MAX_FREQUENCY).max(1);
            sum += u32::from(frequency[symbol]);
            remainders.push((scaled % total, symbol));
        }
        sum = sum.max(1);
        if sum < TOTAL {
            // Largest remainders first, ties to the lower symbol; rounding down lost less than one for each symbol.
            remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            for &(_, symbol) in &remainders {
                if sum < TOTAL {
                    frequency[symbol] += 1;
                    sum += 1;
                }
            }
        }
        while sum > TOTAL {
            // Take from the symbol whose cost per step is least: count / frequency is smallest.
            let cheapest = (0..256)
                .filter(|&s| frequency[s] > 1)
                .min_by(|&a, &b| {
                    let left = u128::from(histogram[a]) * u128::from(frequency[b] - 1);
                    let right = u128::from(histogram[b]) * u128::from(frequency[a] - 1);
                    left.cmp(&right).then(a.cmp(&b))
                })
                .unwrap_or(0);
            frequency[cheapest] -= 1;
            sum -= 1;
        }
        if let Some(only) = (0..256).find(|&s| u32::from(frequency[s]) == sum) {
            frequency[only] = MAX_FREQUENCY;
            frequency[only ^ 1] = 1;
        }
        Self::with_starts(frequency)
    }

    fn with_starts(frequency: [u16; 256]) -> Self {
        let mut start = [0u16; 256];
        let mut sum = 0u16;
        for (start, frequency) in start.iter_mut().zip(&frequency) {
            *start = sum;
            sum += frequency;
        }
        Self { frequency, start }
    }

    /// Frequency of `symbol` out of 4096; 0 if it cannot be coded.
    #[must_use]
    pub fn frequency(&self, symbol: u8) -> u32 {
        u32::from(self.frequency[usize::from(symbol)])
    }

    /// First slot of `symbol`.
    #[must_use]
    pub fn start(&self, symbol: u8) -> u32 {
        u32::from(self.start[usize::from(symbol)])
    }

    /// The symbol with the highest frequency (the lowest such).
    #[must_use]
    pub fn likeliest(&self) -> u8 {
        (0..=255u8).max_by_key(|&s| (self.frequency(s), std::cmp::Reverse(s))).unwrap_or(0)
    }

    /// Bits that coding `histogram` takes, symbols without a frequency counted as `miss` bits each.
    #[must_use]
    pub fn cost_bits(&self, histogram: &[u64; 256], miss: u64) -> u64 {
        let whole = u64::from(TABLE_BITS) << 16;
        let sum: u128 = (0..=255u8)
            .map(|symbol| {
                let count = u128::from(histogram[usize::from(symbol)]);
                match self.frequency(symbol) {
                    0 => count * (u128::from(miss) << 16),
                    f => count * u128::from(whole - log2_q16(u64::from(f))),
                }
            })
            .sum();
        u64::try_from(sum >> 16).unwrap_or(u64::MAX)
    }

    /// Appends the stored form: a bitmap of the symbols present (32 bytes, low bit first), then each one's frequency in
    /// order, as one byte below 128, else as two: `0x80 | f & 0x7f`, `f >> 7`.
    pub fn write(&self, out: &mut Vec<u8>) {
        for group in self.frequency.chunks(8) {
            let bits = group.iter().enumerate().filter(|(_, f)| **f > 0);
            out.push(bits.fold(0u8, |byte, (bit, _)| byte | (1 << bit)));
        }
        for &f in self.frequency.iter().filter(|f| **f > 0) {
            let [low, high] = (f << 1).to_le_bytes();
            if f < 128 {
                out.push(low >> 1);
            } else {
                out.extend([0x80 | (low >> 1), high]);
            }
        }
    }

    /// Reads what [`write`](Self::write) wrote from the front of `bytes`, which is moved past it.
    ///
    /// # Errors
    /// The bytes end too early, or are no table: a frequency of 0 or above 4095, or a sum other than 4096.
    pub fn read(bytes: &mut &[u8]) -> Result<Self, DecodeError> {
        let (bitmap, mut rest) = bytes.split_first_chunk::<32>().ok_or(DecodeError::Truncated)?;
        let mut take = || {
            let (first, tail) = rest.split_first().ok_or(DecodeError::Truncated)?;
            rest = tail;
            Ok::<u16, DecodeError>(u16::from(*first))
        };
        let mut frequency = [0u16; 256];
        let mut sum = 0u32;
        for (symbol, frequency) in frequency.iter_mut().enumerate() {
            if bitmap[symbol / 8] >> (symbol % 8) & 1 == 0 {
                continue;
            }
            let low = take()?;
            *frequency = if low < 128 { low } else { low & 0x7f | take()? << 7 };
            if *frequency == 0 || *frequency > MAX_FREQUENCY {
                return Err(DecodeError::Corrupt("a frequency out of range"));
            }
            sum += u32::from(*frequency);
        }
        if sum != TOTAL {
            return Err(DecodeError::Corrupt("frequencies that do not add up to 4096"));
        }
        *bytes = rest;
        Ok(Self::with_starts(frequency))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(histogram: &[u64; 256]) {
        let table = SymbolTable::from_histogram(histogram);
        assert_eq!((0..=255).map(|s| table.frequency(s)).sum::<u32>(), TOTAL);
        for (symbol, &count) in (0..=255u8).zip(histogram) {
            assert!(count == 0 || table.frequency(symbol) > 0, "symbol {symbol} lost");
            assert!(table.frequency(symbol) <= 4095);
        }
        let mut bytes = Vec::new();
        table.write(&mut bytes);
        let mut rest = &bytes[..];
        assert_eq!(SymbolTable::read(&mut rest).as_ref(), Ok(&table));
        assert!(rest.is_empty());
        for cut in 0..bytes.len() {
            assert_eq!(SymbolTable::read(&mut &bytes[..cut]), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn degenerate_histograms() {
        check(&[0; 256]);
        check(&[1; 256]);
        check(&[u64::MAX / 256; 256]);
        for only in [0, 1, 254, 255] {
            let mut histogram = [0; 256];
            histogram[only] = 7;
            check(&histogram);
            histogram[100] = u64::MAX / 2;
            check(&histogram);
        }
    }

    proptest! {
        #[test]
        fn any_histogram(counts in proptest::collection::vec(prop_oneof![Just(0u64), 0u64..50, 0u64..1 << 50], 256)) {
            check(&counts.try_into().unwrap());
        }
    }

    #[test]
    fn refuses_bad_tables() {
        let mut bytes = [0; 32];
        bytes[0] = 0b11;
        for tail in [[0x80, 16, 0x81, 16], [0xff, 31, 0, 0], [0x80, 32, 1, 0]] {
            let stored = [&bytes[..], &tail].concat();
            assert!(matches!(SymbolTable::read(&mut &stored[..]), Err(DecodeError::Corrupt(_))));
        }
    }
}
