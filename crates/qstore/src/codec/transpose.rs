//! Matrices the other way round.

/// Rows and columns of a part whose source and target both stay in a core's cache.
const TILE: usize = 32;

/// Writes the transposed of a matrix with rows of `cols` elements of `width` bytes (1, 2 or 4) to `out`, which has as many bytes.
pub(crate) fn transpose(matrix: &[u8], cols: u64, width: u64, out: &mut [u8]) {
    let cols = usize::try_from(cols).unwrap_or(usize::MAX);
    match width {
        1 => turn(matrix.as_chunks::<1>().0, cols, out.as_chunks_mut().0),
        2 => turn(matrix.as_chunks::<2>().0, cols, out.as_chunks_mut().0),
        _ => turn(matrix.as_chunks::<4>().0, cols, out.as_chunks_mut().0),
    }
}

fn turn<const WIDTH: usize>(matrix: &[[u8; WIDTH]], cols: usize, out: &mut [[u8; WIDTH]]) {
    let rows = matrix.len() / cols.max(1);
    for column in (0..cols).step_by(TILE) {
        let columns = column..cols.min(column + TILE);
        for row in (0..rows).step_by(TILE) {
            let tile = row..rows.min(row + TILE);
            for column in columns.clone() {
                let from = matrix[tile.start * cols + column..].iter().step_by(cols);
                let to = &mut out[column * rows + tile.start..column * rows + tile.end];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
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
            for width in [1u64, 2, 4] {
                let bytes = rows * cols * width;
                let matrix: Vec<u8> = (0..bytes).map(|i| (i * 7 % 251) as u8).collect();
                let mut turned = vec![0; matrix.len()];
                transpose(&matrix, cols, width, &mut turned);
                for row in 0..rows {
                    for column in 0..cols {
                        let at = |row: u64, column: u64, cols: u64| ((row * cols + column) * width) as usize;
                        let (from, to) = (at(row, column, cols), at(column, row, rows));
                        assert_eq!(matrix[from..from + width as usize], turned[to..to + width as usize]);
                    }
                }
                let mut back = vec![0; matrix.len()];
                transpose(&turned, rows.max(1), width, &mut back);
                assert_eq!(back, matrix);
            }
        }
    }
}
