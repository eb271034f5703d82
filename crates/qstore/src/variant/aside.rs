//! What a variant asks of its readers beside the bytes of its arrays. A few bytes of a plan can ask for a large array
//! as often as it has arrays; so all of them together are bounded.

use std::ops::Range;

use qstore_container::limits::{ASIDE_SLACK_BYTES, MAX_ASIDE};
use qstore_container::{
    ArrayRef, Dequantization, Encoding, Factor, Placed, QuantMatrix, StoredArray, View, Zero,
};

use super::Variant;
use super::shape::coded_shape;
use crate::quant::greatest_common_divisor;

/// What each part of an array costs that has to be looked at.
const PART_BYTES: u64 = 64;

/// Bytes that are decoded, or made of what is, for arrays beside their own.
#[derive(Debug, Default)]
pub(super) struct Aside(u64);

impl Aside {
    fn add(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
    }

    /// Adds what `variant` decodes for a matrix that `view` takes of another array.
    pub(super) fn add_matrix(&mut self, variant: &Variant, to: &ArrayRef, view: &View) {
        self.add(variant.lies(to, view).map_or(0, |lies| lies.decoded_aside()));
    }

    /// Adds what `variant` decodes for a matrix that is given to `array`.
    pub(super) fn add_given(
        &mut self,
        variant: &Variant,
        array: &StoredArray,
        given: &QuantMatrix<ArrayRef>,
    ) {
        self.add_matrix(variant, &given.codes.array, &given.codes.view);
        // Whole rows of its codes, one a byte.
        let rows = coded_shape(array).map_or(given.shape[0], |[rows, _]| rows.min(given.shape[0]));
        self.add(rows.saturating_mul(given.shape[1]));
        // Of one, its chunks are kept for the next; of several, each is decoded for each chunk that is given it.
        if array.encoding.known().len() > 1
            && let Ok((_, source)) = variant.source_of(&given.codes.array)
        {
            let all = source.bytes().unwrap_or(u64::MAX);
            let chunks = array.chunk_count().unwrap_or(u64::MAX);
            self.add(chunks.saturating_mul(source.chunk_bytes().min(all)).saturating_sub(all));
        }
        self.add_values(variant, &given.values, given.shape);
    }

    /// Adds as many elements of so many bytes as `array` has codes.
    pub(super) fn add_rows(&mut self, array: &StoredArray, width: u64) {
        let [rows, cols] = coded_shape(array).unwrap_or_default();
        self.add(rows.saturating_mul(cols).saturating_mul(width));
    }

    /// Adds what codes of a matrix stand for: what is read for that, and what is made of it.
    pub(super) fn add_values(
        &mut self,
        variant: &Variant,
        values: &Dequantization<ArrayRef>,
        [rows, cols]: [u64; 2],
    ) {
        let mut vectors = 2;
        for (_, field) in values.fields() {
            self.add_matrix(variant, &field.array, &field.view);
            let Ok(array) = variant.stored(&field.array) else { continue };
            if let Ok((owner, source)) = variant.source_of(&field.array)
                && let Encoding::Near { floats, .. } = &source.encoding
            {
                // It is decoded anew for each array that it is read for, and so is what it is near.
                self.add(source.bytes().unwrap_or(u64::MAX).saturating_mul(2));
                self.add_matrix(owner, &floats.array, &floats.view);
            }
            if let Ok(placed) = field.view.place(&array.shape) {
                self.add(slab_bytes(array, &placed));
            }
            if let Ok([rows, cols]) = field.shape(array.dtype, &array.shape) {
                self.add(rows.saturating_mul(cols).saturating_mul(4));
            }
            vectors += 1;
        }
        let factors = values.scales.iter().map(|scale| scale.factor());
        let mut tiles: Vec<[u64; 2]> = factors
            .filter_map(|factor| match factor {
                Factor::Numbers(numbers) => Some(numbers.tile),
                Factor::Constant(_) => None,
            })
            .collect();
        match &values.zero {
            Zero::None | Zero::Constant(_) => {}
            Zero::Codes(codes) => tiles.push(codes.tile),
            Zero::Bias(numbers) => tiles.push(numbers.tile),
        }
        let tile_rows = tiles.iter().fold(0, |rows, tile| greatest_common_divisor(rows, tile[0])).max(1);
        let in_tiles = || tiles.iter().map(|tile| cols.div_ceil(tile[1].max(1))).fold(0, u64::saturating_add);
        let groups: u64 = values.column_groups.as_ref().map_or_else(in_tiles, |groups| groups.count);
        let each = rows.div_ceil(tile_rows).saturating_mul(groups);
        self.add(each.saturating_mul(4 * vectors));
    }

    /// Whether it is more than a reader accepts of a variant whose files have so many bytes.
    pub(super) fn is_too_much(&self, raw_bytes: u64) -> bool {
        self.0 > raw_bytes.saturating_mul(MAX_ASIDE).saturating_add(ASIDE_SLACK_BYTES)
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
    /// Bytes of all rows that it is among.
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
        let bytes = line_bytes(array, &placed);
        Some(Lies { variant, source, slab: slab_bytes(array, &placed), bytes, placed })
    }
}

impl Lies<'_> {
    /// Bytes that are decoded for it beside its own.
    fn decoded_aside(&self) -> u64 {
        let of_array = decoded_aside(self.variant, self.source, &self.bytes);
        if self.placed.is_contiguous() { of_array } else { of_array.max(self.slab) }
    }
}

/// The bytes of an array that the lines of a matrix have.
fn line_bytes(array: &StoredArray, placed: &Placed) -> Range<u64> {
    let lines = placed.lines();
    let byte = |line: u64| line.saturating_mul(placed.pitch).saturating_mul(array.width());
    byte(lines.start)..byte(lines.end)
}

/// Bytes of the rows of an array that a matrix is among.
pub(super) fn slab_bytes(array: &StoredArray, placed: &Placed) -> u64 {
    let elements = placed.elements();
    elements.end.saturating_sub(elements.start).saturating_mul(array.width())
}

/// Bytes that are decoded for some bytes of an array, no reference, beside these.
fn decoded_aside(variant: &Variant, array: &StoredArray, bytes: &Range<u64>) -> u64 {
    let all = array.bytes().unwrap_or(u64::MAX);
    match &array.encoding {
        Encoding::Parts { parts } => {
            let of_part = |part: &qstore_container::Part| {
                let Ok(placed) = part.view.place(&array.shape) else { return 0 };
                let own_bytes = line_bytes(array, &placed);
                let shared = own_bytes.start.max(bytes.start)..own_bytes.end.min(bytes.end);
                let Some(own) = variant.own(&part.array).filter(|_| shared.start < shared.end) else {
                    return PART_BYTES;
                };
                let whole = if placed.is_contiguous() { 0 } else { own.bytes().unwrap_or(u64::MAX) };
                let within = shared.start - own_bytes.start..shared.end - own_bytes.start;
                let aside = match &own.encoding {
                    // Whatever of it is wanted; it refers to no array of parts.
                    Encoding::Reference { to, view } => {
                        variant.lies(to, view).map_or(0, |lies| lies.decoded_aside())
                    }
                    _ => decoded_aside(variant, own, &within),
                };
                aside.max(whole).max(PART_BYTES)
            };
            parts.iter().map(of_part).fold(0, u64::saturating_add)
        }
        // Of a bundle, a chunk of which is decoded once for all of its slices.
        Encoding::Slice { .. } | Encoding::Reference { .. } => 0,
        encoding if encoding.is_transposed() => {
            let &[rows, cols] = &array.shape[..] else { return 0 };
            // A chunk has so many of its rows, which are columns of what is coded.
            let (row, of_chunk) = (cols.saturating_mul(array.width()).max(1), array.chunk.cols.max(1));
            let first = bytes.start / row / of_chunk * of_chunk;
            let end = bytes.end.div_ceil(row).div_ceil(of_chunk).saturating_mul(of_chunk).min(rows);
            end.saturating_sub(first).saturating_mul(row)
        }
        _ if bytes.end.saturating_sub(bytes.start) >= all => 0,
        // Of a chunk at either end it may have a little.
        _ => all.min(array.chunk_bytes().saturating_mul(2)),
    }
}
