//! What a variant asks of its readers beside the bytes of its arrays. A few bytes of a plan can ask for a large array
//! as often as it has arrays; so all of them together are bounded.

use std::collections::VecDeque;
use std::ops::Range;

use qstore_container::limits::{ASIDE_SLACK_BYTES, MAX_ASIDE};
use qstore_container::{ArrayRef, Encoding, Placed, StoredArray, View};

use super::Variant;
use super::decoded::{HELD_BYTES, HELD_CHUNKS};

/// Bytes that are decoded for arrays beside their own.
#[derive(Debug, Default)]
pub(super) struct Aside<'a> {
    bytes: u64,
    /// Chunks of which a little was asked last, as a reader holds them.
    held: VecDeque<HeldChunk<'a>>,
}

#[derive(Debug)]
struct HeldChunk<'a> {
    array: &'a StoredArray,
    index: u64,
    bytes: u64,
}

impl<'a> Aside<'a> {
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Adds what is decoded for a reference of `variant`.
    pub(super) fn add_reference(&mut self, variant: &'a Variant, to: &ArrayRef, view: &View) {
        let Some(lies) = variant.lies(to, view) else { return };
        match lies.across() {
            0 if !view.is_whole() => self.add_ends(&lies),
            across => self.add(across),
        }
    }

    /// Adds what is decoded for a matrix that `view` takes of an array that `variant` refers to.
    pub(super) fn add_matrix(&mut self, variant: &'a Variant, to: &ArrayRef, view: &View) {
        self.add(variant.lies(to, view).map_or(0, |lies| lies.across()));
    }

    /// Adds the chunks at either end of a matrix, of which it may have a little, where these are not held.
    fn add_ends(&mut self, lies: &Lies<'a>) {
        let (array, of_chunk) = (lies.source, lies.source.chunk_bytes().max(1));
        if !array.encoding.has_chunks() || lies.bytes.is_empty() {
            return;
        }
        let bytes = of_chunk.min(array.bytes().unwrap_or(u64::MAX));
        for index in [lies.bytes.start / of_chunk, (lies.bytes.end - 1) / of_chunk] {
            let is_held = |held: &HeldChunk| std::ptr::eq(held.array, array) && held.index == index;
            if self.held.iter().any(is_held) {
                continue;
            }
            self.add(bytes);
            self.held.push_back(HeldChunk { array, index, bytes });
            let mut all: u64 = self.held.iter().map(|held| held.bytes).sum();
            while (all > HELD_BYTES || self.held.len() > HELD_CHUNKS) && self.held.len() > 1 {
                all -= self.held.pop_front().map_or(0, |oldest| oldest.bytes);
            }
        }
    }

    /// Whether it is more than a reader accepts of a variant whose files have so many bytes.
    pub(super) fn is_too_much(&self, raw_bytes: u64) -> bool {
        self.bytes > raw_bytes.saturating_mul(MAX_ASIDE).saturating_add(ASIDE_SLACK_BYTES)
    }
}

/// Where a matrix lies.
struct Lies<'a> {
    /// The variant that has its bytes.
    variant: &'a Variant,
    /// The array there, no reference to all of another.
    source: &'a StoredArray,
    /// Where it lies in what was referred to.
    placed: Placed,
    /// All rows that it is among.
    slab: u64,
    /// The bytes of its lines.
    bytes: Range<u64>,
}

impl Variant {
    /// Where a matrix of an array that it refers to lies; `None` where that has no such matrix.
    fn lies(&self, to: &ArrayRef, view: &View) -> Option<Lies<'_>> {
        let array = self.stored(to).ok()?;
        let (variant, source) = self.source_of(to).ok()?;
        let placed = view.place(&array.shape).ok()?;
        let lines = placed.lines();
        let byte = |line: u64| line.saturating_mul(placed.pitch).saturating_mul(array.width());
        let bytes = byte(lines.start)..byte(lines.end);
        Some(Lies { variant, source, slab: slab_bytes(array, &placed), bytes, placed })
    }
}

impl Lies<'_> {
    /// Bytes that are decoded where the matrix lies across its array: the slab, or whatever of the array lies across.
    fn across(&self) -> u64 {
        let of_array = bytes_across(self.variant, self.source, &self.bytes);
        if self.placed.is_contiguous() { of_array } else { of_array.max(self.slab) }
    }
}

/// Bytes of the rows of an array that a matrix is among.
pub(super) fn slab_bytes(array: &StoredArray, placed: &Placed) -> u64 {
    let elements = placed.elements();
    elements.end.saturating_sub(elements.start).saturating_mul(array.width())
}

/// Bytes that are decoded for some bytes of an array where each row of it lies across many chunks: of a transposed
/// matrix, or of parts that are laid across.
fn bytes_across(variant: &Variant, array: &StoredArray, bytes: &Range<u64>) -> u64 {
    match &array.encoding {
        Encoding::Parts { parts } => {
            let of_part = |part: &qstore_container::Part| {
                let Ok(placed) = part.view.place(&array.shape) else { return 0 };
                let lines = placed.lines();
                let byte = |line: u64| line.saturating_mul(placed.pitch).saturating_mul(array.width());
                let is_apart = byte(lines.end) <= bytes.start || bytes.end <= byte(lines.start);
                let Some(own) = variant.own(&part.array).filter(|_| !is_apart) else { return 0 };
                let all = own.bytes().unwrap_or(u64::MAX);
                match &own.encoding {
                    // A part refers to no array of parts.
                    Encoding::Reference { to, view } => {
                        variant.lies(to, view).map_or(0, |lies| lies.across().max(all))
                    }
                    encoding if encoding.is_transposed() || !placed.is_contiguous() => all,
                    _ => 0,
                }
            };
            parts.iter().map(of_part).fold(0, u64::saturating_add)
        }
        encoding if encoding.is_transposed() => {
            let &[rows, cols] = &array.shape[..] else { return 0 };
            // A chunk has so many of its rows, which are columns of what is coded.
            let (row, of_chunk) = (cols.saturating_mul(array.width()).max(1), array.chunk.cols.max(1));
            let first = bytes.start / row / of_chunk * of_chunk;
            let end = bytes.end.div_ceil(row).div_ceil(of_chunk).saturating_mul(of_chunk).min(rows);
            end.saturating_sub(first).saturating_mul(row)
        }
        _ => 0,
    }
}
