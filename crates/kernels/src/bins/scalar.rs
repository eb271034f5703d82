//! The definition.

#![allow(clippy::cast_possible_truncation, reason = "halves of 32 bits")]
#![allow(clippy::needless_range_loop, reason = "a lane is a place in several arrays")]

use super::{BinTable, MAGNITUDE, RESIDUAL_BITS, SIGN, StreamInputs, bin_of, is_negative};
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{HalvedStates, Halves, LANES, States, WINDOW, WordReader, WordWriter, multiply_add, put};

pub(super) fn decode(
    states: &mut States,
    words: &mut WordReader,
    given: &StreamInputs,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    let mut halved = HalvedStates::of(states);
    let mut lanes = BinsOfLanes::NONE;
    let mut zeros = given.zeros.iter();
    for (bins, range) in given.bins.iter().zip(given.rows.iter()) {
        let bins = Bins::of(bins);
        let (codes, out) = (&given.codes[range.clone()], &mut out[range]);
        let (blocks, rest) = codes.as_chunks();
        let (outs, out_rest) = out.as_chunks_mut();
        for (number, (codes, out)) in blocks.iter().zip(outs).enumerate() {
            let set = halved.set(number);
            lanes.decode(set, &bins, codes, out);
            let used = set.refill(words.window()?);
            words.skip(used);
        }
        if !rest.is_empty() {
            let used = lanes.decode_some(halved.set(blocks.len()), words.window()?, &bins, rest, out_rest);
            words.skip(used);
        }
        // There are as many as codes of 0.
        for (column, value) in memchr::memchr_iter(0, codes).zip(&mut zeros) {
            out[column] = *value;
        }
    }
    halved.write(states);
    Ok(())
}

/// A row's bins by code, which takes less work a weight than by magnitude.
pub(super) struct Bins([Bin; 256]);

/// One code's bin, in the 8 bytes that a lookup fetches: in the high halves the least value (sign included) and the
/// frequency, in the low ones the halves of the reciprocal.
// Q: what is done for codes of 0, which use no lane? They have a frequency of 0, which says that a state is to stay as
// it is. So the loop needs no branch; the values that belong there are put in place when the row is done.
#[derive(Clone, Copy)]
struct Bin([u32; 2]);

impl Bin {
    /// Of codes of 0.
    const NONE: Self = Self([0; 2]);

    fn first(self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    fn frequency(self) -> u16 {
        (self.0[1] >> 16) as u16
    }

    /// `floor(2^32 / frequency)`.
    fn reciprocal(self) -> u32 {
        self.0[0] << 16 | self.0[1] & 0xffff
    }

    /// `floor(2^16 / frequency)`: how many values have a slot.
    fn factor(self) -> u16 {
        self.0[0] as u16
    }
}

impl Bins {
    pub(super) fn of(table: &BinTable) -> Self {
        let bin = |k: usize, sign: u16| {
            let first = table.lo(k) & MAGNITUDE | sign;
            let reciprocal = table.reciprocal[k] - 1;
            Bin([u32::from(first) << 16 | reciprocal >> 16, table.frequency(k) << 16 | reciprocal & 0xffff])
        };
        let mut bins = [bin(127, SIGN); 256];
        for k in 1..128 {
            bins[k] = bin(k, 0);
            bins[256 - k] = bin(k, SIGN);
        }
        bins[0] = Bin::NONE;
        Self(bins)
    }
}

/// The bins of a block's codes.
// Q: why pass by pass? Lookups do not wait for each other, and of what does one thing with all lanes compilers make
// vector code.
struct BinsOfLanes {
    bins: [Bin; LANES],
    /// The parts of the bins.
    first: [u16; LANES],
    factor: [u16; LANES],
    frequency: [u16; LANES],
}

impl BinsOfLanes {
    const NONE: Self =
        Self { bins: [Bin::NONE; LANES], first: [0; LANES], factor: [0; LANES], frequency: [0; LANES] };

    #[inline(always)]
    fn look_up(&mut self, bins: &Bins, codes: &[u8; LANES]) {
        for (bin, code) in self.bins.iter_mut().zip(codes) {
            *bin = bins.0[usize::from(*code)];
        }
        for lane in 0..LANES {
            let bin = self.bins[lane];
            self.first[lane] = bin.first();
            self.factor[lane] = bin.factor();
            self.frequency[lane] = bin.frequency();
        }
    }

    /// Decodes a value in each lane, anything for codes of 0. States may then be too low.
    #[inline(always)]
    fn decode(&mut self, set: &mut Halves, bins: &Bins, codes: &[u8; LANES], out: &mut [Half; LANES]) {
        self.look_up(bins, codes);
        for lane in 0..LANES {
            let (frequency, high) = (self.frequency[lane], set.high[lane]);
            let (place, offset) = divide(set.low[lane], frequency, self.factor[lane]);
            let next = multiply_add(frequency, high, offset);
            // Where the frequency is 0 the offset is the slot, so the low half stays by itself.
            set.high[lane] = if frequency == 0 { high } else { next.0 };
            set.low[lane] = next.1;
            let first = self.first[lane];
            out[lane] = (first.wrapping_add(place) & MAGNITUDE | first & SIGN).to_le_bytes();
        }
    }

    /// Codes a whole block of values. It comes to the same as [`encode_block`], in less time.
    #[inline(always)]
    fn encode(
        &mut self,
        states: &mut [u32; LANES],
        words: &mut WordWriter,
        bins: &Bins,
        codes: &[u8; LANES],
        values: &[Half; LANES],
        outside: &mut dyn FnMut(usize),
    ) {
        self.look_up(bins, codes);
        let (mut places, mut without) = ([0; LANES], [0; LANES]);
        for lane in 0..LANES {
            let (value, first) = (u16::from_le_bytes(values[lane]), self.first[lane]);
            // A value below the bin wraps around to a place that no bin has.
            let place = (value & MAGNITUDE).wrapping_sub(first & MAGNITUDE);
            let fits = (place < self.factor[lane]) & ((value ^ first) & SIGN == 0);
            places[lane] = if fits { place } else { 0 };
            without[lane] = u16::from(!fits & (self.frequency[lane] != 0));
        }
        let (room, mut used) = (words.room(), 0);
        for (lane, state) in states.iter_mut().enumerate().rev() {
            let (bin, frequency) = (self.bins[lane], u32::from(self.frequency[lane]));
            if frequency > 0 {
                let slot = |offset| u32::from(places[lane]) * frequency + offset;
                put(state, room, &mut used, frequency, bin.reciprocal(), RESIDUAL_BITS, slot);
            }
        }
        words.keep(used);
        if without != [0; LANES] {
            (0..LANES).filter(|lane| without[*lane] != 0).for_each(outside);
        }
    }

    /// The same as [`decode`](Self::decode) for fewer than 64 codes; returns how many words were read.
    fn decode_some(
        &mut self,
        set: &mut Halves,
        window: &[u8; WINDOW],
        bins: &Bins,
        codes: &[u8],
        out: &mut [Half],
    ) -> usize {
        // The other lanes have codes of 0, and so stay as they are.
        let (mut all, mut values) = ([0; LANES], [[0; 2]; LANES]);
        all[..codes.len()].copy_from_slice(codes);
        self.decode(set, bins, &all, &mut values);
        out.copy_from_slice(&values[..codes.len()]);
        set.refill(window)
    }
}

/// A slot divided by a frequency, given `floor(2^16 / frequency)`: quotient and remainder.
#[inline(always)]
fn divide(slot: u16, frequency: u16, factor: u16) -> (u16, u16) {
    // The factor lacks less than 1 of 2^16 / frequency and the slot is below 2^16, so this quotient is right or one too
    // low.
    let quotient = ((u32::from(slot) * u32::from(factor)) >> 16) as u16;
    let remainder = slot - quotient * frequency;
    let more = remainder >= frequency;
    (quotient + u16::from(more), remainder - if more { frequency } else { 0 })
}

pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    bins: &BinTable,
    codes: &[u8],
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    // Making a row's bins takes as long as a block does.
    let whole = if codes.len() < 2 * LANES { 0 } else { codes.len() / LANES };
    let (codes, rest) = codes.split_at(whole * LANES);
    let (values, value_rest) = values.split_at(whole * LANES);
    let rests = rest.chunks(LANES).zip(value_rest.chunks(LANES));
    for (block, (codes, values)) in rests.enumerate().rev() {
        let (block, start) = (whole + block, (whole + block) * LANES);
        encode_block(states.set(block), words, bins, codes, values, &mut |lane| outside(start + lane));
    }
    if whole == 0 {
        return;
    }
    let bins = Bins::of(bins);
    let mut lanes = BinsOfLanes::NONE;
    for (block, (codes, values)) in codes.as_chunks().0.iter().zip(values.as_chunks().0).enumerate().rev() {
        let set = states.set(block);
        lanes.encode(set, words, &bins, codes, values, &mut |lane| outside(block * LANES + lane));
    }
}

/// Codes up to 64 values, lane by lane.
fn encode_block(
    states: &mut [u32; LANES],
    words: &mut WordWriter,
    bins: &BinTable,
    codes: &[u8],
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    let (room, mut used) = (words.room(), 0);
    let cells = codes.iter().zip(values).zip(states).enumerate();
    for (lane, ((&code, &value), state)) in cells.rev() {
        if code == 0 {
            continue;
        }
        let k = bin_of(code);
        let frequency = bins.frequency(k);
        let place = place_in_bin(bins, code, value).unwrap_or_else(|| {
            outside(lane);
            0
        });
        let slot = |offset| place * frequency + offset;
        put(state, room, &mut used, frequency, bins.reciprocal[k] - 1, RESIDUAL_BITS, slot);
    }
    words.keep(used);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_divided_exactly() {
        for width in 0..=u16::MAX {
            let Bins(bins) = Bins::of(&BinTable::new(&[0; 128], &[width; 128]));
            let (bin, f) = (bins[127], bins[127].frequency());
            assert_eq!(u64::from(bin.reciprocal()), (1 << 32) / u64::from(f));
            for slot in [0, 1, f - 1, f, f.saturating_add(1), 65_535 / f * f - 1, 65_535 / f * f, 65_535] {
                assert_eq!(divide(slot, f, bin.factor()), (slot / f, slot % f), "{slot} / {f}");
            }
        }
        assert_eq!(divide(65_535, 0, 0).1, 65_535);
    }
}
