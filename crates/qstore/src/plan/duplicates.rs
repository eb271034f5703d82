//! Arrays whose bytes are stored already.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use qstore_checkpoint::{Progress, Result, Source, SourceArray};
use qstore_container::{ArrayKey, ArrayRef, Hash128, VariantName, View};
use twox_hash::XxHash3_128;

use super::{Original, Pairs};
use crate::decode::{ArrayReader, read_whole};
use crate::variant::{Variant, is_elsewhere};

/// Bytes at either end of an array that tell it from most others.
const ENDS: u64 = 4 << 10;
/// Bytes that a reference takes in the plan, about: smaller tensors are rather stored again.
const REFERENCE_BYTES: u64 = 64;
/// Bytes read at a time.
const PIECE: u64 = 4 << 20;

/// Finds equal arrays: by hash here; whoever stores a reference compares the bytes.
pub(crate) struct Duplicates<'a> {
    source: &'a Source,
    name: &'a VariantName,
    progress: &'a dyn Progress,
    /// Arrays of the variants below, by size and hash.
    stored: HashMap<u64, HashMap<Hash128, (Arc<Variant>, ArrayKey)>>,
    /// For each array of the source that has the size and ends of another its place in [`Self::sets`].
    set_of: HashMap<usize, usize>,
    /// Arrays of the source that are alike at first sight. Of equal ones the first is stored, and the others refer to
    /// it.
    sets: Vec<Vec<usize>>,
    /// For each of the sets that were asked about, by hash the first that refers to no variant below.
    originals: HashMap<usize, HashMap<Hash128, usize>>,
    /// Of arrays of the source that were asked about.
    hashes: HashMap<usize, Hash128>,
    /// Small ones that are no references, by size and hash.
    own_small: HashMap<(u64, Hash128), usize>,
}

impl<'a> Duplicates<'a> {
    /// For the arrays of `source`, which will be variant `name`, above the variants `lower`; `small` says which are
    /// small.
    pub(crate) fn new(
        source: &'a Source,
        name: &'a VariantName,
        lower: &[Arc<Variant>],
        (pairs, small): (&Pairs, &[bool]),
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let mut sizes: HashMap<u64, usize> = HashMap::new();
        source.arrays.iter().for_each(|array| *sizes.entry(array.bytes).or_default() += 1);
        let mut stored: HashMap<u64, HashMap<Hash128, _>> = HashMap::new();
        for variant in lower {
            for (array, _) in variant.arrays() {
                progress.advance(0)?;
                let bytes = array.bytes().unwrap_or(0);
                if !sizes.contains_key(&bytes) {
                    continue;
                }
                let hash = match array.hash {
                    Some(hash) => hash,
                    None if bytes < REFERENCE_BYTES => continue,
                    None => Hash128::of(&read_whole(variant, &array.key)?),
                };
                let of_size = stored.entry(bytes).or_default();
                of_size.entry(hash).or_insert_with(|| (variant.clone(), array.key.clone()));
            }
        }
        // What says what codes stand for is to be no residual, nor a reference to one: it keeps to its own kind.
        let mut alike: HashMap<(u64, Hash128, bool), Vec<usize>> = HashMap::new();
        for (index, array) in source.arrays.iter().enumerate() {
            if small[index] || array.bytes == 0 || sizes[&array.bytes] < 2 {
                continue;
            }
            progress.advance(0)?;
            let ends = source.known_hash(array).map_or_else(|| hash_of_ends(source, array), Ok)?;
            alike.entry((array.bytes, ends, pairs.says_value(&array.key))).or_default().push(index);
        }
        // What may be given codes is not to be stored as equal to what may not; and files that people see not as equal
        // to hidden ones.
        let rank = |index: &usize| {
            let array = &source.arrays[*index];
            let path = &source.files[array.file].path;
            let hidden = path.components().filter(|part| part.starts_with('.')).count();
            (!pairs.is_paired(&array.key), hidden, path.components().count(), *index)
        };
        let mut sets: Vec<_> = alike.into_values().filter(|set| set.len() > 1).collect();
        sets.iter_mut().for_each(|set| set.sort_by_key(rank));
        let members = sets.iter().enumerate().flat_map(|(at, set)| set.iter().map(move |index| (*index, at)));
        let set_of = members.collect();
        let (originals, hashes, own_small) = (HashMap::new(), HashMap::new(), HashMap::new());
        Ok(Self { source, name, progress, stored, set_of, sets, originals, hashes, own_small })
    }

    /// As [`find`](Self::find), of a small tensor with these bytes, which are compared here; and their hash.
    pub(crate) fn find_small(
        &mut self,
        index: usize,
        bytes: &[u8],
        pairs: &Pairs,
    ) -> Result<Option<((ArrayRef, View), Hash128)>> {
        let size = bytes.len() as u64;
        if size < REFERENCE_BYTES {
            return Ok(None);
        }
        let hash = Hash128::of(bytes);
        if let Some((variant, key)) = self.stored.get(&size).and_then(|of_size| of_size.get(&hash)) {
            let plain = pairs.says_value(&self.source.arrays[index].key);
            let same = !(plain && is_residual(variant, key)?) && read_whole(variant, key)? == bytes;
            return Ok(same.then(|| (variant.origin(key), hash)));
        }
        match self.own_small.entry((size, hash)) {
            Entry::Vacant(free) => {
                free.insert(index);
                Ok(None)
            }
            Entry::Occupied(other) => {
                let original = &self.source.arrays[*other.get()];
                let mut found = vec![0; bytes.len()];
                self.source.read(original, 0, &mut found)?;
                let to = ArrayRef { variant: self.name.clone(), array: original.key.clone() };
                Ok((found == bytes).then_some(((to, View::WHOLE), hash)))
            }
        }
    }

    /// An array with the same bytes as array `index` of the source: in a variant below, or in the source itself.
    /// What says what codes stand for refers to no residual, which readers refuse there.
    pub(crate) fn find(
        &mut self,
        index: usize,
        pairs: &Pairs,
    ) -> Result<Option<((ArrayRef, View), Original)>> {
        if self.source.arrays[index].bytes == 0 {
            return Ok(None);
        }
        if let Some((variant, key)) = self.stored_twin(index, pairs)? {
            let reader = ArrayReader::open(&variant, &key)?;
            return Ok(Some((variant.origin(&key), Original::Stored(reader))));
        }
        let Some(original) = self.original(index, pairs)?.filter(|original| *original != index) else {
            return Ok(None);
        };
        let to = ArrayRef { variant: self.name.clone(), array: self.source.arrays[original].key.clone() };
        Ok(Some(((to, View::WHOLE), Original::Own(original))))
    }

    /// Of the arrays of the source that equal array `index` the one that is stored, if none refers to a variant below.
    fn original(&mut self, index: usize, pairs: &Pairs) -> Result<Option<usize>> {
        let Some(&set) = self.set_of.get(&index) else { return Ok(None) };
        if !self.originals.contains_key(&set) {
            let mut first: HashMap<Hash128, usize> = HashMap::new();
            for member in self.sets[set].clone() {
                if self.stored_twin(member, pairs)?.is_none() {
                    first.entry(self.hash_of(member)?).or_insert(member);
                }
            }
            self.originals.insert(set, first);
        }
        let hash = self.hash_of(index)?;
        Ok(self.originals.get(&set).and_then(|first| first.get(&hash)).copied())
    }

    /// The array of a variant below that array `index` of the source refers to.
    fn stored_twin(&mut self, index: usize, pairs: &Pairs) -> Result<Option<(Arc<Variant>, ArrayKey)>> {
        let array = &self.source.arrays[index];
        if !self.stored.contains_key(&array.bytes) {
            return Ok(None);
        }
        let hash = self.hash_of(index)?;
        let Some((variant, key)) = self.stored.get(&array.bytes).and_then(|of_size| of_size.get(&hash))
        else {
            return Ok(None);
        };
        let is_of_use = !(pairs.says_value(&array.key) && is_residual(variant, key)?);
        Ok(is_of_use.then(|| (variant.clone(), key.clone())))
    }

    /// XXH3-128 of an array's bytes.
    fn hash_of(&mut self, index: usize) -> Result<Hash128> {
        if let Some(hash) = self.hashes.get(&index) {
            return Ok(*hash);
        }
        let array = &self.source.arrays[index];
        let hash = match self.source.known_hash(array) {
            Some(hash) => hash,
            None => hash(self.source, array, self.progress)?,
        };
        self.hashes.insert(index, hash);
        Ok(hash)
    }
}

/// XXH3-128 of the first and last bytes of an array.
fn hash_of_ends(source: &Source, array: &SourceArray) -> Result<Hash128> {
    let length = usize::try_from(array.bytes.min(ENDS)).unwrap_or(0);
    let mut ends = vec![0; 2 * length];
    let (head, tail) = ends.split_at_mut(length);
    source.read(array, 0, head)?;
    source.read(array, array.bytes - length as u64, tail)?;
    Ok(Hash128::of(&ends))
}

/// Whether a stored array, or what it refers to, is a residual, or lies in others.
fn is_residual(variant: &Arc<Variant>, key: &ArrayKey) -> Result<bool> {
    let reader = ArrayReader::open(variant, key)?;
    let encoding = &reader.stored().encoding;
    Ok(encoding.is_given() && !encoding.is_near() || is_elsewhere(encoding))
}

/// XXH3-128 of an array's bytes.
fn hash(source: &Source, array: &SourceArray, progress: &dyn Progress) -> Result<Hash128> {
    let mut hasher = XxHash3_128::new();
    let mut piece = vec![0; usize::try_from(array.bytes.min(PIECE)).unwrap_or(0)];
    let mut at = 0;
    while at < array.bytes {
        let length = usize::try_from((array.bytes - at).min(PIECE)).unwrap_or(0);
        source.read(array, at, &mut piece[..length])?;
        hasher.write(&piece[..length]);
        progress.advance(0)?;
        at += length as u64;
    }
    Ok(Hash128(hasher.finish_128()))
}
