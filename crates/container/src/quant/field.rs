//! Where numbers of one kind lie in an array.

use serde::{Deserialize, Serialize};

use crate::{Dtype, FormatError, View};

/// A matrix of numbers, each an element of an array or some bits of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field<A> {
    /// The array.
    pub array: A,
    /// Which of its elements.
    #[serde(default, skip_serializing_if = "View::is_whole")]
    pub view: View,
    /// How numbers lie in the elements; each is one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
}

/// A direction in a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// From row to row.
    Rows,
    /// From column to column.
    Columns,
}

/// Numbers of a few bits in words, which are the elements of a matrix.
///
/// The words that follow each other along one axis are a stream of bits, low bits first, and the numbers that follow
/// each other along that axis are cut from it; or, where an [`order`](Self::order) is given, each word by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packing {
    /// Bits of a number, 1 to 8.
    pub bits: u8,
    /// Bits of a word: 8, 16, 32 or 64.
    pub word: u8,
    /// The axis along which numbers share words.
    pub along: Axis,
    /// For each number of a word its place there, in numbers from the low bits on; ascending if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<u8>,
}

impl Packing {
    /// Numbers in a stream of `words` words, of which a rest of the bits may be left.
    #[must_use]
    pub fn numbers_in(&self, words: u64) -> Option<u64> {
        Some(words.checked_mul(self.word.into())? / u64::from(self.bits.max(1)))
    }

    /// Whether words are bytes of a stream, whatever their width: numbers of a word ascend.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether numbers are the bytes of the words.
    #[must_use]
    pub fn is_bytes(&self) -> bool {
        self.bits == 8 && self.is_stream() && (self.along == Axis::Columns || self.word == 8)
    }

    /// Rows and columns of the numbers in a matrix of words.
    #[must_use]
    pub fn unpacked(&self, [rows, cols]: [u64; 2]) -> Option<[u64; 2]> {
        Some(match self.along {
            Axis::Rows => [self.numbers_in(rows)?, cols],
            Axis::Columns => [rows, self.numbers_in(cols)?],
        })
    }

    /// Whether it can be; the error names the field.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let bad = |what: &str| Err(FormatError::new(format!("packing.{what}")));
        if !(1..=8).contains(&self.bits) {
            return bad("bits: other than 1 to 8");
        }
        if ![8, 16, 32, 64].contains(&self.word) {
            return bad("word: other than 8, 16, 32 or 64 bits");
        }
        if self.order.is_empty() {
            return Ok(());
        }
        let count = usize::from(self.word / self.bits);
        let mut seen = vec![false; count];
        for place in &self.order {
            match seen.get_mut(usize::from(*place)) {
                Some(seen) if !*seen => *seen = true,
                _ => return bad("order: it is no permutation of the numbers of a word"),
            }
        }
        if self.order.len() != count || !self.word.is_multiple_of(self.bits) {
            return bad("order: it is no permutation of the numbers of a word");
        }
        Ok(())
    }
}

impl<A> Field<A> {
    /// All elements of an array.
    pub fn of(array: A) -> Self {
        Self { array, view: View::WHOLE, packing: None }
    }

    /// The same in other terms of arrays.
    pub fn map<B>(&self, map: &mut impl FnMut(&A) -> B) -> Field<B> {
        Field { array: map(&self.array), view: self.view.clone(), packing: self.packing.clone() }
    }

    /// Rows and columns of the numbers, where the array has this element type and shape.
    ///
    /// # Errors
    /// What does not fit the array.
    pub fn shape(&self, dtype: Dtype, shape: &[u64]) -> Result<[u64; 2], FormatError> {
        let words = self.view.place(shape)?.shape;
        let Some(packing) = &self.packing else { return Ok(words) };
        if usize::from(packing.word) != dtype.bitsize() {
            return Err(FormatError::new("packing.word: the array's elements are of another width"));
        }
        packing.unpacked(words).ok_or_else(|| FormatError::new("view: the array's shape is absurd"))
    }

    pub(crate) fn check(&self) -> Result<(), FormatError> {
        self.packing.as_ref().map_or(Ok(()), Packing::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packing(bits: u8, word: u8, order: &[u8]) -> Packing {
        Packing { bits, word, along: Axis::Columns, order: order.to_vec() }
    }

    #[test]
    fn packings_that_there_cannot_be() {
        for good in [
            packing(3, 32, &[]),
            packing(4, 32, &[0, 2, 4, 6, 1, 3, 5, 7]),
            packing(4, 8, &[1, 0]),
            packing(8, 64, &[]),
            packing(1, 8, &[7, 6, 5, 4, 3, 2, 1, 0]),
        ] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        for (bad, word) in [
            (packing(0, 32, &[]), "bits"),
            (packing(9, 32, &[]), "bits"),
            (packing(4, 24, &[]), "word"),
            (packing(4, 0, &[]), "word"),
            (packing(4, 8, &[0]), "order"),
            (packing(4, 8, &[0, 0]), "order"),
            (packing(4, 8, &[0, 2]), "order"),
            (packing(4, 8, &[0, 1, 2]), "order"),
            (packing(3, 8, &[0, 1]), "order"),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(&format!("packing.{word}:")), "{bad:?}: {error}");
        }
    }

    #[test]
    fn shapes_of_numbers() {
        let field = |along, bits, view: View| Field {
            array: (),
            view,
            packing: Some(Packing { along, ..packing(bits, 32, &[]) }),
        };
        let shape = |field: Field<()>| field.shape(Dtype::I32, &[12, 64]);
        assert_eq!(shape(field(Axis::Columns, 4, View::TRANSPOSED)), Ok([64, 96]));
        assert_eq!(shape(field(Axis::Columns, 3, View::TRANSPOSED)), Ok([64, 128]));
        assert_eq!(shape(field(Axis::Rows, 4, View::TRANSPOSED)), Ok([512, 12]));
        assert_eq!(shape(field(Axis::Columns, 4, View::WHOLE)), Ok([12, 512]));
        assert!(field(Axis::Columns, 4, View::WHOLE).shape(Dtype::U8, &[12, 64]).is_err());
        assert_eq!(Field::of(()).shape(Dtype::I8, &[2, 3, 4]), Ok([6, 4]));
    }
}
