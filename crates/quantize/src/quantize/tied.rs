//! Output heads that are the table of input embeddings once more.

use qstore_checkpoint::{IoContext as _, Result, Source, SourceArray, zeroed};

use super::checkpoint::SourceTensor;
use super::rule::{Choice, Reason};

/// Bytes that are compared at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Which tensors repeat the input embeddings. Of a model whose configuration ties the two, transformers saves one;
/// where they differ it does not tie them, and both are needed.
pub(super) fn heads(source: &Source, tensors: &[SourceTensor<'_>], choices: &[Choice]) -> Result<Vec<usize>> {
    let of = |reason| {
        let all = choices.iter().enumerate().filter(move |(_, choice)| **choice == Choice::Kept(reason));
        all.map(|(index, _)| index)
    };
    let mut heads = Vec::new();
    for head in of(Reason::Head) {
        for embedding in of(Reason::Embedding) {
            if same(source, tensors[head].array, tensors[embedding].array)? {
                heads.push(head);
                break;
            }
        }
    }
    Ok(heads)
}

/// Whether two tensors have the same type, shape and bytes.
fn same(source: &Source, a: &SourceArray, b: &SourceArray) -> Result<bool> {
    if (a.dtype, &a.shape) != (b.dtype, &b.shape) {
        return Ok(false);
    }
    let block = |array: &SourceArray, start: u64| -> Result<Vec<u8>> {
        let length = (array.bytes - start).min(BLOCK_BYTES as u64);
        let mut bytes = zeroed(length).at(source.path(), "cannot read")?;
        source.read(array, start, &mut bytes)?;
        Ok(bytes)
    };
    for start in (0..a.bytes).step_by(BLOCK_BYTES) {
        if block(a, start)? != block(b, start)? {
            return Ok(false);
        }
    }
    Ok(true)
}
