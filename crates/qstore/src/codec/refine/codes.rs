//! Codes, as which they are of those whose bins meet what is known of their weights.

use qstore_container::{CodeLayout, Packing};
use qstore_kernels::{Backend, CodeRefiner, DecodeError, Layout};

use super::known::GivenWeights;
use crate::codec::workspace::{Workspace, at_least};
use crate::quant::{codes_of_words, words_of_codes};

/// Codes the codes of one array given what is known of their weights.
#[derive(Debug, Clone)]
pub(crate) struct Refine {
    packing: Option<Packing>,
    lanes: Layout,
}

impl Refine {
    pub(crate) fn new(layout: &CodeLayout, lanes: Layout) -> Self {
        Self { packing: layout.packing.clone(), lanes }
    }

    /// `None` where too many codes are not among those that are left of them.
    pub(crate) fn encode(
        &self,
        raw: &[u8],
        elements: usize,
        given: GivenWeights,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let row_bytes = elements * self.packing.as_ref().map_or(1, |packing| usize::from(packing.word / 8));
        let codes = codes_of_words(self.packing.as_ref(), raw, row_bytes);
        let own = given.known.own().ok().filter(|_| given.is_for(codes.len()))?;
        let mut ranks = vec![0; codes.len()];
        let columns = given.columns.0..given.columns.1;
        let mut scales = own.room(&columns);
        let lines = codes.chunks(given.cols().max(1)).zip(ranks.chunks_mut(given.cols().max(1)));
        for (row, (codes, ranks)) in (given.first_row..).zip(lines) {
            own.fill(&mut scales, row, &columns);
            own.ranks(&scales, &(0..codes.len()), codes, ranks);
        }
        let coder = CodeRefiner::new(own.ranking.edges().clone(), self.lanes);
        let mut inputs = given.inputs(Backend::best(), &[]).ok()?;
        coder.encode(&ranks, given.cols(), &mut inputs, &mut workspace.scratch).ok()
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        elements: usize,
        given: GivenWeights,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let Some(packing) = self.packing.as_ref().filter(|packing| !packing.is_bytes()) else {
            return self.decode_codes(stored, given, out);
        };
        let codes = at_least(&mut workspace.fine, out.len() * 8 / usize::from(packing.bits));
        self.decode_codes(stored, given, codes)?;
        words_of_codes(packing, codes, elements * usize::from(packing.word / 8), out);
        Ok(())
    }

    fn decode_codes(&self, stored: &[u8], given: GivenWeights, out: &mut [u8]) -> Result<(), DecodeError> {
        let own = given.known.own()?;
        if !given.is_for(out.len()) {
            return Err(DecodeError::Corrupt("codes of another number than those that they are given"));
        }
        let coder = CodeRefiner::new(own.ranking.edges().clone(), self.lanes);
        let mut inputs = given.inputs(Backend::best(), &[])?;
        coder.decode(stored, given.cols(), &mut inputs, out)?;
        inputs.finish()?;
        let columns = given.columns.0..given.columns.1;
        let mut scales = own.room(&columns);
        for (row, ranks) in (given.first_row..).zip(out.chunks_mut(given.cols().max(1))) {
            own.fill(&mut scales, row, &columns);
            own.to_codes(&scales, ranks);
        }
        Ok(())
    }
}
