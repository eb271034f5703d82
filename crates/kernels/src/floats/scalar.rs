//! The definition.

use crate::Half;
use crate::split::SplitWindow;

/// Elements whose bits begin and end on a byte.
const GROUP: usize = 8;

pub(super) fn join(window: SplitWindow, symbols: &[u8], plane: &[u8], out: &mut [Half]) {
    let width = window.plane_width() as usize;
    let mut plane = plane;
    for (symbols, out) in symbols.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
        // A group has `width` bytes, at most 15, and takes them as one number.
        let (group, rest) = plane.split_at_checked(width).unwrap_or((plane, &[]));
        let mut bytes = [0; 16];
        if let Some(all) = plane.first_chunk() {
            // What follows the group does no harm.
            bytes = *all;
        } else {
            bytes[..group.len()].copy_from_slice(group);
        }
        let bits = u128::from_le_bytes(bytes);
        // Four at a time: shifting 64 bits costs half of shifting 128.
        let fours = [bits as u64, (bits >> (4 * width)) as u64];
        let cells = symbols.chunks(4).zip(out.chunks_mut(4)).zip(fours);
        for ((symbols, out), mut four) in cells {
            for (symbol, out) in symbols.iter().zip(out) {
                *out = window.join(*symbol, (four & 0xffff) as u16).to_le_bytes();
                four >>= width;
            }
        }
        plane = rest;
    }
}

/// The symbol of each value into `symbols`, 0 for those that have none. Returns the sum of the symbols and how many values have none.
pub(crate) fn cut(window: SplitWindow, values: &[Half], symbols: &mut [u8]) -> (u64, usize) {
    let (mut sum, mut missing) = (0, 0);
    for (values, symbols) in values.chunks(256).zip(symbols.chunks_mut(256)) {
        // Small sums and no branches, so that compilers make vector code of it.
        let (mut part, mut without) = (0u16, 0u16);
        for (value, symbol) in values.iter().zip(symbols) {
            let (found, is_missing) = window.symbol_or_none(u16::from_le_bytes(*value));
            *symbol = (found & 0xff) as u8;
            part += found;
            without += is_missing;
        }
        sum += u64::from(part);
        missing += usize::from(without);
    }
    (sum, missing)
}

/// Appends the raw bits of each value as a bit plane.
pub(crate) fn append_lows(window: SplitWindow, values: &[Half], out: &mut Vec<u8>) {
    let width = window.plane_width() as usize;
    for group in values.chunks(GROUP) {
        let mut fours = [0u64; 2];
        for (four, values) in fours.iter_mut().zip(group.chunks(4)) {
            for (value, place) in values.iter().zip(0..) {
                *four |= u64::from(window.low(u16::from_le_bytes(*value))) << (place * width);
            }
        }
        let bits = u128::from(fours[0]) | u128::from(fours[1]) << (4 * width);
        let bytes = (group.len() * width).div_ceil(8);
        out.extend_from_slice(&bits.to_le_bytes()[..bytes]);
    }
}
