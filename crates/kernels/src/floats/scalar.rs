//! The definition.

use crate::Half;
use crate::bits::pack_plane;
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
        // Of each only the low 60 bits count.
        #[allow(clippy::cast_possible_truncation, reason = "the rest is the other four's")]
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

#[inline(always)]
pub(super) fn cut(window: SplitWindow, values: &[Half], symbols: &mut [u8]) -> (u64, usize) {
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

#[inline(always)]
pub(super) fn append_lows(window: SplitWindow, values: &[Half], out: &mut Vec<u8>) {
    append_fours(window, values, out, |four| pack_four(window, four));
}

/// Appends the raw bits of each value, which `pack_four` puts one after another for four values at a time.
#[inline(always)]
pub(super) fn append_fours(
    window: SplitWindow,
    values: &[Half],
    out: &mut Vec<u8>,
    pack_four: impl Fn(u64) -> u64,
) {
    let width = window.plane_width();
    let begin = out.len();
    let (groups, rest) = values.as_chunks::<GROUP>();
    // A group has `width` bytes, at most 15; 16 are written, and the next group overwrites what is too much.
    out.resize(begin + groups.len() * width as usize + 16, 0);
    let mut at = begin;
    for group in groups {
        let mut bits = 0;
        for (four, place) in group.as_chunks::<4>().0.iter().zip([0, 4 * width]) {
            let [a, b, c, d] = *four;
            let four = u64::from_le_bytes([a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]]);
            bits |= u128::from(pack_four(four)) << place;
        }
        out[at..at + 16].copy_from_slice(&bits.to_le_bytes());
        at += width as usize;
    }
    out.truncate(at);
    pack_plane(rest.iter().map(|value| window.low(u16::from_le_bytes(*value))), width, out);
}

/// The raw bits of four values, one after another. Works on all four at once, in one register.
#[inline(always)]
fn pack_four(window: SplitWindow, values: u64) -> u64 {
    const SIGNS: u64 = 0x8000_8000_8000_8000;
    let (width, shift) = (window.plane_width(), window.shift());
    let lows = SIGNS >> 15 << shift;
    let raw = values & (lows - (SIGNS >> 15)) | (values & SIGNS) >> (15 - shift);
    // Pairs of 16 bits become pairs of `width` bits, at most 30, and then these become one.
    let pairs = raw & 0x0000_ffff_0000_ffff | (raw & 0xffff_0000_ffff_0000) >> (16 - width);
    pairs & 0xffff_ffff | pairs >> 32 << (2 * width)
}
