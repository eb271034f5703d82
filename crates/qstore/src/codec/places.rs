//! Floats given the number of a bin for each: their places among the floats of their bins.
//!
//! Bins follow from scales, and so are those of a group of columns in a row. Columns are sorted by group, those of a
//! group in their own order, so that each group is one run of them.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::OnceLock;

use qstore_checkpoint::FloatKind;
use qstore_container::limits::MAX_CHUNK_GROUPS;
use qstore_kernels::{BinTable, DecodeError, ResidualCoder, Rows, zero_symbols};
use rustc_hash::FxHashMap;

use super::float::{Parts, high_halves, with_rest};
use super::workspace::Workspace;
use crate::quant::{Columns, Quantizer};

/// Tables that are kept at most, of 2 KiB each. Scales of a matrix are mostly numbers of 16 bits, of which there are
/// some hundred different ones.
const MOST_KEPT: usize = 16384;

/// Weights of whole rows, and the bin of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binned<'a> {
    pub(super) float: FloatKind,
    /// The row that they begin with.
    pub(super) first_row: usize,
    /// The number of each weight's bin.
    pub(super) bins: &'a [u8],
}

/// The bins of every group of every row of a matrix. Groups of equal scale share a table, which is made when it is
/// first asked for.
#[derive(Debug)]
pub(crate) struct Places {
    quantizer: Quantizer,
    /// Where groups end among the sorted columns.
    ends: Vec<usize>,
    /// The columns in the order of their groups, if they are not in it.
    order: Option<Vec<u32>>,
    /// Rows of the matrix that have the same scales.
    tile_rows: usize,
    /// For each tile of rows the scale of each group.
    scales: Vec<f32>,
    /// For each scale the number of its table; empty if there are too many different ones to keep tables.
    table_of_scale: Vec<u32>,
    tables: Vec<OnceLock<Box<BinTable>>>,
}

impl Places {
    /// For a matrix of these columns, of which tiles of `tile_rows` rows have scales: `scale(tile, group)`.
    pub(crate) fn new(
        quantizer: Quantizer,
        columns: &Columns,
        (tile_rows, tiles): (usize, usize),
        scale: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let runs = columns.sorted_runs();
        let scales: Vec<f32> = (0..tiles)
            .flat_map(|tile| runs.iter().map(move |run| (tile, run.group)))
            .map(|(tile, group)| scale(tile, group))
            .collect();
        let mut known = FxHashMap::default();
        let mut table_of_scale = Vec::with_capacity(scales.len());
        for scale in &scales {
            let next = known.len();
            let table = match known.entry(scale.to_bits()) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(_) if next == MOST_KEPT => {
                    table_of_scale.clear();
                    break;
                }
                // At most `MOST_KEPT`.
                Entry::Vacant(new) => *new.insert(u32::try_from(next).unwrap_or(u32::MAX)),
            };
            table_of_scale.push(table);
        }
        let tables = if table_of_scale.is_empty() { 0 } else { known.len() };
        let tables = std::iter::repeat_with(OnceLock::new).take(tables).collect();
        let ends = runs.iter().map(|run| run.end).collect();
        Self {
            quantizer,
            ends,
            order: columns.order(),
            tile_rows: tile_rows.max(1),
            scales,
            table_of_scale,
            tables,
        }
    }

    /// Columns of the matrix.
    pub(crate) fn cols(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn rows(&self, len: usize) -> Rows<'_> {
        Rows::cut(len, &self.ends)
    }

    /// Whether chunks of so many weights are whole rows, and have no more groups than a reader accepts.
    pub(crate) fn fits(&self, weights: usize) -> bool {
        weights.is_multiple_of(self.cols().max(1)) && self.rows(weights).count() as u64 <= MAX_CHUNK_GROUPS
    }

    /// Calls `work` with the tables of some rows' groups.
    fn with_bins<R>(&self, rows: Range<usize>, work: impl FnOnce(&[&BinTable]) -> R) -> R {
        let groups = self.ends.len();
        let last = (self.scales.len() / groups.max(1)).saturating_sub(1);
        let of_row = |row: usize| {
            let first = (row / self.tile_rows).min(last) * groups;
            first..(first + groups).min(self.scales.len())
        };
        if self.table_of_scale.is_empty() {
            let tables: Vec<BinTable> =
                rows.flat_map(of_row).map(|at| self.quantizer.bins(self.scales[at])).collect();
            return work(&tables.iter().collect::<Vec<_>>());
        }
        let table = |at: usize| {
            let table = self.table_of_scale[at] as usize;
            &**self.tables[table].get_or_init(|| Box::new(self.quantizer.bins(self.scales[at])))
        };
        work(&rows.flat_map(of_row).map(table).collect::<Vec<_>>())
    }

    fn with_chunk<R>(
        &self,
        first_row: usize,
        weights: usize,
        work: impl FnOnce(Rows, &[&BinTable]) -> R,
    ) -> R {
        let rows = first_row..first_row.saturating_add(weights / self.cols().max(1));
        self.with_bins(rows, |bins| work(self.rows(weights), bins))
    }

    /// The elements of rows in the order of the groups.
    fn sorted<'a, T: Copy + Default>(&self, elements: &'a [T]) -> Cow<'a, [T]> {
        let Some(order) = &self.order else { return Cow::Borrowed(elements) };
        let rows = elements.chunks(self.cols());
        rows.flat_map(|row| order.iter().map(|&column| row.get(column as usize).copied().unwrap_or_default()))
            .collect()
    }

    /// Inverse of [`sorted`](Self::sorted).
    fn unsort<T: Copy>(&self, sorted: &[T], out: &mut [T]) {
        let Some(order) = &self.order else { return out.copy_from_slice(sorted) };
        let rows = sorted.chunks(self.cols()).zip(out.chunks_mut(self.cols()));
        for (row, out) in rows {
            for (value, &column) in row.iter().zip(order) {
                out[column as usize] = *value;
            }
        }
    }

    /// Counts the symbols that the weights of bin 0 take.
    pub(super) fn count_zeros(&self, raw: &[u8], binned: Binned, into: &mut [u64; 256]) {
        let values = high_halves(binned.float, raw);
        let (bins, values) = (self.sorted(binned.bins), self.sorted(&values));
        self.with_chunk(binned.first_row, bins.len(), |rows, tables| {
            zero_symbols(&bins, &values, rows, tables, binned.float.mantissa_bits())
                .for_each(|symbol| into[usize::from(symbol)] += 1);
        });
    }

    /// Codes the weights `raw`.
    pub(super) fn encode(
        &self,
        coder: &ResidualCoder,
        raw: &[u8],
        binned: Binned,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let values = high_halves(binned.float, raw);
        let (bins, values) = (self.sorted(binned.bins), self.sorted(&values));
        let coded = self.with_chunk(binned.first_row, bins.len(), |rows, tables| {
            coder.encode(&bins, &values, rows, tables, &mut workspace.scratch)
        });
        // The low halves stay where they were.
        with_rest(binned.float, raw, coded.ok()?)
    }

    /// Inverse of [`encode`](Self::encode).
    pub(super) fn decode(
        &self,
        coder: &ResidualCoder,
        stored: &[u8],
        binned: Binned,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let Binned { float, first_row, bins } = binned;
        if bins.len() * float.width() != out.len() || !bins.len().is_multiple_of(self.cols().max(1)) {
            return Err(DecodeError::Corrupt("floats of another number than the codes that they are given"));
        }
        if !self.fits(bins.len()) {
            return Err(DecodeError::Corrupt("a chunk of more groups than a reader accepts"));
        }
        let Workspace { scratch, high, .. } = workspace;
        let bins = self.sorted(bins);
        Parts::of(float, stored, out.len())?.decode(out, high, |part, halves| {
            self.with_chunk(first_row, bins.len(), |rows, tables| {
                if self.order.is_none() {
                    return coder.decode(part, &bins, rows, tables, scratch, halves);
                }
                let mut values = vec![[0; 2]; halves.len()];
                coder.decode(part, &bins, rows, tables, scratch, &mut values)?;
                self.unsort(&values, halves);
                Ok(())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_the_same_whether_kept_or_not() {
        let quantizer = Quantizer::subdivided(8.0, true, FloatKind::Bf16);
        let columns = Columns::whole(64);
        let scales: Vec<f32> = (0..MOST_KEPT + 10).map(|i| 0.01 + (i % 20_000) as f32 * 1e-5).collect();
        let many = Places::new(quantizer, &columns, (1, scales.len()), |tile, _| scales[tile]);
        let few = Places::new(quantizer, &columns, (1, 200), |tile, _| scales[tile % 100]);
        assert!(many.tables.is_empty() && few.tables.len() == 100);
        few.with_bins(90..120, |few| {
            many.with_bins(90..100, |many| assert_eq!(&few[..10], many));
            many.with_bins(0..20, |many| assert_eq!(&few[10..], many));
        });
        // Rows beyond have the last one's bins.
        few.with_bins(199..202, |few| assert!(few.len() == 3 && few[0] == few[2]));
    }
}
