//! Decoded chunks of an open variant, so that one of which many want a little is decoded once for all of them: a bundle
//! for its slices, or rows for those who refer to some of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use qstore_checkpoint::Result;

/// Bytes of decoded chunks that are held at most, beside the newest. Whoever reads in the order of the plan needs one
/// bundle of each element type, and so does each of several threads that read different parts.
const HELD_BYTES: u64 = 32 << 20;
/// Chunks that are held at most: they are searched one by one.
const HELD_CHUNKS: usize = 128;

/// Which chunk it is: shard, index in its plan, and number in the array.
pub(crate) type ChunkId = (usize, usize, u64);

/// The chunks that were decoded last of those of which at most half was wanted.
#[derive(Debug, Default)]
pub(crate) struct DecodedChunks {
    held: Mutex<VecDeque<Held>>,
}

#[derive(Debug, Clone)]
struct Held {
    chunk: ChunkId,
    bytes: u64,
    /// Locked while it is being decoded: others wait for the result.
    decoded: Arc<Mutex<Option<Arc<Vec<u8>>>>>,
}

impl DecodedChunks {
    /// A chunk that has `bytes` bytes, from `decode` where it is not held. `decode` may only wait for chunks that this
    /// one is given, which cannot wait for this one.
    pub(crate) fn get_or_decode(
        &self,
        chunk: ChunkId,
        bytes: u64,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let held = self.find(chunk, bytes);
        let mut decoded = held.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = &*decoded {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(decode()?);
        *decoded = Some(bytes.clone());
        Ok(bytes)
    }

    /// A chunk, if it is held.
    pub(crate) fn peek(&self, chunk: ChunkId) -> Option<Arc<Vec<u8>>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.iter().rev().find(|held| held.chunk == chunk)?.clone();
        drop(held);
        let decoded = found.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        decoded.clone()
    }

    fn find(&self, chunk: ChunkId, bytes: u64) -> Held {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = held.iter().rev().find(|held| held.chunk == chunk) {
            return found.clone();
        }
        let new = Held { chunk, bytes, decoded: Arc::default() };
        held.push_back(new.clone());
        let mut all: u64 = held.iter().map(|held| held.bytes).sum();
        while (all > HELD_BYTES || held.len() > HELD_CHUNKS) && held.len() > 1 {
            all -= held.pop_front().map_or(0, |oldest| oldest.bytes);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_checkpoint::Error;

    #[test]
    fn each_is_decoded_once_until_there_are_too_many() {
        let held = DecodedChunks::default();
        let decodes = Mutex::new(0);
        let get = |index: u64| {
            held.get_or_decode((0, 0, index), 1 << 20, || {
                *decodes.lock().unwrap() += 1;
                Ok(vec![index.to_le_bytes()[0]; 4])
            })
            .unwrap()
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope
                    .spawn(|| (0..10).for_each(|index| assert_eq!(*get(index), [index.to_le_bytes()[0]; 4])));
            }
        });
        assert_eq!(*decodes.lock().unwrap(), 10);
        (10..100).for_each(|index| drop(get(index)));
        assert!(held.held.lock().unwrap().len() <= 32);
        get(0);
        assert_eq!(*decodes.lock().unwrap(), 101);
        (0..1000).for_each(|index| drop(held.get_or_decode((0, index, 0), 0, || Ok(Vec::new()))));
        assert_eq!(held.held.lock().unwrap().len(), HELD_CHUNKS);
    }

    #[test]
    fn a_failure_is_not_held() {
        let held = DecodedChunks::default();
        assert!(held.get_or_decode((0, 0, 0), 1, || Err(Error::usage("no"))).is_err());
        assert_eq!(*held.get_or_decode((0, 0, 0), 1, || Ok(vec![7])).unwrap(), [7]);
    }
}
