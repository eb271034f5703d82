//! Reading ahead of decoding.
//!
//! Pieces of work come in an order that is known, and so does what each needs. It is read in that order, some pieces'
//! worth at a time, so that what lies together in a file is read together. There is no thread for it: whichever is
//! about to decode a piece first reads for the next ones, where fewer are left than threads and no other does. So one
//! thread reads and the others decode while decoding waits for reading, and all decode where it does not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use qstore_checkpoint::{Error, Result};

use super::fetched::{Bytes, Fetched, Spare};
use super::needs::{Needs, Place};
use super::tasks::{Task, Tasks};
use crate::storage::Storage;

/// Stored bytes that are read at a time at most, but for a piece that needs more: where a piece needs little of one
/// file and much of another, so that a request to the first is worth it.
const BATCH_BYTES: u64 = 6 << 20;

/// What pieces of work need, read about in their order.
pub(crate) struct Ahead<'a> {
    storage: &'a dyn Storage,
    /// Bytes that are read and not yet used at most.
    most: u64,
    /// Pieces, and bytes, up to which others are read for before they ask.
    enough: (usize, u64),
    used: Arc<AtomicU64>,
    spare: Arc<Spare>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    tasks: Tasks,
    /// What was read for pieces that have not yet asked.
    ready: HashMap<usize, Arc<Batch>>,
    /// Threads that read.
    reading: usize,
    /// From which piece on nothing is read, and why, until that piece has asked.
    failed: Option<(usize, Option<Error>)>,
}

/// What was read for several pieces.
#[derive(Debug)]
pub(crate) struct Batch {
    fetched: Fetched,
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl Batch {
    pub(crate) fn fetched(&self) -> &Fetched {
        &self.fetched
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl State {
    /// Ends with piece `first`; an earlier end stays.
    fn fail(&mut self, first: usize, why: Option<Error>) {
        if self.failed.as_ref().is_none_or(|(earlier, _)| first < *earlier) {
            self.failed = Some((first, why));
        }
    }

    fn has_failed(&self, piece: usize) -> bool {
        self.failed.as_ref().is_some_and(|(first, _)| *first <= piece)
    }
}

impl<'a> Ahead<'a> {
    /// What pieces need, of a storage; nothing is read yet. So many threads will ask for them. At most `memory` bytes
    /// will be read and not yet used, but for a piece that needs more.
    pub(crate) fn new(storage: &'a dyn Storage, memory: u64, threads: usize, pieces: Vec<Needs>) -> Self {
        // One thread has nothing to do meanwhile.
        let enough = (if threads > 1 { threads } else { 0 }, storage.hints().ahead);
        let tasks = Tasks::new(pieces, BATCH_BYTES.min(memory / 2));
        let state = State { tasks, ready: HashMap::new(), reading: 0, failed: None };
        Self {
            storage,
            most: memory,
            enough,
            used: Arc::default(),
            spare: Arc::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// What piece `index` needs. Each is asked for once, about in their order.
    ///
    /// # Errors
    /// What the storage says. Pieces after the one that has it get [`Error::Stopped`].
    pub(crate) fn get(&self, index: usize) -> Result<Arc<Batch>> {
        let mut state = self.state();
        let batch = loop {
            if let Some(batch) = state.ready.remove(&index) {
                break batch;
            }
            if state.has_failed(index) {
                let its_own = state.failed.as_mut().filter(|(first, _)| *first == index);
                return Err(its_own.and_then(|(_, why)| why.take()).unwrap_or(Error::Stopped));
            }
            state = if index >= state.tasks.next() && !state.tasks.is_empty() {
                self.read(state)
            } else if state.reading > 0 {
                self.wait(state)
            } else {
                return Err(Error::internal(format!("piece {index} was asked for twice, or is none")));
            };
        };
        let used = self.used.load(Ordering::Relaxed);
        let wants_more = state.ready.len() < self.enough.0 || used < self.enough.1;
        if wants_more
            && used <= self.most / 2
            && state.reading == 0
            && state.failed.is_none()
            && !state.tasks.is_empty()
        {
            drop(self.read(state));
        }
        Ok(batch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads for the next pieces.
    fn read<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let task = state.tasks.take();
        state.reading += 1;
        drop(state);
        let unless_it_panics = Panicking(self);
        self.used.fetch_add(task.bytes(), Ordering::Relaxed);
        let mut batch = Batch { fetched: Fetched::default(), bytes: task.bytes(), used: self.used.clone() };
        let read = task.read(self.storage, &self.spare, &mut batch.fetched);
        let mut state = self.state();
        match read {
            Ok(kept) => state = self.hand_out(state, task, batch, kept),
            Err(why) => state.fail(task.first(), Some(why)),
        }
        drop(unless_it_panics);
        state.reading -= 1;
        self.changed.notify_all();
        state
    }

    /// Gives pieces what was read for them, once others have read what these need as well.
    fn hand_out<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        task: Task,
        mut batch: Batch,
        kept: Vec<(Place, Bytes)>,
    ) -> MutexGuard<'s, State> {
        state.tasks.keep(kept);
        self.changed.notify_all();
        while !state.tasks.has_all(&task) {
            if state.has_failed(task.first()) {
                return state;
            }
            state = self.wait(state);
        }
        let pieces = state.tasks.finish(task, &mut batch.fetched);
        let batch = Arc::new(batch);
        state.ready.extend(pieces.map(|piece| (piece, batch.clone())));
        state
    }
}

/// Wakes those who wait for what a thread reads that panics.
struct Panicking<'s, 'a>(&'s Ahead<'a>);

impl Drop for Panicking<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state().fail(0, None);
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;

    use qstore_checkpoint::size;

    use super::super::needs::Group;
    use super::*;
    use crate::storage::Hints;

    /// Files whose bytes say where they lie; the read from this number on fails.
    #[derive(Debug, Default)]
    struct Numbers {
        reads: Mutex<Vec<Place>>,
        fails_from: Option<usize>,
        panics: bool,
        ahead: u64,
    }

    impl Storage for Numbers {
        fn location(&self) -> &Path {
            Path::new("numbers")
        }
        fn read_all(&self, _: &str, _: u64) -> Result<Vec<u8>> {
            Err(Error::internal("only ranges are read"))
        }
        fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
            let mut reads = self.reads.lock().unwrap();
            reads.push(Place { file: name.into(), start: offset, length: out.len() as u64 });
            if self.fails_from.is_some_and(|from| reads.len() > from) {
                drop(reads);
                assert!(!self.panics, "a storage that panics");
                return Err(Error::damaged("numbers", "cannot be read"));
            }
            (offset..).zip(out).for_each(|(at, byte)| *byte = number(at));
            Ok(())
        }
        fn size(&self, _: &str) -> Result<Option<u64>> {
            Ok(None)
        }
        fn hints(&self) -> Hints {
            Hints { ahead: self.ahead, ..Hints::default() }
        }
    }

    fn number(at: u64) -> u8 {
        (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]
    }

    const LENGTH: u64 = 300_000;

    /// Pieces that need a part of one file each, and parts of another that many need.
    fn pieces() -> Vec<Vec<Place>> {
        let place =
            |file: &str, index: u64| Place { file: file.into(), start: index * LENGTH, length: LENGTH };
        let piece = |index: u64| match index % 5 {
            0 => vec![],
            1 => vec![place("own", index), place("shared", index / 7), place("shared", 90 - index / 9)],
            _ => vec![place("own", index), place("shared", 0)],
        };
        (0..200).map(piece).collect()
    }

    fn needs(places: &[Place]) -> Needs {
        let mut needs = Needs::default();
        places.iter().cloned().for_each(|place| needs.add(place));
        needs
    }

    /// Takes all pieces on so many threads; the first error by the order of pieces.
    fn take_all(storage: &Numbers, memory: u64, threads: usize) -> Result<()> {
        let pieces = pieces();
        let ahead = Ahead::new(storage, memory, threads, pieces.iter().map(|places| needs(places)).collect());
        let (next, errors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            let work = || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(places) = pieces.get(index) else { break };
                    match ahead.get(index) {
                        Ok(batch) => places.iter().for_each(|place| {
                            let bytes = batch.fetched().get(place).unwrap();
                            assert!((place.start..).zip(bytes).all(|(at, byte)| *byte == number(at)));
                        }),
                        Err(error) => errors.lock().unwrap().push((index, error)),
                    }
                }
            };
            (0..threads).for_each(|_| drop(scope.spawn(work)));
        });
        assert_eq!(ahead.used.load(Ordering::Relaxed), 0);
        let mut errors = errors.into_inner().unwrap();
        errors.sort_by_key(|(index, _)| *index);
        errors.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    #[test]
    fn every_byte_comes_once() {
        let mut all: Vec<_> = pieces().concat();
        all.sort_unstable();
        all.dedup();
        for (memory, ahead) in [(1 << 30, 1 << 30), (5_000_000, 1 << 30), (1 << 30, 0), (1, 1)] {
            for threads in [1, 3, 8] {
                let storage = Numbers { ahead, ..Numbers::default() };
                take_all(&storage, memory, threads).unwrap();
                let mut reads = storage.reads.into_inner().unwrap();
                reads.sort_unstable();
                assert!(
                    reads.windows(2).all(|two| two[0].file != two[1].file || two[0].end() <= two[1].start)
                );
                let sum = |places: &[Place]| places.iter().map(|place| place.length).sum::<u64>();
                assert_eq!(sum(&reads), sum(&all), "{memory} {ahead} {threads}");
            }
        }
    }

    /// Places that all pieces need are listed and read once: a file of some kilobytes could ask for very many.
    #[test]
    fn what_all_pieces_need_is_one_group() {
        let place = |index: u64| Place { file: "values".into(), start: index * 10, length: 10 };
        let (storage, count) = (Numbers { ahead: 1 << 20, ..Numbers::default() }, 5000);
        let group = Group::default();
        let needs = |own: u64| {
            let mut needs = Needs::default();
            needs.add(place(100_000 + own));
            let list = |listed: &mut Needs| {
                (0..count).for_each(|index| listed.add(place(index)));
                Ok(())
            };
            group.add_to(&mut needs, list).unwrap();
            needs
        };
        let ahead = Ahead::new(&storage, 1 << 20, 1, (0..count).map(needs).collect());
        for index in 0..count {
            let batch = ahead.get(size(index)).unwrap();
            for wanted in [place(0), place(count - 1), place(100_000 + index)] {
                let bytes = batch.fetched().get(&wanted).unwrap();
                assert!((wanted.start..).zip(bytes).all(|(at, byte)| *byte == number(at)));
            }
            assert!(batch.fetched().get(&place(count)).is_err());
        }
        let reads = storage.reads.into_inner().unwrap();
        assert_eq!(reads.iter().map(|read| read.length).sum::<u64>(), 2 * count * 10);
    }

    #[test]
    fn as_much_is_read_ahead_as_is_of_use() {
        // Pieces of 300 KB need 1 MiB of two files: eight or so at a time.
        let read_at_first = |threads: usize, ahead: u64, memory: u64| {
            let storage = Numbers { ahead, ..Numbers::default() };
            let needed = pieces().iter().skip(2).map(|places| needs(places)).collect();
            drop(Ahead::new(&storage, memory, threads, needed).get(0).unwrap());
            storage.reads.into_inner().unwrap().iter().map(|read| read.length).sum::<u64>()
        };
        let one = read_at_first(1, 0, 1 << 30);
        assert!((1 << 20..4 << 20).contains(&one), "{one}");
        // It leaves enough for two threads, but not for a hundred, nor for a storage that wants more.
        assert_eq!(read_at_first(2, 0, 1 << 30), one);
        assert!(read_at_first(100, 0, 1 << 30) > one);
        assert!(read_at_first(1, 1 << 30, 1 << 30) > one);
        assert_eq!(read_at_first(100, 1 << 30, one), one);
    }

    #[test]
    fn an_error_comes_with_the_first_piece_that_it_concerns() {
        for threads in [1, 2, 8] {
            for from in 0..30 {
                let storage = Numbers { ahead: 1 << 24, fails_from: Some(from), ..Numbers::default() };
                let error = take_all(&storage, 1 << 30, threads).unwrap_err();
                assert!(matches!(error, Error::Damaged { .. }), "{from}, {threads} threads: {error}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn nobody_waits_for_who_panicked() {
        let storage = Numbers { ahead: 1 << 24, fails_from: Some(5), panics: true, ..Numbers::default() };
        drop(take_all(&storage, 1 << 30, 4));
    }
}
