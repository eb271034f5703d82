//! Pairing matrices whose names say nothing, by their values.

use std::collections::HashSet;

use qstore_checkpoint::{FloatKind, Progress, Result, Source, size};

use super::given::Pair;
use super::matrices::NamedMatrix;
use super::sketch::{Sketch, Sketches, corner};
use super::unusable::Unusable;

/// For each of `pairs` the index of the float matrix among `matrices` that its codes were made from, where values tell.
pub(super) fn match_values(
    source: &Source,
    matrices: &[NamedMatrix],
    pairs: &[Pair],
    progress: &dyn Progress,
) -> Result<Vec<Option<usize>>> {
    let mut sketches = Sketches::default();
    let corners: HashSet<[u64; 2]> = pairs.iter().map(|pair| corner(pair.group.shape())).collect();
    for (index, matrix) in matrices.iter().enumerate() {
        progress.advance(0)?;
        let own = corner(matrix.shape);
        let transposed = [own[1], own[0]];
        if !corners.contains(&own) && !corners.contains(&transposed) {
            continue;
        }
        let Some(sketch) = sketch_of_floats(source, matrix)? else { continue };
        if corners.contains(&transposed) {
            sketches.add(index, transposed, sketch.transposed());
        }
        // A matrix that equals its transposed is told once.
        if corners.contains(&own) {
            sketches.add(index, own, sketch);
        }
    }
    let mut taken = HashSet::new();
    let mut found = Vec::with_capacity(pairs.len());
    for pair in pairs {
        progress.advance(0)?;
        let like = match sketch_of_codes(pair)? {
            Some(sketch) => sketches.find(corner(pair.group.shape()), &sketch),
            None => None,
        };
        found.push(like.filter(|index| matrices[*index].fits(&pair.group) && taken.insert(*index)));
    }
    Ok(found)
}

fn sketch_of_floats(source: &Source, matrix: &NamedMatrix) -> Result<Option<Sketch>> {
    let Some(array) = source.find(matrix.key) else { return Ok(None) };
    let Some(float) = FloatKind::of(array.dtype) else { return Ok(None) };
    let [rows, cols] = corner(matrix.shape);
    let width = float.width();
    let mut bytes = vec![0; size(rows * cols) * width];
    for (row, line) in (0..rows).zip(bytes.chunks_exact_mut((size(cols) * width).max(1))) {
        source.read(array, row * matrix.shape[1] * width as u64, line)?;
    }
    let values: Vec<f32> = bytes.chunks_exact(width).map(|bytes| float.read(bytes)).collect();
    Ok(Sketch::new(&values, size(cols)))
}

fn sketch_of_codes(pair: &Pair) -> Result<Option<Sketch>> {
    let shape = pair.group.shape();
    let Some(given) = Unusable::skip(pair.open(shape))? else { return Ok(None) };
    let Some(codes) = Unusable::skip(given.codes())? else { return Ok(None) };
    let [rows, cols] = corner(shape);
    let mut corner = vec![0; size(rows * cols)];
    codes.read(0, 0..cols, given.values.zero_code(), &mut corner)?;
    let lines = corner.chunks_exact(size(cols).max(1)).enumerate();
    let values: Vec<f32> = lines.flat_map(|(row, codes)| given.values.values_of(row, codes)).collect();
    Ok(Sketch::new(&values, size(cols)))
}
