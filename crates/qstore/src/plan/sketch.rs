//! What a matrix is like, told by a few numbers, for matrices whose names say nothing.
//!
//! The first rows and columns of a matrix are cut into blocks, and each block is summed up. Quantising changes single
//! weights by much and sums of many by little, while sums of two matrices have nothing to do with each other. So the
//! sketches of a matrix and of what was made from it point the same way, and others do not. Candidates are found by the
//! block whose sum is greatest, so the time is in proportion to the number of matrices for any that there are in
//! practice.

use std::collections::HashMap;

/// Rows and columns that are looked at, at most.
pub(super) const SIDE: u64 = 128;
/// Blocks along either side.
const BLOCKS: usize = 8;
/// Of two sketches that are of one matrix at least the cosine.
const ALIKE: f32 = 0.75;
/// Sketches that are all compared with one that is looked for; of more only those that have a peak of it.
const FEW: usize = 256;
/// Greatest blocks by which a sketch is found.
const PEAKS: usize = 3;

/// Sums of the blocks of a corner, their length 1.
#[derive(Debug, Clone)]
pub(super) struct Sketch {
    sums: [f32; BLOCKS * BLOCKS],
}

impl Sketch {
    /// Of a corner with rows of `cols` values. `None` if it is too small to tell, or all zeros.
    pub(super) fn new(values: &[f32], cols: usize) -> Option<Self> {
        let rows = values.len().checked_div(cols)?;
        let (high, wide) = (rows / BLOCKS, cols / BLOCKS);
        if high == 0 || wide == 0 {
            return None;
        }
        let mut sums = [0.0; BLOCKS * BLOCKS];
        for (row, values) in values.chunks_exact(cols).enumerate().take(high * BLOCKS) {
            for (block, values) in values.chunks_exact(wide).take(BLOCKS).enumerate() {
                sums[row / high * BLOCKS + block] += values.iter().sum::<f32>();
            }
        }
        let length = sums.iter().map(|sum| sum * sum).sum::<f32>().sqrt();
        let is_useful = length.is_finite() && length > 0.0;
        is_useful.then(|| Self { sums: sums.map(|sum| sum / length) })
    }

    /// That of the transposed matrix, whose corner is the transposed one.
    pub(super) fn transposed(&self) -> Self {
        Self { sums: std::array::from_fn(|at| self.sums[at % BLOCKS * BLOCKS + at / BLOCKS]) }
    }

    fn cosine(&self, other: &Self) -> f32 {
        self.sums.iter().zip(&other.sums).map(|(a, b)| a * b).sum()
    }

    /// The blocks with the greatest sums, and whether each is positive.
    fn peaks(&self) -> [(usize, bool); PEAKS] {
        let mut order: [usize; BLOCKS * BLOCKS] = std::array::from_fn(|at| at);
        order.sort_by(|a, b| self.sums[*b].abs().total_cmp(&self.sums[*a].abs()));
        std::array::from_fn(|peak| (order[peak], self.sums[order[peak]] > 0.0))
    }
}

/// Sketches of matrices of several shapes.
#[derive(Debug, Default)]
pub(super) struct Sketches {
    all: Vec<(usize, Sketch)>,
    /// By corner.
    by_corner: HashMap<[u64; 2], Vec<usize>>,
    /// By corner, block and sign.
    by_peak: HashMap<([u64; 2], usize, bool), Vec<usize>>,
}

impl Sketches {
    /// Adds the sketch of matrix `id`, which has this corner.
    pub(super) fn add(&mut self, id: usize, corner: [u64; 2], sketch: Sketch) {
        for (block, positive) in sketch.peaks() {
            self.by_peak.entry((corner, block, positive)).or_default().push(self.all.len());
        }
        self.by_corner.entry(corner).or_default().push(self.all.len());
        self.all.push((id, sketch));
    }

    /// The matrix that is like `sketch`, if one is and all others are much less so.
    pub(super) fn find(&self, corner: [u64; 2], sketch: &Sketch) -> Option<usize> {
        let all = self.by_corner.get(&corner)?;
        let near: Vec<usize> = if all.len() <= FEW {
            all.clone()
        } else {
            let of_peak = |(block, positive)| self.by_peak.get(&(corner, block, positive));
            sketch.peaks().into_iter().filter_map(of_peak).flatten().copied().collect()
        };
        let mut best: Option<(usize, f32)> = None;
        let mut second = 0f32;
        for (id, cosine) in near.into_iter().map(|at| (self.all[at].0, self.all[at].1.cosine(sketch))) {
            match best {
                // Found by another peak as well.
                Some((known, most)) if known == id => best = Some((id, most.max(cosine))),
                Some((_, most)) if cosine <= most => second = second.max(cosine),
                _ => {
                    second = second.max(best.map_or(0.0, |(_, most)| most));
                    best = Some((id, cosine));
                }
            }
        }
        let (id, cosine) = best?;
        (cosine >= ALIKE && 1.0 - cosine < (1.0 - second) / 2.0).then_some(id)
    }
}

/// Rows and columns of the corner of a matrix of this shape.
pub(super) fn corner(shape: [u64; 2]) -> [u64; 2] {
    shape.map(|side| side.min(SIDE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    fn noise(rng: &mut StdRng, count: usize, spread: f32) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-spread..spread)).collect()
    }

    #[test]
    fn a_matrix_is_like_itself_with_noise_and_like_no_other() {
        let mut rng = StdRng::seed_from_u64(1);
        let (rows, cols) = (100, 64);
        let matrices: Vec<Vec<f32>> = (0..2000).map(|_| noise(&mut rng, rows * cols, 1.0)).collect();
        let mut sketches = Sketches::default();
        for (id, matrix) in matrices.iter().enumerate() {
            sketches.add(id, [100, 64], Sketch::new(matrix, cols).unwrap());
        }
        let mut found = 0;
        for (id, matrix) in matrices.iter().enumerate() {
            // As of a quantiser with three bits.
            let moved: Vec<f32> = matrix.iter().map(|value| value + rng.random_range(-0.15..0.15)).collect();
            let moved = Sketch::new(&moved, cols).unwrap();
            let like = sketches.find([100, 64], &moved);
            assert!(like.is_none_or(|like| like == id));
            found += usize::from(like.is_some());
            assert_eq!(sketches.find([64, 100], &moved), None);
            let other = Sketch::new(&noise(&mut rng, rows * cols, 1.0), cols).unwrap();
            assert_eq!(sketches.find([100, 64], &other), None);
        }
        assert!(found > 1980, "{found}");
    }

    #[test]
    fn transposed_corners_have_transposed_sketches() {
        let mut rng = StdRng::seed_from_u64(2);
        let matrix = noise(&mut rng, 64 * 64, 1.0);
        let transposed: Vec<f32> = (0..64 * 64).map(|at| matrix[at % 64 * 64 + at / 64]).collect();
        let (one, other) = (Sketch::new(&matrix, 64).unwrap(), Sketch::new(&transposed, 64).unwrap());
        assert!(one.transposed().cosine(&other) > 0.999);
        assert!(one.cosine(&other).abs() < 0.5);
    }

    #[test]
    fn what_tells_nothing_has_no_sketch() {
        assert!(Sketch::new(&[0.0; 4096], 64).is_none());
        assert!(Sketch::new(&[1.0; 49], 7).is_none());
        assert!(Sketch::new(&[], 0).is_none());
        assert!(Sketch::new(&[f32::NAN; 4096], 64).is_none());
        assert!(Sketch::new(&[f32::MAX; 4096], 64).is_none());
    }
}
