//! Coders that know nothing of other tensors: Zstandard over the bytes as stored, and ZipNN's way with floats.

use std::io::{self, Write};

use qstore_checkpoint::{IoContext as _, Result, Source, SourceArray};
use qstore_container::Dtype;
use zstd::stream::write::Encoder;

use super::prefix::{DENSE, huffman_bits};

/// The level that `zstd` has if none is asked for.
const ZSTD_LEVEL: i32 = 3;
/// Bytes read at a time: whole elements.
const PIECE: u64 = 4 << 20;

/// Bits that the bytes of an array take.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBits {
    pub(super) zstd: u64,
    pub(super) zipnn: u64,
}

/// Reads an array, hands its bytes to `see`, and measures them.
pub(super) fn raw_bits(source: &Source, array: &SourceArray, mut see: impl FnMut(&[u8])) -> Result<RawBits> {
    let failed = "cannot compress";
    let path = source.path_of(array);
    let mut zstd = Encoder::new(Written(0), ZSTD_LEVEL).at(&path, failed)?;
    let mut exponents = [0; 256];
    let mut piece = Vec::new();
    let mut at = 0;
    while at < array.bytes {
        let length = PIECE.min(array.bytes - at);
        piece.resize(usize::try_from(length).unwrap_or(0), 0);
        source.read(array, at, &mut piece)?;
        zstd.write_all(&piece).at(&path, failed)?;
        count_exponents(array.dtype, &piece, &mut exponents);
        see(&piece);
        at += length;
    }
    let zstd = zstd.finish().at(&path, failed)?.0 * 8;
    let coded: u64 = exponents.iter().sum();
    Ok(RawBits { zstd, zipnn: huffman_bits(&exponents, DENSE) + (array.bytes - coded) * 8 })
}

/// Counts the byte of each element that is coded: the exponent, or that with the sign and two bits of the mantissa
/// where it has five bits. Of what is no float, every byte.
fn count_exponents(dtype: Dtype, bytes: &[u8], counts: &mut [u64; 256]) {
    let mut count = |byte: u8| counts[usize::from(byte)] += 1;
    let (halves, words) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    match dtype {
        Dtype::BF16 => halves.iter().for_each(|[low, high]| count(high << 1 | low >> 7)),
        Dtype::F16 => halves.iter().for_each(|[_, high]| count(*high)),
        Dtype::F32 => words.iter().for_each(|[.., low, high]| count(high << 1 | low >> 7)),
        _ => bytes.iter().for_each(|byte| count(*byte)),
    }
}

/// Counts what is written.
struct Written(u64);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_what_floats_call_so() {
        let exponent = |dtype, bytes: &[u8]| {
            let mut counts = [0; 256];
            count_exponents(dtype, bytes, &mut counts);
            assert_eq!(counts.iter().sum::<u64>(), 1);
            counts.iter().position(|count| *count == 1).unwrap()
        };
        assert_eq!(exponent(Dtype::F32, &1f32.to_le_bytes()), 127);
        assert_eq!(exponent(Dtype::F32, &(-3.5f32).to_le_bytes()), 128);
        assert_eq!(exponent(Dtype::BF16, &half::bf16::from_f32(-0.25).to_le_bytes()), 125);
        assert_eq!(exponent(Dtype::F16, &half::f16::from_f32(1.0).to_le_bytes()), 15 << 2);
        assert_eq!(exponent(Dtype::I8, &[7]), 7);
    }
}
