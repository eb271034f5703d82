//! How an array is cut into chunks.

use qstore_checkpoint::SourceArray;
use qstore_container::limits::MAX_RESIDUAL_CHUNK_ROWS;
use qstore_container::{ArrayKey, Axis, ChunkShape, CodeLayout, Lanes};

/// Elements of a chunk, about: enough to make its coder states and tables cheap, few enough that many cores share one
/// tensor and that a chunk with its working memory stays in a core's cache.
const CHUNK_ELEMENTS: u64 = 1 << 19;
/// Elements up to which a matrix is one chunk: half of it would be read for any part of it, and a part is seldom asked
/// for.
const MOST_ALONE: u64 = 1 << 20;
/// Columns of an array that has no useful rows of its own.
const FLAT_COLS: u64 = 4096;
/// A row may not be much longer than a chunk.
const MAX_COLS: u64 = 1 << 20;
/// Rows of fewer elements than lanes waste the coder's width.
const MIN_COLS: u64 = 64;
/// Columns of a bundle: rows of few tensors each, which may differ in their spread.
const BUNDLE_COLS: u64 = 256;
/// Elements from which an array's coders have 128 lanes: speed matters more there, and the states of more lanes less.
const WIDE_ELEMENTS: u64 = 1 << 20;
/// Parts that engines cut a matrix into along either axis: each is then chunks of its own.
const PARTS: u64 = 8;
/// Bytes of a chunk of a file that is not safetensors; zstd finds more in longer ones.
const FILE_CHUNK: u64 = 4 << 20;

/// The chunks of an array. A matrix keeps its rows, which residuals need; of arrays with more dimensions the last ones
/// are folded until a row is long enough; all others are cut into rows of 4096.
pub(crate) fn chunk_of(array: &SourceArray) -> ChunkShape {
    if matches!(array.key, ArrayKey::File(_)) {
        return ChunkShape { rows: FILE_CHUNK / FLAT_COLS, cols: FLAT_COLS, lanes: Lanes::Narrow };
    }
    if matches!(array.key, ArrayKey::Bundle(_)) {
        return ChunkShape { rows: CHUNK_ELEMENTS / BUNDLE_COLS, cols: BUNDLE_COLS, lanes: Lanes::Narrow };
    }
    let whole_bytes = array.dtype.bitsize().is_multiple_of(8);
    let cols = match array.shape[..] {
        _ if !whole_bytes => FLAT_COLS,
        [_, cols] => cols,
        [_, ref inner @ .., last] => inner.iter().rev().fold(last, |cols, dimension| {
            if cols < MIN_COLS { cols.saturating_mul(*dimension) } else { cols }
        }),
        _ => FLAT_COLS,
    };
    let cols = if (1..=MAX_COLS).contains(&cols) { cols } else { FLAT_COLS };
    let most_rows = if array.shape.len() == 2 { MAX_RESIDUAL_CHUNK_ROWS } else { CHUNK_ELEMENTS };
    let elements = array.bytes / super::sample::element_bytes(array);
    let lanes = if elements < WIDE_ELEMENTS { Lanes::Narrow } else { Lanes::Wide };
    let rows = (CHUNK_ELEMENTS / cols).clamp(1, most_rows);
    let rows = match array.shape[..] {
        [all, own] if own == cols && elements <= MOST_ALONE => rows.max(all.min(most_rows)),
        [all, own] if own == cols => even(rows, all),
        _ => rows,
    };
    ChunkShape { rows, cols, lanes }
}

/// At most `most` rows, and not less than half as many: whole eighths of `all` rows, or so many that an eighth is a
/// multiple of them, where there are such. Engines share a matrix out among as many as eight, and none shall decode
/// more than its part.
fn even(most: u64, all: u64) -> u64 {
    let eighth = all / PARTS;
    if eighth == 0 || !all.is_multiple_of(PARTS) {
        return most;
    }
    if eighth < most {
        return most - most % eighth;
    }
    let fewest = eighth.div_ceil(most);
    let pieces = (fewest..fewest * 2).find(|pieces| eighth.is_multiple_of(*pieces));
    pieces.map_or(most, |pieces| eighth / pieces)
}

/// The chunks of packed codes in rows of words, as they are coded. They have as many codes as those of other arrays
/// have elements, so that what is given to a chunk is a chunk.
pub(super) fn chunk_of_codes(words: &SourceArray, layout: &CodeLayout) -> Option<ChunkShape> {
    let &[rows, cols] = &words.shape[..] else { return None };
    let Some(packing) = &layout.packing else { return Some(chunk_of(words)) };
    let shape = packing.unpacked([rows, cols])?;
    let codes = SourceArray {
        shape: shape.to_vec(),
        dtype: qstore_container::Dtype::I8,
        bytes: shape[0].checked_mul(shape[1])?,
        ..words.clone()
    };
    let chunk = chunk_of(&codes);
    let per_row = if packing.along == Axis::Rows { u64::from(packing.word / packing.bits) } else { 1 };
    Some(ChunkShape { rows: (chunk.rows / per_row).max(1), cols, ..chunk })
}

/// Codes of a chunk from which it is worth 128 lanes.
const WIDE_CODES: u64 = 1 << 16;

/// The same with an eighth of the columns to a chunk and at most an eighth of the rows, for packed codes of which many
/// have a part each; the same where they are not cut.
pub(super) fn tiled(chunk: ChunkShape, words: &SourceArray, layout: &CodeLayout) -> ChunkShape {
    let Some(packing) = layout.packing.as_ref().filter(|packing| packing.along == Axis::Columns) else {
        return chunk;
    };
    let Some((codes, rows)) = words.shape.first().and_then(|rows| {
        let codes = rows.checked_mul(packing.numbers_in(chunk.cols)?)?;
        Some((codes, rows.is_multiple_of(PARTS).then_some(rows / PARTS)?))
    }) else {
        return chunk;
    };
    let cols = chunk.cols / PARTS;
    let is_whole = chunk.cols.is_multiple_of(PARTS)
        && cols.saturating_mul(packing.word.into()).is_multiple_of(packing.bits.into());
    if !(layout.transposed && is_whole && cols > 0 && codes > MOST_ALONE) {
        return chunk;
    }
    let rows = chunk.rows.min(rows);
    let is_wide = codes / PARTS / words.shape[0] * rows >= WIDE_CODES;
    ChunkShape { rows, cols, lanes: if is_wide { Lanes::Wide } else { Lanes::Narrow } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_container::Dtype;

    fn cols(dtype: Dtype, shape: &[u64]) -> u64 {
        let chunk = chunk_of(&SourceArray {
            key: ArrayKey::Tensor("x".to_owned()),
            dtype,
            shape: shape.to_vec(),
            bytes: shape.iter().fold(dtype.bitsize() as u64 / 8, |bytes, n| bytes.saturating_mul(*n)),
            file: 0,
            offset: 0,
            part: None,
        });
        assert!(chunk.cols * chunk.rows <= 1 << 20);
        assert!(chunk.rows > 0);
        chunk.cols
    }

    #[test]
    fn rows_fit_the_shape() {
        assert_eq!(cols(Dtype::BF16, &[4096, 14336]), 14336);
        assert_eq!(cols(Dtype::I8, &[10, 3]), 3);
        assert_eq!(cols(Dtype::BF16, &[1024, 3, 14, 14]), 196);
        assert_eq!(cols(Dtype::BF16, &[1024, 3, 3, 3]), 27);
        assert_eq!(cols(Dtype::BF16, &[8, 1024, 2048]), 2048);
        assert_eq!(cols(Dtype::BF16, &[4096]), 4096);
        assert_eq!(cols(Dtype::BF16, &[]), 4096);
        assert_eq!(cols(Dtype::BF16, &[0, 5]), 5);
        assert_eq!(cols(Dtype::BF16, &[5, 0]), 4096);
        assert_eq!(cols(Dtype::BF16, &[2, 3_000_000]), 4096);
        assert_eq!(cols(Dtype::F4, &[64, 64]), 4096);
        assert_eq!(cols(Dtype::BF16, &[u64::MAX, u64::MAX, 2]), 4096);
    }
}
