//! Which pieces are read for at a time, and what several of them need: that is read once, and kept until the last has it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use qstore_checkpoint::{IoContext as _, Result};

use super::fetched::{Bytes, Fetched, Spare, requests};
use super::needs::{Needs, Place};
use crate::storage::Storage;

/// Stored bytes of a file that are worth a request: so many of each file are read at a time, if that is not too much.
const LEAST_REQUEST: u64 = 1 << 20;
/// Pieces between two that need the same, up to which it is kept whatever it takes.
const NEAR: usize = 64;

/// What is yet to be read.
#[derive(Debug)]
pub(super) struct Tasks {
    left: VecDeque<Piece>,
    /// The piece that `left` begins with.
    next: usize,
    /// Bytes of a task at most, but for a single piece and those that are read together.
    most: u64,
    /// Bytes that are kept at most for pieces that are far: what comes to more is read again.
    most_kept: u64,
    kept_bytes: u64,
    /// Places that several pieces need, with those that are yet to have them.
    uses: HashMap<Place, VecDeque<usize>>,
    /// Those of them that some task reads, or has read.
    begun: HashSet<Place>,
    kept: HashMap<Place, Bytes>,
    groups: HashMap<GroupId, Group>,
}

/// Which group it is: where the list of its places lies in memory, as long as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct GroupId(usize);

impl GroupId {
    fn of(places: &Arc<[Place]>) -> Self {
        Self(Arc::as_ptr(places).cast::<Place>().addr())
    }
}

/// Places that many pieces need, all of them.
#[derive(Debug)]
struct Group {
    places: Arc<[Place]>,
    /// Pieces that are yet to have them.
    uses: usize,
    is_begun: bool,
    kept: Option<Arc<Fetched>>,
}

/// What a piece needs.
#[derive(Debug)]
struct Piece {
    /// Each once, in the order of the files.
    places: Vec<Place>,
    groups: Vec<Arc<[Place]>>,
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
    /// The groups of which it reads all that was not read before.
    groups: Vec<Arc<[Place]>>,
    bytes: u64,
}

impl Tasks {
    /// Reads at most `most` bytes at a time, and keeps about as many for pieces that are far.
    pub(super) fn new(pieces: Vec<Needs>, most: u64) -> Self {
        let piece = |needs: Needs| {
            let (places, groups, together) = needs.into_parts();
            Piece { places, groups, together }
        };
        let left: VecDeque<_> = pieces.into_iter().map(piece).collect();
        let mut uses: HashMap<Place, VecDeque<usize>> = HashMap::new();
        let mut groups: HashMap<GroupId, Group> = HashMap::new();
        for (index, piece) in left.iter().enumerate() {
            for places in &piece.groups {
                let group = groups.entry(GroupId::of(places)).or_insert_with(|| Group {
                    places: places.clone(),
                    uses: 0,
                    is_begun: false,
                    kept: None,
                });
                if group.uses == 0 {
                    // The first piece that needs it is the one that needs its places.
                    places.iter().for_each(|place| uses.entry(place.clone()).or_default().push_back(index));
                }
                group.uses += 1;
            }
            piece.places.iter().for_each(|place| uses.entry(place.clone()).or_default().push_back(index));
        }
        uses.values_mut().for_each(|pieces| pieces.make_contiguous().sort_unstable());
        uses.retain(|_, pieces| {
            let mut last = None;
            pieces.retain(|piece| last.replace(*piece) != Some(*piece));
            pieces.len() > 1
        });
        Self {
            left,
            next: 0,
            most,
            most_kept: most,
            kept_bytes: 0,
            uses,
            begun: HashSet::new(),
            kept: HashMap::new(),
            groups,
        }
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
        let mut task =
            Task { first: self.next, pieces: vec![], own: vec![], kept: vec![], groups: vec![], bytes: 0 };
        let mut own: HashSet<Place> = HashSet::new();
        let mut of_file: HashMap<Arc<str>, u64> = HashMap::new();
        while let Some(piece) = self.left.front() {
            let begins = |places: &&Arc<[Place]>| {
                self.groups.get(&GroupId::of(places)).is_some_and(|group| !group.is_begun)
            };
            let begun: Vec<_> = piece.groups.iter().filter(begins).cloned().collect();
            let places = piece.places.iter().chain(begun.iter().flat_map(|places| places.iter()));
            let is_fresh = |place: &&Place| !self.begun.contains(*place) && !own.contains(*place);
            let mut fresh: Vec<Place> = places.filter(is_fresh).cloned().collect();
            fresh.sort_unstable();
            fresh.dedup();
            let bytes = fresh.iter().fold(task.bytes, |sum, place| sum.saturating_add(place.length));
            let joins = match task.pieces.last() {
                Some(last) => last.together.is_some() && last.together == piece.together,
                None => true,
            };
            let has_requests = !of_file.is_empty() && of_file.values().all(|bytes| *bytes >= LEAST_REQUEST);
            if task.bytes > 0 && !joins && (has_requests || bytes > self.most) {
                break;
            }
            for place in fresh {
                let of_file = of_file.entry(place.file.clone()).or_default();
                *of_file = of_file.saturating_add(place.length);
                own.insert(place);
            }
            for places in begun {
                if let Some(group) = self.groups.get_mut(&GroupId::of(&places)) {
                    group.is_begun = true;
                }
                task.groups.push(places);
            }
            task.bytes = bytes;
            task.pieces.extend(self.left.pop_front());
        }
        self.next += task.pieces.len();
        task.own = own.into_iter().collect();
        task.own.sort_unstable();
        for place in &task.own {
            let later = self
                .uses
                .get(place)
                .and_then(|pieces| pieces.get(pieces.partition_point(|piece| *piece < self.next)));
            let Some(later) = later else { continue };
            let is_near = later - self.next < NEAR;
            let bytes = self.kept_bytes.saturating_add(place.length);
            // Else whoever needs it then reads it again.
            if is_near || bytes <= self.most_kept {
                self.kept_bytes = bytes;
                self.begun.insert(place.clone());
                task.kept.push(place.clone());
            }
        }
        task
    }

    /// Keeps places that others need.
    pub(super) fn keep(&mut self, places: Vec<(Place, Bytes)>) {
        self.kept.extend(places);
    }

    /// Whether all is there that a task needs and others read.
    pub(super) fn has_all(&self, task: &Task) -> bool {
        self.of_others(task).all(|place| self.kept.contains_key(place))
            && self.groups_of_others(task).all(|group| group.kept.is_some())
    }

    /// What others read of what a task needs.
    fn of_others<'t>(&'t self, task: &'t Task) -> impl Iterator<Item = &'t Place> {
        let of_groups = task.groups.iter().flat_map(|places| places.iter());
        let places = task.pieces.iter().flat_map(|piece| &piece.places).chain(of_groups);
        places.filter(|place| task.own.binary_search(place).is_err())
    }

    /// The groups that others read of those that a task needs.
    fn groups_of_others<'t>(&'t self, task: &'t Task) -> impl Iterator<Item = &'t Group> {
        let is_own = |places: &Arc<[Place]>| task.groups.iter().any(|own| Arc::ptr_eq(own, places));
        let places = task.pieces.iter().flat_map(|piece| &piece.groups);
        let ids: HashSet<_> = places.filter(|places| !is_own(places)).map(GroupId::of).collect();
        ids.into_iter().filter_map(|id| self.groups.get(&id))
    }

    /// Adds what others have read, and forgets what nobody needs any more. The pieces of the task.
    pub(super) fn finish(&mut self, task: Task, fetched: &mut Fetched) -> Range<usize> {
        for place in self.of_others(&task) {
            if let Some(bytes) = self.kept.get(place) {
                fetched.insert(place.clone(), bytes.clone());
            }
        }
        for group in self.groups_of_others(&task) {
            group.kept.iter().for_each(|kept| fetched.add_group(kept.clone()));
        }
        let pieces = task.first..task.first + task.pieces.len();
        for places in task.pieces.iter().flat_map(|piece| &piece.groups) {
            let id = GroupId::of(places);
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.uses -= 1;
            if group.uses == 0 {
                self.groups.remove(&id);
            }
        }
        for places in &task.groups {
            if let Some(group) = self.groups.get_mut(&GroupId::of(places)) {
                group.kept = Some(Arc::new(fetched.of(&group.places)));
            }
        }
        let of_groups = task.groups.iter().flat_map(|places| places.iter());
        for place in task.pieces.iter().flat_map(|piece| &piece.places).chain(of_groups) {
            let Some(uses) = self.uses.get_mut(place) else { continue };
            // They are sorted; very many pieces may need one place, as slices do their bundle.
            let of_task = [pieces.start, pieces.end].map(|end| uses.partition_point(|piece| *piece < end));
            uses.drain(of_task[0]..of_task[1]);
            if uses.is_empty() {
                self.uses.remove(place);
                if self.kept.remove(place).is_some() {
                    self.kept_bytes = self.kept_bytes.saturating_sub(place.length);
                }
            }
        }
        pieces
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
