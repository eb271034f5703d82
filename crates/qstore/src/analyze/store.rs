//! Where the bytes of a store are: bits a weight of each variant given all that it is stored given, and their sum.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qstore_checkpoint::{
    CHUNK_MEMORY, Error, FloatKind, IoContext as _, Options, Progress, Result, Window, ordered, size, zeroed,
};
use qstore_container::{ArrayKey, ArrayRef, ChunkForm, Encoding, Part, StoredArray, VariantName};
use serde::Serialize;

use super::counts::{Counter, entropy_bits, real, whole};
use crate::codec::not_symbols;
use crate::decode::{ArrayBytes as _, ArrayReader};
use crate::formats::{QuantGroup, find_groups};
use crate::ingest::{checkpoint_of, source_of};
use crate::names::canonical;
use crate::store::Store;
use crate::variant::{Variant, about_array};

/// A store, weighed. *Weights* are the elements of matrices that are quantised in one variant at least.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StoreAnalysis {
    /// As many as the variant with most of them has.
    pub weights: u64,
    /// The variants, in the order of storage: each is given some of those before it.
    pub variants: Vec<StoredVariantAnalysis>,
    /// All variants and the manifest, for each of [`weights`](Self::weights).
    pub sum: Weighed,
    /// The entropy of the finest floats.
    pub entropy: Option<WeightEntropy>,
}

/// A variant, weighed.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StoredVariantAnalysis {
    /// Its name.
    pub name: String,
    /// Whether it is archived.
    pub archived: bool,
    /// The variants that it is stored given, or shares tensors with.
    pub given: Vec<String>,
    /// Weights that it has.
    pub weights: u64,
    /// What they take.
    #[serde(flatten)]
    pub weighed: Weighed,
}

/// Bytes, and bits for each weight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Weighed {
    /// Bytes.
    pub bytes: StoreBytes,
    /// Bits a weight; `None` if there are no weights.
    pub bits_per_weight: Option<BitsPerWeight>,
}

/// Bytes of a store, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreBytes {
    /// Weights or codes and their scales, in their files.
    pub raw: u64,
    /// Streams of weights or codes.
    pub codes: u64,
    /// Scales, zero-points and groups, all that they take.
    pub scales: u64,
    /// Weights or codes that no table, bin or interval has.
    pub exceptions: u64,
    /// Tables and states of coders, plans, headers, lists of chunks and the manifest.
    pub overhead: u64,
    /// Tensors that are no such matrix, and files. No part of the sum.
    pub other: u64,
}

/// The same for each weight, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BitsPerWeight {
    /// See [`StoreBytes::raw`].
    pub raw: f64,
    /// See [`StoreBytes::codes`].
    pub codes: f64,
    /// See [`StoreBytes::scales`].
    pub scales: f64,
    /// See [`StoreBytes::exceptions`].
    pub exceptions: f64,
    /// See [`StoreBytes::overhead`].
    pub overhead: f64,
    /// All of these but `raw`.
    pub sum: f64,
}

/// The order-0 entropy of a variant's weights, with the frequencies of each matrix.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct WeightEntropy {
    /// The variant.
    pub variant: String,
    /// Bits a weight.
    pub bits_per_weight: f64,
}

impl StoreBytes {
    fn plus(self, other: Self) -> Self {
        Self {
            raw: self.raw.saturating_add(other.raw),
            codes: self.codes.saturating_add(other.codes),
            scales: self.scales.saturating_add(other.scales),
            exceptions: self.exceptions.saturating_add(other.exceptions),
            overhead: self.overhead.saturating_add(other.overhead),
            other: self.other.saturating_add(other.other),
        }
    }

    fn over(self, weights: u64) -> Weighed {
        let each = |bytes: u64| real(bytes.saturating_mul(8)) / real(weights);
        let Self { raw, codes, scales, exceptions, overhead, .. } = self;
        let sum = codes.saturating_add(scales).saturating_add(exceptions).saturating_add(overhead);
        let bits_per_weight = (weights > 0).then(|| BitsPerWeight {
            raw: each(raw),
            codes: each(codes),
            scales: each(scales),
            exceptions: each(exceptions),
            overhead: each(overhead),
            sum: each(sum),
        });
        Weighed { bytes: self, bits_per_weight }
    }
}

/// Weighs a store. The coded chunks of its matrices are read, and the finest floats are decoded.
///
/// # Errors
/// A variant that cannot be read, and damage in one of these chunks.
pub fn analyze_store(store: &Store, options: &Options, progress: &dyn Progress) -> Result<StoreAnalysis> {
    let names = store.manifest().variants.iter().map(|entry| &entry.name);
    let members = names.map(|name| Member::open(store.variant(name)?)).collect::<Result<Vec<_>>>()?;
    let matrices = Matrices::of(&members);
    let shards = members.iter().flat_map(|member| &member.variant.entry().shards);
    progress.begin("analysing", shards.map(|shard| shard.bytes).fold(0, u64::saturating_add))?;
    let mut variants = Vec::with_capacity(members.len());
    for member in &members {
        let (weights, bytes) = member.weigh(&matrices, progress)?;
        let entry = member.variant.entry();
        variants.push(StoredVariantAnalysis {
            name: entry.name.to_string(),
            archived: entry.archived,
            given: entry.given.iter().map(|given| given.variant.to_string()).collect(),
            weights,
            weighed: bytes.over(weights),
        });
    }
    let manifest = StoreBytes { overhead: store.manifest_bytes(), ..StoreBytes::default() };
    let sum = variants.iter().fold(manifest, |sum, variant| sum.plus(variant.weighed.bytes));
    let weights = variants.iter().map(|variant| variant.weights).max().unwrap_or(0);
    let finest = members
        .iter()
        .rev()
        .find(|member| member.groups.is_empty() && member.matrices(&matrices).next().is_some());
    let entropy = finest.map(|finest| finest.entropy(&matrices, options, progress)).transpose()?;
    Ok(StoreAnalysis { weights, variants, sum: sum.over(weights), entropy })
}

/// A variant of the store.
struct Member {
    variant: Arc<Variant>,
    groups: Vec<QuantGroup>,
    /// Codes in each array of them.
    codes: HashMap<ArrayKey, u64>,
    /// Arrays that say what codes stand for.
    scales: HashSet<ArrayKey>,
}

/// Which arrays are matrices that are quantised somewhere.
#[derive(Default)]
struct Matrices {
    /// Their names without what producers put before and behind.
    names: HashSet<String>,
    /// Floats that codes are given.
    floats: HashSet<ArrayRef>,
}

impl Matrices {
    fn of(members: &[Member]) -> Self {
        let mut all = Self::default();
        for member in members {
            let names = member.groups.iter().map(|group| canonical(&group.weight).into_owned());
            all.names.extend(names);
            for (array, _) in member.variant.arrays() {
                if let Encoding::Rounded { floats, .. } = &array.encoding {
                    all.floats.insert(floats.array.clone());
                }
            }
        }
        all
    }
}

impl Member {
    fn open(variant: Arc<Variant>) -> Result<Self> {
        let groups = find_groups(&checkpoint_of(&source_of(&variant)?)?);
        let (mut codes, mut scales) = (HashMap::new(), HashSet::new());
        for group in &groups {
            scales.extend(group.value_arrays().cloned());
            let all: &mut u64 = codes.entry(group.codes().clone()).or_default();
            *all = all.saturating_add(group.shape()[0].saturating_mul(group.shape()[1]));
        }
        Ok(Self { variant, groups, codes, scales })
    }

    fn name(&self) -> &VariantName {
        self.variant.name()
    }

    /// Its arrays of codes and of floats that are matrices, with how many weights these have.
    fn matrices<'a>(&'a self, matrices: &'a Matrices) -> impl Iterator<Item = (&'a StoredArray, u64)> {
        let of_floats = |array: &StoredArray| {
            let here = ArrayRef { variant: self.name().clone(), array: array.key.clone() };
            let is_named = array.key.tensor().is_some_and(|name| matrices.names.contains(&*canonical(name)));
            let is_float = FloatKind::of(array.dtype).is_some() && array.shape.len() > 1;
            let is_float = is_float && !self.scales.contains(&array.key);
            let is_matrix = is_named || matrices.floats.contains(&here) || self.is_given(array);
            (is_float && is_matrix).then(|| array.shape.iter().fold(1, |all: u64, d| all.saturating_mul(*d)))
        };
        let arrays = self.variant.arrays().map(|(array, _)| array);
        arrays.filter(|array| array.key.tensor().is_some()).filter_map(move |array| {
            let weights = self.codes.get(&array.key).copied().or_else(|| of_floats(array))?;
            Some((array, weights))
        })
    }

    /// Whether an array, one of its parts, or what it refers to is given others.
    fn is_given(&self, array: &StoredArray) -> bool {
        match &array.encoding {
            Encoding::Parts { parts } => {
                let part = |part: &Part| self.variant.stored_array(&part.array).ok();
                parts.iter().filter_map(part).any(|part| self.is_given(part))
            }
            // It leads to no other reference.
            Encoding::Reference { to, .. } => {
                let target = self.variant.referred(to).and_then(|of| Ok(of.stored_array(&to.array)?.clone()));
                target.is_ok_and(|target| {
                    target.encoding.is_given() || matches!(target.encoding, Encoding::Parts { .. })
                })
            }
            encoding => encoding.is_given(),
        }
    }

    /// Its weights, and what everything takes.
    fn weigh(&self, matrices: &Matrices, progress: &dyn Progress) -> Result<(u64, StoreBytes)> {
        let mut bytes = StoreBytes { overhead: self.variant.overhead(), ..StoreBytes::default() };
        progress.advance(bytes.overhead)?;
        let (mut weights, mut keys) = (0u64, HashSet::new());
        for (array, of_array) in self.matrices(matrices) {
            weights = weights.saturating_add(of_array);
            bytes.raw = bytes.raw.saturating_add(array.bytes().unwrap_or(0));
            keys.insert(&array.key);
            if let Encoding::Parts { parts } = &array.encoding {
                keys.extend(parts.iter().map(|part| &part.array));
            }
        }
        for (array, stored) in self.variant.arrays() {
            let is_counted_elsewhere = matches!(array.key, ArrayKey::Bundle(_));
            if keys.contains(&array.key) {
                let of_array = self.matrix(array, stored)?;
                bytes = bytes.plus(of_array);
            } else if self.scales.contains(&array.key) {
                bytes.raw = bytes.raw.saturating_add(array.bytes().unwrap_or(0));
                bytes.scales = bytes.scales.saturating_add(stored);
            } else if !is_counted_elsewhere && !matches!(array.key, ArrayKey::Part(_)) {
                bytes.other = bytes.other.saturating_add(stored);
            }
            let is_sum = matches!(array.encoding, Encoding::Parts { .. });
            progress.advance(if is_counted_elsewhere || is_sum { 0 } else { stored })?;
        }
        Ok((weights, bytes))
    }

    /// What a matrix takes, which is stored in so many bytes.
    fn matrix(&self, array: &StoredArray, stored: u64) -> Result<StoreBytes> {
        let mut bytes = StoreBytes::default();
        let Some((shard, at)) = self.variant.place(&array.key) else { return Ok(bytes) };
        let shard = self.variant.shard(shard);
        // Parts are counted one by one.
        if matches!(array.encoding, Encoding::Parts { .. }) {
            return Ok(bytes);
        }
        bytes.overhead = shard.tables(at).len() as u64;
        let damaged = |what: &dyn ToString| {
            let error = Error::damaged(&shard.path, format!("{}: {}", array.key, what.to_string()));
            about_array(error, self.name(), &array.key)
        };
        let mut offset = shard.stream(at).map_or(0, |range| range.start);
        for record in shard.records(at) {
            if record.form == ChunkForm::Coded {
                let mut chunk = zeroed(record.length.into()).at(&shard.path, "cannot hold a chunk")?;
                let read = self.variant.storage().read(&shard.name, offset, &mut chunk);
                read.map_err(|error| self.variant.or_changed(error))?;
                if !record.matches(&chunk) {
                    return Err(damaged(&"a chunk is damaged: its checksum does not fit"));
                }
                let beside = not_symbols(array, &chunk).map_err(|e| damaged(&e))?;
                bytes.exceptions = bytes.exceptions.saturating_add(beside.exceptions);
                bytes.overhead = bytes.overhead.saturating_add(beside.states);
            }
            offset = offset.saturating_add(record.length.into());
        }
        bytes.codes = stored.saturating_sub(bytes.overhead).saturating_sub(bytes.exceptions);
        Ok(bytes)
    }

    /// The entropy of its floats.
    fn entropy(
        &self,
        matrices: &Matrices,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<WeightEntropy> {
        let all: Vec<_> = self.matrices(matrices).collect();
        let pool = options.pool()?;
        let window = Window { jobs: pool.current_num_threads(), bytes: options.memory };
        // Of four bytes all are kept, of fewer how often each occurs.
        let holds = |(array, _): &(&StoredArray, u64)| match array.dtype.bitsize() {
            32 => array.bytes().unwrap_or(u64::MAX),
            _ => CHUNK_MEMORY,
        };
        let (mut bits, mut weights) = (0u64, 0u64);
        let jobs = all.into_iter().map(Ok);
        let work = |(array, of): (&StoredArray, u64)| Ok((self.entropy_of(array)?, of));
        ordered(&pool, window, jobs, holds, work, |(of_matrix, of)| {
            bits = bits.saturating_add(of_matrix);
            weights = weights.saturating_add(of);
            Ok(progress.advance(0)?)
        })?;
        let bits_per_weight = real(bits) / real(weights.max(1));
        Ok(WeightEntropy { variant: self.name().to_string(), bits_per_weight })
    }

    /// The bits of a matrix by its entropy.
    fn entropy_of(&self, array: &StoredArray) -> Result<u64> {
        let reader = ArrayReader::open(&self.variant, &array.key)?;
        let bytes = array.bytes().map_err(|e| Error::damaged(self.variant.folder(), e))?;
        let mut counter = Counter::new(array.dtype.bitsize() / 8);
        let (mut piece, mut at) = (Vec::new(), 0);
        while at < bytes {
            // Whole chunks.
            let end = reader.piece_end(at).clamp(at + 1, bytes);
            piece.resize(size(end - at), 0);
            reader.read(at, &mut piece)?;
            counter.add(&piece);
            at = end;
        }
        Ok(whole(entropy_bits(&counter.finish())))
    }
}
