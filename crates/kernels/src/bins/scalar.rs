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
    let mut zeros = given.zeros.iter();
    for (bins, range) in given.bins.iter().zip(given.rows.iter()) {
        let bins = Bins::of(bins);
        let (codes, out) = (&given.codes[range.clone()], &mut out[range]);
        for (number, (codes, out)) in codes.chunks(LANES).zip(out.chunks_mut(LANES)).enumerate() {
            let used = decode_block(states.set(number), words.window()?, &bins, codes, out);
            words.skip(used);
        }
        // There are as many as codes of 0.
        for (column, value) in memchr::memchr_iter(0, codes).zip(&mut zeros) {
            out[column] = *value;
        }
    }
    Ok(())
}

/// A row's bins by code, which takes less work a weight than by magnitude.
pub(super) struct Bins([Bin; 256]);

/// One code's bin.
// Q: what is done for codes of 0, which use no lane? Their frequency is 2^16 and every slot their first place, which leaves a state as it is. So the loop
// needs no branch; the values that belong there are put in place when the row is done.
#[derive(Clone, Copy)]
struct Bin {
    frequency: u32,
    reciprocal: u32,
    lo: u16,
    sign: u16,
}

impl Bins {
    pub(super) fn of(table: &BinTable) -> Self {
        let bin = |k: usize, sign: u16| Bin {
            frequency: table.frequency(k),
            reciprocal: table.reciprocal[k],
            lo: table.lo(k),
            sign,
        };
        let mut bins = [bin(127, SIGN); 256];
        for k in 1..128 {
            bins[k] = bin(k, 0);
            bins[256 - k] = bin(k, SIGN);
        }
        bins[0] = Bin { frequency: 1 << RESIDUAL_BITS, reciprocal: 0, lo: 0, sign: 0 };
        Self(bins)
    }
}

/// Decodes up to 64 values, anything for codes of 0; returns how many words were read.
#[inline(always)]
pub(super) fn decode_block(
    states: &mut [u32; LANES],
    window: &[u8; WINDOW],
    bins: &Bins,
    codes: &[u8],
    out: &mut [Half],
) -> usize {
    let mut used = 0;
    let mut decode = |state: &mut u32, code: u8, value: &mut Half| {
        let bin = bins.0[usize::from(code)];
        let slot = *state & 0xffff;
        // The product's high half is below 2^16.
        let place = ((u64::from(slot) * u64::from(bin.reciprocal)) >> 32) as u32;
        // At most (2^16 - 1) * (2^16 - 1) + 2^16 - 1 < 2^32; the difference alone may wrap around.
        let high = (*state >> RESIDUAL_BITS).wrapping_sub(place);
        *state = refill(bin.frequency.wrapping_mul(high).wrapping_add(slot), window, &mut used);
        *value = (bin.lo.wrapping_add(place as u16) & MAGNITUDE | bin.sign).to_le_bytes();
    };
    let fours = codes.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<4>().0);
    for (states, (codes, out)) in states.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
        for ((state, code), value) in states.iter_mut().zip(codes).zip(out) {
            decode(state, *code, value);
        }
    }
    let done = codes.len() / 4 * 4;
    for ((state, code), value) in states.iter_mut().zip(codes).zip(out).skip(done) {
        decode(state, *code, value);
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

pub(super) fn list_zeros(codes: &[u8], values: &[Half], list: &mut [Half]) -> usize {
    let mut listed = 0;
    // They come too irregularly to be guessed: no branch.
    for (code, value) in codes.iter().zip(values) {
        list[listed] = *value;
        listed += usize::from(*code == 0);
    }
    listed
}

/// Where in its bin a value lies, if it does.
pub(super) fn place_in_bin(bins: &BinTable, code: u8, value: Half) -> Option<u32> {
    let value = u16::from_le_bytes(value);
    let k = bin_of(code);
    let place = u32::from((value & MAGNITUDE).checked_sub(bins.lo(k))?);
    let fits = (place + 1) * bins.frequency(k) <= 1 << RESIDUAL_BITS;
    (fits && (value & SIGN != 0) == is_negative(code)).then_some(place)
}
