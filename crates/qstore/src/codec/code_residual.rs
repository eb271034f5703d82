//! Codes given those of a lower variant.
//!
//! A code of the lower variant stands for a value, and that value for a code of this one, if it were rounded: what is
//! coded is by how many levels the code lies off that, modulo 256. Error feedback and calibration move codes by a few;
//! the rest is what the finer quantiser adds.

use qstore_kernels::{Backend, ExpectRun, add_expected};

use super::shifted::Expecting;
use crate::quant::{ColumnRun, Dequantizer, LevelTable};

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

impl Expecting for GivenCodes<'_> {
    fn cols(&self) -> usize {
        self.columns.1.saturating_sub(self.columns.0)
    }

    fn is_for(&self, weights: usize) -> bool {
        self.codes.len() == weights
    }

    fn add_expected(&self, out: &mut [u8]) {
        self.predictor.add_expected(*self, out);
    }

    fn levels(&self) -> &LevelTable {
        self.predictor.own.levels()
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
