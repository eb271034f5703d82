//! Quantised matrices of the fuzzer's, as plans describe them.

use arbitrary::Arbitrary;
use qstore_container::{
    ArrayKey, ArrayRef, Axis, CodeLayout, ColumnGroups, Dequantization, Dtype, Factor, Field, Finite,
    Inverse, Levels, MiniFloat, Number, Numbers, Packing, QuantMatrix, Rounded, Rule, Scale, View, Zero,
    ZeroCodes,
};

/// Where the arrays of a description come from.
pub trait Source {
    /// The array of a number, which may be there or not.
    fn named(&self, number: u8) -> ArrayRef;
    /// A new one.
    fn made(&mut self, dtype: Dtype, shape: Vec<u64>) -> ArrayRef;
}

/// What codes mean, and where they lie.
#[derive(Debug, Arbitrary)]
pub struct Matrix {
    codes: Place,
    packing: Option<Bits>,
    /// Rows and columns that it says to have, where these are not those of the array that is given it.
    shape: Option<[u8; 2]>,
    values: Values,
}

/// What codes stand for.
#[derive(Debug, Arbitrary)]
pub struct Values {
    levels: u8,
    table: Vec<u8>,
    scales: Vec<(bool, Divisor)>,
    zero: Option<Nought>,
    groups: Option<(Place, u8)>,
    rule: Option<[u8; 3]>,
}

#[derive(Debug, Arbitrary)]
enum Divisor {
    Constant(f32),
    Numbers(Tiled),
}

#[derive(Debug, Arbitrary)]
enum Nought {
    Constant(i16),
    Codes { tiled: Tiled, add: u8 },
    Bias(Tiled),
}

/// Numbers of tiles.
#[derive(Debug, Arbitrary)]
struct Tiled {
    place: Place,
    packing: Option<Bits>,
    number: u8,
    tile: [u8; 2],
}

/// An array: one of a number, or one that is made to fit.
#[derive(Debug, Arbitrary)]
pub struct Place {
    named: Option<u8>,
    view: Option<Seen>,
}

#[derive(Debug, Arbitrary)]
pub struct Seen {
    pitch: Option<u8>,
    slab: Option<[u8; 2]>,
    transposed: bool,
    rows: Option<[u8; 2]>,
    order: Option<[u8; 2]>,
}

/// How numbers share words.
#[derive(Debug, Arbitrary)]
pub struct Bits {
    bits: u8,
    word: u8,
    along_rows: bool,
    order: Vec<u8>,
    /// Ascending numbers, in words that have whole ones.
    is_plain: bool,
}

impl Bits {
    pub fn packing(&self) -> Packing {
        let along = if self.along_rows { Axis::Rows } else { Axis::Columns };
        if self.is_plain {
            return Packing {
                bits: [1, 2, 4, 8][usize::from(self.bits % 4)],
                word: 32,
                along,
                order: vec![],
            };
        }
        let word = [8, 16, 32, 64, self.word][usize::from(self.word % 5)];
        Packing { bits: self.bits % 10, word, along, order: self.order.iter().copied().take(80).collect() }
    }
}

/// The element type of words.
pub fn words_of(packing: &Packing) -> Dtype {
    match packing.word {
        16 => Dtype::I16,
        32 => Dtype::I32,
        64 => Dtype::I64,
        _ => Dtype::U8,
    }
}

/// The rows and columns of words that hold so many numbers.
pub fn shape_in_words(packing: Option<&Packing>, [rows, cols]: [u64; 2]) -> [u64; 2] {
    let Some(packing) = packing else { return [rows, cols] };
    let words = |numbers: u64| (numbers * u64::from(packing.bits)).div_ceil(u64::from(packing.word.max(1)));
    match packing.along {
        Axis::Rows => [words(rows), cols],
        Axis::Columns => [rows, words(cols)],
    }
}

/// A layout of an array's own codes.
pub fn layout(transposed: bool, packing: Option<&Bits>) -> CodeLayout {
    CodeLayout { transposed, packing: packing.map(Bits::packing) }
}

impl Place {
    pub fn field(
        &self,
        dtype: Dtype,
        numbers: [u64; 2],
        packing: Option<Packing>,
        source: &mut impl Source,
    ) -> Field<ArrayRef> {
        let view = self.view.as_ref().map_or(View::WHOLE, Seen::view);
        let array = match self.named {
            Some(number) => source.named(number),
            None => {
                let [rows, cols] = shape_in_words(packing.as_ref(), numbers);
                let shape = if view.transposed { vec![cols, rows] } else { vec![rows, cols] };
                source.made(packing.as_ref().map_or(dtype, words_of), shape)
            }
        };
        Field { array, view, packing }
    }
}

impl Seen {
    pub fn view(&self) -> View {
        View {
            pitch: self.pitch.map(u64::from),
            slab: self.slab.map(|range| range.map(u64::from).into()),
            transposed: self.transposed,
            rows: self.rows.map(|range| range.map(u64::from).into()),
            order: self.order.map(|order| order.map(u64::from).into()),
        }
    }
}

impl Tiled {
    /// The tile, and how many there are of them.
    fn tiles(&self, [rows, cols]: [u64; 2], groups: Option<u64>) -> ([u64; 2], [u64; 2]) {
        // 0 is one for all rows, or columns.
        let [high, wide] =
            [(self.tile[0], rows), (self.tile[1], cols)].map(|(n, all)| if n == 0 { all } else { n.into() });
        ([high, wide], [rows.div_ceil(high.max(1)), groups.unwrap_or(cols.div_ceil(wide.max(1)))])
    }

    fn numbers(&self, shape: [u64; 2], groups: Option<u64>, source: &mut impl Source) -> Numbers<ArrayRef> {
        let (number, dtype) = [
            (Number::F32, Dtype::F32),
            (Number::F16, Dtype::F16),
            (Number::Bf16, Dtype::BF16),
            (Number::E4m3, Dtype::F8_E4M3),
            (Number::E5m2, Dtype::F8_E5M2),
            (Number::E8m0, Dtype::F8_E8M0),
            (Number::Unsigned, Dtype::U8),
            (Number::Signed, Dtype::I8),
        ][usize::from(self.number % 8)];
        let (tile, counts) = self.tiles(shape, groups);
        let packing = self.packing.as_ref().map(Bits::packing);
        Numbers { field: self.place.field(dtype, counts, packing, source), number, tile }
    }
}

fn levels(kind: u8, table: &[u8]) -> Levels {
    match kind % 7 {
        0 => Levels::Unsigned,
        1 => Levels::Signed,
        2 => Levels::Offset,
        3 => Levels::Float(MiniFloat::E4m3),
        4 => Levels::Float(MiniFloat::E5m2),
        5 => Levels::Float(MiniFloat::E2m1),
        _ => Levels::Table(table.iter().filter_map(|&n| finite(f32::from(n.cast_signed()) / 7.0)).collect()),
    }
}

pub fn finite(number: f32) -> Option<Finite> {
    Finite::try_from(number).ok()
}

impl Values {
    /// In the terms of plans, for a matrix of this shape.
    pub fn values(&self, shape: [u64; 2], source: &mut impl Source) -> Dequantization<ArrayRef> {
        let groups = self.groups.as_ref().map(|(_, count)| u64::from(*count));
        let mut scales = Vec::new();
        for (times, factor) in self.scales.iter().take(5) {
            let factor = match factor {
                Divisor::Constant(number) => finite(*number).map(Factor::Constant),
                Divisor::Numbers(tiled) => Some(Factor::Numbers(tiled.numbers(shape, groups, source))),
            };
            let made = if *times { Scale::Times } else { Scale::Over };
            scales.extend(factor.map(made));
        }
        let zero = match &self.zero {
            None => Zero::None,
            Some(Nought::Constant(level)) => Zero::Constant(*level),
            Some(Nought::Bias(tiled)) => Zero::Bias(tiled.numbers(shape, groups, source)),
            Some(Nought::Codes { tiled, add }) => {
                let (tile, counts) = tiled.tiles(shape, groups);
                let packing = tiled.packing.as_ref().map(Bits::packing);
                let field = tiled.place.field(Dtype::U8, counts, packing, source);
                Zero::Codes(ZeroCodes { field, levels: levels(tiled.number % 4, &[]), add: *add, tile })
            }
        };
        let column_groups = self.groups.as_ref().map(|(place, count)| ColumnGroups {
            field: place.field(Dtype::I32, [shape[1], 1], None, source),
            count: u64::from(*count),
        });
        let rule = self.rule.map(|[weights, inverse, result]| {
            let rounded = |n: u8| [Rounded::F32, Rounded::F16, Rounded::Bf16][usize::from(n % 3)];
            let inverses = [
                Inverse::Division,
                Inverse::Reciprocal,
                Inverse::ReciprocalUp,
                Inverse::ReciprocalDown,
                Inverse::Quotient,
            ];
            Rule {
                weights: rounded(weights),
                inverse: inverses[usize::from(inverse % 5)],
                result: rounded(result),
            }
        });
        Dequantization { levels: levels(self.levels, &self.table), scales, zero, column_groups, rule }
    }
}

impl Matrix {
    /// In the terms of plans, for an array that is coded in a matrix of this shape.
    pub fn quantised(&self, shape: [u64; 2], source: &mut impl Source) -> QuantMatrix<ArrayRef> {
        let shape = self.shape.map_or(shape, |shape| shape.map(u64::from));
        let packing = self.packing.as_ref().map(Bits::packing);
        let codes = self.codes.field(Dtype::I8, shape, packing, source);
        QuantMatrix { shape, codes, values: self.values.values(shape, source) }
    }
}

/// The key of the array of a number.
pub fn key(number: usize) -> ArrayKey {
    ArrayKey::Tensor(format!("t{number:03}"))
}
