//! Decoding a whole variant into memory.

use std::sync::Arc;

use qstore_checkpoint::{IoContext as _, Options, Progress, Result, Silent, TensorBytes, size};
use qstore_container::{ArrayKey, Dtype, Encoding};

use super::work::decode_all;
use crate::decode::{ArrayBytes as _, ArrayReader, Readers};
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
    decode_pieces(variant, runs, options, progress)?;
    Ok(tensors)
}

/// What is decoded at a time of all tensors, in the order of storage.
fn runs_of<'a>(variant: &Arc<Variant>, tensors: &'a mut [LoadedTensor]) -> Result<Vec<Vec<Piece<'a>>>> {
    let (mut readers, mut pieces) = (Readers::default(), Vec::new());
    for tensor in tensors {
        let key = ArrayKey::Tensor(tensor.name.clone());
        let (turn, mut of_tensor) = (turn(variant, &key), Vec::new());
        cut(&readers.open(variant, &key)?, 0, &mut tensor.data, &mut of_tensor);
        pieces.extend(of_tensor.into_iter().map(|piece| (turn, piece)));
    }
    // Slices when it is their bundle's turn, which lies behind them; tensors that lie in the same place together.
    pieces.sort_by_key(|(turn, piece)| (*turn, piece.start));
    Ok(runs(pieces.into_iter().map(|(_, piece)| piece)))
}

/// Bytes of slices that are decoded together, about those of a bundle.
const RUN_BYTES: usize = 256 << 10;

/// Slices of a bundle that follow each other together: there may be very many. Other pieces alone.
fn runs<'a>(pieces: impl Iterator<Item = Piece<'a>>) -> Vec<Vec<Piece<'a>>> {
    let mut runs: Vec<Vec<Piece>> = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        bytes += piece.out.len();
        match runs.last_mut().filter(|run| bytes <= RUN_BYTES && piece.is_of_bundle_of(run)) {
            Some(run) => run.push(piece),
            None => {
                bytes = piece.out.len();
                runs.push(vec![piece]);
            }
        }
    }
    runs
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
    let mut pieces = Vec::new();
    cut(reader, start, out, &mut pieces);
    let threads = options.threads_for(pieces.len() / PIECES_FOR_THREAD);
    if threads < 2 {
        let read = pieces.into_iter().try_for_each(|piece| piece.reader.read(piece.start, piece.out));
        return read.map_err(|error| variant.or_changed(error));
    }
    let pieces = pieces.into_iter().map(|piece| vec![piece]).collect();
    decode_pieces(variant, pieces, &Options { threads, ..options.clone() }, &Silent)
}

/// A part of a tensor that is decoded at a time.
struct Piece<'a> {
    reader: Arc<ArrayReader>,
    start: u64,
    out: &'a mut [u8],
}

impl Piece<'_> {
    /// Whether it is of the bundle that the last piece of a run is of.
    fn is_of_bundle_of(&self, run: &[Self]) -> bool {
        let last = run.last().and_then(|last| last.reader.bundle());
        last.zip(self.reader.bundle()).is_some_and(|(last, own)| Arc::ptr_eq(last, own))
    }
}

/// Cuts `data`, which is a tensor's from byte `start` on, into pieces. Each thread takes the next one: so the whole is
/// read from its beginning to its end, and one huge tensor or a thousand small ones both keep every thread busy.
fn cut<'a>(reader: &Arc<ArrayReader>, start: u64, data: &'a mut [u8], pieces: &mut Vec<Piece<'a>>) {
    let (mut rest, mut start) = (data, start);
    while !rest.is_empty() {
        let length = size(reader.piece_end(start).saturating_sub(start)).clamp(1, rest.len());
        let (out, tail) = rest.split_at_mut(length);
        pieces.push(Piece { reader: reader.clone(), start, out });
        (rest, start) = (tail, start + length as u64);
    }
}

/// Decodes pieces, some of them together.
fn decode_pieces(
    variant: &Arc<Variant>,
    runs: Vec<Vec<Piece>>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let needs = |run: &Vec<Piece>| {
        let mut needs = Needs::default();
        run.iter().try_for_each(|piece| {
            piece.reader.needs(piece.start..piece.start + piece.out.len() as u64, &mut needs)
        })?;
        Ok(needs)
    };
    decode_all(variant, (&options.pool()?, options.memory), runs, needs, |run, from| {
        run.into_iter().try_for_each(|piece| {
            piece.reader.decode(from, piece.start, piece.out)?;
            Ok(progress.advance(piece.out.len() as u64)?)
        })
    })
}
