//! Codes in words of 32 bits, the first in the lowest bits: those of qweight one below the other, those of qzeros side
//! by side.

use crate::quantize::precision::GptqBits;

/// The word of as many codes as fit.
fn word(codes: impl DoubleEndedIterator<Item = u8>, bits: GptqBits) -> u32 {
    codes.rev().fold(0, |word, code| word << bits.count() | u32::from(code))
}

/// Codes of rows of `cols` each, a whole number of words, packed along the rows: a line for each word of a row, which
/// holds that of every row.
pub(super) fn along_rows(codes: &[u8], cols: usize, bits: GptqBits) -> Vec<u8> {
    let (rows, each) = (codes.len() / cols, bits.codes_in_word());
    let mut lines = vec![0; cols / each * rows * 4];
    for (row, codes) in codes.chunks_exact(cols).enumerate() {
        let places = lines.chunks_exact_mut(4).skip(row).step_by(rows);
        for (place, codes) in places.zip(codes.chunks_exact(each)) {
            place.copy_from_slice(&word(codes.iter().copied(), bits).to_le_bytes());
        }
    }
    lines
}

/// Codes of rows of `cols` each, packed across the rows, of which there are a whole number of words: a line for each
/// column.
pub(super) fn across_rows(codes: &[u8], cols: usize, bits: GptqBits) -> Vec<u8> {
    let each = bits.codes_in_word();
    let words = (0..cols).flat_map(|col| {
        let words = codes.chunks_exact(cols * each);
        words.map(move |rows| word(rows.iter().skip(col).step_by(cols).copied(), bits))
    });
    words.flat_map(u32::to_le_bytes).collect()
}

/// Values of rows of `cols` each, column by column.
pub(super) fn transposed<T: Copy>(values: &[T], cols: usize) -> impl Iterator<Item = T> {
    (0..cols).flat_map(move |col| values.iter().skip(col).step_by(cols).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits `at * bits ..` of a word of a tensor of words with `columns` columns.
    fn code(words: &[u8], columns: usize, [row, col]: [usize; 2], at: usize, bits: GptqBits) -> u8 {
        let bits = bits.count() as usize;
        let bit = |i: usize| {
            let place = (row * columns + col) * 32 + at * bits + i;
            (words[place / 8] >> (place % 8) & 1) << i
        };
        (0..bits).map(bit).sum()
    }

    #[test]
    fn words_hold_codes_from_the_lowest_bit_up() {
        for bits in [GptqBits::Four, GptqBits::Eight] {
            let (rows, cols, each) = (16, 24, bits.codes_in_word());
            let most = (1u32 << bits.count()) - 1;
            let codes: Vec<u8> = (0..rows * cols).map(|i| (i as u32 * 37 % most) as u8).collect();
            let (along, across) = (along_rows(&codes, cols, bits), across_rows(&codes, cols, bits));
            assert_eq!((along.len(), across.len()), (cols / each * rows * 4, cols * rows / each * 4));
            for (i, &want) in codes.iter().enumerate() {
                let (row, col) = (i / cols, i % cols);
                assert_eq!(code(&along, rows, [col / each, row], col % each, bits), want);
                assert_eq!(code(&across, rows / each, [col, row / each], row % each, bits), want);
            }
        }
        // What the first words of any symmetric GPTQ file look like.
        assert_eq!(across_rows(&[7; 8], 1, GptqBits::Four), [0x77; 4]);
        assert_eq!(along_rows(&[1, 2, 3, 4], 4, GptqBits::Eight), [1, 2, 3, 4]);
        assert_eq!(along_rows(&[1, 2, 3, 4, 5, 6, 7, 8], 8, GptqBits::Four), [0x21, 0x43, 0x65, 0x87]);
    }

    #[test]
    fn values_are_transposed() {
        assert!(transposed(&[1, 2, 3, 4, 5, 6], 3).eq([1, 4, 2, 5, 3, 6]));
    }
}
