//! A limit on how fast stored bytes are read, for measurements and for sharing a link.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qstore_checkpoint::Result;

use super::{Hints, Storage};

/// How late a reader may come for the next bytes and still have them at once. A sleep ends some tens of microseconds
/// late, and without this every such delay would be lost.
const SLACK: Duration = Duration::from_millis(10);

/// A link of so many bytes a second, which threads share: bytes arrive one after another, and whoever asks for some
/// waits until they have.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    began: Instant,
    /// When the last bytes that were asked for will have arrived, from `began` on.
    free: Mutex<Duration>,
}

impl Throttle {
    /// A link of `bytes_per_second`; 0 counts as 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        Self { bytes_per_second, began: Instant::now(), free: Mutex::new(Duration::ZERO) }
    }

    /// Waits until `bytes` more have arrived.
    pub fn take(&self, bytes: u64) {
        let end = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = arrival(*free, self.began.elapsed(), bytes, self.bytes_per_second);
            *free
        };
        // Without the lock, so that others can ask meanwhile.
        thread::sleep(end.saturating_sub(self.began.elapsed()));
    }
}

/// When `bytes` that are asked for at `now` have arrived over a link that is taken until `free`.
fn arrival(free: Duration, now: Duration, bytes: u64, bytes_per_second: u64) -> Duration {
    let start = free.max(now.saturating_sub(SLACK));
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second);
    start.saturating_add(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
}

/// Bytes that are best under way over a link while others are decoded.
const AHEAD: u64 = 12 << 20;

/// A storage that is read over a link.
#[derive(Debug)]
pub struct Throttled {
    of: Arc<dyn Storage>,
    link: Arc<Throttle>,
}

impl Throttled {
    /// `of` behind `link`.
    #[must_use]
    pub fn new(of: Arc<dyn Storage>, link: Arc<Throttle>) -> Self {
        Self { of, link }
    }
}

impl Storage for Throttled {
    fn location(&self) -> &Path {
        self.of.location()
    }

    fn read_all(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let bytes = self.of.read_all(name, most)?;
        self.link.take(bytes.len() as u64);
        Ok(bytes)
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        self.link.take(out.len() as u64);
        self.of.read(name, offset, out)
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        self.of.size(name)
    }

    fn hints(&self) -> Hints {
        let hints = self.of.hints();
        Hints { ahead: hints.ahead.max(AHEAD), ..hints }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn bytes_arrive_one_after_another() {
        // Two threads ask for 100 bytes each at once over a link of 1000 a second.
        let first = arrival(Duration::ZERO, Duration::ZERO, 100, 1000);
        let second = arrival(first, Duration::ZERO, 100, 1000);
        assert_eq!((first, second), (ms(100), ms(200)));
    }

    #[test]
    fn a_reader_that_is_late_catches_up_a_little() {
        assert_eq!(arrival(ms(100), ms(105), 100, 1000), ms(200), "as if it had come in time");
        assert_eq!(arrival(ms(100), ms(500), 100, 1000), ms(590), "an idle link does not save up");
    }

    #[test]
    fn no_size_is_too_large() {
        assert!(arrival(Duration::MAX, Duration::MAX, u64::MAX, 1) == Duration::MAX);
        assert_eq!(arrival(Duration::ZERO, Duration::ZERO, 0, 1), Duration::ZERO);
    }
}
