//! What a variant asks of its readers beside the bytes of its arrays. A few bytes of a plan can ask for a large matrix
//! as often as it has arrays; so all of them together are bounded.

use qstore_container::limits::{ASIDE_SLACK_BYTES, MAX_ASIDE};
use qstore_container::{Placed, StoredArray};

/// Bytes that are decoded for arrays beside their own.
#[derive(Debug, Default)]
pub(super) struct Aside(u64);

impl Aside {
    pub(super) fn add(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
    }

    /// Adds what is decoded of an array for a matrix that lies across its chunks.
    pub(super) fn add_matrix(&mut self, array: &StoredArray, placed: &Placed) {
        if array.encoding.is_transposed() {
            let elements =
                placed.lines().end.saturating_sub(placed.lines().start).saturating_mul(placed.pitch);
            let line = array.shape.last().copied().unwrap_or(1).max(1);
            // Chunks hold whole columns of what is coded, one at either end in part.
            let rows = (elements / line).saturating_add(array.chunk.cols.saturating_mul(2));
            let bytes = rows.saturating_mul(line).saturating_mul(array.width());
            self.add(bytes.min(array.bytes().unwrap_or(u64::MAX)));
        } else if !placed.is_contiguous() {
            self.add(slab_bytes(array, placed));
        }
    }

    /// Whether it is more than a reader accepts of a variant whose files have so many bytes.
    pub(super) fn is_too_much(&self, raw_bytes: u64) -> bool {
        self.0 > raw_bytes.saturating_mul(MAX_ASIDE).saturating_add(ASIDE_SLACK_BYTES)
    }
}

/// Bytes of the rows of an array that a matrix is among.
pub(super) fn slab_bytes(array: &StoredArray, placed: &Placed) -> u64 {
    let elements = placed.elements();
    elements.end.saturating_sub(elements.start).saturating_mul(array.width())
}
