//! Measuring what is no quantised matrix: scales and zero-points, and all other tensors.

use std::collections::HashSet;

use qstore_checkpoint::{IoContext as _, Result, Source, SourceArray, zeroed};
use qstore_container::Encoding;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::bits::Bits;
use super::chain::Chain;
use super::counts::{Counter, entropy_bits, whole};
use super::matrix::keys_of_rows;
use super::prefix::{DENSE, huffman_bits};
use super::raw::raw_bits;
use crate::encode::{measure, measure_bundle};
use crate::plan::{Bundles, Chooser, Pairs, USUAL_LEVELS, is_small};

/// Bytes read at a time.
const PIECE: u64 = 4 << 20;
/// Smaller tensors are rather stored again than referred to.
const REFERENCE_BYTES: u64 = 64;

/// The rest of one variant, measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RestBits {
    /// Alone, then given each quantised variant below.
    pub(super) measures: Vec<RestMeasure>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RestMeasure {
    /// The index of the variant that it is given.
    pub(super) given: Option<usize>,
    /// Of the scales, zero-points and groups nothing but `ours` and `raw`.
    pub(super) scales: Bits,
    pub(super) other: Bits,
}

/// An array of the rest.
struct Tensor<'a> {
    index: usize,
    array: &'a SourceArray,
    hash: u128,
    is_scale: bool,
    /// Bits alone; `ours` is 0 if it is bundled.
    bits: Bits,
    small: bool,
}

/// Measures the tensors of variant `member` that are in no row.
pub(super) fn measure_rest(chain: &Chain, member: usize) -> Result<RestBits> {
    let this = &chain.members[member];
    let tensors = rest(chain, member).into_par_iter().map(|index| tensor(chain, member, index));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let mut measures = vec![sum(&this.source, None, &tensors, &HashSet::new())?];
    for (lower, _) in &this.given {
        let source = &chain.members[*lower].source;
        let hashes = rest(chain, *lower).into_par_iter().map(|index| hash(source, &source.arrays[index]));
        measures.push(sum(&this.source, Some(*lower), &tensors, &hashes.collect::<Result<_>>()?)?);
    }
    Ok(RestBits { measures })
}

/// The tensors of a variant that are in no row, by their index.
fn rest(chain: &Chain, member: usize) -> Vec<usize> {
    let in_rows = keys_of_rows(chain, member);
    let arrays = chain.members[member].source.arrays.iter().enumerate();
    let rest = arrays.filter(|(_, array)| array.key.tensor().is_some() && !in_rows.contains(&array.key));
    rest.map(|(index, _)| index).collect()
}

fn tensor(chain: &Chain, member: usize, index: usize) -> Result<Tensor<'_>> {
    let this = &chain.members[member];
    let array = &this.source.arrays[index];
    let is_scale = this.values.contains(&array.key);
    let small = is_small(array, &this.alone);
    let width = match array.dtype.bitsize() {
        16 => 2,
        32 => 4,
        _ => 1,
    };
    let mut bits = Bits {
        weights: array.bytes.saturating_mul(8) / (array.dtype.bitsize() as u64).max(1),
        raw: array.bytes.saturating_mul(8),
        ..Bits::default()
    };
    if !is_scale {
        let mut counter = Counter::new(width);
        let raw = raw_bits(&this.source, array, |piece| counter.add(piece))?;
        let counts = counter.finish();
        bits.entropy = Some(whole(entropy_bits(&counts)));
        bits.huffman = Some(huffman_bits(&counts, DENSE));
        (bits.zstd, bits.zipnn) = (Some(raw.zstd), Some(raw.zipnn));
    }
    if !small {
        let (source, name, pairs) = (&*this.source, &this.name, &Pairs::default());
        bits.ours =
            measure(source, Chooser { source, name, pairs, levels: USUAL_LEVELS.into() }.plan(index)?)?.bytes
                * 8;
    }
    Ok(Tensor { index, array, hash: hash(&this.source, array)?, is_scale, bits, small })
}

fn hash(source: &Source, array: &SourceArray) -> Result<u128> {
    let mut hasher = XxHash3_128::new();
    let mut piece = zeroed(PIECE.min(array.bytes)).at(source.path(), "cannot hold a chunk")?;
    let mut at = 0;
    while at < array.bytes {
        let length = usize::try_from(PIECE.min(array.bytes - at)).unwrap_or(0);
        source.read(array, at, &mut piece[..length])?;
        hasher.write(&piece[..length]);
        at += length as u64;
    }
    hasher.write(&array.bytes.to_le_bytes());
    Ok(hasher.finish_128())
}

/// What all take where arrays with these hashes are there already: a tensor that is there, or comes again, takes
/// nothing.
fn sum(
    source: &Source,
    given: Option<usize>,
    tensors: &[Tensor],
    there: &HashSet<u128>,
) -> Result<RestMeasure> {
    let mut seen = there.clone();
    let (mut scales, mut other) = (Bits::default(), Bits::default());
    let mut bundles = Bundles::default();
    let mut members: Vec<(Encoding, &Tensor)> = Vec::new();
    let mut closed = Vec::new();
    for tensor in tensors {
        let is_there = !seen.insert(tensor.hash) && tensor.array.bytes >= REFERENCE_BYTES;
        let mut bits = tensor.bits;
        if is_there {
            bits.ours = 0;
        } else if tensor.small {
            let mut raw = zeroed(tensor.array.bytes).at(source.path(), "cannot hold a tensor")?;
            source.read(&source.arrays[tensor.index], 0, &mut raw)?;
            let (encoding, full) = bundles.add(tensor.array.dtype, &raw);
            closed.extend(full);
            members.push((encoding, tensor));
        }
        if given.is_some() {
            (bits.entropy, bits.huffman, bits.zstd, bits.zipnn) = (None, None, None, None);
        }
        let sum = if tensor.is_scale { &mut scales } else { &mut other };
        *sum = sum.plus(bits);
    }
    for bundle in closed.into_iter().chain(bundles.close()) {
        let key = bundle.key().clone();
        let bytes = bundle.raw.len() as u64;
        let bits = measure_bundle(source, bundle)?.saturating_mul(8);
        let is_slice = |encoding: &Encoding| matches!(encoding, Encoding::Slice { of, .. } if *of == key);
        for (_, tensor) in members.iter().filter(|(encoding, _)| is_slice(encoding)) {
            let share = bits.saturating_mul(tensor.array.bytes).checked_div(bytes).unwrap_or(0);
            let sum = if tensor.is_scale { &mut scales } else { &mut other };
            sum.ours = sum.ours.saturating_add(share);
        }
    }
    Ok(RestMeasure { given, scales, other })
}
