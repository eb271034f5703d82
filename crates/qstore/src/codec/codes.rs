//! Codes by themselves: one a byte, or packed into words.
//!
//! Symbols are bytes. Of codes of fewer bits as many as a byte holds are one symbol, those that follow each other in a
//! row, low bits first. Where words hold them so, symbols are the bytes of the words.

use std::borrow::Cow;

use qstore_container::{Axis, CodeLayout, Packing};
use qstore_kernels::{Classifier, CodesCoder, DecodeError, Layout, SymbolTable};

use super::head::{read_tables, write_tables};
use super::workspace::Workspace;
use crate::quant::{codes_of_words, words_of_codes};

/// The symbols of rows of codes.
#[derive(Debug, Clone)]
pub(crate) struct Symbols {
    packing: Option<Packing>,
}

impl Symbols {
    /// Of codes that lie so.
    pub(crate) fn of(layout: &CodeLayout) -> Self {
        Self { packing: layout.packing.clone() }
    }

    /// The packing, unless bytes of words are the symbols.
    fn repacked(&self) -> Option<&Packing> {
        let is_bytes = |packing: &&Packing| {
            packing.is_stream() && packing.along == Axis::Columns && 8 % packing.bits == 0
        };
        self.packing.as_ref().filter(|packing| !is_bytes(packing))
    }

    /// Symbols of a row of `elements` elements as they are coded.
    pub(crate) fn cols(&self, elements: usize) -> usize {
        match (&self.packing, self.repacked()) {
            (_, Some(packing)) => codes_in_row(packing, elements).div_ceil(per_symbol(packing)),
            (Some(packing), None) => elements * usize::from(packing.word / 8),
            (None, None) => elements,
        }
    }

    /// The symbols of some rows of `elements` elements.
    pub(crate) fn read<'a>(&self, raw: &'a [u8], elements: usize) -> Cow<'a, [u8]> {
        let Some(packing) = self.repacked() else { return Cow::Borrowed(raw) };
        let codes = codes_of_words(Some(packing), raw, elements * usize::from(packing.word / 8));
        let of_symbol =
            |codes: &[u8]| codes.iter().rev().fold(0, |symbol, code| shifted(symbol, packing.bits) | code);
        let rows = codes.chunks(codes_in_row(packing, elements).max(1));
        Cow::Owned(rows.flat_map(|row| row.chunks(per_symbol(packing)).map(of_symbol)).collect())
    }

    /// Inverse of [`read`](Self::read): `fill` writes the symbols.
    fn write<E>(
        &self,
        out: &mut [u8],
        elements: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(packing) = self.repacked() else { return fill(out) };
        let mut codes = vec![0; out.len() * 8 / usize::from(packing.bits)];
        let (cols, symbols_of_row) = (codes_in_row(packing, elements).max(1), self.cols(elements).max(1));
        let mut symbols = vec![0; codes.len() / cols * symbols_of_row];
        fill(&mut symbols)?;
        for (codes, symbols) in codes.chunks_mut(cols).zip(symbols.chunks(symbols_of_row)) {
            for (codes, symbol) in codes.chunks_mut(per_symbol(packing)).zip(symbols) {
                for (code, at) in codes.iter_mut().zip(0u32..) {
                    *code = symbol >> (at * u32::from(packing.bits)) & (u8::MAX >> (8 - packing.bits));
                }
            }
        }
        words_of_codes(packing, &codes, elements * usize::from(packing.word / 8), out);
        Ok(())
    }
}

/// Codes of which a symbol is made.
fn per_symbol(packing: &Packing) -> usize {
    usize::from(8 / packing.bits)
}

/// Codes in a row of codes, where a row of words has `elements`.
fn codes_in_row(packing: &Packing, elements: usize) -> usize {
    match packing.along {
        Axis::Columns => elements * usize::from(packing.word) / usize::from(packing.bits),
        Axis::Rows => elements,
    }
}

fn shifted(symbol: u8, bits: u8) -> u8 {
    symbol.checked_shl(bits.into()).unwrap_or(0)
}

/// Codes codes with the tables of one array.
#[derive(Debug, Clone)]
pub(crate) struct Codes {
    symbols: Symbols,
    coder: CodesCoder,
}

impl Codes {
    pub(crate) fn new(
        layout: &CodeLayout,
        tables: Vec<SymbolTable>,
        lanes: Layout,
    ) -> Result<Self, DecodeError> {
        Ok(Self { symbols: Symbols::of(layout), coder: CodesCoder::new(tables, lanes)? })
    }

    pub(crate) fn open(layout: &CodeLayout, lanes: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::new(layout, read_tables(head)?, lanes)
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        write_tables(self.coder.tables())
    }

    pub(crate) fn encode(
        &self,
        raw: &[u8],
        elements: usize,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let symbols = self.symbols.read(raw, elements);
        self.coder.encode(&symbols, self.symbols.cols(elements), classifier, &mut workspace.scratch).ok()
    }

    pub(crate) fn decode(&self, stored: &[u8], elements: usize, out: &mut [u8]) -> Result<(), DecodeError> {
        let cols = self.symbols.cols(elements);
        self.symbols.write(out, elements, |symbols| self.coder.decode(stored, cols, symbols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn symbols_hold_all_codes(
            bits in 1u8..=8,
            word in proptest::sample::select(vec![8u8, 32]),
            along in proptest::sample::select(vec![Axis::Rows, Axis::Columns]),
            rows in 1usize..4,
            cols in 1usize..6,
            seed: u64,
        ) {
            // Whole codes along either axis.
            let (rows, cols) = (rows * usize::from(bits), cols * usize::from(bits));
            let layout = CodeLayout { transposed: false, pitch: None, packing: Some(Packing { bits, word, along, order: Vec::new() }) };
            let symbols = Symbols::of(&layout);
            let raw: Vec<u8> = (1..=(rows * cols * usize::from(word / 8)) as u64).map(|i| (seed.wrapping_mul(i) >> 30) as u8).collect();
            let read = symbols.read(&raw, cols).into_owned();
            prop_assert_eq!(read.len() % symbols.cols(cols), 0);
            let mut back = vec![0; raw.len()];
            let fill = |out: &mut [u8]| {
                out.copy_from_slice(&read);
                Ok::<_, ()>(())
            };
            symbols.write(&mut back, cols, fill).unwrap();
            prop_assert_eq!(back, raw);
        }
    }

    #[test]
    fn codes_of_three_bits_come_in_pairs() {
        let packing = Some(Packing { bits: 3, word: 8, along: Axis::Columns, order: Vec::new() });
        let symbols = Symbols::of(&CodeLayout { packing, ..CodeLayout::default() });
        // 1 2 3 4 5 6 7 0, low bits first.
        let word = (0..8u32).fold(0u32, |word, at| word | ((at + 1) & 7) << (3 * at)).to_le_bytes();
        assert_eq!(symbols.read(&word[..3], 3)[..], [0o21, 0o43, 0o65, 0o07]);
    }
}
