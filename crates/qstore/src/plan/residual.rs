//! Floats given the codes of a quantised matrix below, fitted to a few chunks.

use qstore_container::limits::{MAX_RESIDUAL_ROWS, MAX_TRANSPOSED_BYTES};
use qstore_container::{ArrayKey, ArrayRef, Encoding, Grid, Rounding};
use qstore_kernels::Classifier;
use rayon::prelude::*;

use super::fit::Fit;
use super::grid::grid_of;
use super::sample::{chunk_bytes, read_chunk, spread_chunks};
use super::{Coding, Pair};
use crate::codec::{Codec, GivenRows, Residual, transpose};
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
    /// One a row.
    scales: Vec<f32>,
    /// Bytes of a weight.
    width: usize,
    /// Whether the codes or scales equal, by chance, an array that is stored as a residual; readers refuse residuals given residuals.
    is_residual: bool,
}

impl GivenReaders {
    fn open(pair: &Pair, float: FloatKind) -> Result<Self> {
        let variant = &pair.variant;
        let codes = variant.array(&pair.group.codes)?;
        let scale = variant.array(&pair.group.scale)?;
        let mut bytes = zeroed(scale.bytes()?).at(variant.folder(), "cannot hold the scales")?;
        scale.read(0, &mut bytes)?;
        let scales = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let residual = |reader: &ArrayReader| matches!(reader.stored().encoding, Encoding::Residual { .. });
        let is_residual = residual(&codes) || residual(&scale);
        Ok(Self { codes, scales, width: float.width(), is_residual })
    }

    /// The codes and scales of the chunk of `bytes` bytes that begins at byte `start` of the array.
    pub(crate) fn rows(&self, grid: Grid, start: u64, bytes: usize) -> Result<GivenRows> {
        let first = start / self.width as u64;
        let mut codes = vec![0; bytes / self.width];
        self.codes.read(first, &mut codes)?;
        let rows = (codes.len() as u64).div_ceil(grid.cols);
        let (first, rows) = (usize::try_from(first / grid.cols), usize::try_from(rows));
        // Scales and weights have the same number of rows; see `Pairs`.
        let scales = self.scales.iter().skip(first.unwrap_or(usize::MAX)).take(rows.unwrap_or(0));
        Ok(GivenRows { codes, scales: scales.copied().collect() })
    }
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
    let given = GivenReaders::open(pair, float)?;
    if given.is_residual {
        return Ok(None);
    }
    let sample = sample(source, array, way, &coded, grid, &given)?;
    let cols = usize::try_from(grid.cols).unwrap_or(usize::MAX);
    let mut best: Option<(u64, Residual, Rounding)> = None;
    for rounding in Rounding::ALL {
        let Ok(residual) = Residual::fit(float, pair.group.scheme, rounding, cols, &sample) else { continue };
        let tried = Trial::of(&residual, cols, &sample);
        if best.as_ref().is_none_or(|(least, ..)| tried.stored < *least) {
            best = Some((tried.stored, residual, rounding));
        }
        if tried.exceptions == 0 {
            break;
        }
    }
    let refer = |array: &ArrayKey| ArrayRef { variant: pair.variant.name().clone(), array: array.clone() };
    Ok(best.map(|(stored, residual, rounding)| Fit {
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
            given: Some(given),
        },
        stored,
        of: sample.iter().map(|(raw, _)| raw.len() as u64).sum(),
    }))
}

/// A few chunks with what they are given.
fn sample(
    source: &Source,
    array: &SourceArray,
    way: Way,
    coded: &SourceArray,
    grid: Grid,
    given: &GivenReaders,
) -> Result<Vec<(Vec<u8>, GivenRows)>> {
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
        let rows = given.rows(grid, start, raw.len())?;
        Ok((raw, rows))
    };
    spread_chunks(coded, grid).into_par_iter().map(take).collect()
}

/// The transposed of a whole matrix, which is of bounded size.
fn read_transposed(source: &Source, array: &SourceArray) -> Result<Vec<u8>> {
    let mut raw = zeroed(array.bytes).at(source.path(), "cannot hold a matrix")?;
    source.read(array, 0, &mut raw)?;
    Ok(transpose(&raw, array.shape.last().copied().unwrap_or(1), super::sample::element_bytes(array)))
}

/// What a residual makes of a sample.
struct Trial {
    stored: u64,
    exceptions: u64,
}

impl Trial {
    fn of(residual: &Residual, cols: usize, sample: &[(Vec<u8>, GivenRows)]) -> Self {
        let chunks: Vec<Self> = sample
            .par_iter()
            .map(|(raw, rows)| match residual.encode(raw, cols, rows) {
                Some(coded) => {
                    Self { stored: coded.len() as u64, exceptions: u64::from(residual.exceptions(&coded)) }
                }
                None => Self { stored: raw.len() as u64, exceptions: raw.len() as u64 },
            })
            .collect();
        let sum = |of: fn(&Self) -> u64| chunks.iter().map(of).sum();
        Self { stored: sum(|chunk| chunk.stored), exceptions: sum(|chunk| chunk.exceptions) }
    }
}
