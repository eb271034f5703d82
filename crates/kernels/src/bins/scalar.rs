//! The definition.

use super::{BinTable, Given, MAGNITUDE, RESIDUAL_BITS, SIGN, bin_of, is_negative};
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter, put, refill};

pub(super) fn decode(
    states: &mut States,
    words: &mut WordReader,
    given: &Given,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    let mut zeros = given.zeros;
    for (bins, range) in given.bins.iter().zip(given.rows.iter()) {
        let blocks = given.codes[range.clone()].chunks(LANES).zip(out[range].chunks_mut(LANES));
        let bins = Bins::of(bins);
        for (number, (codes, out)) in blocks.enumerate() {
            let used = decode_block(states.set(number), words.window()?, &bins, codes, &mut zeros, out);
            words.skip(used);
        }
    }
    Ok(())
}

/// A row's bins by code, which takes less work a weight than by magnitude.
pub(super) struct Bins([Bin; 256]);

#[derive(Clone, Copy)]
struct Bin {
    lo: u16,
    frequency: u16,
    reciprocal: u32,
}

impl Bins {
    pub(super) fn of(table: &BinTable) -> Self {
        let bin = |k: usize| Bin {
            lo: table.lo(k),
            frequency: (table.frequency(k) & 0xffff) as u16,
            reciprocal: table.reciprocal[k],
        };
        let mut bins = [bin(127); 256];
        for k in 0..128 {
            bins[k] = bin(k);
            bins[(256 - k) % 256] = bin(k);
        }
        Self(bins)
    }
}

/// Decodes up to 64 values; returns how many words were read.
#[inline(always)]
pub(super) fn decode_block(
    states: &mut [u32; LANES],
    window: &[u8; WINDOW],
    bins: &Bins,
    codes: &[u8],
    zeros: &mut &[Half],
    out: &mut [Half],
) -> usize {
    let mut used = 0;
    for ((state, &code), value) in states.iter_mut().zip(codes).zip(out) {
        // One or two of a hundred: well predicted.
        if code == 0 {
            if let Some((first, rest)) = zeros.split_first() {
                *value = *first;
                *zeros = rest;
            }
            continue;
        }
        let bin = bins.0[usize::from(code)];
        let (slot, frequency) = (*state & 0xffff, u32::from(bin.frequency));
        // The product's high half is below 2^16.
        let place = ((u64::from(slot) * u64::from(bin.reciprocal)) >> 32) as u32;
        // At most (2^16 - 1) * (2^16 - 1) + 2^16 - 1 < 2^32; the difference alone may wrap around.
        let next = frequency.wrapping_mul((*state >> RESIDUAL_BITS).wrapping_sub(place)).wrapping_add(slot);
        *state = refill(next, window, &mut used);
        let magnitude = bin.lo.wrapping_add(place as u16) & MAGNITUDE;
        *value = (magnitude | u16::from(code & 0x80) << 8).to_le_bytes();
    }
    used
}

pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    bins: &BinTable,
    codes: &[u8],
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    let blocks = codes.chunks(LANES).zip(values.chunks(LANES)).enumerate();
    for (block, (codes, values)) in blocks.rev() {
        let cells = codes.iter().zip(values).zip(states.set(block)).enumerate();
        for (lane, ((&code, &value), state)) in cells.rev() {
            if code == 0 {
                continue;
            }
            let k = bin_of(code);
            let frequency = bins.frequency(k);
            let place = place_in_bin(bins, code, value).unwrap_or_else(|| {
                outside(block * LANES + lane);
                0
            });
            put(state, words, frequency, RESIDUAL_BITS, |offset| place * frequency + offset);
        }
    }
}

/// Where in its bin a value lies, if it does.
pub(super) fn place_in_bin(bins: &BinTable, code: u8, value: Half) -> Option<u32> {
    let value = u16::from_le_bytes(value);
    let k = bin_of(code);
    let place = u32::from((value & MAGNITUDE).checked_sub(bins.lo(k))?);
    let fits = (place + 1) * bins.frequency(k) <= 1 << RESIDUAL_BITS;
    (fits && (value & SIGN != 0) == is_negative(code)).then_some(place)
}
