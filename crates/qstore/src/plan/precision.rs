//! Which of several variants is the lower one.
//!
//! That is what their matrices say that more than one of them has: how many bits a weight they take, scales included.
//! Whole folders say little: the lower one may have a head that the higher one has not, or larger embeddings, or files
//! twice.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use qstore_checkpoint::FloatKind;

use super::endings::Endings;
use crate::formats::{Checkpoint, Found, find_all};

/// Bits a weight of a variant. Less is lower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Precision {
    bits: u128,
    weights: u128,
    /// Bytes of all tensors, where nothing else tells two variants apart.
    bytes: u64,
}

impl Ord for Precision {
    fn cmp(&self, other: &Self) -> Ordering {
        let ours = self.bits.saturating_mul(other.weights);
        let theirs = other.bits.saturating_mul(self.weights);
        ours.cmp(&theirs).then(self.bytes.cmp(&other.bytes))
    }
}

impl PartialOrd for Precision {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Precision {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Precision {}

/// A weight matrix, as floats or as codes.
struct MatrixBits {
    name: String,
    shape: [u64; 2],
    /// Of its codes and all that says what they stand for.
    bits: u64,
    quantised: bool,
}

impl MatrixBits {
    fn weights(&self) -> u64 {
        self.shape[0].saturating_mul(self.shape[1])
    }
}

/// The precision of each of several variants.
pub(crate) fn precisions(variants: &[Checkpoint]) -> Vec<Precision> {
    let (matrices, is_opaque): (Vec<_>, Vec<_>) = variants.iter().map(matrices).unzip();
    let ids = matched(&matrices);
    let mut users: HashMap<usize, (usize, bool)> = HashMap::new();
    for (id, matrix) in ids.iter().flatten().zip(matrices.iter().flatten()) {
        let of_id = users.entry(*id).or_default();
        *of_id = (of_id.0 + 1, of_id.1 | matrix.quantised);
    }
    // What tells most: what is quantised in one and there in another, else what is there in two, else all.
    let telling: [&dyn Fn(usize) -> bool; 3] =
        [&|id| users[&id].0 > 1 && users[&id].1, &|id| users[&id].0 > 1, &|_| true];
    let all_weights = matrices.iter().map(|all| all.iter().map(|one| u128::from(one.weights())).sum()).max();
    let precision = |(index, checkpoint): (usize, &Checkpoint)| {
        let bytes = checkpoint.tensors.iter().map(|array| array.bits() / 8).fold(0, u64::saturating_add);
        let of = |tells: &dyn Fn(usize) -> bool| {
            let told = matrices[index].iter().zip(&ids[index]).filter(|(_, id)| tells(**id));
            told.fold((0, 0), |(bits, weights), (one, _)| {
                (bits + u128::from(one.bits), weights + u128::from(one.weights()))
            })
        };
        let found = telling.iter().map(|tells| of(*tells)).find(|(_, weights)| *weights > 0);
        let found = found.filter(|_| !is_opaque[index]);
        // Where no format is known: the bits of all tensors for each weight that the model has.
        let (bits, weights) = found.unwrap_or((u128::from(bytes) * 8, all_weights.unwrap_or(0).max(1)));
        Precision { bits, weights, bytes }
    };
    variants.iter().enumerate().map(precision).collect()
}

/// For each matrix of each variant a number that is the same in all variants that have it.
fn matched(variants: &[Vec<MatrixBits>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..variants.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(variants[*index].len()));
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    let mut endings = Endings::default();
    let mut next = 0;
    let mut ids: Vec<Vec<usize>> = vec![Vec::new(); variants.len()];
    for index in order {
        let mut fresh = Vec::new();
        let mut of_variant = Vec::with_capacity(variants[index].len());
        for matrix in &variants[index] {
            let named = by_name.get(matrix.name.as_str()).copied();
            let id = named.or_else(|| endings.find(&matrix.name, matrix.shape)).unwrap_or_else(|| {
                next += 1;
                fresh.push((matrix, next));
                next
            });
            of_variant.push(id);
        }
        // Two matrices of one variant are no match of each other.
        for (matrix, id) in fresh {
            by_name.insert(&matrix.name, id);
            endings.add(&matrix.name, matrix.shape, id);
        }
        ids[index] = of_variant;
    }
    ids
}

/// The matrices of a variant, and whether others of it are in a format that is not known.
fn matrices(checkpoint: &Checkpoint) -> (Vec<MatrixBits>, bool) {
    let arrays = &checkpoint.tensors;
    let Found { groups, unknown, .. } = find_all(checkpoint);
    let is_opaque = groups.is_empty() && !unknown.is_empty();
    let bits: HashMap<_, _> = arrays.iter().map(|array| (&array.key, array.bits())).collect();
    let quantised = groups.iter().map(|group| MatrixBits {
        name: group.weight.clone(),
        shape: group.shape(),
        bits: group.matrix().arrays().filter_map(|part| bits.get(part)).sum(),
        quantised: true,
    });
    let floats = arrays.iter().filter(|array| FloatKind::of(array.dtype).is_some());
    let floats = floats.filter_map(|array| match array.shape[..] {
        [rows, cols] => Some(MatrixBits {
            name: array.name.clone(),
            shape: [rows, cols],
            bits: array.bits(),
            quantised: false,
        }),
        _ => None,
    });
    // Names that occur twice in a variant are one matrix in two sets of weights.
    let mut names = HashSet::new();
    (quantised.chain(floats).filter(|matrix| names.insert(matrix.name.clone())).collect(), is_opaque)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ArrayInfo;
    use qstore_container::{ArrayKey, Dtype};

    fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> ArrayInfo {
        ArrayInfo::new(&ArrayKey::Tensor(name.to_owned()), &"model.safetensors".into(), dtype, shape).unwrap()
    }

    /// Two layers as floats, and an embedding.
    fn floats(dtype: Dtype, prefix: &str) -> Vec<ArrayInfo> {
        let mut all = vec![tensor("embed", dtype, &[5000, 64])];
        all.extend((0..2).map(|l| tensor(&format!("{prefix}layers.{l}.mlp.up.weight"), dtype, &[64, 64])));
        all
    }

    fn int8(prefix: &str, embedding: Dtype) -> Vec<ArrayInfo> {
        let mut all = vec![tensor("embed", embedding, &[5000, 64])];
        for l in 0..2 {
            let base = format!("{prefix}layers.{l}.mlp.up");
            all.push(tensor(&format!("{base}.weight"), Dtype::I8, &[64, 64]));
            all.push(tensor(&format!("{base}.SCB"), Dtype::F32, &[64]));
        }
        all
    }

    fn order(variants: &[Vec<ArrayInfo>]) -> Vec<usize> {
        let of = |tensors: &Vec<ArrayInfo>| Checkpoint { tensors: tensors.clone(), ..Checkpoint::default() };
        let precisions = precisions(&variants.iter().map(of).collect::<Vec<_>>());
        let mut order: Vec<usize> = (0..variants.len()).collect();
        order.sort_by_key(|index| precisions[*index]);
        order
    }

    #[test]
    fn matrices_tell_and_not_what_else_there_is() {
        // A head twice, embeddings in FP32: more bytes than BF16 takes.
        let mut heavy = int8("model.", Dtype::F32);
        heavy.push(tensor("lm_head.weight", Dtype::BF16, &[5000, 64]));
        let bytes = |all: &[ArrayInfo]| all.iter().map(ArrayInfo::bits).sum::<u64>();
        let bf16 = floats(Dtype::BF16, "model.");
        assert!(bytes(&heavy) > bytes(&bf16));
        assert_eq!(order(&[bf16.clone(), heavy.clone()]), [1, 0]);
        assert_eq!(order(&[heavy, bf16]), [0, 1]);
    }

    #[test]
    fn other_prefixes_and_no_names_in_common() {
        let heavy = int8("transformer.model.", Dtype::F32);
        assert_eq!(order(&[floats(Dtype::BF16, "model."), heavy]), [1, 0]);
        let stranger =
            vec![tensor("a.b.c.qweight", Dtype::I32, &[64, 64]), tensor("a.b.c.scale", Dtype::F16, &[64, 9])];
        assert_eq!(order(&[floats(Dtype::BF16, ""), stranger, int8("", Dtype::F32)]), [1, 2, 0]);
        assert_eq!(order(&[floats(Dtype::F32, ""), floats(Dtype::BF16, "")]), [1, 0]);
        assert_eq!(order(&[vec![], vec![]]), [0, 1]);
    }

    #[test]
    fn absurd_shapes_are_no_reason_to_panic() {
        let huge = vec![tensor("x.y.z.weight", Dtype::F32, &[u64::MAX, u64::MAX])];
        assert_eq!(order(&[huge.clone(), huge, floats(Dtype::BF16, "")]).len(), 3);
    }
}
