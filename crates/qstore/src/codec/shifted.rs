//! Codes as how far each lies off one that something lets expect, modulo 256: codes of a lower variant, or floats of a
//! higher one.

use qstore_container::{CodeLayout, Packing};
use qstore_kernels::{Classifier, CodesCoder, DecodeError, Layout, SymbolTable};

use super::head::{read_tables, write_tables};
use super::workspace::{Workspace, at_least};
use crate::quant::{LevelTable, codes_of_words, words_of_codes};

/// What lets expect the codes of a chunk.
pub(crate) trait Expecting: Copy {
    /// Columns of the chunk.
    fn cols(&self) -> usize;
    /// Whether it is for so many codes.
    fn is_for(&self, codes: usize) -> bool;
    /// Adds to `out`, modulo 256, the rank of each code that is expected.
    fn add_expected(&self, out: &mut [u8]);
    /// The levels of the codes.
    fn levels(&self) -> &LevelTable;
}

/// Codes the codes of one array given what lets expect them.
#[derive(Debug, Clone)]
pub(crate) struct Shifted {
    packing: Option<Packing>,
    coder: CodesCoder,
}

impl Shifted {
    pub(crate) fn new(
        layout: &CodeLayout,
        tables: Vec<SymbolTable>,
        lanes: Layout,
    ) -> Result<Self, DecodeError> {
        Ok(Self { packing: layout.packing.clone(), coder: CodesCoder::new(tables, lanes)? })
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
        given: impl Expecting,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let shifts = shifts(self.packing.as_ref(), raw, elements, given)?;
        self.coder.encode(&shifts, given.cols(), classifier, &mut workspace.scratch).ok()
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        elements: usize,
        given: impl Expecting,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let bits = self.packing.as_ref().map_or(8, |packing| usize::from(packing.bits));
        let count = out.len() * 8 / bits;
        if !given.is_for(count) {
            return Err(DecodeError::Corrupt("codes of another number than what they are given"));
        }
        let decode = |codes: &mut [u8]| {
            self.coder.decode(stored, given.cols(), codes)?;
            given.add_expected(codes);
            given.levels().to_codes(codes);
            Ok(())
        };
        // Codes of a byte are what is asked for; others are packed when they are known.
        let Some(packing) = self.packing.as_ref().filter(|packing| !packing.is_bytes()) else {
            return decode(out);
        };
        let codes = at_least(&mut workspace.fine, count);
        decode(codes)?;
        words_of_codes(packing, codes, elements * usize::from(packing.word / 8), out);
        Ok(())
    }
}

/// How far the codes of a chunk lie off those that are expected; `None` if there are not as many. Rows of the chunk
/// have `elements` elements.
pub(crate) fn shifts(
    packing: Option<&Packing>,
    raw: &[u8],
    elements: usize,
    given: impl Expecting,
) -> Option<Vec<u8>> {
    let row_bytes = elements * packing.map_or(1, |packing| usize::from(packing.word / 8));
    let mut own = codes_of_words(packing, raw, row_bytes).into_owned();
    if !given.is_for(own.len()) {
        return None;
    }
    given.levels().to_ranks(&mut own);
    let mut shifts = vec![0; own.len()];
    given.add_expected(&mut shifts);
    shifts.iter_mut().zip(&own).for_each(|(shift, rank)| *shift = rank.wrapping_sub(*shift));
    Some(shifts)
}
