//! Matrices the other way round.

/// Rows and columns of a part whose source and target both stay in a core's cache.
const TILE: usize = 32;

/// Writes the transposed of a matrix with rows of `cols` elements of `width` bytes (1, 2, 4 or 8) to `out`, which has
/// as many bytes.
pub fn transpose(matrix: &[u8], cols: u64, width: u64, out: &mut [u8]) {
    let cols = usize::try_from(cols).unwrap_or(usize::MAX);
    match width {
        1 => transpose_elements(matrix.as_chunks::<1>().0, cols, out.as_chunks_mut().0),
        2 => transpose_elements(matrix.as_chunks::<2>().0, cols, out.as_chunks_mut().0),
        4 => transpose_elements(matrix.as_chunks::<4>().0, cols, out.as_chunks_mut().0),
        _ => transpose_elements(matrix.as_chunks::<8>().0, cols, out.as_chunks_mut().0),
    }
}

fn transpose_elements<const WIDTH: usize>(matrix: &[[u8; WIDTH]], cols: usize, out: &mut [[u8; WIDTH]]) {
    let rows = matrix.len() / cols.max(1);
    // Tiles are transposed in a buffer: rows of either matrix lie at distances that may be all in one set of a cache.
    let mut transposed = [[[0; WIDTH]; TILE]; TILE];
    for first_column in (0..cols).step_by(TILE) {
        let columns = TILE.min(cols - first_column);
        for first_row in (0..rows).step_by(TILE) {
            let tile_rows = TILE.min(rows - first_row);
            for row in 0..tile_rows {
                let from = &matrix[(first_row + row) * cols + first_column..][..columns];
                transposed.iter_mut().zip(from).for_each(|(transposed, element)| transposed[row] = *element);
            }
            for (column, transposed) in transposed[..columns].iter().enumerate() {
                let to = (first_column + column) * rows + first_row;
                out[to..to + tile_rows].copy_from_slice(&transposed[..tile_rows]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for (rows, cols) in [(0, 3), (1, 1), (2, 3), (31, 33), (64, 32), (100, 7)] {
            for width in [1u64, 2, 4, 8] {
                let bytes = rows * cols * width;
                let matrix: Vec<u8> = (0..bytes).map(|i| (i * 7 % 251) as u8).collect();
                let mut transposed = vec![0; matrix.len()];
                transpose(&matrix, cols, width, &mut transposed);
                for row in 0..rows {
                    for column in 0..cols {
                        let at = |row: u64, column: u64, cols: u64| ((row * cols + column) * width) as usize;
                        let (from, to) = (at(row, column, cols), at(column, row, rows));
                        assert_eq!(matrix[from..from + width as usize], transposed[to..to + width as usize]);
                    }
                }
                let mut back = vec![0; matrix.len()];
                transpose(&transposed, rows.max(1), width, &mut back);
                assert_eq!(back, matrix);
            }
        }
    }
}
