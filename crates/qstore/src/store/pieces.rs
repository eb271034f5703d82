//! What is decoded at a time of the arrays of a variant.

use std::ops::Range;
use std::sync::Arc;

use qstore_checkpoint::Result;

use crate::decode::{ArrayBytes as _, ArrayReader};
use crate::fetch::{Fetched, Needs};

/// Bytes of small pieces that are decoded together, about those of a bundle.
const RUN_BYTES: u64 = 256 << 10;
/// Small pieces that are decoded together.
const RUN_PIECES: usize = 4096;

/// A part of an array that is decoded at a time.
pub(super) struct Piece {
    reader: Arc<ArrayReader>,
    pub(super) start: u64,
    pub(super) bytes: u64,
}

impl Piece {
    pub(super) fn add_needs(&self, needs: &mut Needs) -> Result<()> {
        self.reader.needs(self.start..self.start + self.bytes, needs)
    }

    /// Decodes it into `out`, which has its length.
    pub(super) fn decode(&self, from: &Fetched, out: &mut [u8]) -> Result<()> {
        self.reader.decode(from, self.start, out)
    }

    /// Reads and decodes it into `out`, which has its length.
    pub(super) fn read(&self, out: &mut [u8]) -> Result<()> {
        self.reader.read(self.start, out)
    }
}

/// Cuts bytes of an array into pieces. Each thread takes the next one: so the whole is read from its beginning to its
/// end, and one huge tensor or a thousand small ones both keep every thread busy.
pub(super) fn cut(reader: &Arc<ArrayReader>, bytes: Range<u64>) -> impl Iterator<Item = Piece> {
    let mut start = bytes.start;
    std::iter::from_fn(move || {
        (start < bytes.end).then(|| {
            let end = reader.piece_end(start).clamp(start + 1, bytes.end);
            let piece = Piece { reader: reader.clone(), start, bytes: end - start };
            start = end;
            piece
        })
    })
}

/// Small pieces that follow each other together, as there may be very many, and slices of a bundle share what is
/// decoded of it. Other pieces alone.
pub(super) fn runs<P>(pieces: impl IntoIterator<Item = P>, bytes_of: impl Fn(&P) -> u64) -> Vec<Vec<P>> {
    let mut runs: Vec<Vec<P>> = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        // A large one fills a run.
        let own = Some(bytes_of(&piece)).filter(|bytes| *bytes <= RUN_BYTES / 4).unwrap_or(RUN_BYTES + 1);
        bytes += own;
        match runs.last_mut().filter(|run| bytes <= RUN_BYTES && run.len() < RUN_PIECES) {
            Some(run) => run.push(piece),
            None => {
                runs.push(vec![piece]);
                bytes = own;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_that_follow_each_other_are_decoded_together() {
        let lengths = |pieces: &[u64]| -> Vec<usize> {
            runs(pieces.to_vec(), |bytes| *bytes).iter().map(Vec::len).collect()
        };
        let (small, large) = (RUN_BYTES / 4, RUN_BYTES / 4 + 1);
        assert!(lengths(&[]).is_empty());
        assert_eq!(lengths(&[1, 1, large, 1, large, large, 1, 1, 1]), [2, 1, 1, 1, 1, 3]);
        assert_eq!(lengths(&[small; 9]), [4, 4, 1]);
        assert_eq!(lengths(&[0; RUN_PIECES + 1]), [RUN_PIECES, 1]);
        assert_eq!(runs([3, 1, 2], |bytes| *bytes), [[3, 1, 2]]);
    }
}
