//! What is known of weights.

use std::ops::Range;
use std::sync::Arc;

use qstore_kernels::{
    Backend, Bins, CodeInputs, CodeRefiner, CodeStream, DecodeError, Edges, FloatInputs, Intervals, Layout,
    PART, Scaled,
};

use super::factors::Factors;
use super::scaled::{Moved, RowScales, Scalings};
use crate::quant::Dequantizer;

/// What the codes of one matrix say of its weights.
#[derive(Debug, Clone)]
pub(crate) struct KnownBins {
    scalings: Arc<Scalings>,
    /// Where the outermost bins end.
    ends: [f32; 2],
    /// Of codes that were moved, the stretches about a code's level; then a symbol says in which a weight lies.
    around: Option<Arc<Edges>>,
}

/// What the codes of several matrices of one shape say, and what codes that are given them stand for.
#[derive(Debug)]
pub(crate) struct KnownWeights {
    bins: Vec<KnownBins>,
    own: Option<Arc<Scalings>>,
}

/// The codes of a chunk's weights in one matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KnownCodes<'a> {
    /// One a byte.
    Read(&'a [u8]),
    /// As they are stored: refined by what is known from the matrices before, in a chunk of the same rows and columns.
    Stored { chunk: &'a [u8], lanes: Layout },
}

/// What a chunk is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenWeights<'a> {
    /// For each matrix in turn the codes of the chunk's weights.
    pub(crate) codes: &'a [KnownCodes<'a>],
    /// The row that they begin with.
    pub(crate) first_row: usize,
    /// The columns that they are of.
    pub(crate) columns: (usize, usize),
    pub(crate) known: &'a KnownWeights,
    /// Those of the matrix whose codes were moved, if it has any.
    pub(crate) factors: Option<&'a Factors>,
}

impl KnownBins {
    /// The bins of codes that stand for `values`, of which there are so many rows and columns, the outermost ones
    /// ending at these levels. `None` for levels that kernels do not take.
    pub(crate) fn new(values: Dequantizer, there: [u64; 2], ends: [f32; 2]) -> Option<Self> {
        let there = there.map(|side| usize::try_from(side).unwrap_or(usize::MAX));
        let scalings = Arc::new(Scalings::new(values, there)?);
        Some(Self { scalings, ends: [0.0; 2], around: None }.ending(ends))
    }

    /// The same whose outermost bins end at other levels.
    pub(crate) fn ending(&self, ends: [f32; 2]) -> Self {
        let ends = self.scalings.ends(ends.map(positive_zero));
        Self { ends, scalings: self.scalings.clone(), around: None }
    }

    /// The same of codes that were moved, with stretches between these distances from a code's level, at least 3.
    /// `None` if they are no such.
    pub(crate) fn moved(&self, around: &[f32]) -> Option<Self> {
        let around: Vec<f32> = around.iter().copied().map(positive_zero).collect();
        let (&[first, ref inner @ .., last], scalings) = (&around[..], self.scalings.clone()) else {
            return None;
        };
        Some(Self { ends: [first, last], scalings, around: Some(Arc::new(Edges::between(inner)?)) })
    }

    /// Levels that are so many steps beyond the outermost ones.
    pub(crate) fn beyond(&self, steps: f32) -> [f32; 2] {
        self.scalings.ranking.beyond(steps)
    }
}

/// A number as plans have it, where there is one zero.
fn positive_zero(number: f32) -> f32 {
    number + 0.0
}

/// What codes of a matrix stand for that are coded given others.
#[derive(Debug, Clone)]
pub(crate) struct OwnBins(Arc<Scalings>);

impl OwnBins {
    /// `None` for levels that kernels do not take.
    pub(crate) fn new(values: Dequantizer) -> Option<Self> {
        Some(Self(Arc::new(Scalings::new(values, [usize::MAX; 2])?)))
    }
}

impl KnownWeights {
    /// What is known of weights whose floats are coded, or whose codes, which stand for `own`.
    pub(crate) fn new(bins: Vec<KnownBins>, own: Option<OwnBins>) -> Self {
        Self { bins, own: own.map(|own| own.0) }
    }

    /// Whether some of it is known from symbols of the floats themselves.
    pub(super) fn has_moved(&self) -> bool {
        self.bins.iter().any(|bins| bins.around.is_some())
    }

    pub(super) fn own(&self) -> Result<&Scalings, DecodeError> {
        self.own.as_deref().ok_or(DecodeError::Corrupt("codes that stand for nothing"))
    }
}

impl<'a> GivenWeights<'a> {
    /// Columns of the chunk.
    pub(super) fn cols(&self) -> usize {
        self.columns.1.saturating_sub(self.columns.0)
    }

    /// Whether it is what a chunk of so many weights is given.
    pub(super) fn is_for(&self, weights: usize) -> bool {
        let fits = |codes: &KnownCodes| match codes {
            KnownCodes::Read(codes) => codes.len() == weights,
            KnownCodes::Stored { .. } => true,
        };
        let is_whole = weights.is_multiple_of(self.cols().max(1));
        is_whole && self.codes.len() == self.known.bins.len() && self.codes.iter().all(fits)
    }

    /// Gives the chunk's weights their intervals; `symbols` say in which stretches they lie, where there are any. Where
    /// codes come as they are stored, each part of a row can be asked for once, in order.
    ///
    /// # Errors
    /// A chunk of codes that is damaged.
    pub(super) fn inputs(self, backend: Backend, symbols: &'a [u8]) -> Result<Inputs<'a>, DecodeError> {
        let columns = self.columns.0..self.columns.1;
        let matrix = |(bins, codes): (&'a KnownBins, &KnownCodes<'a>)| {
            let (scales, edges) = (bins.scalings.room(&columns), bins.scalings.ranking.edges());
            let codes = match *codes {
                KnownCodes::Read(codes) => Source::Read(codes),
                KnownCodes::Stored { chunk, lanes } => {
                    let coder = CodeRefiner::new(edges.clone(), lanes).on(backend);
                    Source::Stored(Box::new((coder.open(chunk)?, coder)))
                }
            };
            Ok(Matrix { bins, scales, codes })
        };
        let matrices = self.known.bins.iter().zip(self.codes).map(matrix).collect::<Result<_, _>>()?;
        let own = self.known.own.as_ref().map(|own| own.room(&columns));
        let moved = Moved::new(columns.len());
        let (lo, hi) = (Ends([0.0; PART]), Ends([0.0; PART]));
        Ok(Inputs { given: self, columns, backend, matrices, symbols, moved, own, lo, hi })
    }

    /// For each weight the number of its stretch about the level of the code that was moved.
    pub(super) fn stretches(self, weight: impl Fn(usize) -> f32) -> Option<Vec<u8>> {
        let known = self.known.bins.iter().zip(self.codes);
        let (bins, codes) = known.into_iter().find(|(bins, _)| bins.around.is_some())?;
        let (edges, KnownCodes::Read(codes)) = (bins.around.as_ref()?.inner()?, codes) else { return None };
        let columns = self.columns.0..self.columns.1;
        let mut moved = Moved::new(columns.len());
        let mut symbols = vec![0; codes.len()];
        let lines = codes.chunks(columns.len().max(1)).zip(symbols.chunks_mut(columns.len().max(1)));
        for (row, (codes, symbols)) in lines.enumerate() {
            moved.fill(&bins.scalings, self.first_row + row, &columns, self.factors);
            let each = moved.of_row(&bins.scalings, codes).zip(symbols).enumerate();
            for (column, ((scale, zero), symbol)) in each {
                let weight = weight(row * columns.len() + column);
                let below = edges.iter().take_while(|edge| (**edge - zero) * scale <= weight).count();
                *symbol = u8::try_from(below).unwrap_or(u8::MAX);
            }
        }
        Some(symbols)
    }
}

/// The intervals of the weights of a chunk, as kernels ask for them.
pub(super) struct Inputs<'a> {
    given: GivenWeights<'a>,
    columns: Range<usize>,
    backend: Backend,
    matrices: Vec<Matrix<'a>>,
    /// In which stretch about the level of its code each weight lies.
    symbols: &'a [u8],
    moved: Moved,
    own: Option<RowScales>,
    lo: Ends,
    hi: Ends,
}

/// Ends of the intervals of a part, aligned as vector instructions like them.
#[repr(align(64))]
struct Ends([f32; PART]);

struct Matrix<'a> {
    bins: &'a KnownBins,
    /// Of the row that was asked for last.
    scales: RowScales,
    codes: Source<'a>,
}

enum Source<'a> {
    Read(&'a [u8]),
    Stored(Box<(CodeStream<'a>, CodeRefiner)>),
}

impl Inputs<'_> {
    fn intervals(&mut self, row: usize, cols: &Range<usize>) -> Result<usize, DecodeError> {
        let all = self.columns.len();
        let (lo, hi) = match (self.lo.0.get_mut(..cols.len()), self.hi.0.get_mut(..cols.len())) {
            (Some(lo), Some(hi)) if cols.end <= all => (lo, hi),
            _ => return Err(DecodeError::Corrupt("a part of a row that there is not")),
        };
        let mut ranks = [0; PART];
        let ranks = &mut ranks[..cols.len()];
        for (index, Matrix { bins, scales, codes }) in self.matrices.iter_mut().enumerate() {
            if let Some(edges) = &bins.around {
                let (Source::Read(codes), at) = (&*codes, row * all + cols.start) else {
                    return Err(DecodeError::Corrupt("moved codes that are refined"));
                };
                let range = at..at + cols.len();
                let (codes, symbols) = (codes.get(range.clone()), self.symbols.get(range));
                let (codes, symbols) = codes.zip(symbols).ok_or(DecodeError::Truncated)?;
                let number = self.given.first_row + row;
                self.moved.fill(&bins.scalings, number, &self.columns, self.given.factors);
                let scaled = self.moved.part(&bins.scalings, cols, codes)?;
                let bins = Bins { edges, ends: bins.ends, ranks: symbols, scaled };
                if index == 0 {
                    bins.begin(self.backend, lo, hi)
                } else {
                    bins.narrow(self.backend, lo, hi)
                }?;
                continue;
            }
            bins.scalings.fill(scales, self.given.first_row + row, &self.columns);
            match codes {
                Source::Read(codes) => {
                    let at = row * all + cols.start;
                    let codes = codes.get(at..at + cols.len()).ok_or(DecodeError::Truncated)?;
                    bins.scalings.ranks(scales, cols, codes, ranks);
                }
                Source::Stored(stored) => {
                    let (stream, coder) = &mut **stored;
                    coder.decode_part(stream, Intervals { lo, hi }, scales.part(cols)?, ranks)?;
                }
            }
            let edges = bins.scalings.ranking.edges();
            let bins = Bins { edges, ends: bins.ends, ranks, scaled: scales.part(cols)? };
            if index == 0 { bins.begin(self.backend, lo, hi) } else { bins.narrow(self.backend, lo, hi) }?;
        }
        Ok(cols.len())
    }

    /// Whether the chunks of codes end where this one does.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        for matrix in self.matrices {
            if let Source::Stored(stored) = matrix.codes {
                stored.0.finish()?;
            }
        }
        Ok(())
    }
}

impl FloatInputs for Inputs<'_> {
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<Intervals<'_>, DecodeError> {
        let count = self.intervals(row, &cols)?;
        Ok(Intervals { lo: &self.lo.0[..count], hi: &self.hi.0[..count] })
    }
}

impl CodeInputs for Inputs<'_> {
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<(Intervals<'_>, Scaled<'_>), DecodeError> {
        let count = self.intervals(row, &cols)?;
        let scalings = self.given.known.own()?;
        let own = self.own.as_mut().ok_or(DecodeError::Corrupt("codes that stand for nothing"))?;
        scalings.fill(own, self.given.first_row + row, &self.columns);
        Ok((Intervals { lo: &self.lo.0[..count], hi: &self.hi.0[..count] }, own.part(&cols)?))
    }
}
