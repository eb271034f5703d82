//! Stored bytes in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use qstore_checkpoint::{Error, IoContext as _, Result, TensorBytes, size};

use super::needs::{Needs, Place};
use crate::storage::Storage;

/// What was read of a store's files.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    places: HashMap<Place, Bytes>,
    /// What others have as well.
    groups: Vec<Arc<Self>>,
}

/// Some of what one request brought.
#[derive(Debug, Clone)]
pub(super) struct Bytes {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Bytes {
    pub(super) fn get(&self) -> &[u8] {
        self.buffer.bytes.as_ref().map_or(&[], |bytes| &bytes[self.range.clone()])
    }

    /// The same without the rest of what came with it.
    pub(super) fn alone(&self) -> std::io::Result<Self> {
        let mut bytes = TensorBytes::zeroed(self.range.len() as u64)?;
        bytes.copy_from_slice(self.get());
        Ok(Self { range: 0..bytes.len(), buffer: Arc::new(Buffer { bytes: Some(bytes), spare: None }) })
    }
}

/// Memory for what a request brings.
#[derive(Debug)]
struct Buffer {
    /// There until it is dropped.
    bytes: Option<TensorBytes>,
    /// Where it is left for the next one.
    spare: Option<Arc<Spare>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(spare) = &self.spare {
            let mut left = spare.0.lock().unwrap_or_else(PoisonError::into_inner);
            if left.len() < MOST_SPARE {
                left.extend(self.bytes.take());
            }
        }
    }
}

/// Buffers that nobody uses: fresh memory must be had from the system first, and is in no cache.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<TensorBytes>>);

/// Buffers that are kept at most.
const MOST_SPARE: usize = 16;
/// Their bytes at least; smaller ones are had from the allocator, and left to it.
const LEAST_SPARE: u64 = 1 << 20;

impl Spare {
    /// At least `length` bytes that hold anything.
    fn take(&self, length: u64) -> std::io::Result<TensorBytes> {
        // Of few sizes, so that one fits the next request as well. What is not written to takes no memory.
        let bytes = length.max(LEAST_SPARE).checked_next_power_of_two().unwrap_or(length);
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match left.iter().rposition(|spare| spare.len() as u64 == bytes) {
            Some(index) => Ok(left.remove(index)),
            None => TensorBytes::zeroed(bytes),
        }
    }
}

impl Fetched {
    /// The bytes of a place.
    ///
    /// # Errors
    /// [`Error::Internal`] if they were not fetched: whoever fetches asks what is needed.
    pub(crate) fn get(&self, place: &Place) -> Result<&[u8]> {
        self.bytes(place).map(Bytes::get).ok_or_else(|| {
            let Place { file, start, length } = place;
            Error::internal(format!("{length} bytes from byte {start} of {file} on were not fetched"))
        })
    }

    pub(super) fn insert(&mut self, place: Place, bytes: Bytes) {
        self.places.insert(place, bytes);
    }

    pub(super) fn bytes(&self, place: &Place) -> Option<&Bytes> {
        let own = self.places.get(place);
        own.or_else(|| self.groups.iter().find_map(|group| group.bytes(place)))
    }

    /// Some of it, by itself.
    pub(super) fn of(&self, places: &[Place]) -> Self {
        let own = places.iter().filter_map(|place| Some((place.clone(), self.bytes(place)?.clone())));
        Self { places: own.collect(), groups: Vec::new() }
    }

    /// Adds what others have as well.
    pub(super) fn add_group(&mut self, group: Arc<Self>) {
        self.groups.push(group);
    }
}

/// Reads what is needed, in the order of the files.
///
/// # Errors
/// What the storage says.
pub(crate) fn fetch(storage: &dyn Storage, needs: Needs) -> Result<Fetched> {
    let mut fetched = Fetched::default();
    for request in requests(storage, needs.sorted()) {
        request.read(storage, None, &mut fetched)?;
    }
    Ok(fetched)
}

/// Places that are read at once.
pub(super) struct Request {
    places: Vec<Place>,
}

/// The requests that bring these places, which are sorted.
pub(super) fn requests(storage: &dyn Storage, places: Vec<Place>) -> Vec<Request> {
    let hints = storage.hints();
    let mut requests: Vec<Request> = Vec::new();
    for place in places {
        let joins = |request: &Request| {
            let (Some(first), Some(last)) = (request.places.first(), request.places.last()) else {
                return false;
            };
            first.file == place.file
                && place.start <= last.end().saturating_add(hints.gap)
                && place.end().saturating_sub(first.start) <= hints.most
        };
        match requests.last_mut().filter(|request| joins(request)) {
            Some(request) => request.places.push(place),
            None => requests.push(Request { places: vec![place] }),
        }
    }
    requests
}

impl Request {
    pub(super) fn read(
        self,
        storage: &dyn Storage,
        spare: Option<&Arc<Spare>>,
        fetched: &mut Fetched,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (self.places.first(), self.places.iter().map(Place::end).max())
        else {
            return Ok(());
        };
        let (file, start) = (first.file.clone(), first.start);
        let spare = spare.filter(|_| last - start >= LEAST_SPARE / 2);
        let bytes = spare.map_or_else(|| TensorBytes::zeroed(last - start), |spare| spare.take(last - start));
        let mut bytes = bytes.at(storage.location(), "cannot hold what is read")?;
        storage.read(&file, start, &mut bytes[..size(last - start)]).map_err(|error| match error {
            Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                Error::damaged(path, format!("it is cut short: it has no bytes {start} to {last}"))
            }
            other => other,
        })?;
        let buffer = Arc::new(Buffer { bytes: Some(bytes), spare: spare.cloned() });
        for place in self.places {
            let from = size(place.start - start);
            let range = from..from + size(place.length);
            fetched.insert(place, Bytes { buffer: buffer.clone(), range });
        }
        Ok(())
    }
}
