//! The jobs of storing a variant, in the order of its files.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use qstore_checkpoint::{CHUNK_MEMORY, Error, Result, Source, SourceArray};
use qstore_container::{ChunkShape, Encoding, Hash128, Part};

use super::slab::Slab;
use crate::plan::{Bundle, Plan, Planned, PlannedArray, PlannedCut, Planner, chunk_bytes, chunk_of};

/// Bytes of small tensors that are read and passed on at a time.
const RUN_BYTES: u64 = 256 << 10;
/// Small tensors that are passed on at a time.
const RUN_ARRAYS: usize = 4096;

/// A job.
pub(super) enum Job {
    /// A file of the source begins.
    File(usize),
    /// The next shard begins.
    Shard,
    /// Small tensors, which need no more work.
    Small(SmallTensors),
    /// A bundle that is full.
    Bundle(Bundle),
    /// The next bytes of an array that is stored by parts.
    Slab(Slab),
    /// The parts of an array have passed.
    Parts { index: usize, parts: Vec<Part> },
    /// An array of one chunk, which is yet to be planned.
    Whole { index: usize, chunk: ChunkShape },
    /// An array begins.
    Array(Arc<PlannedArray>),
    /// The array's next bytes.
    Chunk { plan: Arc<PlannedArray>, start: u64, length: u64 },
}

impl Job {
    /// Bytes that the job and its result hold at most.
    pub(super) fn holds(&self) -> u64 {
        match self {
            // As it is, the other way round, and coded.
            Self::Chunk { length, .. } => length.saturating_mul(3).max(CHUNK_MEMORY),
            Self::Whole { .. } | Self::Bundle(_) => CHUNK_MEMORY,
            Self::Slab(slab) => slab.holds(),
            Self::File(_) | Self::Shard | Self::Small(_) | Self::Array(_) | Self::Parts { .. } => 0,
        }
    }
}

/// Small tensors that lie one after another in a file.
pub(crate) struct SmallTensors {
    /// Their bytes.
    pub(crate) raw: Vec<u8>,
    /// How each is stored.
    pub(crate) members: Vec<Member>,
}

/// How a small tensor is stored: as a slice, or as a reference.
pub(crate) struct Member {
    /// Its index in the source.
    pub(crate) index: usize,
    pub(crate) encoding: Encoding,
    pub(crate) hash: Option<Hash128>,
    pub(crate) chunk: ChunkShape,
}

/// The arrays of each shard, by their index in the source: as many as fit.
pub(super) fn shards(source: &Source, shard_size: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut first, mut bytes) = (0, 0u64);
    for (index, array) in source.arrays.iter().enumerate() {
        if bytes > 0 && bytes.saturating_add(array.bytes) > shard_size {
            shards.push(first..index);
            (first, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(array.bytes);
    }
    shards.push(first..source.arrays.len());
    shards
}

/// All jobs. Arrays are planned as their turn comes, and chunks are not collected: an array may have very many.
pub(super) struct Jobs<'a, 's> {
    planner: &'a mut Planner<'s>,
    /// The first array of each shard that is yet to begin.
    shards: VecDeque<usize>,
    /// Files that have begun.
    files: usize,
    /// The next array; those of a file follow each other.
    next: usize,
    ready: VecDeque<Job>,
    chunks: Option<Chunks>,
    cut: Option<OpenCut>,
}

/// An array that is stored by parts.
struct OpenCut {
    planned: PlannedCut,
    /// The next part.
    next: usize,
}

impl<'a, 's> Jobs<'a, 's> {
    pub(super) fn new(planner: &'a mut Planner<'s>, shards: &[Range<usize>]) -> Self {
        let shards = shards.iter().skip(1).map(|shard| shard.start).collect();
        Self { planner, shards, files: 0, next: 0, ready: VecDeque::new(), chunks: None, cut: None }
    }

    /// Makes the next steps ready; false at the end.
    fn advance(&mut self) -> Result<bool> {
        if let Some(cut) = self.cut.take() {
            self.slab(cut)?;
            return Ok(true);
        }
        let source = self.planner.source;
        match source.arrays.get(self.next).filter(|array| array.file < self.files) {
            Some(array) => {
                if self.shards.pop_front_if(|first| *first == self.next).is_some() {
                    self.close_bundles();
                    self.ready.push_back(Job::Shard);
                }
                if self.planner.small[self.next] {
                    self.run()?;
                } else {
                    self.next += 1;
                    let plan = match self.planner.plan(self.next - 1)? {
                        Plan::Whole(Planned::Now(plan)) => plan,
                        Plan::Whole(Planned::Later { index, chunk }) => {
                            self.ready.push_back(Job::Whole { index, chunk });
                            return Ok(true);
                        }
                        Plan::Parts(planned) => {
                            self.cut = Some(OpenCut { planned, next: 0 });
                            return Ok(true);
                        }
                    };
                    self.ready.push_back(Job::Array(plan.clone()));
                    self.chunks = Some(Chunks::of(&plan, array));
                }
            }
            None if self.files < source.files.len() => {
                self.ready.push_back(Job::File(self.files));
                self.files += 1;
            }
            None => {
                self.close_bundles();
                return Ok(!self.ready.is_empty());
            }
        }
        Ok(true)
    }

    /// Makes the next slab of an array ready, or its end.
    fn slab(&mut self, mut cut: OpenCut) -> Result<()> {
        let index = cut.planned.index;
        let mut parts: Vec<Arc<PlannedArray>> = Vec::new();
        let mut bytes = 0..0;
        while cut.next < cut.planned.len() {
            let of_slab = cut.planned.bytes(cut.next, &self.planner.source.arrays[index]);
            if !parts.is_empty() && of_slab != bytes {
                break;
            }
            bytes = of_slab;
            parts.push(Arc::new(self.planner.plan_part(&cut.planned, cut.next)?));
            cut.next += 1;
        }
        if parts.is_empty() {
            self.ready.push_back(Job::Parts { index, parts: cut.planned.parts() });
            return Ok(());
        }
        let (start, length) = (bytes.start, bytes.end - bytes.start);
        self.ready.push_back(Job::Slab(Slab { index, start, length, parts }));
        self.cut = Some(cut);
        Ok(())
    }

    /// A bundle lies in the shard of its slices.
    fn close_bundles(&mut self) {
        self.ready.extend(self.planner.bundles.close().map(Job::Bundle));
    }

    /// Makes a run of small tensors ready, and the bundles that it fills.
    fn run(&mut self) -> Result<()> {
        let source = self.planner.source;
        let end = self.shards.front().copied().unwrap_or(source.arrays.len());
        let (first, file) = (self.next, source.arrays[self.next].file);
        let mut bytes = 0;
        let of_run = |&index: &usize| {
            bytes += source.arrays[index].bytes;
            let small = self.planner.small[index] && source.arrays[index].file == file;
            index == first || small && index - first < RUN_ARRAYS && bytes <= RUN_BYTES
        };
        let run = first..first + (first..end).take_while(of_run).count();
        self.next = run.end;
        let raw = source.read_run(run.clone())?;
        let mut rest = &raw[..];
        let mut members = Vec::with_capacity(run.len());
        let mut full = Vec::new();
        for index in run {
            let array = &source.arrays[index];
            let own = usize::try_from(array.bytes).ok().and_then(|bytes| rest.split_at_checked(bytes));
            let (own, tail) =
                own.ok_or_else(|| Error::internal(format!("{}: a run lacks its bytes", array.key)))?;
            rest = tail;
            members.push(match self.planner.duplicates.find_small(index, own, &self.planner.pairs)? {
                Some(((to, view), hash)) => {
                    let encoding = Encoding::Reference { to, view };
                    Member { index, encoding, hash: Some(hash), chunk: chunk_of(array) }
                }
                None => {
                    let (encoding, closed) = self.planner.bundles.add(array.dtype, own);
                    full.extend(closed.map(Job::Bundle));
                    Member { index, encoding, hash: None, chunk: ChunkShape::NONE }
                }
            });
        }
        self.ready.push_back(Job::Small(SmallTensors { raw, members }));
        self.ready.extend(full);
        Ok(())
    }
}

impl Iterator for Jobs<'_, '_> {
    type Item = Result<Job>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Some(Ok(step));
            }
            if let Some(step) = self.chunks.as_mut().and_then(Iterator::next) {
                return Some(Ok(step));
            }
            self.chunks = None;
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The chunks of one array.
pub(super) struct Chunks {
    plan: Arc<PlannedArray>,
    at: u64,
    bytes: u64,
    chunk: u64,
}

impl Chunks {
    /// Those of `array`, which is planned so.
    pub(super) fn of(plan: &Arc<PlannedArray>, array: &SourceArray) -> Self {
        // A transposed matrix is one step: its first row as coded is spread over all of its bytes.
        let whole = plan.action.is_transposed();
        let chunk = if whole { array.bytes } else { chunk_bytes(array, plan.chunk) };
        Self { plan: plan.clone(), at: 0, bytes: array.bytes, chunk }
    }
}

impl Iterator for Chunks {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        let (start, length) = (self.at, (self.bytes - self.at).min(self.chunk));
        self.at += length;
        (length > 0).then(|| Job::Chunk { plan: self.plan.clone(), start, length })
    }
}
