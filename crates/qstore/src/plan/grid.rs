//! How an array is cut into chunks.

use qstore_container::limits::MAX_RESIDUAL_CHUNK_ROWS;
use qstore_container::{ArrayKey, Grid, Lanes};

use crate::ingest::SourceArray;

/// Elements of a chunk, about: enough to make its coder states and tables cheap, few enough that many cores share one tensor and that a chunk
/// with its working memory stays in a core's cache.
const CHUNK_ELEMENTS: u64 = 1 << 19;
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
/// Bytes of a chunk of a file that is not safetensors; zstd finds more in longer ones.
const FILE_CHUNK: u64 = 4 << 20;

/// The grid of an array. A matrix keeps its rows, which residuals need; of arrays with more dimensions the last ones are folded until a row is
/// long enough; all others are cut into rows of 4096.
pub(crate) fn grid_of(array: &SourceArray) -> Grid {
    if matches!(array.key, ArrayKey::File(_)) {
        return Grid { cols: FLAT_COLS, rows_per_chunk: FILE_CHUNK / FLAT_COLS, lanes: Lanes::Narrow };
    }
    if matches!(array.key, ArrayKey::Bundle(_)) {
        let rows_per_chunk = CHUNK_ELEMENTS / BUNDLE_COLS;
        return Grid { cols: BUNDLE_COLS, rows_per_chunk, lanes: Lanes::Narrow };
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
    Grid { cols, rows_per_chunk: (CHUNK_ELEMENTS / cols).clamp(1, most_rows), lanes }
}

/// The grid of packed codes of `bits` bits in rows of words. Chunks have as many codes as those of other arrays have elements, so that what is given to a chunk
/// is a chunk.
pub(crate) fn grid_of_codes(words: &SourceArray, bits: u8) -> Option<Grid> {
    let &[rows, words_of_row] = &words.shape[..] else { return None };
    let cols = words_of_row.checked_mul(32)?.checked_div(bits.into())?;
    let shape = vec![rows, cols];
    let codes = SourceArray {
        shape,
        dtype: qstore_container::Dtype::I8,
        bytes: rows.checked_mul(cols)?,
        ..words.clone()
    };
    Some(Grid { cols: words_of_row, ..grid_of(&codes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_container::Dtype;

    fn cols(dtype: Dtype, shape: &[u64]) -> u64 {
        let grid = grid_of(&SourceArray {
            key: ArrayKey::Tensor("x".to_owned()),
            dtype,
            shape: shape.to_vec(),
            bytes: 0,
            file: 0,
            offset: 0,
        });
        assert!(grid.cols * grid.rows_per_chunk <= 1 << 20);
        assert!(grid.rows_per_chunk > 0);
        grid.cols
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
