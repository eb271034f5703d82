//! What a variant asks of its readers beside the bytes of its arrays. A few bytes of a plan can ask for a large matrix
//! as often as it has arrays; so all of them together are bounded.

use std::ops::Range;

use qstore_container::limits::{ASIDE_SLACK_BYTES, MAX_ASIDE};
use qstore_container::{Encoding, Placed, StoredArray};

use super::Variant;

/// Bytes that are decoded for arrays beside their own.
#[derive(Debug, Default)]
pub(super) struct Aside(u64);

impl Aside {
    pub(super) fn add(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
    }

    /// Adds what is decoded for a matrix in `array`, which is `source` of `variant` or refers to all of that: all of the
    /// slab, or of its chunks, where the matrix lies across them.
    pub(super) fn add_matrix(
        &mut self,
        array: &StoredArray,
        (variant, source): (&Variant, &StoredArray),
        placed: &Placed,
    ) {
        let lines = placed.lines();
        let byte = |line: u64| line.saturating_mul(placed.pitch).saturating_mul(array.width());
        // A reference may have other elements.
        let elements = byte(lines.start) / source.width()..byte(lines.end).div_ceil(source.width());
        let of_chunks = bytes_across(variant, source, &elements);
        self.add(if placed.is_contiguous() { of_chunks } else { of_chunks.max(slab_bytes(array, placed)) });
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

/// Bytes of chunks that hold some of these elements where each row lies across many of them: of a transposed matrix, or
/// of parts that are laid across.
fn bytes_across(variant: &Variant, array: &StoredArray, elements: &Range<u64>) -> u64 {
    match &array.encoding {
        Encoding::Parts { parts } => {
            let of_part = |part: &qstore_container::Part| {
                let Ok(placed) = part.view.place(&array.shape) else { return 0 };
                let lines = placed.lines();
                let is_apart = lines.end.saturating_mul(placed.pitch) <= elements.start
                    || elements.end <= lines.start.saturating_mul(placed.pitch);
                let Some(own) = variant.own(&part.array).filter(|_| !is_apart) else { return 0 };
                let lies_across = !placed.is_contiguous()
                    || own.encoding.is_transposed()
                    || matches!(own.encoding, Encoding::Reference { .. });
                if lies_across { own.bytes().unwrap_or(u64::MAX) } else { 0 }
            };
            parts.iter().map(of_part).fold(0, u64::saturating_add)
        }
        encoding if encoding.is_transposed() => {
            let &[rows, cols] = &array.shape[..] else { return 0 };
            // A chunk has so many of its rows, which are columns of what is coded.
            let of_chunk = array.chunk.cols.max(1);
            let first = elements.start / cols.max(1) / of_chunk * of_chunk;
            let end =
                elements.end.div_ceil(cols.max(1)).div_ceil(of_chunk).saturating_mul(of_chunk).min(rows);
            end.saturating_sub(first).saturating_mul(cols).saturating_mul(array.width())
        }
        _ => 0,
    }
}
