//! Small tensors, gathered into bundles.
//!
//! Tables, coder states, a header entry, a record and a job for each of them would take more than they do. One bundle
//! is open for each element type; slices fill it in the order in which their bytes pass.

use std::collections::BTreeMap;

use qstore_checkpoint::SourceArray;
use qstore_container::{ArrayKey, Dtype, Encoding};

use super::{Coding, Pairs, chunk_of, near, plan_alone};

/// Tensors of fewer bytes are bundled. What larger ones save by tables of their own is more than those cost.
const SMALL_BYTES: u64 = 16 << 10;
/// Weights that a residual saves more on than its states, table and header entry cost.
const RESIDUAL_WEIGHTS: u64 = 512;
/// Bytes of a bundle, about: enough to make its tables cheap, few enough that one slice is read in a moment.
const BUNDLE_BYTES: usize = 256 << 10;

/// Whether a tensor is best bundled.
pub(crate) fn is_small(array: &SourceArray, pairs: &Pairs) -> bool {
    let weights = array.shape.iter().fold(1u64, |product, d| product.saturating_mul(*d));
    array.key.tensor().is_some()
        && array.bytes < SMALL_BYTES
        && !near::is_worthwhile(pairs, array)
        && (weights < RESIDUAL_WEIGHTS
            || pairs.of(&array.key).is_empty() && pairs.cuts(&array.key).is_empty())
}

/// The most bundles that these tensors take.
pub(crate) fn most_bundles<'a>(arrays: impl Iterator<Item = &'a SourceArray>) -> u64 {
    let mut bytes: BTreeMap<Dtype, u64> = BTreeMap::new();
    arrays.for_each(|array| *bytes.entry(array.dtype).or_default() += array.bytes);
    // One is closed by a tensor that does not fit.
    bytes.values().map(|bytes| bytes / (BUNDLE_BYTES as u64 - SMALL_BYTES) + 1).sum()
}

/// A bundle with all of its bytes.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// It, as if it were an array of the source; it is of no file.
    pub(crate) array: SourceArray,
    pub(crate) raw: Vec<u8>,
}

impl Bundle {
    fn new(number: u32, dtype: Dtype, raw: Vec<u8>) -> Self {
        let bytes = raw.len() as u64;
        let shape = vec![bytes * 8 / dtype.bitsize() as u64];
        let array = SourceArray {
            key: ArrayKey::Bundle(number),
            dtype,
            shape,
            bytes,
            file: 0,
            offset: 0,
            part: None,
        };
        Self { array, raw }
    }

    /// What its slices call it.
    pub(crate) fn key(&self) -> &ArrayKey {
        &self.array.key
    }

    /// The cheapest way to code it.
    pub(crate) fn coding(&self) -> Coding {
        plan_alone(&self.array, chunk_of(&self.array), &self.raw)
    }
}

/// The bundles that are being filled.
#[derive(Debug, Default)]
pub(crate) struct Bundles {
    open: BTreeMap<Dtype, (u32, Vec<u8>)>,
    next: u32,
}

impl Bundles {
    /// Appends a tensor. Returns how it is stored, and a bundle that it did not fit into.
    pub(crate) fn add(&mut self, dtype: Dtype, bytes: &[u8]) -> (Encoding, Option<Bundle>) {
        let full = self.open.get(&dtype).is_some_and(|(_, raw)| raw.len() + bytes.len() > BUNDLE_BYTES);
        let closed = if full { self.open.remove(&dtype) } else { None };
        let (number, raw) = self.open.entry(dtype).or_insert_with(|| {
            self.next += 1;
            (self.next - 1, Vec::new())
        });
        let encoding = Encoding::Slice { of: ArrayKey::Bundle(*number), offset: raw.len() as u64 };
        raw.extend_from_slice(bytes);
        (encoding, closed.map(|(number, raw)| Bundle::new(number, dtype, raw)))
    }

    /// Closes all.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = Bundle> + use<> {
        let open = std::mem::take(&mut self.open).into_iter();
        open.map(|(dtype, (number, raw))| Bundle::new(number, dtype, raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(encoding: &Encoding) -> (String, u64) {
        let Encoding::Slice { of, offset } = encoding else { panic!("{encoding:?}") };
        (of.to_string(), *offset)
    }

    #[test]
    fn each_type_has_a_bundle_until_it_is_full() {
        let mut bundles = Bundles::default();
        let mut add = |dtype, bytes: usize| {
            let (encoding, closed) = bundles.add(dtype, &vec![1; bytes]);
            (place(&encoding), closed.map(|bundle| bundle.array.key.to_string()))
        };
        assert_eq!(add(Dtype::BF16, 1000), (("bundle:0".to_owned(), 0), None));
        assert_eq!(add(Dtype::U8, 7), (("bundle:1".to_owned(), 0), None));
        assert_eq!(add(Dtype::BF16, BUNDLE_BYTES - 1000), (("bundle:0".to_owned(), 1000), None));
        assert_eq!(add(Dtype::BF16, 0), (("bundle:0".to_owned(), BUNDLE_BYTES as u64), None));
        assert_eq!(add(Dtype::BF16, 2), (("bundle:2".to_owned(), 0), Some("bundle:0".to_owned())));
        let left: Vec<_> = bundles.close().map(|b| (b.array.key.to_string(), b.array.shape)).collect();
        assert_eq!(left, [("bundle:1".to_owned(), vec![7]), ("bundle:2".to_owned(), vec![1])]);
        assert_eq!(bundles.close().count(), 0);
    }
}
