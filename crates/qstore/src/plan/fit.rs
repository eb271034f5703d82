//! Encodings that need no other array, fitted to a sample.

use std::borrow::Cow;

use qstore_checkpoint::{FloatKind, SourceArray};
use qstore_container::{ArrayKey, ChunkShape, CodeLayout, Encoding};
use qstore_kernels::{
    ClassFit, Classifier, Histograms, Rows, SplitWindow, code_bucket, log2_q16, split_bucket, split_histogram,
};

use super::Coding;
use super::sample::{Sample, element_bytes};
use crate::codec::{Codec, Codes, FloatSplit, GivenOfChunk, Planes, layout_of, with_workspace};

/// Bytes that zstd is tried on at most.
const ZSTD_TRIAL: usize = 256 << 10;
/// Bytes of one piece of a bundle that zstd is tried on, a multiple of every element's ...
const ZSTD_PIECE: usize = 8 << 10;
/// ... and how many there are.
const ZSTD_PIECES: usize = 8;
/// What a coder's states take, and a little: more than its estimates leave out.
const LANES_BYTES: u64 = 512;
/// Bits of an exception, its index included, and what its placeholder costs.
const EXCEPTION_BITS: u64 = 56;

/// Bits of a weight that an encoding must save to be worth more time of its readers.
pub(super) const LEAST_SAVING: f64 = 0.1;

/// A way to code an array and what it makes of a part of it.
#[derive(Debug)]
pub(super) struct Fit {
    pub(super) coding: Coding,
    /// Bytes stored ...
    pub(super) stored: u64,
    /// ... of this many.
    pub(super) of: u64,
}

impl Fit {
    /// Bytes as they are.
    pub(super) fn raw() -> Self {
        Self::plain(Encoding::Raw, Codec::Raw, 1, 1)
    }

    fn plain(encoding: Encoding, codec: Codec, stored: u64, of: u64) -> Self {
        let coding = Coding { encoding, codec, classifier: Classifier::single(), given: None, chunk: None };
        Self { coding, stored, of }
    }

    /// The best of these and this one.
    pub(super) fn or_better(self, others: Vec<Self>) -> Self {
        others.into_iter().fold(self, |best, fit| if fit.better_than(&best) { fit } else { best })
    }

    pub(super) fn better_than(&self, other: &Self) -> bool {
        u128::from(self.stored) * u128::from(other.of) < u128::from(other.stored) * u128::from(self.of)
    }

    /// The better of this and one that is slower to decode, of an array whose weights take so many bits: that if it
    /// saves enough of them.
    pub(super) fn or_refined(self, refined: Option<Self>, bits: u64) -> Self {
        let Some(refined) = refined else { return self };
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let of_weight = |fit: &Self| fit.stored as f64 / fit.of.max(1) as f64 * bits as f64;
        // A step residual takes no less time.
        let least = match &self.coding.encoding {
            Encoding::StepResidual { .. } => LEAST_SAVING / 2.0,
            encoding if encoding.is_given() => LEAST_SAVING,
            _ => 0.0,
        };
        if of_weight(&refined) + least < of_weight(&self) { refined } else { self }
    }

    /// Clearly fewer bytes than there were.
    pub(super) fn helps(&self) -> bool {
        self.stored * 5 < self.of * 4
    }

    /// Of packed codes: no other encoding sees their bits.
    pub(super) fn is_packed(&self) -> bool {
        self.coding.encoding.packing().is_some()
    }

    /// Fewer bytes than any float split needs for weights.
    pub(super) fn is_excellent(&self) -> bool {
        self.stored * 2 < self.of
    }
}

/// Every encoding that suits the array's type, with what it would store of it in all.
pub(super) fn candidates(array: &SourceArray, chunk: ChunkShape, sample: &Sample) -> Vec<Fit> {
    let mut fits = Vec::new();
    if sample.bytes.is_empty() {
        return fits;
    }
    let cols = usize::try_from(chunk.cols).unwrap_or(usize::MAX);
    if let Some(float) = FloatKind::fitting(array.dtype, &sample.bytes) {
        fits.extend(split(float, array, chunk, sample));
    } else if element_bytes(array) == 1 && !is_file(array) {
        fits.extend(codes(array, chunk, sample));
    }
    let slow = zstd(array, sample);
    if sample.stride > 1 {
        fits.extend(slow);
        return fits;
    }
    // A small array is coded in no time: let the real sizes decide, unless it is clear which is the smallest.
    if let (Some(coder), Some(slow)) = (fits.first(), &slow)
        && is_hopeless(slow, coder, array)
        && (coder.stored + LANES_BYTES) * 32 < coder.of * 31
    {
        return fits;
    }
    fits.extend(slow);
    fits.into_iter()
        .map(|fit| {
            let coding = &fit.coding;
            let coded = with_workspace(|workspace| {
                coding.codec.encode(&sample.bytes, cols, &coding.classifier, GivenOfChunk::Nothing, workspace)
            });
            let head = fit.coding.codec.head().map_or(0, |head| head.len());
            let stored = coded.map_or(array.bytes, |coded| (coded.len() + head) as u64);
            Fit { stored, of: array.bytes, ..fit }
        })
        .collect()
}

/// Whether zstd stores more than `coder` even at its real level. In what is mostly noise, that is better than the trial
/// by 3% at most, and by a thousandth if elements are bytes.
fn is_hopeless(zstd: &Fit, coder: &Fit, array: &SourceArray) -> bool {
    let parts = if element_bytes(array) == 1 { 200 } else { 25 };
    let (zstd, of) = (u128::from(zstd.stored) * u128::from(coder.of), u128::from(zstd.of));
    let noise = u128::from(coder.stored) * 2 > u128::from(coder.of);
    noise && zstd * parts > u128::from(coder.stored) * of * (parts + 1)
}

fn is_file(array: &SourceArray) -> bool {
    matches!(array.key, ArrayKey::File(_))
}

fn zstd(array: &SourceArray, sample: &Sample) -> Option<Fit> {
    let width = element_bytes(array);
    let planes = Planes::writer(width, is_file(array));
    let part = trial(array, &sample.bytes, usize::try_from(width).unwrap_or(1));
    let stored = planes.estimate(&part)?;
    Some(Fit::plain(Encoding::Zstd, Codec::Zstd(planes), stored, part.len() as u64))
}

/// What zstd is tried on: the beginning, or pieces of a bundle, in which one tensor is not like another.
fn trial<'a>(array: &SourceArray, bytes: &'a [u8], width: usize) -> Cow<'a, [u8]> {
    let pieces = bytes.len() / ZSTD_PIECE;
    if !matches!(array.key, ArrayKey::Bundle(_)) || pieces <= ZSTD_PIECES {
        return Cow::Borrowed(&bytes[..bytes.len().min(ZSTD_TRIAL) / width * width]);
    }
    let piece = |i: usize| &bytes[i * pieces / ZSTD_PIECES * ZSTD_PIECE..][..ZSTD_PIECE];
    (0..ZSTD_PIECES).flat_map(piece).copied().collect()
}

fn codes(array: &SourceArray, chunk: ChunkShape, sample: &Sample) -> Option<Fit> {
    let cols = usize::try_from(chunk.cols).unwrap_or(usize::MAX);
    let mut histograms = Histograms::default();
    for row in Rows::new(sample.bytes.len(), cols).iter() {
        let row = &sample.bytes[row];
        histograms.add_row(code_bucket(row), row.iter().copied());
    }
    let fit = ClassFit::new(&histograms, sample.stride);
    let stored = class_fit_bytes(&fit, sample.stride);
    let codec = Codec::Codes(Codes::new(&CodeLayout::default(), fit.tables, layout_of(chunk)).ok()?);
    let coding = Coding {
        encoding: Encoding::plain_codes(),
        codec,
        classifier: fit.classifier,
        given: None,
        chunk: None,
    };
    Some(Fit { coding, stored, of: array.bytes })
}

fn split(float: FloatKind, array: &SourceArray, chunk: ChunkShape, sample: &Sample) -> Option<Fit> {
    let cols = usize::try_from(chunk.cols).unwrap_or(usize::MAX);
    let values: Vec<u16> = crate::codec::high_halves(float, &sample.bytes)
        .iter()
        .map(|half| u16::from_le_bytes(*half))
        .collect();
    let count = values.len() as u64;
    let log_count = log2_q16(count);
    // How many leading mantissa bits to code along with the exponent. One bit less adds up pairs of counts.
    let finest = split_histogram(values.iter().copied(), float.mantissa_bits() - 3);
    let windows = (0..=3u32).map(|coarser| {
        let shift = float.mantissa_bits() - 3 + coarser;
        let histogram: Vec<u64> = finest.chunks(1 << coarser).map(|counts| counts.iter().sum()).collect();
        let window = SplitWindow::best(shift, &histogram);
        let low = values[0] & ((1 << shift) - 1);
        let mut bits = count * u64::from(shift + 1);
        for (high, &seen) in (0u16..).zip(&histogram).filter(|(_, seen)| **seen > 0) {
            let symbol = window.symbol((high << shift) | low);
            let each = if symbol.is_some() { log_count - log2_q16(seen) } else { EXCEPTION_BITS << 16 };
            bits += (seen * each) >> 16;
        }
        (bits, window)
    });
    // Of equal ones the one with fewest symbols.
    let (_, window) = windows.rev().min_by_key(|(bits, _)| *bits)?;
    let mut histograms = Histograms::default();
    let mut exceptions = 0;
    for row in Rows::new(values.len(), cols).iter() {
        let row = &values[row];
        let bucket = split_bucket(window, float.mantissa_bits(), row.iter().copied());
        histograms.add_row(bucket, row.iter().filter_map(|&v| window.symbol(v)));
        exceptions += row.iter().filter(|&&v| window.symbol(v).is_none()).count() as u64;
    }
    let fit = ClassFit::new(&histograms, sample.stride);
    let low_bits = crate::codec::low_width(float, &sample.bytes);
    let raw_bits = count * u64::from(window.shift() + 1 + low_bits) + exceptions * EXCEPTION_BITS;
    let stored = class_fit_bytes(&fit, sample.stride) + raw_bits * sample.stride / 8;
    let codec = Codec::FloatSplit(FloatSplit::new(float, window, fit.tables, layout_of(chunk)).ok()?);
    let coding = Coding {
        encoding: Encoding::FloatSplit,
        codec,
        classifier: fit.classifier,
        given: None,
        chunk: None,
    };
    Some(Fit { coding, stored, of: array.bytes })
}

fn class_fit_bytes(fit: &ClassFit, stride: u64) -> u64 {
    fit.payload_bits / 8 * stride + fit.table_bytes as u64
}
