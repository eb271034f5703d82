//! Memory of chunks that have been written, for those that are read next. Fresh memory is zeroed first, to be
//! overwritten at once, and is not in any cache.

use std::io;
use std::sync::{Mutex, PoisonError};

use qstore_checkpoint::zeroed;

/// Bytes of a buffer that is kept: of any chunk of ours, not of a whole matrix.
const MOST_BYTES: usize = 8 << 20;

/// Buffers that nobody uses. They come on top of what chunks in flight may take, as a chunk's part of that is several
/// times its bytes.
#[derive(Debug)]
pub(super) struct Spare {
    buffers: Mutex<Vec<Vec<u8>>>,
    most: usize,
}

impl Spare {
    /// Keeps at most so many buffers.
    pub(super) fn new(most: usize) -> Self {
        Self { buffers: Mutex::default(), most }
    }

    /// `length` bytes that hold anything, or an error where memory does not suffice.
    pub(super) fn take(&self, length: u64) -> io::Result<Vec<u8>> {
        let spare = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fits = |spare: &Vec<u8>| u64::try_from(spare.capacity()).is_ok_and(|capacity| capacity >= length);
        match (spare.filter(fits), usize::try_from(length)) {
            (Some(mut spare), Ok(length)) => {
                spare.resize(length, 0);
                Ok(spare)
            }
            _ => zeroed(length),
        }
    }

    /// Keeps a buffer for the next one.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < self.most && buffer.capacity() <= MOST_BYTES {
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_length_that_is_asked_for() {
        let spare = Spare::new(2);
        for length in [5, 3, 5, 0, 9, 1] {
            let mut buffer = spare.take(length).unwrap();
            assert_eq!(buffer.len() as u64, length);
            buffer.fill(7);
            spare.give(buffer);
        }
        (0..3).for_each(|_| spare.give(vec![1; 4]));
        assert_eq!(spare.buffers.lock().unwrap().len(), 2);
        spare.give(Vec::with_capacity(MOST_BYTES + 1));
        assert!(spare.take(u64::MAX).is_err());
    }
}
