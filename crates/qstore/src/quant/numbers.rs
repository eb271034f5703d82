//! The numbers in small arrays.

use std::ops::Range;

use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use half::{bf16, f16};
use qstore_checkpoint::{Error, gather, size, transpose};
use qstore_container::limits::MAX_VALUES_BYTES;
use qstore_container::{Axis, Dtype, Field, FormatError, MiniFloat, Nested, Number};

use super::OpenError;
use super::levels::mini_value;
use super::pack::unpack;

/// Arrays that say what codes stand for, wherever they are.
pub(crate) trait Arrays<A> {
    /// The element type and shape of an array.
    fn describe(&self, array: &A) -> Result<(Dtype, Vec<u64>), Error>;

    /// Bytes `bytes` of an array, which it has.
    fn read(&self, array: &A, bytes: Range<u64>) -> Result<Vec<u8>, Error>;
}

/// Numbers of a field in rows.
#[derive(Debug, Clone)]
pub(super) struct NumberMatrix<T> {
    cols: u64,
    all: Vec<T>,
}

impl<T> NumberMatrix<T> {
    /// Numbers of a row.
    pub(super) fn cols(&self) -> u64 {
        self.cols
    }

    /// The numbers of that row.
    pub(super) fn row(&self, row: u64) -> Option<&[T]> {
        let start = size(row.checked_mul(self.cols)?);
        self.all.get(start..start.checked_add(size(self.cols))?)
    }

    /// All numbers, row by row.
    pub(super) fn into_all(self) -> Vec<T> {
        self.all
    }
}

/// The words of a field, in rows.
struct Words {
    dtype: Dtype,
    shape: [u64; 2],
    /// Rows and columns of the numbers in them.
    numbers: [u64; 2],
    bytes: Vec<u8>,
}

/// Reads the words of a field that has numbers in at least `needed` rows and columns, and not many more.
fn words<A>(arrays: &impl Arrays<A>, field: &Field<A>, needed: [u64; 2]) -> Result<Words, OpenError> {
    let (dtype, shape) = arrays.describe(&field.array)?;
    let numbers = field.shape(dtype, &shape)?;
    // Before anything is read: a packed row may hold a few more, and some files have a group that no column is of.
    let is_near =
        |found: u64, needed: u64| (needed..=needed.saturating_mul(2).saturating_add(64)).contains(&found);
    if !is_near(numbers[0], needed[0]) || !is_near(numbers[1], needed[1]) {
        return Err(FormatError::new(format!(
            "view: {} x {} numbers where the matrix needs {} x {}; they do not fit it",
            numbers[0], numbers[1], needed[0], needed[1]
        ))
        .into());
    }
    let width = dtype.bitsize() as u64 / 8;
    let placed = field.view.place(&shape)?;
    let elements = placed.elements();
    let bytes = (elements.end - elements.start).saturating_mul(width);
    if width == 0 || bytes > MAX_VALUES_BYTES {
        return Err(FormatError::new("array: it is larger than a reader accepts").into());
    }
    let slab = arrays.read(&field.array, elements.start * width..elements.end * width)?;
    if slab.len() as u64 != bytes {
        return Err(FormatError::new("array: it is cut short").into());
    }
    let bytes = gather(&slab, &placed.from_slab(), width).into_owned();
    Ok(Words { dtype, shape: placed.shape, numbers, bytes })
}

/// Integers of a field, one a byte; of elements of a byte or packed into any.
pub(super) fn codes<A>(
    arrays: &impl Arrays<A>,
    field: &Field<A>,
    needed: [u64; 2],
) -> Result<NumberMatrix<u8>, OpenError> {
    let words = words(arrays, field, needed)?;
    let cols = words.numbers[1];
    let Some(packing) = &field.packing else {
        if words.dtype.bitsize() != 8 {
            return Err(FormatError::new("packing: elements of more than a byte that hold no codes").into());
        }
        return Ok(NumberMatrix { cols, all: words.bytes });
    };
    // Lines along which numbers share words; what is left of a line's last word is of none.
    let width = u64::from(packing.word / 8);
    let [rows, word_cols] = words.shape;
    let (lines, streams) = match packing.along {
        Axis::Columns => (rows, words.bytes),
        Axis::Rows => {
            let mut transposed = vec![0; words.bytes.len()];
            transpose(&words.bytes, word_cols, width, &mut transposed);
            (word_cols, transposed)
        }
    };
    let line_bytes = streams.len() / size(lines).max(1);
    let numbers = packing.numbers_in(line_bytes as u64 / width).map_or(0, size);
    let mut codes = vec![0; size(lines) * numbers];
    let streams = streams.chunks_exact(line_bytes.max(1));
    streams
        .zip(codes.chunks_exact_mut(numbers.max(1)))
        .for_each(|(line, codes)| unpack(packing, line, codes));
    if packing.along == Axis::Rows {
        let mut transposed = vec![0; codes.len()];
        transpose(&codes, numbers as u64, 1, &mut transposed);
        codes = transposed;
    }
    Ok(NumberMatrix { cols, all: codes })
}

/// Numbers of a field.
pub(super) fn numbers<A>(
    arrays: &impl Arrays<A>,
    field: &Field<A>,
    number: Number,
    needed: [u64; 2],
) -> Result<NumberMatrix<f32>, OpenError> {
    let Some(bits) = number.bits() else {
        let codes = codes(arrays, field, needed)?;
        let bits = field.packing.as_ref().map_or(8, |packing| packing.bits);
        let of = |code: &u8| match number {
            // Sign extended by way of the highest bits.
            Number::Signed => f32::from((code << (8 - bits)).cast_signed() >> (8 - bits)),
            _ => f32::from(*code),
        };
        return Ok(NumberMatrix { cols: codes.cols, all: codes.all.iter().map(of).collect() });
    };
    let (dtype, _) = arrays.describe(&field.array)?;
    if dtype.bitsize() != usize::from(bits) || !is_stored_as(dtype, number) {
        return Err(FormatError::new("number: the array has other elements").into());
    }
    let Words { shape: [_, cols], bytes, .. } = words(arrays, field, needed)?;
    let halves =
        || -> Vec<u16> { bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect() };
    let all = match number {
        Number::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Number::F16 => halves().reinterpret_cast::<f16>().to_f32_vec(),
        Number::Bf16 => halves().reinterpret_cast::<bf16>().to_f32_vec(),
        Number::E4m3 => bytes.iter().map(|byte| mini_value(MiniFloat::E4m3, *byte)).collect(),
        Number::E5m2 => bytes.iter().map(|byte| mini_value(MiniFloat::E5m2, *byte)).collect(),
        Number::E8m0 | Number::Unsigned | Number::Signed => bytes.iter().map(|byte| power(*byte)).collect(),
    };
    Ok(NumberMatrix { cols, all })
}

/// Numbers that are themselves quantised, of which so many rows and columns are needed.
pub(super) fn nested<A>(
    arrays: &impl Arrays<A>,
    nested: &Nested<A>,
    needed: [u64; 2],
) -> Result<NumberMatrix<f32>, OpenError> {
    let found = codes(arrays, &nested.codes.field, needed)?;
    let bits = nested.codes.field.packing.as_ref().map_or(8, |packing| packing.bits);
    let table = numbers(arrays, &nested.table, Number::F32, [1 << bits, 1])?;
    let scales =
        numbers(arrays, &nested.scales, Number::F32, [(found.all.len() as u64).div_ceil(nested.block), 1])?;
    if table.cols != 1 || scales.cols != 1 {
        return Err(FormatError::new("view: more than one column").into());
    }
    let blocks = found.all.chunks(size(nested.block)).zip(&scales.all);
    let of_block = |(codes, scale): (&[u8], &f32)| {
        let number = |code: &u8| table.all[usize::from(*code)] * scale + nested.offset.get();
        codes.iter().map(number).collect::<Vec<_>>()
    };
    Ok(NumberMatrix { cols: found.cols, all: blocks.flat_map(of_block).collect() })
}

/// I32 numbers of a field, none below 0, of which `needed` are wanted.
pub(super) fn indices<A>(
    arrays: &impl Arrays<A>,
    field: &Field<A>,
    needed: u64,
) -> Result<Vec<u32>, OpenError> {
    if arrays.describe(&field.array)?.0 != Dtype::I32 {
        return Err(FormatError::new("field: the array is not I32").into());
    }
    let words = words(arrays, field, [needed, 1])?;
    if words.shape[1] != 1 {
        return Err(FormatError::new("view: more than one column").into());
    }
    Ok(words.bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

/// A power of two, of which a byte is the exponent.
fn power(byte: u8) -> f32 {
    match byte {
        // The least one is subnormal.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

fn is_stored_as(dtype: Dtype, number: Number) -> bool {
    match number {
        Number::F32 => dtype == Dtype::F32,
        Number::F16 => dtype == Dtype::F16,
        Number::Bf16 => dtype == Dtype::BF16,
        Number::E4m3 => matches!(dtype, Dtype::F8_E4M3 | Dtype::U8),
        Number::E5m2 => matches!(dtype, Dtype::F8_E5M2 | Dtype::U8),
        Number::E8m0 => matches!(dtype, Dtype::F8_E8M0 | Dtype::U8),
        Number::Unsigned | Number::Signed => true,
    }
}

/// An array in memory.
#[cfg(test)]
#[derive(Debug, Clone)]
pub(crate) struct HeldArray {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

#[cfg(test)]
impl<A, F: Fn(&A) -> HeldArray> Arrays<A> for F {
    fn describe(&self, array: &A) -> Result<(Dtype, Vec<u64>), Error> {
        let array = self(array);
        Ok((array.dtype, array.shape))
    }

    fn read(&self, array: &A, bytes: Range<u64>) -> Result<Vec<u8>, Error> {
        let all = self(array).bytes;
        let end = size(bytes.end).min(all.len());
        Ok(all[size(bytes.start).min(end)..end].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qstore_container::{Packing, View};

    fn field(view: View, packing: Option<Packing>) -> Field<()> {
        Field { array: (), view, packing }
    }

    #[test]
    fn views_and_packings_go_together() {
        let bytes: Vec<u8> =
            [0x4321u16, 0x8765, 0xcba9, 0x0fed].iter().flat_map(|word| word.to_le_bytes()).collect();
        let array = |(): &()| HeldArray { dtype: Dtype::U16, shape: vec![2, 2], bytes: bytes.clone() };
        let packing = |along| Some(Packing { bits: 4, word: 16, along, order: Vec::new() });
        let read = |view, along, needed| codes(&array, &field(view, packing(along)), needed).unwrap();
        let rows = read(View::WHOLE, Axis::Columns, [2, 8]);
        assert_eq!(rows.all, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0]);
        let transposed = read(View::TRANSPOSED, Axis::Columns, [2, 7]);
        assert_eq!(transposed.all, [1, 2, 3, 4, 9, 10, 11, 12, 5, 6, 7, 8, 13, 14, 15, 0]);
        let down = read(View::WHOLE, Axis::Rows, [5, 2]);
        assert_eq!((down.cols, down.row(4), down.row(8)), (2, Some(&[9, 13][..]), None));
        let second = View { rows: Some([1, 2].into()), ..View::TRANSPOSED };
        assert_eq!(read(second, Axis::Columns, [1, 8]).all, [5, 6, 7, 8, 13, 14, 15, 0]);
        assert!(codes(&array, &field(View::WHOLE, None), [2, 2]).is_err());
        assert!(codes(&array, &field(View::WHOLE, packing(Axis::Columns)), [3, 8]).is_err());
    }

    /// A hostile file could say that a row of scales is of any length: nothing is read before it fits.
    #[test]
    fn nothing_is_read_that_does_not_fit() {
        struct Huge;
        impl Arrays<()> for Huge {
            fn describe(&self, (): &()) -> Result<(Dtype, Vec<u64>), Error> {
                Ok((Dtype::F32, vec![1 << 20, 4]))
            }
            fn read(&self, (): &(), bytes: Range<u64>) -> Result<Vec<u8>, Error> {
                panic!("read {bytes:?}")
            }
        }
        let whole = field(View::WHOLE, None);
        for needed in [[4, 4], [1 << 20, 5], [0, 4]] {
            assert!(numbers(&Huge, &whole, Number::F32, needed).is_err());
        }
        assert!(indices(&Huge, &field(View::COLUMN, None), 10).is_err());
    }

    #[test]
    fn numbers_of_every_type() {
        let read = |dtype: Dtype, number, bytes: &[u8]| {
            let count = bytes.len() as u64 * 8 / dtype.bitsize() as u64;
            let array = |(): &()| HeldArray { dtype, shape: vec![count], bytes: bytes.to_vec() };
            numbers(&array, &field(View::COLUMN, None), number, [count, 1]).map(|numbers| numbers.all)
        };
        assert_eq!(read(Dtype::F32, Number::F32, &1.5f32.to_le_bytes()).unwrap(), [1.5]);
        assert_eq!(read(Dtype::F16, Number::F16, &[0, 0x3e]).unwrap(), [1.5]);
        assert_eq!(read(Dtype::BF16, Number::Bf16, &[0xc0, 0x3f]).unwrap(), [1.5]);
        assert_eq!(read(Dtype::F8_E4M3, Number::E4m3, &[0x3c, 0xbc, 1]).unwrap(), [1.5, -1.5, 2f32.powi(-9)]);
        assert_eq!(read(Dtype::F8_E5M2, Number::E5m2, &[0x3e, 1]).unwrap(), [1.5, 2f32.powi(-16)]);
        let powers = read(Dtype::U8, Number::E8m0, &[0, 1, 127, 254, 255]).unwrap();
        assert_eq!(powers[..4], [2f32.powi(-127), 2f32.powi(-126), 1.0, 2f32.powi(127)]);
        assert!(powers[4].is_nan());
        assert_eq!(read(Dtype::U8, Number::Signed, &[255, 3]).unwrap(), [-1.0, 3.0]);
        assert_eq!(read(Dtype::I8, Number::Unsigned, &[255]).unwrap(), [255.0]);
        assert!(read(Dtype::I32, Number::F32, &[0; 4]).is_err());
        assert!(read(Dtype::F16, Number::Bf16, &[0; 2]).is_err());
        let short = |(): &()| HeldArray { dtype: Dtype::F32, shape: vec![2], bytes: vec![0; 7] };
        assert!(numbers(&short, &field(View::COLUMN, None), Number::F32, [2, 1]).is_err());
    }
}
