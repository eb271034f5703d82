//! Codes given those of a lower variant.
//!
//! A code of the lower variant stands for a value, and that value for a code of this one, if it were rounded: what is coded is how far the code lies off that,
//! modulo 256. Error feedback and calibration move codes by a few; the rest is what the finer quantiser adds.

use qstore_kernels::{
    Backend, Classifier, CodeRange, CodesCoder, DecodeError, ExpectRun, Layout, SymbolTable, expect_codes,
};

use super::head::{read_tables, write_tables};
use super::packed::{codes_in, pack_codes, unpack_codes};
use super::workspace::{Workspace, at_least};
use crate::scheme::{Run, Steps};

/// What the codes of one matrix let expect of those of another.
#[derive(Debug)]
pub(crate) struct Predictor {
    own: Steps,
    given: Steps,
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
    pub(crate) predictor: &'a Predictor,
}

impl Predictor {
    /// For matrices of one shape.
    pub(crate) fn new(own: Steps, given: Steps) -> Self {
        let mut runs = Vec::new();
        let (of_own, of_given) = (own.runs(), given.runs());
        let (mut owns, mut givens) = (of_own.into_iter().peekable(), of_given.into_iter().peekable());
        let mut start = 0;
        while let (
            Some(&Run { end: own_end, group: own, .. }),
            Some(&Run { end: given_end, group: given, .. }),
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

    /// Bits of a packed code of this matrix.
    fn bits(&self) -> Option<u8> {
        self.own.bits()
    }

    /// For each of the given codes the code that it lets expect.
    fn predict(&self, given: GivenCodes, out: &mut [u8]) {
        let range = match self.own.bits() {
            Some(bits) => CodeRange { least: 0.0, most: f32::from(u8::MAX >> (8 - bits)) },
            None => CodeRange { least: -127.0, most: 127.0 },
        };
        let signed = self.given.bits().is_none();
        let mut runs = Vec::with_capacity(self.runs.len());
        let rows = given.codes.chunks(self.cols()).zip(out.chunks_mut(self.cols()));
        for (row, (codes, out)) in (given.first_row..).zip(rows) {
            runs.clear();
            runs.extend(self.runs.iter().map(|run| {
                let (own_scale, own_zero) = self.own.of(row, run.own);
                let (scale, zero) = self.given.of(row, run.given);
                let ratio = scale / own_scale;
                let offset = f32::from(own_zero) - f32::from(zero) * ratio;
                ExpectRun { len: run.end - run.start, ratio, offset }
            }));
            expect_codes(Backend::best(), &runs, codes, signed, range, out);
        }
    }
}

/// Codes the codes of one array given those of another.
#[derive(Debug, Clone)]
pub(crate) struct CodeResidual {
    coder: CodesCoder,
}

impl CodeResidual {
    pub(crate) fn new(tables: Vec<SymbolTable>, layout: Layout) -> Result<Self, DecodeError> {
        Ok(Self { coder: CodesCoder::new(tables, layout)? })
    }

    pub(crate) fn open(layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::new(read_tables(head)?, layout)
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        write_tables(self.coder.tables())
    }

    pub(crate) fn encode(
        &self,
        raw: &[u8],
        given: GivenCodes,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let shifts = shifts(raw, given, workspace)?;
        self.coder.encode(&shifts, given.predictor.cols(), classifier, &mut workspace.scratch).ok()
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        given: GivenCodes,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let bits = given.predictor.bits();
        if bits.map_or(out.len(), |bits| codes_in(out.len(), bits)) != given.codes.len() {
            return Err(DecodeError::Corrupt("codes of another number than those that they are given"));
        }
        let Workspace { fine, shifts, .. } = workspace;
        let shifts = at_least(shifts, given.codes.len());
        self.coder.decode(stored, given.predictor.cols(), shifts)?;
        // Codes of a byte are what is asked for; others are packed when they are known.
        let packed = bits.filter(|bits| *bits != 8);
        let codes = if packed.is_some() { at_least(fine, given.codes.len()) } else { &mut *out };
        given.predictor.predict(given, codes);
        codes.iter_mut().zip(shifts).for_each(|(code, shift)| *code = code.wrapping_add(*shift));
        if let Some(bits) = packed {
            pack_codes(&fine[..given.codes.len()], bits, out);
        }
        Ok(())
    }
}

/// How far the codes of a chunk lie off those that are expected; `None` if there are not as many.
pub(crate) fn shifts(raw: &[u8], given: GivenCodes, workspace: &mut Workspace) -> Option<Vec<u8>> {
    let own = match given.predictor.bits() {
        None => raw,
        Some(bits) => {
            let codes = at_least(&mut workspace.fine, codes_in(raw.len(), bits));
            unpack_codes(raw, bits, codes);
            codes
        }
    };
    if own.len() != given.codes.len() {
        return None;
    }
    let mut shifts = vec![0; own.len()];
    given.predictor.predict(given, &mut shifts);
    shifts.iter_mut().zip(own).for_each(|(shift, code)| *shift = code.wrapping_sub(*shift));
    Some(shifts)
}
