//! Bundles: small tensors one after another in one array, which a reader decodes once for all of them.
//!
//! Each such tensor is a slice of its bundle. In the order of the plan, the slices of one element type fill that type's
//! bundles one after another, without a gap and each from its first byte to its last. So no byte of a bundle is of no
//! tensor, and whoever reads a variant in its order needs at most one bundle of each type at a time.

use std::collections::{BTreeMap, HashMap};

use crate::limits::MAX_BUNDLE_BYTES;
use crate::{ArrayKey, CodeLayout, Dtype, Encoding, FormatError, StoredArray};

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
    let plain = matches!(
        bundle.encoding,
        Encoding::FloatSplit | Encoding::Codes { .. } | Encoding::Zstd | Encoding::Raw
    ) && bundle.encoding.layout().is_none_or(CodeLayout::is_plain);
    let bytes = bundle.bytes()?;
    if !plain || bundle.shape.len() != 1 || bytes > MAX_BUNDLE_BYTES {
        let what = "a bundle that is no plain list of elements, or larger than a reader accepts";
        return Err(FormatError::new(format!("{}: {what}", bundle.key)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkShape, Hash128};

    fn bundle(number: u32, dtype: Dtype, elements: u64) -> StoredArray {
        StoredArray {
            key: ArrayKey::Bundle(number),
            dtype,
            shape: vec![elements],
            mantissa: None,
            hash: Some(Hash128(0)),
            chunk: ChunkShape { rows: 1024, cols: 512, lanes: crate::Lanes::Narrow },
            encoding: Encoding::Raw,
        }
    }

    fn slice(dtype: Dtype, elements: u64, of: u32, offset: u64) -> StoredArray {
        StoredArray {
            key: ArrayKey::Tensor(format!("{of}.{offset}")),
            dtype,
            shape: vec![elements],
            mantissa: None,
            hash: None,
            chunk: ChunkShape::NONE,
            encoding: Encoding::Slice { of: ArrayKey::Bundle(of), offset },
        }
    }

    #[test]
    fn slices_fill_the_bundles_of_their_type_in_order() {
        use Dtype::{BF16, F32, U8};
        let good = [
            slice(BF16, 3, 0, 0),
            slice(U8, 0, 1, 0),
            slice(F32, 1, 7, 0),
            slice(BF16, 2, 0, 6),
            bundle(0, BF16, 5),
            slice(BF16, 4, 5, 0),
            slice(U8, 9, 1, 0),
            bundle(1, U8, 9),
            bundle(7, F32, 1),
            bundle(5, BF16, 4),
        ];
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[slice(U8, 0, 1, 0), bundle(1, U8, 0)]), Ok(()));

        let full = bundle(0, U8, 4);
        let matrix = StoredArray { shape: vec![2, 2], ..full.clone() };
        let kept = Encoding::Verbatim { file: "x".parse().unwrap(), offset: 0 };
        let nested = StoredArray { encoding: slice(U8, 4, 1, 0).encoding, ..full.clone() };
        let file = StoredArray { key: "file:x".parse().unwrap(), ..slice(U8, 4, 0, 0) };
        let of_tensor = Encoding::Slice { of: ArrayKey::Tensor("0.0".to_owned()), offset: 0 };
        let bad = [
            (vec![full.clone()], "bytes of no tensor"),
            (vec![bundle(0, U8, 0)], "bytes of no tensor"),
            (vec![slice(U8, 3, 0, 0), full.clone()], "bytes of no tensor"),
            (vec![slice(U8, 5, 0, 0), full.clone()], "outside its bundle"),
            (vec![slice(U8, 4, 0, u64::MAX), full.clone()], "does not begin"),
            (vec![slice(U8, 2, 0, 2), slice(U8, 2, 0, 0), full.clone()], "does not begin"),
            (vec![slice(U8, 2, 0, 0), slice(U8, 2, 0, 1), full.clone()], "does not begin"),
            (vec![slice(U8, 4, 1, 0), full.clone()], "no bundle here"),
            (vec![StoredArray { encoding: of_tensor, ..slice(U8, 4, 0, 0) }], "no bundle here"),
            (vec![slice(Dtype::I8, 4, 0, 0), full.clone()], "another type"),
            (vec![file, full.clone()], "no tensor"),
            (vec![slice(U8, 4, 0, 0), matrix], "no plain list"),
            (vec![slice(U8, 4, 0, 0), nested], "no plain list"),
            (vec![slice(U8, 4, 0, 0), StoredArray { encoding: kept, ..full.clone() }], "no plain list"),
            (vec![slice(U8, (1 << 20) + 1, 0, 0), bundle(0, U8, (1 << 20) + 1)], "larger"),
            (
                vec![slice(U8, 2, 0, 0), slice(U8, 4, 1, 0), slice(U8, 2, 0, 2), full, bundle(1, U8, 4)],
                "another bundle than the one",
            ),
        ];
        for (arrays, word) in bad {
            let error = check(&arrays).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
