//! Deciding how each array of a variant is stored.
//!
//! A [`Planner`] looks at a sample of each array's rows and at the variants below, and returns a [`PlannedArray`]: plain data that, with the
//! array's bytes, determines what is written. Whatever it decides is lossless; a poor decision costs size alone.

mod duplicates;
mod fit;
mod grid;
mod pairs;
mod sample;

use qstore_container::{ArrayKey, ArrayRef, Encoding, Grid, Rounding};
use qstore_kernels::Classifier;
use rayon::prelude::*;

use crate::codec::{Codec, GivenRows, Residual};
use crate::decode::ArrayReader;
use crate::error::Result;
use crate::file::zeroed;
use crate::ingest::{Source, SourceArray};
use crate::scheme::FloatKind;

pub(crate) use duplicates::Duplicates;
use fit::Fit;
pub(crate) use grid::grid_of;
pub(crate) use pairs::{Pair, Pairs};
use sample::Sample;
pub(crate) use sample::chunk_bytes;

/// How one array will be stored.
#[derive(Debug)]
pub(crate) struct PlannedArray {
    /// Its index in the source.
    pub(crate) index: usize,
    /// How it is cut into chunks.
    pub(crate) grid: Grid,
    /// What to do with each chunk.
    pub(crate) action: Action,
}

/// What is done with the chunks of an array.
#[derive(Debug)]
pub(crate) enum Action {
    /// Compare them with another array's, which must be equal.
    Refer { to: ArrayRef, original: Original },
    /// Keep them in the copied file and record their checksums.
    Keep,
    /// Code them.
    Code(Box<Coding>),
}

/// The array that a reference stands for.
#[derive(Debug)]
pub(crate) enum Original {
    /// In a variant below.
    Stored(Box<ArrayReader>),
    /// In this source, by index.
    Own(usize),
}

/// Everything that coding a chunk takes beside its bytes.
#[derive(Debug)]
pub(crate) struct Coding {
    pub(crate) encoding: Encoding,
    pub(crate) codec: Codec,
    pub(crate) classifier: Classifier,
    pub(crate) given: Option<GivenReaders>,
}

/// The arrays that a residual is given.
#[derive(Debug)]
pub(crate) struct GivenReaders {
    codes: ArrayReader,
    /// One a row.
    scales: Vec<f32>,
    /// Bytes of a weight.
    width: usize,
}

impl GivenReaders {
    fn open(pair: &Pair, float: FloatKind) -> Result<Self> {
        let variant = &pair.variant;
        let codes = variant.array(&pair.group.codes)?;
        let scale = variant.array(&pair.group.scale)?;
        let mut bytes = zeroed(scale.bytes()?).map_err(|source| crate::Error::Io {
            path: variant.folder().to_owned(),
            what: "cannot hold the scales",
            source,
        })?;
        scale.read(0, &mut bytes)?;
        let scales = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Ok(Self { codes, scales, width: float.width() })
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

/// Plans the arrays of one source, in order.
pub(crate) struct Planner<'a> {
    pub(crate) source: &'a Source,
    pub(crate) pairs: Pairs,
    pub(crate) duplicates: Duplicates<'a>,
    /// Whether files are kept as they are.
    pub(crate) verbatim: bool,
}

impl Planner<'_> {
    /// Plans array `index`; call it for each array once.
    pub(crate) fn plan(&mut self, index: usize) -> Result<PlannedArray> {
        let array = &self.source.arrays[index];
        let grid = grid_of(array);
        let action = if self.verbatim {
            Action::Keep
        } else if let Some((to, original)) = self.duplicates.find(index)? {
            Action::Refer { to, original }
        } else {
            Action::Code(Box::new(self.coding(array, grid)?))
        };
        Ok(PlannedArray { index, grid, action })
    }

    /// The cheapest way to code `array`.
    fn coding(&mut self, array: &SourceArray, grid: Grid) -> Result<Coding> {
        let sample = Sample::take(self.source, array, grid)?;
        let mut best = Fit::raw();
        if let Some(float) = FloatKind::of(array.dtype) {
            let mut paired = None;
            for pair in self.pairs.of(&array.key).to_vec() {
                let fit = self.residual(array, grid, float, &pair)?;
                if fit
                    .as_ref()
                    .is_some_and(|fit| paired.as_ref().is_none_or(|best: &Fit| fit.better_than(best)))
                {
                    paired = fit;
                }
            }
            match paired {
                // No other encoding of weights comes near; do not even try one.
                Some(fit) if fit.is_excellent() => {
                    self.pairs.used(&array.key);
                    return Ok(fit.coding);
                }
                Some(fit) => best = fit,
                None => {}
            }
        }
        let found = fit::candidates(array, grid, &sample)
            .into_iter()
            .fold(best, |best, fit| if fit.better_than(&best) { fit } else { best });
        if matches!(found.coding.encoding, Encoding::Residual { .. }) {
            self.pairs.used(&array.key);
        }
        Ok(found.coding)
    }

    /// The residual of `array` given the codes of `pair`, with the rounding rule that fits best.
    fn residual(
        &self,
        array: &SourceArray,
        grid: Grid,
        float: FloatKind,
        pair: &Pair,
    ) -> Result<Option<Fit>> {
        let given = GivenReaders::open(pair, float)?;
        let cols = usize::try_from(grid.cols).unwrap_or(usize::MAX);
        let chunks = sample::spread_chunks(array, grid);
        let sample: Vec<(Vec<u8>, GivenRows)> = chunks
            .into_par_iter()
            .map(|chunk| {
                let raw = sample::read_chunk(self.source, array, grid, chunk)?;
                let rows = given.rows(grid, chunk * chunk_bytes(array, grid), raw.len())?;
                Ok::<_, crate::Error>((raw, rows))
            })
            .collect::<Result<_>>()?;
        let raw_bytes: u64 = sample.iter().map(|(raw, _)| raw.len() as u64).sum();
        let mut best: Option<(u64, Residual, Rounding)> = None;
        for rounding in Rounding::ALL {
            let Ok(residual) = Residual::fit(float, pair.group.scheme, rounding, cols, &sample) else {
                continue;
            };
            let coded: Vec<Option<(u64, u32)>> = sample
                .par_iter()
                .map(|(raw, rows)| {
                    let coded = residual.encode(raw, cols, rows)?;
                    Some((coded.len() as u64, residual.exceptions(&coded)))
                })
                .collect();
            let (bytes, exceptions) =
                coded.iter().zip(&sample).fold((0, 0), |(bytes, all), (coded, (raw, _))| {
                    let (length, exceptions) = coded.unwrap_or((raw.len() as u64, u32::MAX / 8));
                    (bytes + length, all + u64::from(exceptions))
                });
            if best.as_ref().is_none_or(|(least, ..)| bytes < *least) {
                best = Some((bytes, residual, rounding));
            }
            if exceptions == 0 {
                break;
            }
        }
        Ok(best.map(|(bytes, residual, rounding)| {
            let refer =
                |array: &ArrayKey| ArrayRef { variant: pair.variant.name().clone(), array: array.clone() };
            let encoding = Encoding::Residual {
                codes: refer(&pair.group.codes),
                scale: refer(&pair.group.scale),
                scheme: pair.group.scheme,
                rounding,
            };
            Fit {
                coding: Coding {
                    encoding,
                    codec: Codec::Residual(residual),
                    classifier: Classifier::single(),
                    given: Some(given),
                },
                stored: bytes,
                of: raw_bytes,
            }
        }))
    }
}
