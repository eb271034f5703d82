//! Codes given floats of a higher variant: by how many levels each lies off the one that its weight is rounded to,
//! modulo 256. That is 0 where the quantiser rounds by a rule that is known, so little but scales is left; calibration
//! and error feedback move codes by a few.

use qstore_checkpoint::FloatKind;
use qstore_container::{CodeLayout, Packing};
use qstore_kernels::{Classifier, CodesCoder, DecodeError, Layout, SymbolTable};

use super::float::values;
use super::head::{read_tables, write_tables};
use super::workspace::{Workspace, at_least};
use crate::quant::{Rounder, codes_of_words, words_of_codes};

/// What a chunk of codes is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenFloats<'a> {
    /// The weights as they lie in their array.
    pub(crate) raw: &'a [u8],
    pub(crate) float: FloatKind,
    /// The row that they begin with.
    pub(crate) first_row: usize,
    /// The columns that they are of.
    pub(crate) columns: (usize, usize),
    pub(crate) rounder: &'a Rounder,
}

impl GivenFloats<'_> {
    fn cols(&self) -> usize {
        self.columns.1.saturating_sub(self.columns.0)
    }

    /// Adds to `out`, modulo 256, the ranks of the codes that weights are rounded to.
    fn add_expected(&self, out: &mut [u8]) {
        let columns = self.columns.0..self.columns.1;
        let cols = self.cols().max(1);
        let mut weights = vec![0.0; cols];
        let rows = self.raw.chunks(cols * self.float.width()).zip(out.chunks_mut(cols));
        for (row, (raw, out)) in (self.first_row..).zip(rows) {
            values(self.float, raw, &mut weights);
            self.rounder.add_expected(row, &columns, &weights, out);
        }
    }

    fn is_for(&self, weights: usize) -> bool {
        weights.checked_mul(self.float.width()) == Some(self.raw.len())
            && weights.is_multiple_of(self.cols().max(1))
    }
}

/// Codes the codes of one array given floats.
#[derive(Debug, Clone)]
pub(crate) struct Rounded {
    packing: Option<Packing>,
    coder: CodesCoder,
}

impl Rounded {
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
        given: GivenFloats,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let shifts = off_rounded(self.packing.as_ref(), raw, elements, given)?;
        self.coder.encode(&shifts, given.cols(), classifier, &mut workspace.scratch).ok()
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        elements: usize,
        given: GivenFloats,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let bits = self.packing.as_ref().map_or(8, |packing| usize::from(packing.bits));
        let count = out.len() * 8 / bits;
        if !given.is_for(count) {
            return Err(DecodeError::Corrupt("codes of another number than the floats that they are given"));
        }
        let decode = |codes: &mut [u8]| {
            self.coder.decode(stored, given.cols(), codes)?;
            given.add_expected(codes);
            given.rounder.levels().to_codes(codes);
            Ok(())
        };
        let Some(packing) = self.packing.as_ref().filter(|packing| !packing.is_bytes()) else {
            return decode(out);
        };
        let codes = at_least(&mut workspace.fine, count);
        decode(codes)?;
        words_of_codes(packing, codes, elements * usize::from(packing.word / 8), out);
        Ok(())
    }
}

/// How far the codes of a chunk lie off those that the floats are rounded to; `None` if there are not as many. Rows of
/// the chunk have `elements` elements.
pub(crate) fn off_rounded(
    packing: Option<&Packing>,
    raw: &[u8],
    elements: usize,
    given: GivenFloats,
) -> Option<Vec<u8>> {
    let row_bytes = elements * packing.map_or(1, |packing| usize::from(packing.word / 8));
    let mut own = codes_of_words(packing, raw, row_bytes).into_owned();
    if !given.is_for(own.len()) {
        return None;
    }
    given.rounder.levels().to_ranks(&mut own);
    let mut shifts = vec![0; own.len()];
    given.add_expected(&mut shifts);
    shifts.iter_mut().zip(&own).for_each(|(shift, rank)| *shift = rank.wrapping_sub(*shift));
    Some(shifts)
}
