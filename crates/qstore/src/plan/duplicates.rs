//! Arrays whose bytes are stored already.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qstore_container::{ArrayKey, ArrayRef, Hash128, VariantName};
use twox_hash::XxHash3_128;

use super::{Original, Pairs};
use crate::decode::Variant;
use crate::error::{IoContext as _, Result};
use crate::file::zeroed;
use crate::ingest::{Source, SourceArray};

/// Bytes at either end of an array that tell it from most others.
const ENDS: u64 = 4 << 10;
/// Bytes that a reference takes in the plan, about: smaller tensors are rather stored again.
const REFERENCE_BYTES: u64 = 64;
/// Bytes read at a time.
const PIECE: u64 = 4 << 20;

/// Finds equal arrays: by hash here; whoever stores a reference compares the bytes.
#[derive(Debug)]
pub(crate) struct Duplicates<'a> {
    source: &'a Source,
    name: &'a VariantName,
    /// Arrays of the variants below, by size and hash.
    stored: HashMap<u64, HashMap<Hash128, (Arc<Variant>, ArrayKey)>>,
    /// Arrays of the source that were looked at and are not references, by size and hash of their ends.
    own: HashMap<(u64, Hash128), Vec<usize>>,
    /// The same of small ones, by size and hash.
    own_small: HashMap<(u64, Hash128), usize>,
}

impl<'a> Duplicates<'a> {
    /// For the arrays of `source`, which will be variant `name`, above the variants `lower`.
    pub(crate) fn new(source: &'a Source, name: &'a VariantName, lower: &[Arc<Variant>]) -> Result<Self> {
        let sizes: HashSet<u64> = source.arrays.iter().map(|array| array.bytes).collect();
        let mut stored: HashMap<u64, HashMap<Hash128, _>> = HashMap::new();
        for variant in lower {
            for (array, _) in variant.arrays() {
                let bytes = array.bytes().unwrap_or(0);
                if !sizes.contains(&bytes) {
                    continue;
                }
                let hash = match array.hash {
                    Some(hash) => hash,
                    None if bytes < REFERENCE_BYTES => continue,
                    None => Hash128::of(&read(variant, &array.key)?),
                };
                let of_size = stored.entry(bytes).or_default();
                of_size.entry(hash).or_insert_with(|| (variant.clone(), array.key.clone()));
            }
        }
        Ok(Self { source, name, stored, own: HashMap::new(), own_small: HashMap::new() })
    }

    /// As [`find`](Self::find), of a small tensor with these bytes, which are compared here; and their hash.
    pub(crate) fn find_small(
        &mut self,
        index: usize,
        bytes: &[u8],
        pairs: &Pairs,
    ) -> Result<Option<(ArrayRef, Hash128)>> {
        let size = bytes.len() as u64;
        if size < REFERENCE_BYTES {
            return Ok(None);
        }
        let hash = Hash128::of(bytes);
        if let Some((variant, key)) = self.stored.get(&size).and_then(|of_size| of_size.get(&hash)) {
            let plain = pairs.is_of_grid(&self.source.arrays[index].key);
            let same = !(plain && is_residual(variant, key)?) && read(variant, key)? == bytes;
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
                Ok((found == bytes).then_some((to, hash)))
            }
        }
    }

    /// An array with the same bytes as array `index` of the source: in a variant below, or among those asked about before.
    /// What a grid is made of refers to no residual: readers refuse residuals of which a grid is itself one.
    pub(crate) fn find(&mut self, index: usize, pairs: &Pairs) -> Result<Option<(ArrayRef, Original)>> {
        let array = &self.source.arrays[index];
        if array.bytes == 0 {
            return Ok(None);
        }
        let plain = pairs.is_of_grid(&array.key);
        if let Some(of_size) = self.stored.get(&array.bytes) {
            let hash = hash(self.source, array)?;
            if let Some((variant, key)) = of_size.get(&hash)
                && !(plain && is_residual(variant, key)?)
            {
                return Ok(Some((variant.origin(key), Original::Stored(Box::new(variant.array(key)?)))));
            }
        }
        let ends = (array.bytes, self.hash_of_ends(array)?);
        let alike = self.own.entry(ends).or_default();
        for &other in alike.iter() {
            let original = &self.source.arrays[other];
            if plain && !pairs.of(&original.key).is_empty() {
                continue;
            }
            let short = array.bytes <= 2 * ENDS;
            if short || hash(self.source, array)? == hash(self.source, original)? {
                let to = ArrayRef { variant: self.name.clone(), array: original.key.clone() };
                return Ok(Some((to, Original::Own(other))));
            }
        }
        alike.push(index);
        Ok(None)
    }

    fn hash_of_ends(&self, array: &SourceArray) -> Result<Hash128> {
        let length = usize::try_from(array.bytes.min(ENDS)).unwrap_or(0);
        let mut ends = vec![0; 2 * length];
        let (head, tail) = ends.split_at_mut(length);
        self.source.read(array, 0, head)?;
        self.source.read(array, array.bytes - length as u64, tail)?;
        Ok(Hash128::of(&ends))
    }
}

/// Whether a stored array, or what it refers to, is a residual.
fn is_residual(variant: &Arc<Variant>, key: &ArrayKey) -> Result<bool> {
    Ok(variant.array(key)?.stored().encoding.is_residual())
}

/// All of a stored array.
fn read(variant: &Arc<Variant>, key: &ArrayKey) -> Result<Vec<u8>> {
    let reader = variant.array(key)?;
    let mut bytes = zeroed(reader.bytes()?).at(variant.folder(), "cannot hold a tensor")?;
    reader.read(0, &mut bytes)?;
    Ok(bytes)
}

/// XXH3-128 of an array's bytes.
fn hash(source: &Source, array: &SourceArray) -> Result<Hash128> {
    let mut hasher = XxHash3_128::new();
    let mut piece = vec![0; usize::try_from(array.bytes.min(PIECE)).unwrap_or(0)];
    let mut at = 0;
    while at < array.bytes {
        let length = usize::try_from((array.bytes - at).min(PIECE)).unwrap_or(0);
        source.read(array, at, &mut piece[..length])?;
        hasher.write(&piece[..length]);
        at += length as u64;
    }
    Ok(Hash128(hasher.finish_128()))
}
