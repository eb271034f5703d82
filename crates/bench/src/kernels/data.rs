//! Weights as a linear layer has them, and their LLM.int8() codes.

use std::collections::HashMap;
use std::ops::Range;

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

/// Columns that share a scale of the codes of 4 bits.
pub(super) const GROUP: usize = 128;

/// A matrix, in chunks.
pub(super) struct Weights {
    pub(super) values: Vec<Half>,
    pub(super) codes: Vec<u8>,
    /// Ranks of these codes, and of codes of 4 bits.
    pub(super) eight: Vec<u8>,
    pub(super) four: Vec<u8>,
    /// The scale of each row, and of each group of it.
    scales: Vec<f32>,
    factors: Vec<f32>,
    group_scales: Vec<f32>,
    tables: Vec<BinTable>,
    table_of_row: Vec<usize>,
}

impl Weights {
    pub(super) fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let (mut values, mut codes) =
            (Vec::with_capacity(CHUNKS * CHUNK), Vec::with_capacity(CHUNKS * CHUNK));
        let (mut tables, mut table_of_row, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        let (mut four, mut scales, mut factors, mut group_scales) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
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
            scales.push(scale / 127.0);
            factors.push(factor);
            for group in row.chunks(GROUP) {
                let scale = group.iter().map(|&bits| value(bits).abs()).fold(0.0, f32::max) / 7.5;
                group_scales.push(scale);
                four.extend(group.iter().map(|&bits| rank_of_four(value(bits) / scale)));
            }
            values.extend(row.iter().map(|bits| bits.to_le_bytes()));
            codes.extend(row.iter().map(|&bits| code(value(bits) * factor)));
            table_of_row.push(*known.entry(scale.to_bits()).or_insert_with(|| {
                tables.push(bins(scale, factor));
                tables.len() - 1
            }));
        }
        let eight = codes.iter().map(|code| code ^ 0x80).collect();
        Self { values, codes, eight, four, scales, factors, group_scales, tables, table_of_row }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// The scale of a row's codes of 8 bits.
    pub(super) fn scale(&self, row: usize) -> f32 {
        self.scales[row]
    }

    /// What weights of a row are multiplied with before they are rounded to codes of 8 bits.
    pub(super) fn factor(&self, row: usize) -> f32 {
        self.factors[row]
    }

    /// The scales of the groups of these columns of a row, for codes of 4 bits.
    pub(super) fn scales_of_four(&self, row: usize, cols: &Range<usize>) -> &[f32] {
        let groups = &self.group_scales[row * (COLS / GROUP)..(row + 1) * (COLS / GROUP)];
        &groups[cols.start / GROUP..cols.end.div_ceil(GROUP)]
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

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 15")]
fn rank_of_four(scaled: f32) -> u8 {
    (scaled.round_ties_even() + 8.0).clamp(0.0, 15.0) as u8
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
