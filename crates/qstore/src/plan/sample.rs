//! Parts of an array, spread over the whole of it.

use std::borrow::Cow;

use qstore_checkpoint::{Result, Source, SourceArray};
use qstore_container::ChunkShape;

/// Elements that statistics are taken from at most. Tables from a million codes cost a thousandth of a bit more than
/// exact ones.
const SAMPLE_ELEMENTS: u64 = 1 << 20;
/// Chunks that a residual is tried on at most.
const TRIAL_CHUNKS: u64 = 4;

/// Whole rows at even distances.
#[derive(Debug)]
pub(crate) struct Sample<'a> {
    /// The rows one after another.
    pub(crate) bytes: Cow<'a, [u8]>,
    /// One row in how many was taken.
    pub(crate) stride: u64,
}

impl<'a> Sample<'a> {
    /// All of an array.
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes: Cow::Borrowed(bytes), stride: 1 }
    }

    /// Reads the sample of `array`; all of it if it is small.
    pub(crate) fn take(source: &Source, array: &SourceArray, shape: ChunkShape) -> Result<Self> {
        let width = element_bytes(array);
        let row_bytes = shape.cols * width;
        let rows = array.bytes.div_ceil(row_bytes);
        let stride = (array.bytes / width).div_ceil(SAMPLE_ELEMENTS).max(1);
        if stride == 1 {
            let mut bytes = vec![0; usize::try_from(array.bytes).unwrap_or(0)];
            source.read(array, 0, &mut bytes)?;
            return Ok(Self { bytes: bytes.into(), stride });
        }
        let mut bytes = Vec::new();
        // The last chunk of a stored array: to decode it again for each of its rows would take forever.
        let mut decoded: Option<(u64, Vec<u8>)> = None;
        for row in (0..rows).step_by(usize::try_from(stride).unwrap_or(usize::MAX)) {
            let start = row * row_bytes;
            let length = usize::try_from(row_bytes.min(array.bytes - start)).unwrap_or(0);
            let begin = bytes.len();
            bytes.resize(begin + length, 0);
            if !source.is_stored() {
                source.read(array, start, &mut bytes[begin..])?;
                continue;
            }
            let chunk = start / chunk_bytes(array, shape);
            let held = match decoded.take() {
                Some(held) if held.0 == chunk => held,
                _ => (chunk, read_chunk(source, array, shape, chunk)?),
            };
            // Chunks are whole rows.
            let within = usize::try_from(start - chunk * chunk_bytes(array, shape)).unwrap_or(0);
            bytes[begin..].copy_from_slice(&held.1[within..within + length]);
            decoded = Some(held);
        }
        Ok(Self { bytes: bytes.into(), stride })
    }
}

/// Whether an array is one chunk, and all of it the sample.
pub(crate) fn fits_one_step(array: &SourceArray, shape: ChunkShape) -> bool {
    (1..=chunk_bytes(array, shape)).contains(&array.bytes)
        && array.bytes / element_bytes(array) <= SAMPLE_ELEMENTS
}

/// Bytes of an element; 1 for the types that are smaller.
pub(crate) fn element_bytes(array: &SourceArray) -> u64 {
    (array.dtype.bitsize() as u64 / 8).max(1)
}

/// Bytes of a full chunk.
pub(crate) fn chunk_bytes(array: &SourceArray, shape: ChunkShape) -> u64 {
    shape.cols * shape.rows * element_bytes(array)
}

/// A few chunks, evenly spread.
pub(crate) fn spread_chunks(array: &SourceArray, shape: ChunkShape) -> Vec<u64> {
    let chunks = array.bytes.div_ceil(chunk_bytes(array, shape));
    let taken = chunks.min(TRIAL_CHUNKS);
    (0..taken).map(|i| i * chunks / taken).collect()
}

/// The bytes of one chunk.
pub(crate) fn read_chunk(
    source: &Source,
    array: &SourceArray,
    shape: ChunkShape,
    chunk: u64,
) -> Result<Vec<u8>> {
    let full = chunk_bytes(array, shape);
    let start = chunk * full;
    let length = full.min(array.bytes - start);
    let mut raw = vec![0; usize::try_from(length).unwrap_or(0)];
    source.read(array, start, &mut raw)?;
    Ok(raw)
}
