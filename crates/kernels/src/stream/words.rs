//! The renormalisation words of a stream.

use super::LANES;
use crate::error::DecodeError;

/// Bytes of the words that one block of elements reads at most.
pub(crate) const WINDOW: usize = 2 * LANES;

/// Reads words, a block of elements at a time.
pub(crate) struct WordReader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The words at the end, with zeros after them.
    end: [u8; WINDOW],
}

impl<'a> WordReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if !bytes.len().is_multiple_of(2) {
            return Err(DecodeError::Truncated);
        }
        Ok(Self { bytes, at: 0, end: [0; WINDOW] })
    }

    /// The next words, as many as a block can need. Behind the last one follow zeros, so that a block needs no check of
    /// its own: a stream that is too short is found when the next block begins, or at the end.
    #[inline(always)]
    pub(crate) fn window(&mut self) -> Result<&[u8; WINDOW], DecodeError> {
        // Written so that the usual case costs one comparison.
        if let Some(rest) = self.bytes.get(self.at..)
            && let Some(window) = rest.first_chunk()
        {
            return Ok(window);
        }
        self.last_window()
    }

    #[cold]
    fn last_window(&mut self) -> Result<&[u8; WINDOW], DecodeError> {
        let rest = self.bytes.get(self.at..).ok_or(DecodeError::Truncated)?;
        self.end = [0; WINDOW];
        self.end[..rest.len()].copy_from_slice(rest);
        Ok(&self.end)
    }

    /// Goes on after `words` words of the window.
    #[inline(always)]
    pub(crate) fn skip(&mut self, words: usize) {
        self.at += 2 * words;
    }

    /// Checks that every word was read, and none that is not there.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.at.cmp(&self.bytes.len()) {
            std::cmp::Ordering::Less => Err(DecodeError::Corrupt("words left over")),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(DecodeError::Truncated),
        }
    }
}

/// Collects words, the last one first, as an encoder that runs backwards has them.
#[derive(Debug, Default)]
pub(crate) struct WordWriter {
    /// Filled from its end, but for the slack behind and a block of room in front, which let whole vectors be written.
    buffer: Vec<u8>,
    at: usize,
}

impl WordWriter {
    const SLACK: usize = 64;

    /// Begins a stream of at most `words` words.
    pub(crate) fn begin(&mut self, words: usize) {
        let bytes = WINDOW + words * 2 + Self::SLACK;
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        self.at = self.buffer.len() - Self::SLACK;
    }

    /// Memory that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The room in front for as many words as a block can need, the last of which comes first: what is used of it is
    /// then [kept](Self::keep).
    #[inline(always)]
    pub(crate) fn room(&mut self) -> &mut [[u8; 2]; LANES] {
        // `begin` leaves a block more than the words that a stream has at most, so there is one in front of them all.
        let room = &mut self.buffer[self.at - WINDOW..self.at];
        let (words, _) = room.as_chunks_mut::<2>();
        // The slice has `WINDOW` bytes, which are two for each of `LANES` words: `first_chunk_mut` finds that many.
        #[allow(clippy::expect_used, reason = "see above")]
        words.first_chunk_mut().expect("a block of words")
    }

    /// Keeps `words` words that were written into the room, from its end.
    #[inline(always)]
    pub(crate) fn keep(&mut self, words: usize) {
        self.at -= 2 * words;
    }

    /// Makes room for `words` words in front and returns the place, with at least 64 bytes from it on.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn place(&mut self, words: usize) -> &mut [u8] {
        self.at -= 2 * words;
        &mut self.buffer[self.at..]
    }

    /// Makes room for `words` words in front, at most 8, and returns the 16 bytes that end with them. What is in those
    /// before them does not matter.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn place_at_end(&mut self, words: usize) -> &mut [u8] {
        let end = self.at;
        self.at -= 2 * words;
        &mut self.buffer[end - 16..end]
    }

    /// All words in the order in which a decoder reads them.
    pub(crate) fn words(&self) -> &[u8] {
        &self.buffer[self.at..self.buffer.len() - Self::SLACK]
    }
}
