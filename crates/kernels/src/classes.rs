//! Row classes: rows of similar spread share a frequency table.
//!
//! Each row falls into one of [`BUCKETS`] buckets by a statistic of its own. Neighbouring buckets are merged for as
//! long as that saves bits, tables and the class numbers of rows counted. The buckets are the encoder's affair; a chunk
//! stores only each row's class.

use crate::cost::entropy_bits;
use crate::error::DecodeError;
use crate::rows::Rows;
use crate::stream::{LANES, Layout};
use crate::table::SymbolTable;

/// Number of buckets that a row statistic maps to.
pub const BUCKETS: usize = 64;
/// Most classes that one tensor has.
pub(crate) const MAX_CLASSES: usize = 16;

/// Counts of symbols and of rows in each bucket.
#[derive(Debug, Clone)]
pub struct Histograms {
    symbols: Vec<[u64; 256]>,
    rows: [u64; BUCKETS],
}

impl Default for Histograms {
    fn default() -> Self {
        Self { symbols: vec![[0; 256]; BUCKETS], rows: [0; BUCKETS] }
    }
}

impl Histograms {
    /// Counts one row of symbols that belongs to `bucket`.
    pub fn add_row(&mut self, bucket: u8, symbols: impl Iterator<Item = u8>) {
        let bucket = usize::from(bucket) % BUCKETS;
        self.rows[bucket] += 1;
        for symbol in symbols {
            self.symbols[bucket][usize::from(symbol)] += 1;
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.symbols.iter_mut().zip(&other.symbols) {
            for (into, from) in into.iter_mut().zip(from) {
                *into += from;
            }
        }
        for (into, from) in self.rows.iter_mut().zip(&other.rows) {
            *into += from;
        }
    }
}

/// Which class each bucket's rows take; what an encoder needs beside the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classifier {
    of_bucket: [u8; BUCKETS],
}

impl Classifier {
    /// Every row in class 0.
    #[must_use]
    pub fn single() -> Self {
        Self { of_bucket: [0; BUCKETS] }
    }

    /// The class of a row in `bucket`.
    #[must_use]
    pub fn class(&self, bucket: u8) -> u8 {
        self.of_bucket[usize::from(bucket) % BUCKETS]
    }
}

/// Classes fitted to a sample of rows.
#[derive(Debug, Clone)]
pub struct ClassFit {
    /// Bucket to class.
    pub classifier: Classifier,
    /// One table for each class, at least one.
    pub tables: Vec<SymbolTable>,
    /// Bits that the sampled symbols take, the rows' class numbers included, the tables not.
    pub payload_bits: u64,
    /// Bytes of the tables.
    pub table_bytes: usize,
}

/// A run of buckets that form one class.
#[derive(Clone)]
struct Group {
    last_bucket: usize,
    rows: u64,
    symbols: [u64; 256],
    bits: u64,
}

impl Group {
    fn joined(&self, next: &Self) -> Self {
        let mut symbols = self.symbols;
        for (into, from) in symbols.iter_mut().zip(&next.symbols) {
            *into += from;
        }
        Self {
            last_bucket: next.last_bucket,
            rows: self.rows + next.rows,
            bits: class_bits_of(&symbols),
            symbols,
        }
    }
}

/// Payload of a class and its table.
fn class_bits_of(symbols: &[u64; 256]) -> u64 {
    let present = symbols.iter().filter(|&&c| c > 0).count() as u64;
    entropy_bits(symbols) + (32 + present) * 8
}

impl ClassFit {
    /// Fits classes to `histograms`, which stand for `scale` times as many rows as were counted (at least 1).
    #[must_use]
    pub fn new(histograms: &Histograms, scale: u64) -> Self {
        let mut groups: Vec<Group> = (0..BUCKETS)
            .filter(|&b| histograms.rows[b] > 0)
            .map(|b| {
                let symbols = histograms.symbols[b].map(|c| c * scale);
                Group {
                    last_bucket: b,
                    rows: histograms.rows[b] * scale,
                    bits: class_bits_of(&symbols),
                    symbols,
                }
            })
            .collect();
        if groups.is_empty() {
            groups.push(Group { last_bucket: BUCKETS - 1, rows: 0, symbols: [0; 256], bits: 0 });
        }
        let mut joins: Vec<Group> = groups.windows(2).map(|pair| pair[0].joined(&pair[1])).collect();
        let mut best: Option<(u64, Vec<Group>)> = None;
        loop {
            let row_bits = u64::from(class_width(groups.len()));
            let cost = groups.iter().map(|g| g.bits + g.rows * row_bits).sum();
            if groups.len() <= MAX_CLASSES && best.as_ref().is_none_or(|(least, _)| cost <= *least) {
                best = Some((cost, groups.clone()));
            }
            // Join the neighbours whose union costs least more than they do apart.
            let cheapest = joins
                .iter()
                .zip(groups.windows(2))
                .map(|(joined, pair)| i128::from(joined.bits) - i128::from(pair[0].bits + pair[1].bits))
                .enumerate()
                .min_by_key(|&(i, loss)| (loss, i));
            let Some((i, _)) = cheapest else { break };
            groups[i] = joins.remove(i);
            groups.remove(i + 1);
            if i > 0 {
                joins[i - 1] = groups[i - 1].joined(&groups[i]);
            }
            if i + 1 < groups.len() {
                joins[i] = groups[i].joined(&groups[i + 1]);
            }
        }
        let groups = best.map_or(groups, |(_, groups)| groups);

        let mut of_bucket = [0; BUCKETS];
        for (bucket, class) in of_bucket.iter_mut().enumerate() {
            let group = groups.iter().position(|g| bucket <= g.last_bucket);
            let index = group.unwrap_or(groups.len() - 1);
            *class = u8::try_from(index).unwrap_or(0);
        }
        let tables: Vec<_> = groups.iter().map(|g| SymbolTable::from_histogram(&g.symbols)).collect();
        let mut stored = Vec::new();
        tables.iter().for_each(|t| t.write(&mut stored));
        let row_bits = u64::from(class_width(groups.len()));
        let payload_bits = groups
            .iter()
            .zip(&tables)
            .map(|(g, t)| t.cost_bits(&g.symbols, 0) + g.rows * row_bits)
            .sum::<u64>()
            / scale;
        Self { classifier: Classifier { of_bucket }, tables, payload_bits, table_bytes: stored.len() }
    }
}

/// Bits of a row's class number among `classes`.
pub(crate) fn class_width(classes: usize) -> u32 {
    classes.max(1).next_power_of_two().trailing_zeros()
}

/// Rows that are coded one after another with one table and begin at lane 0 each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassRun {
    pub(crate) class: u8,
    /// Neighbours whose lengths are multiples of the number of lanes count as one row: each begins at lane 0 anyway.
    pub(crate) elements: std::ops::Range<usize>,
}

/// The rows in the order in which a chunk codes their symbols: by class, then as they come, so that a decoder changes
/// tables rarely.
pub(crate) struct ClassRuns(Vec<ClassRun>);

impl ClassRuns {
    pub(crate) fn new(rows: Rows, classes: &[u8], layout: Layout) -> Self {
        let mut order: Vec<usize> = (0..classes.len()).collect();
        if classes.iter().any(|class| *class != 0) {
            order.sort_by_key(|&row| classes[row]);
        }
        let mut runs: Vec<ClassRun> = Vec::new();
        for row in order {
            let (class, elements) = (classes[row], rows.range(row));
            match runs.last_mut() {
                Some(last)
                    if last.class == class
                        && last.elements.end == elements.start
                        && last.elements.len().is_multiple_of(layout.sets() * LANES) =>
                {
                    last.elements.end = elements.end;
                }
                _ => runs.push(ClassRun { class, elements }),
            }
        }
        Self(runs)
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, ClassRun> {
        self.0.iter()
    }
}

/// Fails if a row's class has no table.
pub(crate) fn check_classes(classes: &[u8], tables: usize) -> Result<(), DecodeError> {
    if classes.iter().any(|&c| usize::from(c) >= tables) {
        return Err(DecodeError::Corrupt("a row class without a table"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_two_spreads_get_two_classes() {
        let mut histograms = Histograms::default();
        for i in 0..2000u32 {
            let narrow = (0..512u32).map(move |j| u8::try_from((i * 7 + j * 13) % 4).unwrap());
            let wide = (0..512u32).map(move |j| u8::try_from((i * 5 + j * 31) % 200).unwrap());
            histograms.add_row(3, narrow);
            histograms.add_row(40, wide);
        }
        let fit = ClassFit::new(&histograms, 1);
        assert_eq!(fit.tables.len(), 2);
        assert_ne!(fit.classifier.class(3), fit.classifier.class(40));
        assert!(fit.payload_bits < 2000 * 512 * (2 + 8));
    }

    #[test]
    fn equal_rows_get_one_class_and_nothing_gets_one() {
        let mut histograms = Histograms::default();
        for i in 0..64 {
            histograms.add_row(i, (0..255).chain(0..100));
        }
        assert_eq!(ClassFit::new(&histograms, 1).tables.len(), 1);
        assert_eq!(ClassFit::new(&Histograms::default(), 1).tables.len(), 1);
    }
}
