//! Memory that coders work in.

use crate::Half;
use crate::stream::WordWriter;

/// Buffers that a thread keeps from chunk to chunk: fresh memory costs more than coding does. Their contents never
/// matter.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) words: WordWriter,
    pub(crate) symbols: Vec<u8>,
    pub(crate) zeros: Vec<Half>,
}

impl Scratch {
    /// Memory that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.words.bytes() + self.symbols.capacity() + self.zeros.capacity() * size_of::<Half>()
    }
}

/// The first `length` elements of `buffer`, holding anything.
pub(crate) fn at_least<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}
