//! Decoded bundles of an open variant, so that each is decoded once for all of its slices.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use qstore_checkpoint::Result;

/// Bytes of decoded bundles that are held at most, beside the newest. Whoever reads in the order of the plan needs one
/// bundle of each element type, and so does each of several threads that read different parts.
const HELD_BYTES: u64 = 32 << 20;
/// Bundles that are held at most: they are searched one by one.
const HELD_BUNDLES: usize = 128;

/// The bundles that were decoded last.
#[derive(Debug, Default)]
pub(crate) struct HeldBundles {
    held: Mutex<VecDeque<Held>>,
}

#[derive(Debug, Clone)]
struct Held {
    /// Shard and index in its plan.
    place: (usize, usize),
    bytes: u64,
    /// Locked while it is being decoded: others wait for the result.
    decoded: Arc<Mutex<Option<Arc<[u8]>>>>,
}

impl HeldBundles {
    /// The bundle at `place`, which has `bytes` bytes, from `decode` where it is not held. `decode` must not wait for
    /// other threads that may come here.
    pub(crate) fn get(
        &self,
        place: (usize, usize),
        bytes: u64,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<[u8]>> {
        let held = self.find(place, bytes);
        let mut decoded = held.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bundle) = &*decoded {
            return Ok(bundle.clone());
        }
        let bundle: Arc<[u8]> = decode()?.into();
        *decoded = Some(bundle.clone());
        Ok(bundle)
    }

    /// The bundle at `place`, if it is held.
    pub(crate) fn held(&self, place: (usize, usize)) -> Option<Arc<[u8]>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.iter().rev().find(|held| held.place == place)?.clone();
        drop(held);
        let decoded = found.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        decoded.clone()
    }

    fn find(&self, place: (usize, usize), bytes: u64) -> Held {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = held.iter().rev().find(|held| held.place == place) {
            return found.clone();
        }
        let new = Held { place, bytes, decoded: Arc::default() };
        held.push_back(new.clone());
        let mut all: u64 = held.iter().map(|held| held.bytes).sum();
        while (all > HELD_BYTES || held.len() > HELD_BUNDLES) && held.len() > 1 {
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
        let held = HeldBundles::default();
        let decodes = Mutex::new(0);
        let get = |index: usize| {
            held.get((0, index), 1 << 20, || {
                *decodes.lock().unwrap() += 1;
                Ok(vec![index as u8; 4])
            })
            .unwrap()
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|index| assert_eq!(*get(index), [index as u8; 4])));
            }
        });
        assert_eq!(*decodes.lock().unwrap(), 10);
        (10..100).for_each(|index| drop(get(index)));
        assert!(held.held.lock().unwrap().len() <= 32);
        get(0);
        assert_eq!(*decodes.lock().unwrap(), 101);
        (0..1000).for_each(|index| drop(held.get((1, index), 0, || Ok(Vec::new()))));
        assert_eq!(held.held.lock().unwrap().len(), HELD_BUNDLES);
    }

    #[test]
    fn a_failure_is_not_held() {
        let held = HeldBundles::default();
        assert!(held.get((0, 0), 1, || Err(Error::usage("no"))).is_err());
        assert_eq!(*held.get((0, 0), 1, || Ok(vec![7])).unwrap(), [7]);
    }
}
