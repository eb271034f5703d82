//! Range asymmetric numeral systems (Duda 2013), 64 interleaved lanes.
//!
//! Lane `j` codes elements `j`, `j + 64`, ... of a row; a new row starts at lane 0. States are 32 bits wide and kept in `[2^16, 2^32)`;
//! renormalisation moves whole 16-bit words, at most one a symbol, which the decoder reads in the order of its elements. The encoder
//! runs backwards from states of 2^16, so a decoder that ends anywhere else has read a damaged stream.

use crate::error::DecodeError;

pub(crate) const LANES: usize = 64;
const LOWER: u32 = 1 << 16;
/// Bytes of the lane states at the front of a stream.
pub(crate) const STATE_BYTES: usize = LANES * 4;

/// Encodes elements in reverse order.
pub(crate) struct LaneEncoder {
    states: [u32; LANES],
    /// Renormalisation words, last one read first.
    words: Vec<u16>,
}

impl LaneEncoder {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { states: [LOWER; LANES], words: Vec::with_capacity(capacity) }
    }

    /// Codes the interval `[start, start + frequency)` of `2^bits` in `lane`. `frequency` is at least 1 and `bits` at most 16.
    #[inline]
    pub(crate) fn put(&mut self, lane: usize, start: u32, frequency: u32, bits: u32) {
        let state = &mut self.states[lane];
        if u64::from(*state) >= u64::from(frequency) << (32 - bits) {
            let [low, high, ..] = state.to_le_bytes();
            self.words.push(u16::from_le_bytes([low, high]));
            *state >>= 16;
        }
        *state = ((*state / frequency) << bits) + *state % frequency + start;
    }

    /// The states as the decoder starts from them, then the words.
    pub(crate) fn finish(self) -> ([u8; STATE_BYTES], impl Iterator<Item = [u8; 2]>) {
        let mut states = [0; STATE_BYTES];
        for (bytes, state) in states.chunks_exact_mut(4).zip(self.states) {
            bytes.copy_from_slice(&state.to_le_bytes());
        }
        (states, self.words.into_iter().rev().map(u16::to_le_bytes))
    }
}

/// Decodes what [`LaneEncoder`] wrote.
pub(crate) struct LaneDecoder<'a> {
    states: [u32; LANES],
    words: std::slice::ChunksExact<'a, u8>,
}

impl<'a> LaneDecoder<'a> {
    /// From the states and the words of a stream.
    pub(crate) fn new(states: &[u8; STATE_BYTES], words: &'a [u8]) -> Result<Self, DecodeError> {
        let mut lanes = [0; LANES];
        let (quads, _) = states.as_chunks::<4>();
        for (lane, bytes) in lanes.iter_mut().zip(quads) {
            *lane = u32::from_le_bytes(*bytes);
        }
        if lanes.iter().any(|&s| s < LOWER) {
            return Err(DecodeError::Corrupt("a coder state out of range"));
        }
        if !words.len().is_multiple_of(2) {
            return Err(DecodeError::Truncated);
        }
        Ok(Self { states: lanes, words: words.chunks_exact(2) })
    }

    /// The low `bits` bits of the lane's state: where in the table the next symbol lies.
    #[inline]
    pub(crate) fn slot(&self, lane: usize, bits: u32) -> u32 {
        self.states[lane] & ((1 << bits) - 1)
    }

    /// Removes a symbol of `frequency`, `offset` slots after its start, from the lane.
    #[inline]
    pub(crate) fn advance(
        &mut self,
        lane: usize,
        offset: u32,
        frequency: u32,
        bits: u32,
    ) -> Result<(), DecodeError> {
        // At most (2^bits - 1) * (2^(32 - bits) - 1) + 2^bits - 1 < 2^32.
        let mut state = frequency * (self.states[lane] >> bits) + offset;
        if state < LOWER {
            let word = self.words.next().ok_or(DecodeError::Truncated)?;
            state = (state << 16) | u32::from(u16::from_le_bytes([word[0], word[1]]));
        }
        self.states[lane] = state;
        Ok(())
    }

    /// Checks that the stream ended where the encoder began.
    pub(crate) fn finish(mut self) -> Result<(), DecodeError> {
        if self.states.iter().any(|&s| s != LOWER) {
            return Err(DecodeError::Corrupt("a coder that does not end in its first state"));
        }
        if self.words.next().is_some() {
            return Err(DecodeError::Corrupt("words left over"));
        }
        Ok(())
    }
}
