//! Weights as a linear layer has them, and their LLM.int8() codes.

use std::collections::HashMap;

use half::bf16;
use qstore_kernels::{BinTable, Half};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand_distr::{Distribution as _, StandardNormal};

/// Columns of the matrix.
pub(super) const COLS: usize = 4096;
/// Weights of a chunk.
pub(super) const CHUNK: usize = 1 << 19;
/// Chunks: 64 MiB of weights, more than caches hold.
const CHUNKS: usize = 64;

/// A matrix, in chunks.
pub(super) struct Weights {
    pub(super) values: Vec<Half>,
    pub(super) codes: Vec<u8>,
    tables: Vec<BinTable>,
    table_of_row: Vec<usize>,
}

impl Weights {
    pub(super) fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let (mut values, mut codes) =
            (Vec::with_capacity(CHUNKS * CHUNK), Vec::with_capacity(CHUNKS * CHUNK));
        let (mut tables, mut table_of_row, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        for row in 0..CHUNKS * CHUNK / COLS {
            // Rows differ in spread, as they do in models.
            let spread = [0.02, 0.021, 0.0225, 0.024][row % 4];
            let draw = |_| {
                let normal: f32 = StandardNormal.sample(&mut rng);
                bf16::from_f32(normal * spread).to_bits()
            };
            let row: Vec<u16> = (0..COLS).map(draw).collect();
            let scale = row.iter().map(|&bits| value(bits).abs()).fold(0.0, f32::max);
            let factor = (1.0 / scale) * 127.0;
            values.extend(row.iter().map(|bits| bits.to_le_bytes()));
            codes.extend(row.iter().map(|&bits| code(value(bits) * factor)));
            table_of_row.push(*known.entry(scale.to_bits()).or_insert_with(|| {
                tables.push(bins(scale, factor));
                tables.len() - 1
            }));
        }
        Self { values, codes, tables, table_of_row }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Each chunk's codes and values, and the bins of its rows.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (&[u8], &[Half], Vec<&BinTable>)> {
        let rows = self.table_of_row.chunks(CHUNK / COLS);
        self.codes.chunks(CHUNK).zip(self.values.chunks(CHUNK)).zip(rows).map(|((codes, values), rows)| {
            (codes, values, rows.iter().map(|&table| &self.tables[table]).collect())
        })
    }
}

fn value(bits: u16) -> f32 {
    bf16::from_bits(bits).to_f32()
}

#[expect(clippy::cast_possible_truncation, reason = "between -127 and 127")]
fn code(scaled: f32) -> u8 {
    (scaled.round_ties_even() as i8).cast_unsigned()
}

/// The bins of a row, found by trying every magnitude.
fn bins(scale: f32, factor: f32) -> BinTable {
    let (mut lo, mut width) = ([0u16; 128], [0u16; 128]);
    for magnitude in (0..0x7f80).take_while(|&bits| value(bits) <= scale) {
        let bin = usize::from(code(value(magnitude) * factor) & 0x7f);
        if width[bin] == 0 {
            lo[bin] = magnitude;
        }
        width[bin] += 1;
    }
    // Weights of code 0 are coded otherwise.
    width[0] = 1;
    BinTable::new(&lo, &width)
}
