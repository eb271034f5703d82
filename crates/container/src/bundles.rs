//! Bundles: small tensors one after another in one array, which a reader decodes once for all of them.
//!
//! Each such tensor is a slice of its bundle. In the order of the plan, the slices of one element type fill that type's bundles one after
//! another, without a gap and each from its first byte to its last. So no byte of a bundle is of no tensor, and whoever reads a layer in its
//! order needs at most one bundle of each type at a time.

use std::collections::{BTreeMap, HashMap};

use crate::limits::MAX_BUNDLE_BYTES;
use crate::{ArrayKey, Dtype, Encoding, FormatError, StoredArray};

/// How far the slices of a bundle have come.
struct Bundle<'a> {
    array: &'a StoredArray,
    bytes: u64,
    /// First byte after the slices so far; `None` before the first.
    filled: Option<u64>,
}

/// Fails unless every bundle among the arrays of a shard is of a known kind and exactly filled by slices.
pub(crate) fn check(arrays: &[StoredArray]) -> Result<(), FormatError> {
    let mut bundles = HashMap::new();
    for array in arrays.iter().filter(|array| matches!(array.key, ArrayKey::Bundle(_))) {
        bundles.insert(&array.key, Bundle { array, bytes: bundle_bytes(array)?, filled: None });
    }
    // For each element type the bundle that its slices have come to.
    let mut open: BTreeMap<Dtype, &ArrayKey> = BTreeMap::new();
    for array in arrays {
        let Encoding::Slice { of, offset } = &array.encoding else { continue };
        let bad = |what: &str| Err(FormatError::new(format!("{}: {what}", array.key)));
        if array.key.tensor().is_none() {
            return bad("a slice that is no tensor");
        }
        if let Some(before) = open.insert(array.dtype, of).filter(|before| *before != of) {
            let full = bundles.get(before).is_some_and(|bundle| bundle.filled == Some(bundle.bytes));
            if !full {
                return bad("it is in another bundle than the one that is being filled");
            }
        }
        let Some(bundle) = bundles.get_mut(of) else {
            return bad("it is a slice of what is no bundle here");
        };
        if bundle.array.dtype != array.dtype {
            return bad("it is a slice of a bundle of another type");
        }
        let end = offset.saturating_add(array.bytes()?);
        if bundle.filled.unwrap_or(0) != *offset || end > bundle.bytes {
            return bad("it does not begin where the slice before it ends, or ends outside its bundle");
        }
        bundle.filled = Some(end);
    }
    match bundles.values().find(|bundle| bundle.filled != Some(bundle.bytes)) {
        Some(bundle) => Err(FormatError::new(format!("{}: it has bytes of no tensor", bundle.array.key))),
        None => Ok(()),
    }
}

fn bundle_bytes(bundle: &StoredArray) -> Result<u64, FormatError> {
    let plain =
        matches!(bundle.encoding, Encoding::FloatSplit | Encoding::Codes | Encoding::Zstd | Encoding::Raw);
    let bytes = bundle.bytes()?;
    if !plain || bundle.shape.len() != 1 || bytes > MAX_BUNDLE_BYTES {
        let what = "a bundle that is no plain list of elements, or larger than a reader accepts";
        return Err(FormatError::new(format!("{}: {what}", bundle.key)));
    }
    Ok(bytes)
}
