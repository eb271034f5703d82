//! Arrays that are stored by their parts: matrices that each have an encoding of their own.
//!
//! The parts of an array come right before it in the plan, in its order. Together they have each of its elements once.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_TRANSPOSED_BYTES;
use crate::{ArrayKey, Encoding, FormatError, Placed, StoredArray, View};

/// A matrix of an array, stored as an array of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What holds its bytes: an [`ArrayKey::Part`].
    pub array: ArrayKey,
    /// Which matrix it is.
    pub view: View,
}

/// Fails unless every part among the arrays of a shard is of the array that follows it, and these are made up of their
/// parts.
pub(crate) fn check(arrays: &[StoredArray]) -> Result<(), FormatError> {
    let mut first = 0;
    for (index, array) in arrays.iter().enumerate() {
        let bad = |what: &str| Err(FormatError::new(format!("{}: {what}", array.key)));
        if matches!(array.key, ArrayKey::Part(_)) {
            if matches!(
                array.encoding,
                Encoding::Parts { .. } | Encoding::Slice { .. } | Encoding::Verbatim { .. }
            ) {
                return bad("a part that is made of others, or lies in a bundle or a kept file");
            }
            continue;
        }
        let own = &arrays[first..index];
        first = index + 1;
        match &array.encoding {
            Encoding::Parts { parts } => check_parts(array, parts, own)?,
            _ if !own.is_empty() => return bad("parts come before it, of which it is not made"),
            _ => {}
        }
    }
    match arrays.get(first) {
        Some(part) => Err(FormatError::new(format!("{}: a part of no array", part.key))),
        None => Ok(()),
    }
}

/// Fails unless `array` consists of `parts`, which are stored as `own`.
fn check_parts(array: &StoredArray, parts: &[Part], own: &[StoredArray]) -> Result<(), FormatError> {
    let bad = |what: &str| FormatError::new(format!("{}: parts: {what}", array.key));
    if array.key.tensor().is_none() || !array.dtype.bitsize().is_multiple_of(8) {
        return Err(bad("of what is no tensor of whole bytes"));
    }
    if parts.is_empty() || !parts.iter().map(|part| &part.array).eq(own.iter().map(|own| &own.key)) {
        return Err(bad("others than those before it"));
    }
    let mut covered = Covered::default();
    for (part, own) in parts.iter().zip(own) {
        let named = |e: FormatError| bad(&format!("{}: {e}", part.array));
        let placed = part.view.place(&array.shape).map_err(named)?;
        if own.dtype != array.dtype || own.shape != placed.shape {
            return Err(bad(&format!("{}: it has another shape or element type", part.array)));
        }
        let slab = placed.elements();
        let bytes = (slab.end - slab.start).saturating_mul(array.width());
        if !placed.is_contiguous() && bytes > MAX_TRANSPOSED_BYTES {
            return Err(bad(&format!("{}: view.slab: larger than a reader accepts", part.array)));
        }
        covered.add(&part.view, &placed).map_err(|what| bad(&format!("{}: {what}", part.array)))?;
    }
    covered.check(array).map_err(bad)
}

/// The elements of an array that the parts so far have.
#[derive(Default)]
struct Covered {
    /// The slab of the last part, and the rows of it that are there.
    last: Option<(View, Placed, u64)>,
}

impl Covered {
    /// The next part: it begins where the last one ends.
    fn add(&mut self, view: &View, placed: &Placed) -> Result<(), &'static str> {
        let view = View { rows: None, ..view.clone() };
        let (start, end) = placed.rows_of_slab();
        let rows = match self.last.take() {
            Some((last, before, rows)) if rows < before.slab_rows() => {
                if last != view {
                    return Err("view: it has another slab, although one is not all taken");
                }
                rows
            }
            Some((_, before, _)) if before.pitch != placed.pitch => return Err("view.pitch: it changes"),
            Some((_, before, _)) if before.slab.end != placed.slab.start => {
                return Err("view.slab: it does not begin where the one before ends");
            }
            None if placed.slab.start != 0 => return Err("view.slab: the first does not begin the array"),
            _ => 0,
        };
        if rows != start || end <= start {
            return Err("view.rows: they do not begin where those before end");
        }
        self.last = Some((view, *placed, end));
        Ok(())
    }

    /// Whether all of the array is there.
    fn check(self, array: &StoredArray) -> Result<(), &'static str> {
        let elements = array.bytes().unwrap_or(0) / array.width();
        match self.last {
            Some((_, placed, rows)) if rows == placed.slab_rows() && placed.elements().end == elements => {
                Ok(())
            }
            _ => Err("they do not have all of it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkShape, Dtype, Hash128, Lanes};

    fn part(number: u32, shape: [u64; 2]) -> StoredArray {
        StoredArray {
            key: ArrayKey::Part(number),
            dtype: Dtype::BF16,
            shape: shape.to_vec(),
            hash: Some(Hash128(0)),
            chunk: ChunkShape { rows: 4, cols: shape[1], lanes: Lanes::Narrow },
            mantissa: None,
            encoding: Encoding::FloatSplit,
        }
    }

    fn whole(shape: &[u64], views: &[View]) -> StoredArray {
        let parts = (0..).zip(views).map(|(n, view)| Part { array: ArrayKey::Part(n), view: view.clone() });
        StoredArray {
            key: ArrayKey::Tensor("x".to_owned()),
            shape: shape.to_vec(),
            chunk: ChunkShape::NONE,
            encoding: Encoding::Parts { parts: parts.collect() },
            ..part(0, [1, 1])
        }
    }

    fn checked(shape: &[u64], views: &[View]) -> Result<(), FormatError> {
        let whole = whole(shape, views);
        let parts = (0..)
            .zip(views)
            .map(|(n, view)| part(n, view.place(shape).map_or([1, 1], |placed| placed.shape)));
        check(&parts.chain([whole]).collect::<Vec<_>>())
    }

    fn slab(start: u64, end: u64) -> View {
        View { slab: Some([start, end].into()), ..View::WHOLE }
    }

    fn rows(view: View, start: u64, end: u64) -> View {
        View { rows: Some([start, end].into()), ..view }
    }

    #[test]
    fn parts_have_every_element_once() {
        let shape = [2, 6, 4];
        let transposed = |start, end| View { transposed: true, ..slab(start, end) };
        let split = |start, end| View { order: Some([3, 2].into()), ..slab(start, end) };
        let good = [
            vec![View::WHOLE],
            vec![View::TRANSPOSED],
            vec![slab(0, 6), slab(6, 12)],
            vec![slab(0, 1), slab(1, 12)],
            vec![rows(slab(0, 6), 0, 2), rows(slab(0, 6), 2, 6), slab(6, 12)],
            vec![rows(transposed(0, 6), 0, 1), rows(transposed(0, 6), 1, 4), transposed(6, 12)],
            vec![rows(split(0, 6), 0, 3), rows(split(0, 6), 3, 6), rows(split(6, 12), 0, 6)],
        ];
        for views in good {
            assert_eq!(checked(&shape, &views), Ok(()), "{views:?}");
        }
        let bad = [
            (vec![], "others than"),
            (vec![slab(0, 6)], "all of it"),
            (vec![slab(6, 12)], "first"),
            (vec![slab(0, 6), slab(5, 12)], "begin"),
            (vec![slab(0, 6), slab(7, 12)], "begin"),
            (vec![slab(0, 6), slab(6, 13)], "view.slab"),
            (vec![rows(slab(0, 6), 0, 2), slab(6, 12)], "another slab"),
            (vec![rows(slab(0, 6), 0, 2), rows(split(0, 6), 2, 6), slab(6, 12)], "another slab"),
            (vec![rows(slab(0, 6), 0, 2), rows(slab(0, 6), 3, 6), slab(6, 12)], "view.rows"),
            (vec![rows(slab(0, 6), 0, 2), rows(slab(0, 6), 1, 6), slab(6, 12)], "view.rows"),
            (vec![rows(slab(0, 6), 0, 2), rows(slab(0, 6), 2, 2), slab(6, 12)], "view.rows"),
            (vec![slab(0, 6), slab(6, 12), slab(12, 12)], "view.rows"),
            (vec![rows(transposed(0, 12), 0, 3)], "all of it"),
            (vec![slab(0, 6), View { pitch: Some(8), ..slab(3, 6) }], "view.pitch"),
        ];
        for (views, word) in bad {
            let error = checked(&shape, &views).unwrap_err().to_string();
            assert!(error.contains(word), "{views:?}: {error}");
        }
    }

    #[test]
    fn parts_are_those_before() {
        let two = || whole(&[4, 2], &[slab(0, 2), slab(2, 4)]);
        let other = || StoredArray { key: ArrayKey::Tensor("y".to_owned()), ..part(0, [1, 1]) };
        let nested = StoredArray { key: ArrayKey::Part(1), ..whole(&[2, 2], &[View::WHOLE]) };
        let good = [part(0, [2, 2]), part(1, [2, 2]), two(), other()];
        assert_eq!(check(&good), Ok(()));
        for (arrays, word) in [
            (vec![part(0, [2, 2]), two()], "others than"),
            (vec![part(1, [2, 2]), part(0, [2, 2]), two()], "others than"),
            (vec![part(0, [2, 2]), part(1, [2, 2]), other(), two()], "not made"),
            (vec![part(0, [2, 2]), part(1, [2, 2]), part(2, [2, 2]), two()], "others than"),
            (vec![part(0, [2, 2]), part(1, [2, 2]), two(), part(2, [2, 2])], "no array"),
            (vec![part(0, [2, 2]), part(1, [2, 3]), two()], "another shape"),
            (
                vec![part(0, [2, 2]), StoredArray { dtype: Dtype::F16, ..part(1, [2, 2]) }, two()],
                "another shape",
            ),
            (vec![part(0, [2, 2]), nested, two()], "made of others"),
        ] {
            let error = check(&arrays).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
        let huge = 1 << 16;
        let error = checked(&[huge, huge], &[View::TRANSPOSED]).unwrap_err().to_string();
        assert!(error.contains("larger than a reader accepts"), "{error}");
    }
}
