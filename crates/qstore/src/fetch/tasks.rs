//! Which pieces are read for at a time, and what several of them need: that is read once, and kept until the last has it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::fetched::{Bytes, Fetched, Spare, requests};
use super::needs::{Needs, Place};
use crate::error::{IoContext as _, Result};
use crate::storage::Storage;

/// Stored bytes of a file that are worth a request: so many of each file are read at a time, if that is not too much.
const LEAST_REQUEST: u64 = 1 << 20;

/// What is yet to be read.
#[derive(Debug)]
pub(super) struct Tasks {
    left: VecDeque<Piece>,
    /// The piece that `left` begins with.
    next: usize,
    /// Bytes of a task at most, but for a single piece and those that are read together.
    most: u64,
    /// Places that several pieces need, with the number of those that are yet to have them.
    uses: HashMap<Place, u32>,
    /// Those of them that some task reads, or has read.
    begun: HashSet<Place>,
    kept: HashMap<Place, Bytes>,
}

/// What a piece needs.
#[derive(Debug)]
struct Piece {
    /// Each once, in the order of the files.
    places: Vec<Place>,
    together: Option<Place>,
}

/// Pieces that are read for at a time.
#[derive(Debug)]
pub(super) struct Task {
    first: usize,
    pieces: Vec<Piece>,
    /// What it reads, in the order of the files.
    own: Vec<Place>,
    /// What others need of that.
    kept: Vec<Place>,
    bytes: u64,
}

impl Tasks {
    pub(super) fn new(pieces: Vec<Needs>, most: u64) -> Self {
        let piece = |needs: Needs| {
            let together = needs.together().cloned();
            Piece { places: needs.sorted(), together }
        };
        let left: VecDeque<_> = pieces.into_iter().map(piece).collect();
        let mut uses: HashMap<Place, u32> = HashMap::new();
        for place in left.iter().flat_map(|piece| &piece.places) {
            *uses.entry(place.clone()).or_default() += 1;
        }
        uses.retain(|_, uses| *uses > 1);
        Self { left, next: 0, most, uses, begun: HashSet::new(), kept: HashMap::new() }
    }

    /// The first piece that no task reads for.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next pieces: enough for a request to each file that they need.
    pub(super) fn take(&mut self) -> Task {
        let mut task = Task { first: self.next, pieces: vec![], own: vec![], kept: vec![], bytes: 0 };
        let mut of_file: HashMap<Arc<str>, u64> = HashMap::new();
        while let Some(piece) = self.left.front() {
            let fresh: Vec<_> = piece.places.iter().filter(|place| !self.begun.contains(*place)).collect();
            let bytes = fresh.iter().fold(task.bytes, |sum, place| sum.saturating_add(place.length));
            let joins = match task.pieces.last() {
                Some(last) => last.together.is_some() && last.together == piece.together,
                None => true,
            };
            let is_enough = of_file.values().all(|bytes| *bytes >= LEAST_REQUEST) || bytes > self.most;
            if task.bytes > 0 && !joins && is_enough {
                break;
            }
            for place in fresh {
                let of_file = of_file.entry(place.file.clone()).or_default();
                *of_file = of_file.saturating_add(place.length);
                task.own.push(place.clone());
                if self.uses.contains_key(place) {
                    self.begun.insert(place.clone());
                    task.kept.push(place.clone());
                }
            }
            task.bytes = bytes;
            task.pieces.extend(self.left.pop_front());
        }
        self.next += task.pieces.len();
        task.own.sort_unstable();
        // What nobody else needs is not kept.
        let mut here: HashMap<&Place, u32> = HashMap::new();
        task.pieces
            .iter()
            .flat_map(|piece| &piece.places)
            .for_each(|place| *here.entry(place).or_default() += 1);
        task.kept.retain(|place| here.get(place) < self.uses.get(place));
        task
    }

    /// Keeps places that others need.
    pub(super) fn keep(&mut self, places: Vec<(Place, Bytes)>) {
        self.kept.extend(places);
    }

    /// Whether all is there that a task needs and others have read.
    pub(super) fn has_all(&self, task: &Task) -> bool {
        self.of_others(task).all(|place| self.kept.contains_key(place))
    }

    /// What others have read of what a task needs.
    fn of_others<'t>(&self, task: &'t Task) -> impl Iterator<Item = &'t Place> {
        let shared = self.uses.keys().next().map(|_| &task.pieces[..]).unwrap_or_default();
        let places = shared.iter().flat_map(|piece| &piece.places);
        places.filter(|place| self.uses.contains_key(*place) && task.own.binary_search(place).is_err())
    }

    /// Adds what others have read, and forgets what nobody needs any more. The pieces of the task.
    pub(super) fn finish(&mut self, task: Task, fetched: &mut Fetched) -> Range<usize> {
        for place in self.of_others(&task) {
            if let Some(bytes) = self.kept.get(place) {
                fetched.insert(place.clone(), bytes.clone());
            }
        }
        for place in task.pieces.iter().flat_map(|piece| &piece.places) {
            let Some(uses) = self.uses.get_mut(place) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(place);
                self.kept.remove(place);
            }
        }
        task.first..task.first + task.pieces.len()
    }
}

impl Task {
    /// The first of its pieces.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Bytes that it reads.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what it is to read; what others need of that comes apart, so that it does not hold the rest.
    pub(super) fn read(
        &self,
        storage: &dyn Storage,
        spare: &Arc<Spare>,
        fetched: &mut Fetched,
    ) -> Result<Vec<(Place, Bytes)>> {
        for request in requests(storage, self.own.clone()) {
            request.read(storage, Some(spare), fetched)?;
        }
        let alone = |place: &Place| {
            let bytes = fetched.bytes(place)?.alone().at(storage.location(), "cannot hold what is read");
            Some(bytes.map(|bytes| (place.clone(), bytes)))
        };
        self.kept.iter().filter_map(alone).collect()
    }
}
