//! Codes of a few bits, packed into 32-bit words.
//!
//! A row of codes is a stream of their bits, low bits first, in words of 32. Bytes of such a row hold whole codes where those have 2, 4 or 8 bits, and are the
//! symbols that are coded; codes of 3 bits are coded in pairs.

use qstore_kernels::{Classifier, CodesCoder, DecodeError, Layout, SymbolTable};

use super::head::{read_tables, write_tables};
use super::workspace::{Workspace, at_least};

/// Reads as many codes of `bits` bits as there is room for in `codes`.
pub(crate) fn unpack_codes(words: &[u8], bits: u8, codes: &mut [u8]) {
    match bits {
        8 => {
            let length = codes.len().min(words.len());
            codes[..length].copy_from_slice(&words[..length]);
        }
        4 => {
            let (pairs, odd) = codes.as_chunks_mut();
            for (pair, byte) in pairs.iter_mut().zip(words) {
                *pair = [byte & 15, byte >> 4];
            }
            if let (Some(last), Some(byte)) = (odd.first_mut(), words.get(pairs.len())) {
                *last = byte & 15;
            }
        }
        _ => {
            let mask = u64::from(u8::MAX >> (8 - bits));
            // Eight codes take `bits` bytes.
            for (eight, bytes) in codes.chunks_mut(8).zip(words.chunks(usize::from(bits))) {
                let stream = bytes.iter().rev().fold(0u64, |stream, byte| stream << 8 | u64::from(*byte));
                for (code, at) in eight.iter_mut().zip((0..).step_by(usize::from(bits))) {
                    *code = (stream >> at & mask).to_le_bytes()[0];
                }
            }
        }
    }
}

/// Inverse of [`unpack_codes`]; of each code so many bits count.
pub(crate) fn pack_codes(codes: &[u8], bits: u8, words: &mut [u8]) {
    match bits {
        8 => {
            let length = words.len().min(codes.len());
            words[..length].copy_from_slice(&codes[..length]);
        }
        4 => {
            for (byte, [low, high]) in words.iter_mut().zip(codes.as_chunks().0) {
                *byte = low & 15 | high << 4;
            }
        }
        _ => {
            let mask = u64::from(u8::MAX >> (8 - bits));
            for (bytes, eight) in words.chunks_mut(usize::from(bits)).zip(codes.chunks(8)) {
                let stream =
                    eight.iter().rev().fold(0u64, |stream, code| stream << bits | u64::from(*code) & mask);
                bytes.copy_from_slice(&stream.to_le_bytes()[..bytes.len()]);
            }
        }
    }
}

/// Codes that fill `bytes` bytes.
pub(crate) fn codes_in(bytes: usize, bits: u8) -> usize {
    bytes * 8 / usize::from(bits)
}

/// The symbols that rows of packed codes are coded as.
pub(crate) struct Symbols {
    bits: u8,
}

impl Symbols {
    pub(crate) fn of(bits: u8) -> Self {
        Self { bits }
    }

    /// Symbols of a row of `words` words.
    pub(crate) fn cols(&self, words: usize) -> usize {
        if self.bits == 3 { codes_in(words * 4, 3) / 2 } else { words * 4 }
    }

    /// Calls `work` with the symbols of some rows; `buffer` is for those that are not bytes of the rows.
    pub(crate) fn with<R>(&self, raw: &[u8], buffer: &mut Vec<u8>, work: impl FnOnce(&[u8]) -> R) -> R {
        if self.bits != 3 {
            return work(raw);
        }
        let codes = at_least(buffer, codes_in(raw.len(), 3));
        unpack_codes(raw, 3, codes);
        let pairs: Vec<u8> = codes.as_chunks().0.iter().map(|[low, high]| low | high << 3).collect();
        work(&pairs)
    }

    /// Inverse of [`with`](Self::with): `fill` writes the symbols.
    pub(crate) fn fill<E>(
        &self,
        out: &mut [u8],
        buffer: &mut Vec<u8>,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.bits != 3 {
            return fill(out);
        }
        let mut pairs = vec![0; codes_in(out.len(), 3) / 2];
        fill(&mut pairs)?;
        let codes = at_least(buffer, 2 * pairs.len());
        for (both, pair) in codes.as_chunks_mut().0.iter_mut().zip(&pairs) {
            *both = [pair & 7, pair >> 3];
        }
        pack_codes(codes, 3, out);
        Ok(())
    }
}

/// Codes packed codes with the tables of one array.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    bits: u8,
    coder: CodesCoder,
}

impl Packed {
    pub(crate) fn new(bits: u8, tables: Vec<SymbolTable>, layout: Layout) -> Result<Self, DecodeError> {
        Ok(Self { bits, coder: CodesCoder::new(tables, layout)? })
    }

    pub(crate) fn open(bits: u8, layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::new(bits, read_tables(head)?, layout)
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        write_tables(self.coder.tables())
    }

    pub(crate) fn encode(
        &self,
        raw: &[u8],
        words: usize,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let Workspace { scratch, fine, .. } = workspace;
        let symbols = Symbols::of(self.bits);
        let cols = symbols.cols(words);
        symbols.with(raw, fine, |symbols| self.coder.encode(symbols, cols, classifier, scratch)).ok()
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        words: usize,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let symbols = Symbols::of(self.bits);
        let cols = symbols.cols(words);
        symbols.fill(out, &mut workspace.fine, |symbols| self.coder.decode(stored, cols, symbols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn codes_are_streams_of_bits(bits in proptest::sample::select(vec![2u8, 3, 4, 8]), words in proptest::collection::vec(any::<u32>(), 0..12)) {
            // Whole codes: three words of 3 bits hold 32.
            let words: Vec<u8> = words[..words.len() / 3 * 3].iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut codes = vec![0; codes_in(words.len(), bits)];
            unpack_codes(&words, bits, &mut codes);
            for (index, code) in codes.iter().enumerate() {
                let bit = |at: usize| words[at / 8] >> (at % 8) & 1;
                let want = (0..usize::from(bits)).fold(0, |want, b| want | bit(index * usize::from(bits) + b) << b);
                prop_assert_eq!(*code, want);
            }
            let mut back = vec![0; words.len()];
            pack_codes(&codes, bits, &mut back);
            prop_assert_eq!(back, words);
        }
    }
}
