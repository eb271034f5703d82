//! The definition.

use super::{EncodeTable, MISSING, SLOTS};
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter, put, refill};
use crate::table::TABLE_BITS;

pub(super) fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    table: &[u32; SLOTS],
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let last = blocks.len();
    for (number, block) in blocks.iter_mut().enumerate() {
        let used = decode_block(states.set(number), words.window()?, table, block);
        words.skip(used);
    }
    if !rest.is_empty() {
        let used = decode_block(states.set(last), words.window()?, table, rest);
        words.skip(used);
    }
    Ok(())
}

/// Decodes up to 64 symbols; returns how many words were read.
#[inline(always)]
pub(super) fn decode_block(
    states: &mut [u32; LANES],
    window: &[u8; WINDOW],
    table: &[u32; SLOTS],
    out: &mut [u8],
) -> usize {
    let mut used = 0;
    let mut decode = |state: &mut u32, symbol: &mut u8| {
        let slot = table[*state as usize % SLOTS];
        let (frequency, offset) = ((slot >> 8) & 0xfff, slot >> 20);
        // At most (2^12 - 1) * (2^20 - 1) + 2^12 - 1 < 2^32.
        let next = frequency * (*state >> TABLE_BITS) + offset;
        *state = refill(next, window, &mut used);
        *symbol = slot.to_le_bytes()[0];
    };
    let fours = states.as_chunks_mut::<4>().0.iter_mut().zip(out.as_chunks_mut::<4>().0);
    for (states, out) in fours {
        for (state, symbol) in states.iter_mut().zip(out) {
            decode(state, symbol);
        }
    }
    let done = out.len() / 4 * 4;
    for (state, symbol) in states.iter_mut().zip(out).skip(done) {
        decode(state, symbol);
    }
    used
}

pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    table: &EncodeTable,
    symbols: &[u8],
) -> bool {
    let mut seen = 0;
    for (number, block) in symbols.chunks(LANES).enumerate().rev() {
        for (state, &symbol) in states.set(number).iter_mut().zip(block).rev() {
            let entry = table.entries[usize::from(symbol)];
            seen |= entry;
            put(state, words, (entry >> 16) & 0xfff, TABLE_BITS, |offset| {
                let place = (entry & 0xfff) + offset;
                table.slots.as_ref().map_or(place, |slots| slots[place as usize % SLOTS])
            });
        }
    }
    seen & MISSING != 0
}
