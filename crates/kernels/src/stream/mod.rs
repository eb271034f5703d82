//! Range asymmetric numeral systems (Duda 2013), 64 or 128 interleaved lanes.
//!
//! With `n` lanes, lane `j` codes elements `j`, `j + n`, ... of a row; a new row starts at lane 0. States are 32 bits
//! wide and kept in `[2^16, 2^32)`; renormalisation moves whole 16-bit words, at most one a symbol, which the decoder
//! reads in the order of its elements. The encoder runs backwards from states of 2^16, so a decoder that ends anywhere
//! else has read a damaged stream.
//!
//! A *block* is up to 64 elements of a row, one in each lane of a *set*: the unit of work of every backend. Where there
//! are two sets, blocks use them in turn, so that the work on one hides the latencies of the other.

mod halves;
mod words;

pub(crate) use halves::{HalvedStates, Halves, multiply_add};
pub(crate) use words::{WINDOW, WordReader, WordWriter};

use crate::error::DecodeError;

/// Lanes of a set.
pub(crate) const LANES: usize = 64;
/// Least value of a state.
pub(crate) const LOWER: u32 = 1 << 16;

/// How a stream is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// 64 lanes; each symbol's slots follow those of the symbol below.
    #[default]
    Narrow,
    /// 128 lanes and alias slots: decodes faster, and takes some 200 bytes a stream more.
    Wide,
}

impl Layout {
    /// Sets of lanes.
    pub(crate) fn sets(self) -> usize {
        match self {
            Self::Narrow => 1,
            Self::Wide => 2,
        }
    }

    /// Bytes of the lane states at the front of a stream.
    #[must_use]
    pub fn state_bytes(self) -> usize {
        self.sets() * LANES * 4
    }
}

/// The state of each lane. Aligned, so that a part of a row can be decoded right after the one before: what is loaded
/// across cache lines waits until what was stored there has left the processor.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct States {
    lanes: [[u32; LANES]; 2],
    sets: usize,
}

impl States {
    /// Where encoders begin and decoders end.
    pub(crate) fn first(layout: Layout) -> Self {
        Self { sets: layout.sets(), lanes: [[LOWER; LANES]; 2] }
    }

    pub(crate) fn read(layout: Layout, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut states = Self::first(layout);
        if bytes.len() != layout.state_bytes() {
            return Err(DecodeError::Truncated);
        }
        for (lane, bytes) in states.sets_mut().as_flattened_mut().iter_mut().zip(bytes.as_chunks().0) {
            *lane = u32::from_le_bytes(*bytes);
        }
        if states.sets().as_flattened().iter().any(|&state| state < LOWER) {
            return Err(DecodeError::Corrupt("a coder state out of range"));
        }
        Ok(states)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.sets().as_flattened().iter().flat_map(|state| state.to_le_bytes()));
    }

    /// The sets in use.
    #[inline(always)]
    pub(crate) fn sets(&self) -> &[[u32; LANES]] {
        &self.lanes[..self.sets]
    }

    /// The sets in use.
    #[inline(always)]
    pub(crate) fn sets_mut(&mut self) -> &mut [[u32; LANES]] {
        &mut self.lanes[..self.sets]
    }

    /// The set that block number `block` of a row uses.
    #[inline(always)]
    pub(crate) fn set(&mut self, block: usize) -> &mut [u32; LANES] {
        &mut self.lanes[block % 2 % self.sets]
    }

    /// Checks that a stream ended where its encoder began.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.sets().as_flattened().iter().any(|&state| state != LOWER) {
            return Err(DecodeError::Corrupt("a coder that does not end in its first state"));
        }
        Ok(())
    }
}

/// Codes a symbol in a lane, which is what every encoder does: `slot` says which of `2^bits` slots is the symbol's
/// number so and so. `frequency`, how many it has, is at least 1 and below `2^bits`; `bits` is at most 16. `reciprocal`
/// is `2^32 / frequency` or less, by at most 1. `used` counts the words that the block has put into `room`, from its
/// end.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "halves of 32 and of 64 bits")]
pub(crate) fn put(
    state: &mut u32,
    room: &mut [[u8; 2]; LANES],
    used: &mut usize,
    frequency: u32,
    reciprocal: u32,
    bits: u32,
    slot: impl FnOnce(u32) -> u32,
) {
    let full = *state >> (32 - bits) >= frequency;
    // Q: why no branch? As in `refill`; a word that is not needed is overwritten by the next one.
    room[(LANES - 1).wrapping_sub(*used) % LANES] = (*state as u16).to_le_bytes();
    *used += usize::from(full);
    let rest = std::hint::select_unpredictable(full, *state >> 16, *state);
    // Division is what takes the longest. As the reciprocal lacks at most 1, the quotient by it is right or one too
    // low.
    let quotient = ((u64::from(rest) * u64::from(reciprocal)) >> 32) as u32;
    let offset = rest - quotient * frequency;
    let more = offset >= frequency;
    let (quotient, offset) = (quotient + u32::from(more), offset - if more { frequency } else { 0 });
    *state = (quotient << bits) + slot(offset);
}

/// Fills up a decoder's state if it is too low, with the first word of `window` that is not used yet.
// Q: why no branch? Half of all symbols need a word, at random: a wrong guess costs more than all else that a symbol
// takes.
#[inline(always)]
pub(crate) fn refill(next: u32, window: &[u8; WINDOW], used: &mut usize) -> u32 {
    // Fewer than 64 words have been used when the last element of a block asks.
    let at = (2 * *used) % WINDOW;
    let word = u32::from(u16::from_le_bytes([window[at], window[at + 1]]));
    let low = next < LOWER;
    *used += usize::from(low);
    std::hint::select_unpredictable(low, next << 16 | word, next)
}
