//! What a variant asks of its readers beside the bytes of its files. A few bytes of a plan can ask for a large array
//! as often as it has arrays, and that one for others; so all of them together are bounded.

use std::collections::HashSet;
use std::ops::Range;

use qstore_checkpoint::{Error, Result};
use qstore_container::limits::{ASIDE_SLACK_BYTES, MAX_ASIDE};
use qstore_container::{ArrayRef, Dequantization, Encoding, Part, Placed, StoredArray, View, Zero};

use super::shape::coded_shape;
use super::{Variant, about_array};
use crate::quant::greatest_common_divisor;

/// What each part or chunk of an array costs whose place has to be known.
const PLACE_BYTES: u64 = 64;

impl Variant {
    /// Whether its files ask for no more than a reader accepts. What arrays refer to has been found to fit them.
    pub(super) fn check_aside(&self) -> Result<()> {
        let most = self.entry.raw_bytes.saturating_mul(MAX_ASIDE).saturating_add(ASIDE_SLACK_BYTES);
        let mut aside = Aside::default();
        for file in self.files() {
            aside.open.clear();
            for key in file.arrays() {
                let array = self.stored_array(&key)?;
                aside.add_bytes(self, array, 0..array.bytes().unwrap_or(u64::MAX));
                if aside.bytes > most {
                    let what = format!("{key}: it and those before ask for far more than their files have");
                    let error = Error::damaged(self.folder(), what);
                    return Err(about_array(error, &self.entry.name, &key));
                }
            }
        }
        Ok(())
    }

    /// An array that its plan refers to, and where the matrix lies that `view` takes of it.
    fn placed(&self, to: &ArrayRef, view: &View) -> Option<(&StoredArray, Placed)> {
        let stored = self.stored(to).ok()?;
        Some((stored, view.place(&stored.shape).ok()?))
    }
}

/// What is decoded, or made of what is, beside the bytes that are asked for.
#[derive(Debug, Default)]
struct Aside {
    bytes: u64,
    /// Where the arrays are that readers have opened, which those of a file share.
    open: HashSet<usize>,
}

impl Aside {
    fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Adds what these bytes of an array of `variant` ask for.
    fn add_bytes(&mut self, variant: &Variant, array: &StoredArray, bytes: Range<u64>) {
        match &array.encoding {
            // Whatever of it is asked for: it is made whole where it is no run of bytes.
            Encoding::Reference { to, view } => self.add_matrix(variant, to, view),
            Encoding::Parts { parts } => parts.iter().for_each(|part| {
                self.add(PLACE_BYTES);
                self.add_part(variant, array, part, &bytes);
            }),
            // Of a bundle, a chunk of which is decoded once for all of its slices.
            Encoding::Slice { .. } => {}
            _ => {
                self.add_open(variant, array);
                let all = array.bytes().unwrap_or(u64::MAX);
                let beside = beside(array, &bytes);
                self.add(beside);
                if let Some([rows, _]) = coded_shape(array) {
                    let decoded = bytes.end.saturating_sub(bytes.start).saturating_add(beside);
                    self.add_given(variant, array, portion(rows, decoded, all));
                }
            }
        }
    }

    /// Adds what some bytes of `array`, which is made of parts, ask for of one of them.
    fn add_part(&mut self, variant: &Variant, array: &StoredArray, part: &Part, bytes: &Range<u64>) {
        let (Ok(placed), Some(own)) = (part.view.place(&array.shape), variant.own(&part.array)) else {
            return;
        };
        let lines = line_bytes(array, &placed);
        let shared = lines.start.max(bytes.start)..lines.end.min(bytes.end);
        if shared.is_empty() {
            return;
        }
        if placed.is_contiguous() {
            self.add_bytes(variant, own, shared.start - lines.start..shared.end - lines.start);
        } else {
            let all = own.bytes().unwrap_or(u64::MAX);
            self.add(all);
            self.add_bytes(variant, own, 0..all);
        }
    }

    /// Adds what a matrix asks for that `view` takes of an array, which a plan of `variant` may refer to.
    fn add_matrix(&mut self, variant: &Variant, to: &ArrayRef, view: &View) {
        let (Some((stored, placed)), Ok((owner, source))) = (variant.placed(to, view), variant.source_of(to))
        else {
            return;
        };
        if !placed.is_contiguous() {
            self.add(slab_bytes(stored, &placed));
        }
        self.add_bytes(owner, source, line_bytes(stored, &placed));
    }

    /// Adds what an array is given for so many rows of what is coded of it, and what that is given.
    fn add_given(&mut self, variant: &Variant, array: &StoredArray, rows: u64) {
        let known = array.encoding.known();
        for given in array.encoding.given() {
            let codes = &given.codes;
            let Ok((owner, source)) = variant.source_of(&codes.array) else { continue };
            self.add_open(owner, source);
            // Whole rows of its codes, one a byte.
            self.add(rows.min(given.shape[0]).saturating_mul(given.shape[1]));
            if let Some((stored, placed)) = variant.placed(&codes.array, &codes.view) {
                self.add(beside(source, &line_bytes(stored, &placed)));
            }
            match known.len() {
                // It is decoded along with what it is given.
                0 => self.add_given(owner, source, rows),
                // Its chunks are kept for the next.
                1 => {}
                // Each is decoded for each chunk that is given it; what these are given is among the known.
                _ => {
                    let all = source.bytes().unwrap_or(u64::MAX);
                    let chunks = array.chunk_count().unwrap_or(u64::MAX);
                    self.add(chunks.saturating_mul(source.chunk_bytes().min(all)).saturating_sub(all));
                }
            }
        }
        if let (Some(floats), Some([_, cols])) = (array.encoding.floats(), coded_shape(array)) {
            let width = variant.stored(&floats.array).map_or(1, StoredArray::width);
            self.add(rows.saturating_mul(cols).saturating_mul(width));
            self.add_matrix(variant, &floats.array, &floats.view);
        }
    }

    /// Adds what a reader of an array with chunks of its own holds, which those of a file share.
    fn add_open(&mut self, variant: &Variant, array: &StoredArray) {
        if !self.open.insert(std::ptr::from_ref(array).addr()) {
            return;
        }
        self.add(array.chunk_count().unwrap_or(u64::MAX).saturating_mul(PLACE_BYTES));
        let given = array.encoding.given().map(|given| (&given.values, Some(given.shape)));
        let own = array.encoding.own().map(|own| (own, coded_shape(array)));
        for (values, shape) in given.chain(own) {
            self.add_values(variant, values, shape.unwrap_or_default());
        }
    }

    /// Adds what codes of a matrix stand for: what is read for that, and what is made of it.
    fn add_values(&mut self, variant: &Variant, values: &Dequantization<ArrayRef>, [rows, cols]: [u64; 2]) {
        let mut vectors = 2;
        for (_, field) in values.fields() {
            let Some((array, placed)) = variant.placed(&field.array, &field.view) else { continue };
            self.add_matrix(variant, &field.array, &field.view);
            self.add(slab_bytes(array, &placed));
            if let Ok([rows, cols]) = field.shape(array.dtype, &array.shape) {
                self.add(rows.saturating_mul(cols).saturating_mul(4));
            }
            vectors += 1;
        }
        let numbers = values.scales.iter().filter_map(|scale| scale.factor().numbers());
        let mut tiles: Vec<[u64; 2]> = numbers.map(|numbers| numbers.tile).collect();
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
}

/// As many of `rows` as some of all bytes have, rounded up.
fn portion(rows: u64, bytes: u64, all: u64) -> u64 {
    let share = (u128::from(rows) * u128::from(bytes)).div_ceil(u128::from(all.max(1)));
    u64::try_from(share).unwrap_or(u64::MAX)
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

/// At most how many bytes of an array with chunks of its own are decoded along with some of them.
fn beside(array: &StoredArray, bytes: &Range<u64>) -> u64 {
    let (all, wanted) = (array.bytes().unwrap_or(u64::MAX), bytes.end.saturating_sub(bytes.start));
    let decoded = match array.shape[..] {
        [rows, cols] if array.encoding.is_transposed() => {
            // A chunk has so many of its rows, which are columns of what is coded.
            let (row, of_chunk) = (cols.saturating_mul(array.width()).max(1), array.chunk.cols.max(1));
            let first = bytes.start / row / of_chunk * of_chunk;
            let end = bytes.end.div_ceil(row).div_ceil(of_chunk).saturating_mul(of_chunk).min(rows);
            end.saturating_sub(first).saturating_mul(row)
        }
        // Of a chunk at either end they may be a little.
        _ => wanted.saturating_add(array.chunk_bytes().saturating_mul(2)),
    };
    decoded.min(all).saturating_sub(wanted)
}
