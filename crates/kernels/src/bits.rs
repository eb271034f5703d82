//! Bit planes: values of a fixed width, packed.
//!
//! Values are written low bit first into a little-endian bit stream. Every 64 values of width `w` fill exactly `8 * w`
//! bytes, so that each block of 64 starts on a byte; a last partial block is padded with zero bits to a whole byte.

use crate::error::DecodeError;

/// Bytes that `count` values of `width` bits (0 to 16) take.
#[must_use]
pub fn plane_bytes(count: usize, width: u32) -> usize {
    let width = width as usize;
    (count / 64) * 8 * width + ((count % 64) * width).div_ceil(8)
}

/// Appends `values`, each of which must be below `2^width`, to `out`.
pub fn pack_plane(values: impl Iterator<Item = u16>, width: u32, out: &mut Vec<u8>) {
    if width == 8 {
        out.extend(values.map(|value| value.to_le_bytes()[0]));
        return;
    }
    let (mut buffer, mut filled) = (0u64, 0u32);
    for value in values {
        buffer |= u64::from(value) << filled;
        filled += width;
        while filled >= 8 {
            out.push(buffer.to_le_bytes()[0]);
            buffer >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(buffer.to_le_bytes()[0]);
    }
}

/// Calls `sink(index, value)` for each of `count` values of `width` bits (0 to 16).
///
/// # Errors
/// `bytes` is not exactly [`plane_bytes`] long.
pub fn unpack_plane(
    bytes: &[u8],
    count: usize,
    width: u32,
    mut sink: impl FnMut(usize, u16),
) -> Result<(), DecodeError> {
    if bytes.len() != plane_bytes(count, width) || width > 16 {
        return Err(DecodeError::Truncated);
    }
    if width == 8 {
        bytes.iter().enumerate().for_each(|(index, &byte)| sink(index, u16::from(byte)));
        return Ok(());
    }
    let mask = (1u64 << width) - 1;
    let (mut buffer, mut filled) = (0u64, 0u32);
    let mut rest = bytes.iter();
    for index in 0..count {
        while filled < width {
            let byte = rest.next().ok_or(DecodeError::Truncated)?;
            buffer |= u64::from(*byte) << filled;
            filled += 8;
        }
        let [low, high, ..] = (buffer & mask).to_le_bytes();
        sink(index, u16::from_le_bytes([low, high]));
        buffer >>= width;
        filled -= width;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(width in 0u32..=16, values in proptest::collection::vec(any::<u16>(), 0..300)) {
            let mask = u16::try_from((1u32 << width) - 1).unwrap();
            let values: Vec<u16> = values.iter().map(|v| v & mask).collect();
            let mut bytes = Vec::new();
            pack_plane(values.iter().copied(), width, &mut bytes);
            prop_assert_eq!(bytes.len(), plane_bytes(values.len(), width));
            let mut back = vec![0; values.len()];
            unpack_plane(&bytes, values.len(), width, |i, v| back[i] = v).unwrap();
            prop_assert_eq!(back, values);
        }
    }
}
