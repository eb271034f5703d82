//! Decoding a whole variant into memory.

use std::sync::Arc;

use qstore_checkpoint::{IoContext as _, Options, Progress, Result, Silent, TensorBytes, size};
use qstore_container::{ArrayKey, Dtype, Encoding};

use super::pieces::{Piece, cut, runs};
use super::work::decode_all;
use crate::decode::{ArrayReader, Readers};
use crate::fetch::Needs;
use crate::variant::{TensorInfo, Variant};

/// A tensor in memory.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedTensor {
    /// Its name; `FILE:NAME` where another file of the variant has one of that name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its elements, little-endian, the last dimension fastest.
    pub data: TensorBytes,
}

/// Decodes every tensor of a variant, in parallel, in the order of storage. Files that are not safetensors are not
/// read.
///
/// # Errors
/// Damage, an I/O error, or too little memory.
pub fn load(variant: &Arc<Variant>, options: &Options, progress: &dyn Progress) -> Result<Vec<LoadedTensor>> {
    progress.begin(&format!("loading {}", variant.name()), variant.entry().tensor_bytes)?;
    let allocate = |tensor: TensorInfo| {
        // Large ones take no memory before they are written to.
        let data = TensorBytes::zeroed(tensor.bytes).at(variant.folder(), "cannot hold the tensor")?;
        Ok(LoadedTensor { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, data })
    };
    let mut tensors = variant.tensors().into_iter().map(allocate).collect::<Result<Vec<_>>>()?;
    let runs = runs_of(variant, &mut tensors)?;
    decode_runs(variant, runs, options, progress)?;
    Ok(tensors)
}

/// A piece, and where its bytes go.
type Target<'a> = (Piece, &'a mut [u8]);

/// What is decoded at a time of all tensors, in the order of storage.
fn runs_of<'a>(variant: &Arc<Variant>, tensors: &'a mut [LoadedTensor]) -> Result<Vec<Vec<Target<'a>>>> {
    let (mut readers, mut targets) = (Readers::default(), Vec::new());
    for tensor in tensors {
        let key = ArrayKey::Tensor(tensor.name.clone());
        let (turn, reader) = (turn(variant, &key), readers.open(variant, &key)?);
        targets.extend(pieces_into(&reader, 0, &mut tensor.data).map(|target| (turn, target)));
    }
    // Slices when it is their bundle's turn, which lies behind them; tensors that lie in the same place together.
    targets.sort_by_key(|(turn, (piece, _))| (*turn, piece.start));
    Ok(runs(targets.into_iter().map(|(_, target)| target), |(piece, _)| piece.bytes))
}

/// The pieces of `out`, which is a tensor's from byte `start` on.
fn pieces_into<'a>(
    reader: &Arc<ArrayReader>,
    start: u64,
    out: &'a mut [u8],
) -> impl Iterator<Item = Target<'a>> {
    let end = start + out.len() as u64;
    cut(reader, start..end).scan(out, |rest, piece| {
        let own = rest.split_off_mut(..size(piece.bytes))?;
        Some((piece, own))
    })
}

/// Where the turn of an array comes in the order of the variant's own shards: where its bytes lie.
fn turn(variant: &Variant, key: &ArrayKey) -> Option<(usize, usize)> {
    let (origin, _) = variant.origin(key);
    let key = if origin.variant == *variant.name() { &origin.array } else { key };
    match &variant.stored_array(key).ok()?.encoding {
        Encoding::Slice { of, .. } => variant.place(of),
        _ => variant.place(key),
    }
}

/// Least pieces for each thread that decodes a tensor: fewer are decoded before it has begun.
const PIECES_FOR_THREAD: usize = 4;

/// Decodes the bytes of a tensor from byte `start` on; many on several threads.
pub(super) fn load_bytes(
    variant: &Arc<Variant>,
    reader: &Arc<ArrayReader>,
    start: u64,
    out: &mut [u8],
    options: &Options,
) -> Result<()> {
    let targets: Vec<_> = pieces_into(reader, start, out).collect();
    let threads = options.threads_for(targets.len() / PIECES_FOR_THREAD);
    if threads < 2 {
        let read = targets.into_iter().try_for_each(|(piece, out)| piece.read(out));
        return read.map_err(|error| variant.or_changed(error));
    }
    let runs = targets.into_iter().map(|target| vec![target]).collect();
    decode_runs(variant, runs, &Options { threads, ..options.clone() }, &Silent)
}

/// Decodes runs of pieces.
fn decode_runs(
    variant: &Arc<Variant>,
    runs: Vec<Vec<Target>>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let needs = |run: &Vec<Target>| {
        let mut needs = Needs::default();
        run.iter().try_for_each(|(piece, _)| piece.add_needs(&mut needs))?;
        Ok(needs)
    };
    decode_all(variant, (&options.pool()?, options.memory), runs, needs, |run, from| {
        run.into_iter().try_for_each(|(piece, out)| {
            piece.decode(from, out)?;
            Ok(progress.advance(piece.bytes)?)
        })
    })
}
