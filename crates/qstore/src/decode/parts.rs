//! Arrays whose bytes are those of others: of the parts that they consist of, or of a matrix of another.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use qstore_checkpoint::{IoContext as _, Result, gather, size, transpose, zeroed};
use qstore_container::Placed;

use super::bytes::{ArrayBytes, fetch_for};
use crate::fetch::{Fetched, Needs};

/// The matrices that an array consists of.
#[derive(Debug)]
pub(super) struct Parts {
    /// In the order of the array; the plan's check has found that they have each of its elements once.
    pub(super) parts: Vec<Part>,
    /// Bytes of an element.
    pub(super) width: u64,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) placed: Placed,
    pub(super) array: Arc<dyn ArrayBytes>,
}

/// What a request asks of a part.
enum Share {
    /// Bytes of it, as they are.
    Bytes(Range<u64>),
    /// All of it.
    All,
    /// Columns of it, which are lines of the slab.
    Columns(Range<u64>),
}

impl Part {
    /// Bytes of the array that are of the part's lines.
    fn bytes(&self, width: u64) -> Range<u64> {
        let lines = self.placed.lines();
        lines.start * self.placed.pitch * width..lines.end * self.placed.pitch * width
    }

    /// Whole lines of the slab that hold these bytes of it.
    fn lines(&self, bytes: &Range<u64>, width: u64) -> Range<u64> {
        let line = self.placed.pitch * width;
        bytes.start / line..bytes.end.div_ceil(line)
    }

    /// What bytes of its own lines ask of it.
    fn share(&self, bytes: Range<u64>, width: u64) -> Share {
        if self.placed.is_contiguous() {
            Share::Bytes(bytes)
        } else if self.placed.transposed {
            Share::Columns(self.lines(&bytes, width))
        } else {
            Share::All
        }
    }

    fn needs(&self, bytes: Range<u64>, width: u64, needs: &mut Needs) -> Result<()> {
        let [rows, cols] = self.placed.shape;
        match self.share(bytes, width) {
            Share::Bytes(bytes) => self.array.needs(bytes, needs),
            Share::All => self.array.needs(0..rows * cols * width, needs),
            Share::Columns(columns) => self.array.needs_columns([cols, width], 0..rows, columns, needs),
        }
    }

    /// Writes what the part has of these bytes of its lines to `out`.
    fn decode(&self, from: &Fetched, bytes: Range<u64>, width: u64, out: &mut [u8]) -> Result<()> {
        let [rows, cols] = self.placed.shape;
        let hold = |bytes| zeroed(bytes).at(self.array.path(), "cannot hold a matrix");
        let (element, line) = (size(width), size(self.placed.pitch * width));
        let lines = self.lines(&bytes, width);
        // Others have what of these lines is not of this part.
        let skip = size(bytes.start - lines.start * self.placed.pitch * width);
        let mut put = |run: &[u8], at: usize| {
            let (start, end) = (at.max(skip), (at + run.len()).min(skip + out.len()));
            if start < end {
                out[start - skip..end - skip].copy_from_slice(&run[start - at..end - at]);
            }
        };
        match self.share(bytes.clone(), width) {
            Share::Bytes(bytes) => return self.array.decode(from, bytes.start, out),
            Share::All => {
                let mut matrix = hold(rows * cols * width)?;
                self.array.decode(from, 0, &mut matrix)?;
                for (row, run) in (0..rows).zip(matrix.chunks_exact(line)) {
                    let to = self.placed.slab_row(row);
                    if lines.contains(&to) {
                        put(run, size(to - lines.start) * line);
                    }
                }
            }
            Share::Columns(columns) => {
                let count = columns.end - columns.start;
                let mut block = hold(rows * count * width)?;
                self.array.decode_columns(from, [cols, width], 0..rows, columns, &mut block)?;
                let mut transposed = hold(rows * count * width)?;
                transpose(&block, count, width, &mut transposed);
                for (index, column) in transposed.chunks_exact(size(rows) * element).enumerate() {
                    let at = |row: u64| index * line + size(self.placed.slab_row(row)) * element;
                    if self.placed.has_order() {
                        (0..rows).zip(column.chunks_exact(element)).for_each(|(row, run)| put(run, at(row)));
                    } else {
                        put(column, at(0));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Parts {
    /// The parts that have some of these bytes, and which of the bytes of their lines.
    fn within(&self, bytes: Range<u64>) -> impl Iterator<Item = (&Part, Range<u64>)> {
        let width = self.width;
        let first = self.parts.partition_point(|part| part.bytes(width).end <= bytes.start);
        let parts = self.parts[first..].iter().map(move |part| (part, part.bytes(width)));
        parts.take_while(move |(_, own)| own.start < bytes.end)
    }

    pub(super) fn needs(&self, bytes: Range<u64>, needs: &mut Needs) -> Result<()> {
        for (part, own) in self.within(bytes.clone()) {
            let shared = own.start.max(bytes.start) - own.start..own.end.min(bytes.end) - own.start;
            part.needs(shared, self.width, needs)?;
        }
        Ok(())
    }

    /// Fills `out` with the bytes of the array from byte `offset` on.
    pub(super) fn decode(&self, from: &Fetched, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset + out.len() as u64;
        for (part, own) in self.within(offset..end) {
            let shared = own.start.max(offset)..own.end.min(end);
            let out = &mut out[size(shared.start - offset)..size(shared.end - offset)];
            part.decode(from, shared.start - own.start..shared.end - own.start, self.width, out)?;
        }
        Ok(())
    }

    pub(super) fn piece_end(&self, at: u64) -> u64 {
        let Some((part, own)) = self.within(at..at.saturating_add(1)).next() else { return u64::MAX };
        if part.placed.is_contiguous() {
            return own.start.saturating_add(part.array.piece_end(at - own.start)).min(own.end);
        }
        own.end
    }
}

/// A matrix of another array.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(super) placed: Placed,
    /// Bytes of an element.
    pub(super) width: u64,
    pub(super) of: Arc<dyn ArrayBytes>,
    /// All of it, where its elements are not together and it was asked for in part.
    gathered: OnceLock<Vec<u8>>,
}

impl Rows {
    pub(super) fn new(placed: Placed, width: u64, of: Arc<dyn ArrayBytes>) -> Self {
        Self { placed, width, of, gathered: OnceLock::new() }
    }

    fn first_byte(&self) -> u64 {
        self.placed.lines().start * self.placed.pitch * self.width
    }

    /// The bytes of the other array that hold some of the matrix's.
    fn bytes_there(&self, bytes: Range<u64>) -> Range<u64> {
        if self.placed.is_contiguous() {
            return self.first_byte().saturating_add(bytes.start)
                ..self.first_byte().saturating_add(bytes.end);
        }
        let elements = self.placed.elements();
        elements.start * self.width..elements.end * self.width
    }

    pub(super) fn needs(&self, bytes: Range<u64>, needs: &mut Needs) -> Result<()> {
        if self.gathered.get().is_some() {
            return Ok(());
        }
        self.of.needs(self.bytes_there(bytes), needs)
    }

    pub(crate) fn piece_end(&self, at: u64) -> u64 {
        if !self.placed.is_contiguous() {
            return u64::MAX;
        }
        self.of.piece_end(self.first_byte().saturating_add(at)).saturating_sub(self.first_byte())
    }

    /// Fills `out` with the matrix's bytes from byte `offset` on.
    pub(super) fn decode(&self, from: &Fetched, offset: u64, out: &mut [u8]) -> Result<()> {
        let there = self.bytes_there(offset..offset.saturating_add(out.len() as u64));
        if self.placed.is_contiguous() {
            return self.of.decode(from, there.start, out);
        }
        // The caller has checked that there is so much.
        let part = size(offset)..size(offset) + out.len();
        if let Some(matrix) = self.gathered.get() {
            out.copy_from_slice(&matrix[part]);
            return Ok(());
        }
        let mut slab = zeroed(there.end - there.start).at(self.of.path(), "cannot hold a matrix")?;
        self.of.decode(from, there.start, &mut slab)?;
        let matrix = gather(&slab, &self.placed.from_slab(), self.width).into_owned();
        out.copy_from_slice(&matrix[part]);
        if out.len() < matrix.len() {
            // The rest is likely to be asked for next.
            self.gathered.get_or_init(|| matrix);
        }
        Ok(())
    }

    /// Reads what it takes, and fills `out` with the matrix's bytes from byte `offset` on.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(out.len() as u64);
        let from = fetch_for(&*self.of, |needs| self.needs(offset..end, needs))?;
        self.decode(&from, offset, out)
    }
}
