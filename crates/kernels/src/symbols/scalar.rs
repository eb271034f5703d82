//! The definition.

#![allow(clippy::cast_possible_truncation, reason = "fields of a table's entry, each masked to its width")]

use std::ops::Range;

use super::{EncodeTable, MISSING};
use crate::error::DecodeError;
use crate::slots::SLOTS;
use crate::stream::{
    HalvedStates, Halves, LANES, States, WINDOW, WordReader, WordWriter, multiply_add, put, refill,
};
use crate::table::TABLE_BITS;

pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    table: &[u32; SLOTS],
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let last = blocks.len();
    if last > 0 {
        decode_blocks(states, words, table, blocks)?;
    }
    if !rest.is_empty() {
        let used = decode_block(states.set(last), words.window()?, table, rest);
        words.skip(used);
    }
    Ok(())
}

/// Decodes whole blocks.
// By itself, so that short rows are spared the memory that it works in.
#[inline(never)]
fn decode_blocks(
    states: &mut States,
    words: &mut WordReader,
    table: &[u32; SLOTS],
    blocks: &mut [[u8; LANES]],
) -> Result<(), DecodeError> {
    let mut halved = HalvedStates::of(states);
    let mut slots = Slots::NONE;
    for (number, block) in blocks.iter_mut().enumerate() {
        let set = halved.set(number);
        slots.decode(set, table, block);
        let used = set.refill(words.window()?);
        words.skip(used);
    }
    halved.write(states);
    Ok(())
}

/// Decodes up to 64 symbols, lane by lane; returns how many words were read.
#[inline(always)]
pub(super) fn decode_block(
    states: &mut [u32; LANES],
    window: &[u8; WINDOW],
    table: &[u32; SLOTS],
    out: &mut [u8],
) -> usize {
    let mut used = 0;
    for (state, symbol) in states.iter_mut().zip(out) {
        let slot = table[*state as usize % SLOTS];
        let (frequency, offset) = ((slot >> 8) & 0xfff, slot >> 20);
        // At most (2^12 - 1) * (2^20 - 1) + 2^12 - 1 < 2^32.
        let next = frequency * (*state >> TABLE_BITS) + offset;
        *state = refill(next, window, &mut used);
        *symbol = slot.to_le_bytes()[0];
    }
    used
}

/// The slots of a whole block's lanes, which are decoded together. It comes to the same as [`decode_block`], in less
/// time.
// Q: why pass by pass? Lookups do not wait for each other, and of what does one thing with all lanes compilers make
// vector code.
struct Slots {
    /// As the table has them.
    entries: [u32; LANES],
    /// The parts of the entries.
    frequency: [u16; LANES],
    offset: [u16; LANES],
}

impl Slots {
    const NONE: Self = Self { entries: [0; LANES], frequency: [0; LANES], offset: [0; LANES] };

    /// Decodes a symbol in each lane. States may then be too low.
    #[inline(always)]
    fn decode(&mut self, set: &mut Halves, table: &[u32; SLOTS], out: &mut [u8; LANES]) {
        for (entry, low) in self.entries.iter_mut().zip(&set.low) {
            *entry = table[usize::from(*low) % SLOTS];
        }
        for (symbol, entry) in out.iter_mut().zip(&self.entries) {
            *symbol = (entry & 0xff) as u8;
        }
        for (frequency, entry) in self.frequency.iter_mut().zip(&self.entries) {
            *frequency = (entry >> 8 & 0xfff) as u16;
        }
        for (offset, entry) in self.offset.iter_mut().zip(&self.entries) {
            *offset = (entry >> 20) as u16;
        }
        for lane in 0..LANES {
            let (frequency, offset) = (self.frequency[lane], self.offset[lane]);
            // The state without its 12 low bits is 16 times its high half, and the 4 high bits of its low half. As the
            // offset is below the frequency, and that below 2^12, the sum is below 2^16 and the whole below 2^32.
            let rest = frequency * (set.low[lane] >> TABLE_BITS) + offset;
            (set.high[lane], set.low[lane]) = multiply_add(frequency << 4, set.high[lane], rest);
        }
    }
}

pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    table: &EncodeTable,
    symbols: &[u8],
    lacking: &mut dyn FnMut(Range<usize>),
) {
    for (number, block) in symbols.chunks(LANES).enumerate().rev() {
        let mut seen = 0;
        let (room, mut used) = (words.room(), 0);
        for (state, &symbol) in states.set(number).iter_mut().zip(block).rev() {
            let entry = table.entries[usize::from(symbol)];
            seen |= entry;
            let (frequency, reciprocal) = ((entry >> 16) & 0xfff, table.reciprocals[usize::from(symbol)]);
            put(state, room, &mut used, frequency, reciprocal, TABLE_BITS, |offset| {
                let place = (entry & 0xfff) + offset;
                table.slots.as_ref().map_or(place, |slots| slots[place as usize % SLOTS])
            });
        }
        words.keep(used);
        if seen & MISSING != 0 {
            lacking(number * LANES..number * LANES + block.len());
        }
    }
}
