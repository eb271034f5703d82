//! Codes given those of a lower variant.
//!
//! A code of the lower variant stands for a value, and that value for a code of this one, if it were rounded: what is
//! coded is by how many levels the code lies off that, modulo 256. Error feedback and calibration move codes by a few;
//! the rest is what the finer quantiser adds.

use qstore_container::{CodeLayout, Packing};
use qstore_kernels::{
    Backend, Classifier, CodesCoder, DecodeError, ExpectRun, Layout, SymbolTable, add_expected,
};

use super::head::{read_tables, write_tables};
use super::workspace::{Workspace, at_least};
use crate::quant::{ColumnRun, Dequantizer, codes_of_words, words_of_codes};

/// What the codes of one matrix let expect of those of another.
#[derive(Debug)]
pub(crate) struct Predictor {
    own: Dequantizer,
    given: Dequantizer,
    runs: Vec<JointRun>,
}

/// Columns of one group in both matrices.
#[derive(Debug, Clone, Copy)]
struct JointRun {
    start: usize,
    end: usize,
    own: usize,
    given: usize,
}

/// What a chunk of codes is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenCodes<'a> {
    /// The lower variant's codes, one a byte.
    pub(crate) codes: &'a [u8],
    /// The row that they begin with.
    pub(crate) first_row: usize,
    /// The columns that they are of.
    pub(crate) columns: (usize, usize),
    pub(crate) predictor: &'a Predictor,
}

impl GivenCodes<'_> {
    fn cols(&self) -> usize {
        self.columns.1.saturating_sub(self.columns.0)
    }
}

impl Predictor {
    /// For matrices of one shape.
    pub(crate) fn new(own: Dequantizer, given: Dequantizer) -> Self {
        let mut runs = Vec::new();
        let (of_own, of_given) = (own.columns().runs(), given.columns().runs());
        let (mut owns, mut givens) = (of_own.into_iter().peekable(), of_given.into_iter().peekable());
        let mut start = 0;
        while let (
            Some(&ColumnRun { end: own_end, group: own, .. }),
            Some(&ColumnRun { end: given_end, group: given, .. }),
        ) = (owns.peek(), givens.peek())
        {
            let end = own_end.min(given_end);
            runs.push(JointRun { start, end, own, given });
            start = end;
            owns.next_if(|run| run.end == end);
            givens.next_if(|run| run.end == end);
        }
        Self { own, given, runs }
    }

    /// Columns of both matrices.
    pub(crate) fn cols(&self) -> usize {
        self.own.cols()
    }

    /// Adds to `out`, modulo 256, for each of the given codes the rank of the level that it lets expect.
    pub(super) fn add_expected(&self, given: GivenCodes, out: &mut [u8]) {
        let (own, level) = (self.own.levels(), self.given.levels());
        let (first, end) = given.columns;
        let cols = end.saturating_sub(first).max(1);
        // The columns that are asked for, and the runs that they are of.
        let within = |run: &JointRun| run.start.max(first) - first..run.end.min(end) - first;
        let from = self.runs.partition_point(|run| run.end <= first);
        let joint = &self.runs[from..from.max(self.runs.partition_point(|run| run.start < end))];
        let mut runs = Vec::with_capacity(joint.len());
        let rows = given.codes.chunks(cols).zip(out.chunks_mut(cols));
        for (row, (codes, out)) in (given.first_row..).zip(rows) {
            let (of_own, of_given) = (self.own.row(row), self.given.row(row));
            runs.clear();
            runs.extend(joint.iter().map(|run| {
                let ratio = of_given.scale(run.given) / of_own.scale(run.own);
                let offset = of_own.zero(run.own) - of_given.zero(run.given) * ratio;
                ExpectRun { len: within(run).len(), ratio, offset }
            }));
            if own.is_integer() {
                add_expected(Backend::best(), &runs, codes, level.level_of(), own.range(), out);
                continue;
            }
            for (run, joint) in runs.iter().zip(joint) {
                let columns = within(joint);
                for (code, out) in codes[columns.clone()].iter().zip(&mut out[columns]) {
                    let expected = own.nearest_rank(level.value(*code) * run.ratio + run.offset);
                    *out = out.wrapping_add(expected);
                }
            }
        }
    }
}

/// Codes the codes of one array given those of another.
#[derive(Debug, Clone)]
pub(crate) struct CodeResidual {
    packing: Option<Packing>,
    coder: CodesCoder,
}

impl CodeResidual {
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
        given: GivenCodes,
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
        given: GivenCodes,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let bits = self.packing.as_ref().map_or(8, |packing| usize::from(packing.bits));
        if out.len() * 8 / bits != given.codes.len() {
            return Err(DecodeError::Corrupt("codes of another number than those that they are given"));
        }
        let decode = |codes: &mut [u8]| {
            self.coder.decode(stored, given.cols(), codes)?;
            given.predictor.add_expected(given, codes);
            given.predictor.own.levels().to_codes(codes);
            Ok(())
        };
        // Codes of a byte are what is asked for; others are packed when they are known.
        let Some(packing) = self.packing.as_ref().filter(|packing| !packing.is_bytes()) else {
            return decode(out);
        };
        let codes = at_least(&mut workspace.fine, given.codes.len());
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
    given: GivenCodes,
) -> Option<Vec<u8>> {
    let row_bytes = elements * packing.map_or(1, |packing| usize::from(packing.word / 8));
    let mut own = codes_of_words(packing, raw, row_bytes).into_owned();
    if own.len() != given.codes.len() {
        return None;
    }
    given.predictor.own.levels().to_ranks(&mut own);
    let mut shifts = vec![0; own.len()];
    given.predictor.add_expected(given, &mut shifts);
    shifts.iter_mut().zip(&own).for_each(|(shift, rank)| *shift = rank.wrapping_sub(*shift));
    Some(shifts)
}
