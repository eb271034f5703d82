//! Arrays whose bytes are those of others: of the parts that they consist of, or of a matrix of another.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use qstore_container::{ArrayRef, Placed, StoredArray, View};

use super::array::ArrayReader;
use super::variant::Variant;
use crate::error::{IoContext as _, Result};
use crate::file::zeroed;
use crate::memory::size;
use crate::quant::{gather, transpose};

/// A matrix that an array consists of.
#[derive(Debug)]
pub(super) struct Part {
    placed: Placed,
    reader: ArrayReader,
}

impl Part {
    /// The parts of `array`, which the plan's check has found to have each of its elements once, in order.
    pub(super) fn open_all(
        variant: &Arc<Variant>,
        array: &StoredArray,
        parts: &[qstore_container::Part],
    ) -> Result<Vec<Self>> {
        let open = |part: &qstore_container::Part| {
            let reader = variant.array(&part.array)?;
            let placed = part.view.place(&array.shape).map_err(|e| reader.damaged(&e))?;
            Ok(Self { placed, reader })
        };
        parts.iter().map(open).collect()
    }

    /// Bytes of the array that are of the part's lines.
    fn bytes(&self, width: u64) -> Range<u64> {
        let lines = self.placed.lines();
        lines.start * self.placed.pitch * width..lines.end * self.placed.pitch * width
    }

    /// The parts that have some of these bytes.
    fn within(parts: &[Self], width: u64, bytes: Range<u64>) -> impl Iterator<Item = &Self> {
        let first = parts.partition_point(|part| part.bytes(width).end <= bytes.start);
        parts[first..].iter().take_while(move |part| part.bytes(width).start < bytes.end)
    }

    /// Up to which byte is best asked for from byte `at` on.
    pub(super) fn piece_end(parts: &[Self], width: u64, at: u64) -> u64 {
        let Some(part) = Self::within(parts, width, at..at + 1).next() else { return u64::MAX };
        let own = part.bytes(width);
        if part.placed.is_contiguous() {
            return own.start.saturating_add(part.reader.piece_end(at - own.start)).min(own.end);
        }
        own.end
    }

    /// Fills `out` with the bytes of the array from byte `offset` on, of elements of `width` bytes.
    pub(super) fn read_all(parts: &[Self], width: u64, offset: u64, out: &mut [u8]) -> Result<()> {
        let asked = offset..offset + out.len() as u64;
        for part in Self::within(parts, width, asked.clone()) {
            let own = part.bytes(width);
            let shared = own.start.max(asked.start)..own.end.min(asked.end);
            let out = &mut out[size(shared.start - offset)..size(shared.end - offset)];
            if part.placed.is_contiguous() {
                part.reader.read(shared.start - own.start, out)?;
                continue;
            }
            let line = part.placed.pitch * width;
            // Whole lines, of which others have what this part has not.
            let lines = (shared.start - own.start) / line..(shared.end - own.start).div_ceil(line);
            let first = own.start + lines.start * line;
            part.read_lines(lines, size(shared.start - first), width, out)?;
        }
        Ok(())
    }

    /// Writes what the part has of the lines `lines` of its slab to `out`, which has these from byte `skip` on.
    fn read_lines(&self, lines: Range<u64>, skip: usize, width: u64, out: &mut [u8]) -> Result<()> {
        let [rows, cols] = self.placed.shape;
        let hold = |bytes| zeroed(bytes).at(self.reader.folder(), "cannot hold a matrix");
        let (element, line) = (size(width), size(self.placed.pitch * width));
        // Elements lie in runs: of a line of the matrix, or single ones of each.
        let mut put = |run: &[u8], at: usize| {
            let (start, end) = (at.max(skip), (at + run.len()).min(skip + out.len()));
            if start < end {
                out[start - skip..end - skip].copy_from_slice(&run[start - at..end - at]);
            }
        };
        if !self.placed.transposed {
            let mut matrix = hold(rows * cols * width)?;
            self.reader.read(0, &mut matrix)?;
            for (row, run) in (0..rows).zip(matrix.chunks_exact(line)) {
                let to = self.placed.slab_row(row);
                if lines.contains(&to) {
                    put(run, size(to - lines.start) * line);
                }
            }
            return Ok(());
        }
        let count = lines.end - lines.start;
        let mut block = hold(rows * count * width)?;
        self.reader.read_columns([cols, width], 0..rows, lines, &mut block)?;
        let mut columns = hold(rows * count * width)?;
        transpose(&block, count, width, &mut columns);
        for (index, column) in columns.chunks_exact(size(rows) * element).enumerate() {
            let at = |row: u64| index * line + size(self.placed.slab_row(row)) * element;
            if self.placed.has_order() {
                (0..rows).zip(column.chunks_exact(element)).for_each(|(row, run)| put(run, at(row)));
            } else {
                put(column, at(0));
            }
        }
        Ok(())
    }
}

/// A matrix of another array.
#[derive(Debug)]
pub(crate) struct Rows {
    placed: Placed,
    width: u64,
    of: Box<ArrayReader>,
    /// All of it, where its elements are not together; made when they are first asked for.
    gathered: OnceLock<Vec<u8>>,
}

impl Rows {
    /// Those of the array `to` that `view` takes.
    pub(crate) fn open(variant: &Arc<Variant>, to: &ArrayRef, view: &View) -> Result<Self> {
        let target = variant.stored(to)?;
        let of = Box::new(variant.referred_array(to)?);
        let placed = view.place(&target.shape).map_err(|e| of.damaged(&e))?;
        Ok(Self { placed, width: target.width(), of, gathered: OnceLock::new() })
    }

    fn first_byte(&self) -> u64 {
        self.placed.lines().start * self.placed.pitch * self.width
    }

    pub(super) fn piece_end(&self, at: u64) -> u64 {
        if !self.placed.is_contiguous() {
            return u64::MAX;
        }
        self.of.piece_end(self.first_byte().saturating_add(at)).saturating_sub(self.first_byte())
    }

    /// Fills `out` with the matrix's bytes from byte `offset` on.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        if self.placed.is_contiguous() {
            return self.of.read(self.first_byte() + offset, out);
        }
        let matrix = match self.gathered.get() {
            Some(matrix) => matrix,
            None => {
                let elements = self.placed.elements();
                let bytes = (elements.end - elements.start) * self.width;
                let mut slab = zeroed(bytes).at(self.of.folder(), "cannot hold a matrix")?;
                self.of.read(elements.start * self.width, &mut slab)?;
                let matrix = gather(&slab, &self.placed.from_slab(), self.width).into_owned();
                self.gathered.get_or_init(|| matrix)
            }
        };
        // The caller has checked that there is so much.
        let start = size(offset);
        out.copy_from_slice(&matrix[start..start + out.len()]);
        Ok(())
    }
}
