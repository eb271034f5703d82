//! Codes of a few bits in words, and one a byte.

use std::borrow::Cow;

use qstore_checkpoint::transpose;
use qstore_container::{Axis, Packing};

/// Reads codes, as many as there is room for in `codes`, from words that follow each other along the packed axis.
pub(crate) fn unpack(packing: &Packing, words: &[u8], codes: &mut [u8]) {
    if packing.is_stream() {
        return unpack_stream(words, packing.bits, codes);
    }
    for (codes, word) in
        codes.chunks_mut(packing.order.len()).zip(words.chunks(usize::from(packing.word / 8)))
    {
        let word = word.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        for (code, place) in codes.iter_mut().zip(&packing.order) {
            *code =
                (word >> (u32::from(*place) * u32::from(packing.bits))).to_le_bytes()[0] & mask(packing.bits);
        }
    }
}

/// Inverse of [`unpack`]; of each code so many bits count.
fn pack(packing: &Packing, codes: &[u8], words: &mut [u8]) {
    if packing.is_stream() {
        return pack_stream(codes, packing.bits, words);
    }
    for (codes, bytes) in
        codes.chunks(packing.order.len()).zip(words.chunks_mut(usize::from(packing.word / 8)))
    {
        let place = |(code, place): (&u8, &u8)| {
            u64::from(code & mask(packing.bits)) << (u32::from(*place) * u32::from(packing.bits))
        };
        let word = codes.iter().zip(&packing.order).map(place).fold(0, |word, code| word | code);
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
}

fn mask(bits: u8) -> u8 {
    u8::MAX >> (8 - bits)
}

fn unpack_stream(words: &[u8], bits: u8, codes: &mut [u8]) {
    match bits {
        8 => {
            let length = codes.len().min(words.len());
            codes[..length].copy_from_slice(&words[..length]);
        }
        4 => {
            let (pairs, odd) = codes.as_chunks_mut();
            for (pair, byte) in pairs.iter_mut().zip(words) {
                *pair = [byte & 15, byte >> 4];
            }
            if let (Some(last), Some(byte)) = (odd.first_mut(), words.get(pairs.len())) {
                *last = byte & 15;
            }
        }
        _ => {
            // Eight codes take `bits` bytes.
            for (eight, bytes) in codes.chunks_mut(8).zip(words.chunks(usize::from(bits))) {
                let stream = bytes.iter().rev().fold(0u64, |stream, byte| stream << 8 | u64::from(*byte));
                for (code, at) in eight.iter_mut().zip((0..).step_by(usize::from(bits))) {
                    *code = (stream >> at).to_le_bytes()[0] & mask(bits);
                }
            }
        }
    }
}

fn pack_stream(codes: &[u8], bits: u8, words: &mut [u8]) {
    match bits {
        8 => {
            let length = words.len().min(codes.len());
            words[..length].copy_from_slice(&codes[..length]);
        }
        4 => {
            for (byte, [low, high]) in words.iter_mut().zip(codes.as_chunks().0) {
                *byte = low & 15 | high << 4;
            }
        }
        _ => {
            for (bytes, eight) in words.chunks_mut(usize::from(bits)).zip(codes.chunks(8)) {
                let stream = eight
                    .iter()
                    .rev()
                    .fold(0u64, |stream, code| stream << bits | u64::from(code & mask(bits)));
                bytes.copy_from_slice(&stream.to_le_bytes()[..bytes.len()]);
            }
        }
    }
}

/// The codes of a matrix of words, whose rows have `row_bytes` bytes and fill whole codes along the packed axis; one a
/// byte, in rows of codes. Without a packing elements are codes.
pub(crate) fn codes_of_words<'a>(
    packing: Option<&Packing>,
    words: &'a [u8],
    row_bytes: usize,
) -> Cow<'a, [u8]> {
    let Some(packing) = packing else { return Cow::Borrowed(words) };
    if packing.is_bytes() {
        return Cow::Borrowed(words);
    }
    let mut codes = vec![0; words.len() * 8 / usize::from(packing.bits)];
    match packing.along {
        Axis::Columns => unpack(packing, words, &mut codes),
        Axis::Rows => {
            let width = u64::from(packing.word / 8);
            let cols = row_bytes as u64 / width;
            let mut transposed = vec![0; words.len()];
            transpose(words, cols, width, &mut transposed);
            let mut columns = vec![0; codes.len()];
            unpack(packing, &transposed, &mut columns);
            transpose(&columns, codes.len() as u64 / cols.max(1), 1, &mut codes);
        }
    }
    Cow::Owned(codes)
}

/// Inverse of [`codes_of_words`].
pub(crate) fn words_of_codes(packing: &Packing, codes: &[u8], row_bytes: usize, words: &mut [u8]) {
    match packing.along {
        Axis::Columns => pack(packing, codes, words),
        Axis::Rows => {
            let width = u64::from(packing.word / 8);
            let cols = row_bytes as u64 / width;
            let mut columns = vec![0; codes.len()];
            transpose(codes, cols, 1, &mut columns);
            let mut transposed = vec![0; words.len()];
            pack(packing, &columns, &mut transposed);
            transpose(&transposed, words.len() as u64 / width / cols.max(1), width, words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packing(bits: u8, word: u8, along: Axis, order: &[u8]) -> Packing {
        Packing { bits, word, along, order: order.to_vec() }
    }

    proptest! {
        #[test]
        fn codes_are_streams_of_bits(bits in 1u8..=8, word in proptest::sample::select(vec![8u8, 16, 32, 64]), bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            // Whole codes and whole words, whatever their widths.
            let bytes = bytes.repeat(usize::from(bits) * usize::from(word));
            let packing = packing(bits, word, Axis::Columns, &[]);
            let mut codes = vec![0; bytes.len() * 8 / usize::from(bits)];
            unpack(&packing, &bytes, &mut codes);
            for (index, code) in codes.iter().enumerate() {
                let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1;
                let want = (0..usize::from(bits)).fold(0, |want, b| want | bit(index * usize::from(bits) + b) << b);
                prop_assert_eq!(*code, want);
            }
            let mut back = vec![0; bytes.len()];
            pack(&packing, &codes, &mut back);
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn words_come_back_whatever_their_order(
            seed: u64,
            along in proptest::sample::select(vec![Axis::Rows, Axis::Columns]),
            (bits, word) in proptest::sample::select(vec![(4u8, 8u8), (4, 32), (2, 16), (1, 8), (8, 64), (3, 32)]),
            rows in 1usize..5,
            cols in 1usize..5,
        ) {
            let count = if 8 % bits == 0 { word / bits } else { 0 };
            let mut order: Vec<u8> = (0..count).collect();
            order.sort_by_key(|place| seed.rotate_left(u32::from(*place) * 7).wrapping_mul(0x9e37_79b9));
            let packing = packing(bits, word, along, &order);
            // Three words of 3 bits hold whole codes.
            let (rows, cols) = if bits == 3 { (3 * rows, 3 * cols) } else { (rows, cols) };
            let width = usize::from(word / 8);
            let words: Vec<u8> = (0..rows * cols * width).map(|i| (seed.wrapping_mul(i as u64 + 1) >> 24) as u8).collect();
            let codes = codes_of_words(Some(&packing), &words, cols * width);
            let mut back = vec![0; words.len()];
            words_of_codes(&packing, &codes, cols * width, &mut back);
            prop_assert_eq!(&back, &words);
        }
    }

    #[test]
    fn places_of_codes_by_hand() {
        // AWQ: eight outputs in a word, the even ones first.
        let awq = packing(4, 32, Axis::Columns, &[0, 4, 1, 5, 2, 6, 3, 7]);
        let mut codes = [0; 8];
        unpack(&awq, &0x7531_6420u32.to_le_bytes(), &mut codes);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7]);
        // Two rows of words, of which each holds two rows of codes.
        let down = packing(4, 8, Axis::Rows, &[]);
        assert_eq!(*codes_of_words(Some(&down), &[0x51, 0x62, 0x73, 0x84], 2), [1, 2, 5, 6, 3, 4, 7, 8]);
    }
}
