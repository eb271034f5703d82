//! The published method: weights that share a scale and a code are a group, which has a Huffman code of its own.

use rayon::prelude::*;

use super::counts::{Symbols, counts_by_code};
use super::prefix::huffman_bits;
use crate::quant::Dequantizer;

/// Bits of `high` given the codes `low`, all groups' tables included. Few of all symbols occur in a group, so its table
/// names each, and has a byte for the length of its code word.
pub(super) fn grouped_bits(high: &Symbols, low: &[u8], values: &Dequantizer) -> u64 {
    let entry = 8 * (high.width as u64 + 1);
    let cols = values.cols();
    if cols == 0 {
        return 0;
    }
    let runs = values.columns().runs();
    let mut columns: Vec<Vec<usize>> = Vec::new();
    for run in &runs {
        if columns.len() <= run.group {
            columns.resize(run.group + 1, Vec::new());
        }
        columns[run.group].extend(run.start..run.end);
    }
    // Every group of columns of every row, by its scale.
    let rows = high.len() / cols;
    let mut cells: Vec<(u32, usize, usize)> = (0..rows)
        .flat_map(|row| (0..columns.len()).map(move |group| (row, group)))
        .map(|(row, group)| (values.row(row).scale(group).to_bits(), row, group))
        .collect();
    cells.sort_unstable();
    let same_scale: Vec<_> = cells.chunk_by(|a, b| a.0 == b.0).collect();
    let bits = |cells: &&[(u32, usize, usize)]| {
        let places = cells
            .iter()
            .flat_map(|(_, row, group)| columns[*group].iter().map(move |column| row * cols + column));
        let mut pairs: Vec<u64> =
            places.map(|at| u64::from(low[at]) << 32 | u64::from(high.get(at))).collect();
        pairs.sort_unstable();
        counts_by_code(&pairs).iter().map(|counts| huffman_bits(counts, entry)).sum::<u64>()
    };
    same_scale.par_iter().map(bits).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::HeldArray;
    use qstore_container::{
        Dequantization, Dtype, Factor, Field, Levels, Number, Numbers, Scale, View, Zero,
    };

    fn values(scales: &[f32], cols: u64) -> Dequantizer {
        let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let shape = vec![scales.len() as u64];
        let field = Field { view: View::COLUMN, ..Field::of(()) };
        let values = Dequantization {
            levels: Levels::Signed,
            scales: vec![Scale::Times(Factor::Numbers(Numbers {
                field,
                number: Number::F32,
                tile: [1, cols],
            }))],
            zero: Zero::None,
            column_groups: None,
            rule: None,
        };
        let arrays = |(): &()| HeldArray { dtype: Dtype::F32, shape: shape.clone(), bytes: bytes.clone() };
        Dequantizer::open(&values, [scales.len() as u64, cols], 8, &arrays).unwrap()
    }

    #[test]
    fn groups_are_of_one_scale_and_code() {
        let low = [1, 1, 2, 2, 1, 1, 2, 2];
        let high = Symbols { bytes: vec![10, 11, 20, 20, 10, 11, 20, 20], width: 1 };
        // One scale: code 1 has two symbols of one bit, four times; code 2 has one symbol.
        assert_eq!(grouped_bits(&high, &low, &values(&[1.0, 1.0], 4)), (4 + 2 * 16) + 16);
        // Two scales: the same in each row, with tables of its own.
        assert_eq!(grouped_bits(&high, &low, &values(&[1.0, 2.0], 4)), 2 * ((2 + 2 * 16) + 16));
    }
}
