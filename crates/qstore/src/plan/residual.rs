//! Floats given the codes of a quantised matrix below, fitted to a few chunks.

use std::ops::Range;

use qstore_container::limits::{MAX_RESIDUAL_ROWS, MAX_TRANSPOSED_BYTES};
use qstore_container::{ArrayKey, ArrayRef, Encoding, Grid, Rounding};
use qstore_kernels::Classifier;
use rayon::prelude::*;

use super::fit::Fit;
use super::grid::grid_of;
use super::sample::{chunk_bytes, read_chunk, spread_chunks};
use super::{Coding, Pair};
use crate::codec::{
    Codec, GivenRows, Residual, RowBins, at_least, count_zeros, layout_of, transpose, with_workspace,
};
use crate::decode::ArrayReader;
use crate::error::{IoContext as _, Result};
use crate::file::zeroed;
use crate::ingest::{Source, SourceArray};
use crate::scheme::FloatKind;

/// How a matrix lies against its codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Straight,
    Transposed,
}

/// The arrays that a residual is given.
#[derive(Debug)]
pub(crate) struct GivenReaders {
    codes: ArrayReader,
    bins: RowBins,
    /// Bytes of a weight.
    width: usize,
}

impl GivenReaders {
    /// Calls `work` with what the chunk of `bytes` bytes that begins at byte `start` of the array is given. `buffer` is for the codes.
    pub(crate) fn with_rows<R>(
        &self,
        grid: Grid,
        start: u64,
        bytes: usize,
        buffer: &mut Vec<u8>,
        work: impl FnOnce(GivenRows) -> R,
    ) -> Result<R> {
        let first = start / self.width as u64;
        let codes = at_least(buffer, bytes / self.width);
        self.codes.read(first, codes)?;
        let rows = rows_of(grid, first, codes.len());
        Ok(self.bins.with_rows(rows, |bins| work(GivenRows { codes, bins })))
    }
}

/// The rows of `elements` elements from number `first` on.
fn rows_of(grid: Grid, first: u64, elements: usize) -> Range<usize> {
    let (first, rows) = (first / grid.cols, (elements as u64).div_ceil(grid.cols));
    let end = usize::try_from(first.saturating_add(rows)).unwrap_or(usize::MAX);
    usize::try_from(first).unwrap_or(usize::MAX)..end
}

/// A matrix as if it were stored the other way round.
pub(crate) fn transposed(array: &SourceArray) -> SourceArray {
    SourceArray { shape: array.shape.iter().rev().copied().collect(), ..array.clone() }
}

/// The residual of `array` given the codes of `pair`, with the rounding rule that fits best; `None` if its shape is not that of the codes.
pub(super) fn fit(
    source: &Source,
    array: &SourceArray,
    float: FloatKind,
    pair: &Pair,
    way: Way,
) -> Result<Option<Fit>> {
    let coded = if way == Way::Transposed { transposed(array) } else { array.clone() };
    let grid = grid_of(&coded);
    let large = way == Way::Transposed && array.bytes > MAX_TRANSPOSED_BYTES
        || coded.shape.first().is_some_and(|rows| *rows > MAX_RESIDUAL_ROWS);
    if coded.shape != pair.group.shape || grid.cols != pair.group.shape[1] || large {
        return Ok(None);
    }
    let (codes, scale) = (pair.variant.array(&pair.group.codes)?, pair.variant.array(&pair.group.scale)?);
    // The codes or scales may equal, by chance, an array that is stored as a residual; readers refuse residuals given residuals.
    if [&codes, &scale].iter().any(|given| matches!(given.stored().encoding, Encoding::Residual { .. })) {
        return Ok(None);
    }
    let scales = scale.read_scales()?;
    let parts = sample(source, array, float, way, &coded, grid, &codes)?;
    let sample = Sample { float, cols: usize::try_from(grid.cols).unwrap_or(usize::MAX), parts };
    let mut best: Option<(u64, Residual, Rounding, RowBins)> = None;
    for rounding in Rounding::ALL {
        let bins = RowBins::new(pair.group.scheme, rounding, float, scales.clone());
        let Ok(residual) = Residual::fit(float, &sample.zeros(&bins), layout_of(grid)) else { continue };
        let tried = sample.try_out(&residual, &bins);
        if best.as_ref().is_none_or(|(least, ..)| tried.stored < *least) {
            best = Some((tried.stored, residual, rounding, bins));
        }
        if tried.exceptions == 0 {
            break;
        }
    }
    let refer = |array: &ArrayKey| ArrayRef { variant: pair.variant.name().clone(), array: array.clone() };
    Ok(best.map(|(stored, residual, rounding, bins)| Fit {
        coding: Coding {
            encoding: Encoding::Residual {
                codes: refer(&pair.group.codes),
                scale: refer(&pair.group.scale),
                scheme: pair.group.scheme,
                rounding,
                transposed: way == Way::Transposed,
            },
            codec: Codec::Residual(residual),
            classifier: Classifier::single(),
            given: Some(GivenReaders { codes, bins, width: float.width() }),
        },
        stored,
        of: sample.parts.iter().map(|part| part.raw.len() as u64).sum(),
    }))
}

/// A chunk with what it is given.
struct Part {
    raw: Vec<u8>,
    codes: Vec<u8>,
    rows: Range<usize>,
}

/// A few chunks with what they are given.
fn sample(
    source: &Source,
    array: &SourceArray,
    float: FloatKind,
    way: Way,
    coded: &SourceArray,
    grid: Grid,
    codes: &ArrayReader,
) -> Result<Vec<Part>> {
    let matrix = match way {
        Way::Straight => None,
        Way::Transposed => Some(read_transposed(source, array)?),
    };
    let full = chunk_bytes(coded, grid);
    let take = |chunk: u64| {
        let start = chunk * full;
        let raw = match &matrix {
            None => read_chunk(source, array, grid, chunk)?,
            Some(matrix) => {
                let from = matrix.iter().skip(usize::try_from(start).unwrap_or(usize::MAX));
                from.take(usize::try_from(full).unwrap_or(usize::MAX)).copied().collect()
            }
        };
        let first = start / float.width() as u64;
        let mut given = vec![0; raw.len() / float.width()];
        codes.read(first, &mut given)?;
        Ok(Part { rows: rows_of(grid, first, given.len()), raw, codes: given })
    };
    spread_chunks(coded, grid).into_par_iter().map(take).collect()
}

/// The transposed of a whole matrix, which is of bounded size.
fn read_transposed(source: &Source, array: &SourceArray) -> Result<Vec<u8>> {
    let mut raw = zeroed(array.bytes).at(source.path(), "cannot hold a matrix")?;
    source.read(array, 0, &mut raw)?;
    Ok(transpose(&raw, array.shape.last().copied().unwrap_or(1), super::sample::element_bytes(array)))
}

/// What residuals are tried on.
struct Sample {
    float: FloatKind,
    cols: usize,
    parts: Vec<Part>,
}

/// What a residual makes of a sample.
struct Trial {
    stored: u64,
    exceptions: u64,
}

impl Sample {
    /// A histogram of what the codes of 0 stand for.
    fn zeros(&self, bins: &RowBins) -> [u64; 256] {
        let mut zeros = [0; 256];
        for Part { raw, codes, rows } in &self.parts {
            bins.with_rows(rows.clone(), |bins| {
                count_zeros(self.float, raw, self.cols, GivenRows { codes, bins }, &mut zeros);
            });
        }
        zeros
    }

    fn try_out(&self, residual: &Residual, bins: &RowBins) -> Trial {
        let encode = |Part { raw, codes, rows }: &Part| {
            let coded = with_workspace(|workspace| {
                bins.with_rows(rows.clone(), |bins| {
                    residual.encode(raw, self.cols, GivenRows { codes, bins }, workspace)
                })
            });
            match coded {
                Some(coded) => {
                    Trial { stored: coded.len() as u64, exceptions: u64::from(residual.exceptions(&coded)) }
                }
                None => Trial { stored: raw.len() as u64, exceptions: raw.len() as u64 },
            }
        };
        let trials: Vec<Trial> = self.parts.par_iter().map(encode).collect();
        let sum = |of: fn(&Trial) -> u64| trials.iter().map(of).sum();
        Trial { stored: sum(|trial| trial.stored), exceptions: sum(|trial| trial.exceptions) }
    }
}
