//! The bins of every row of a quantised matrix.

use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::OnceLock;

use qstore_container::Rounding;
use qstore_kernels::BinTable;

use rustc_hash::FxHashMap;

use crate::scheme::{FloatKind, LlmInt8, step_bins};

/// Tables that are kept at most, of 2 KiB each. Scales that are BF16 numbers, as of BF16 weights, are some hundred different ones in a matrix.
const MOST_KEPT: usize = 16384;

/// Bins by row. Rows of equal scale share a table, which is made when it is first asked for.
#[derive(Debug)]
pub(crate) struct RowBins {
    rule: BinRule,
    scales: Vec<f32>,
    /// For each row the number of its table; empty if there are too many different scales to keep tables.
    table_of_row: Vec<u32>,
    tables: Vec<OnceLock<Box<BinTable>>>,
}

/// What makes a bin table of a scale.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BinRule {
    /// The bins of LLM.int8().
    LlmInt8 { rounding: Rounding, float: FloatKind },
    /// The floats that are nearest to each multiple of a step.
    Steps { steps: u8, symmetric: bool, float: FloatKind },
}

impl BinRule {
    fn table(self, scale: f32) -> BinTable {
        match self {
            Self::LlmInt8 { rounding, float } => LlmInt8::bins(rounding, scale, float),
            Self::Steps { steps, symmetric, float } => step_bins(scale, steps, symmetric, float),
        }
    }
}

impl RowBins {
    /// For rows of these scales.
    pub(crate) fn new(rule: BinRule, scales: Vec<f32>) -> Self {
        let mut known = FxHashMap::default();
        let mut table_of_row = Vec::with_capacity(scales.len());
        for scale in &scales {
            let next = known.len();
            let table = match known.entry(scale.to_bits()) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(_) if next == MOST_KEPT => {
                    table_of_row.clear();
                    break;
                }
                // At most `MOST_KEPT`.
                Entry::Vacant(new) => *new.insert(u32::try_from(next).unwrap_or(u32::MAX)),
            };
            table_of_row.push(table);
        }
        let tables = if table_of_row.is_empty() { 0 } else { known.len() };
        let tables = std::iter::repeat_with(OnceLock::new).take(tables).collect();
        Self { rule, scales, table_of_row, tables }
    }

    /// Calls `work` with the tables of some rows; of those alone that there are.
    pub(crate) fn with_rows<R>(&self, rows: Range<usize>, work: impl FnOnce(&[&BinTable]) -> R) -> R {
        let scales = self.scales.get(rows.clone()).unwrap_or_default();
        if let Some(tables) = self.table_of_row.get(rows) {
            let table = |(table, scale): (&u32, &f32)| {
                &**self.tables[*table as usize].get_or_init(|| Box::new(self.rule.table(*scale)))
            };
            return work(&tables.iter().zip(scales).map(table).collect::<Vec<_>>());
        }
        let tables: Vec<BinTable> = scales.iter().map(|scale| self.rule.table(*scale)).collect();
        work(&tables.iter().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_the_same_whether_kept_or_not() {
        let rule = BinRule::LlmInt8 { rounding: Rounding::ReciprocalTimes127, float: FloatKind::Bf16 };
        let scales: Vec<f32> = (0..MOST_KEPT + 10).map(|i| 0.01 + (i % 20_000) as f32 * 1e-5).collect();
        let many = RowBins::new(rule, scales.clone());
        let few = RowBins::new(rule, scales[..100].repeat(2));
        assert!(many.tables.is_empty() && few.tables.len() == 100);
        few.with_rows(90..120, |few| {
            many.with_rows(90..100, |many| assert_eq!(&few[..10], many));
            many.with_rows(0..20, |many| assert_eq!(&few[10..], many));
        });
        few.with_rows(190..201, |none| assert!(none.is_empty()));
    }
}
