//! Mixtures of experts, with a tensor for each matrix or one for all of a layer. `module` is what comes before the
//! number of an expert.

use qstore::Dtype;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::{Tensor, Tensors, weights};

pub const EXPERTS: usize = 3;

/// A model with a tensor for each matrix of each expert; gates and ups of [160, 96], downs of [96, 160].
pub fn each(module: &str, seed: u64, dtype: Dtype) -> Tensors {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    for expert in 0..EXPERTS {
        for (projection, rows, cols) in [("gate_proj", 160, 96), ("up_proj", 160, 96), ("down_proj", 96, 160)]
        {
            let name = format!("{module}.{expert}.{projection}.weight");
            tensors.insert(name, weights(&mut rng, dtype, rows, cols));
        }
    }
    tensors.insert(norm(module), weights(&mut rng, dtype, 1, 96));
    tensors
}

/// How the matrices of an expert lie in a fused tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lie {
    /// [E, 2I, H]: the gate's rows, then the up's.
    Rows,
    /// [E, 2I, H]: in turn.
    RowsInTurn,
    /// [E, H, 2I]: the gate's columns, then the up's.
    Columns,
    /// [E, H, 2I]: in turn.
    ColumnsInTurn,
}

/// The same model with one tensor for all gates and ups, and one for all downs.
pub fn fused(module: &str, each: &Tensors, lie: Lie) -> Tensors {
    let width = |tensor: &Tensor| tensor.dtype.bitsize() / 8;
    let rows_of = |tensor: &Tensor| -> Vec<Vec<u8>> {
        tensor.data.chunks(tensor.shape[1] * width(tensor)).map(<[u8]>::to_vec).collect()
    };
    let fuse = |projections: &[&str]| {
        let (mut data, mut shape, mut dtype) = (Vec::new(), [EXPERTS, 0, 0], Dtype::BF16);
        for expert in 0..EXPERTS {
            let tensors: Vec<&Tensor> =
                projections.iter().map(|p| &each[&format!("{module}.{expert}.{p}.weight")]).collect();
            let all: Vec<Vec<Vec<u8>>> = tensors.iter().map(|tensor| rows_of(tensor)).collect();
            let in_turn = matches!(lie, Lie::RowsInTurn | Lie::ColumnsInTurn);
            let rows: Vec<&Vec<u8>> = if in_turn {
                (0..all[0].len()).flat_map(|row| all.iter().map(move |rows| &rows[row])).collect()
            } else {
                all.iter().flatten().collect()
            };
            let (width, cols) = (width(tensors[0]), tensors[0].shape[1]);
            dtype = tensors[0].dtype;
            if matches!(lie, Lie::Rows | Lie::RowsInTurn) {
                shape = [EXPERTS, rows.len(), cols];
                rows.iter().for_each(|row| data.extend_from_slice(row));
            } else {
                shape = [EXPERTS, cols, rows.len()];
                for column in 0..cols {
                    rows.iter().for_each(|row| data.extend_from_slice(&row[column * width..][..width]));
                }
            }
        }
        Tensor::new(dtype, &shape, data)
    };
    let mut tensors = Tensors::from([(norm(module), each[&norm(module)].clone())]);
    tensors.insert(format!("{module}.gate_up_proj"), fuse(&["gate_proj", "up_proj"]));
    tensors.insert(format!("{module}.down_proj"), fuse(&["down_proj"]));
    tensors
}

/// A tensor of the layer that is none of its experts'.
fn norm(module: &str) -> String {
    format!("{}.norm.weight", module.trim_end_matches(".experts"))
}
