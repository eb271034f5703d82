//! Decoding a whole variant into memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use qstore_container::{ArrayKey, Dtype};

use super::Options;
use crate::decode::{ArrayReader, Variant};
use crate::error::{IoContext as _, Result};
use crate::memory::TensorBytes;
use crate::progress::{Progress, Silent};

/// A tensor in memory.
#[derive(Debug, PartialEq, Eq)]
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

/// Decodes every tensor of a variant, in parallel, in the order of storage. Files that are not safetensors are not read.
///
/// # Errors
/// Damage, an I/O error, or too little memory.
pub fn load(variant: &Arc<Variant>, options: &Options, progress: &dyn Progress) -> Result<Vec<LoadedTensor>> {
    progress.begin(&format!("loading {}", variant.name()), variant.entry().tensor_bytes)?;
    let allocate = |tensor: crate::decode::TensorInfo| {
        // Large ones take no memory before they are written to.
        let data = TensorBytes::zeroed(tensor.bytes).at(variant.folder(), "cannot hold the tensor")?;
        Ok(LoadedTensor { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, data })
    };
    let mut tensors = variant.tensors().into_iter().map(allocate).collect::<Result<Vec<_>>>()?;
    let pieces = Pieces { variant, tensors: tensors.iter_mut(), open: None };
    decode_all(pieces, options, progress)?;
    Ok(tensors)
}

/// Least pieces for each thread that decodes a tensor: fewer are decoded before it has begun.
const PIECES_FOR_THREAD: u64 = 4;

/// Decodes the bytes of a tensor from byte `start` on; many on several threads.
pub(super) fn load_bytes(
    variant: &Arc<Variant>,
    reader: &Arc<ArrayReader>,
    start: u64,
    out: &mut [u8],
    options: &Options,
) -> Result<()> {
    let piece = reader.piece_end(start).saturating_sub(start).max(1);
    let pieces = out.len() as u64 / piece;
    let most = usize::try_from(pieces / PIECES_FOR_THREAD).unwrap_or(usize::MAX);
    let threads = options.threads_for(most);
    if threads < 2 {
        return reader.read(start, out);
    }
    let open = OpenTensor::new(reader.clone(), start, out);
    let pieces = Pieces { variant, tensors: [].iter_mut(), open: Some(open) };
    decode_all(pieces, &Options { threads, ..options.clone() }, &Silent)
}

/// Decodes the pieces on all threads. Each takes the next one: so the whole is read from its beginning to its end, and one huge tensor or a thousand
/// small ones both keep every thread busy.
fn decode_all(pieces: Pieces, options: &Options, progress: &dyn Progress) -> Result<()> {
    let (pieces, failed) = (Mutex::new(pieces), AtomicBool::new(false));
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = |_: rayon::BroadcastContext| {
        while !failed.load(Ordering::Relaxed) {
            let Some(piece) = next() else { break };
            let done = piece.and_then(|Piece { reader, start, out }| {
                reader.read(start, out)?;
                Ok(progress.advance(out.len() as u64)?)
            });
            if done.is_err() {
                failed.store(true, Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    };
    options.pool()?.broadcast(work).into_iter().collect()
}

/// A part of a tensor that is decoded at a time.
struct Piece<'a> {
    reader: Arc<ArrayReader>,
    start: u64,
    out: &'a mut [u8],
}

/// All pieces in the order of storage.
struct Pieces<'a> {
    variant: &'a Arc<Variant>,
    tensors: std::slice::IterMut<'a, LoadedTensor>,
    open: Option<OpenTensor<'a>>,
}

/// The tensor that is being decoded.
struct OpenTensor<'a> {
    reader: Arc<ArrayReader>,
    /// What is yet to be handed out, from byte `at` on.
    rest: &'a mut [u8],
    at: u64,
}

impl<'a> OpenTensor<'a> {
    /// What decodes `data`, which is the tensor's from byte `at` on.
    fn new(reader: Arc<ArrayReader>, at: u64, data: &'a mut [u8]) -> Self {
        Self { reader, rest: data, at }
    }

    fn next(&mut self) -> Option<Piece<'a>> {
        let rest = std::mem::take(&mut self.rest);
        let piece = usize::try_from(self.reader.piece_end(self.at) - self.at).unwrap_or(usize::MAX);
        let (out, rest) = rest.split_at_mut(piece.min(rest.len()));
        let piece = Piece { reader: self.reader.clone(), start: self.at, out };
        self.at += piece.out.len() as u64;
        self.rest = rest;
        (!piece.out.is_empty()).then_some(piece)
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Result<Piece<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.open.as_mut().and_then(OpenTensor::next) {
                return Some(Ok(piece));
            }
            let tensor = self.tensors.next()?;
            match self.variant.array(&ArrayKey::Tensor(tensor.name.clone())) {
                Ok(reader) => self.open = Some(OpenTensor::new(Arc::new(reader), 0, &mut tensor.data)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
