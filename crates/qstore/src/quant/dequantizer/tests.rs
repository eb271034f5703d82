//! Descriptions of made-up matrices, opened.

use super::super::open_error::OpenError;
use super::*;
use crate::quant::HeldArray;
use half::{bf16, f16};
use qstore_container::{
    Axis, ColumnGroups, Dtype, Factor, Field, Levels, MiniFloat, Number, Numbers, Packing, Scale, View,
    ZeroCodes,
};

fn words(shape: &[u64], words: &[u32]) -> HeldArray {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    HeldArray { dtype: Dtype::I32, shape: shape.to_vec(), bytes }
}

fn floats(dtype: Dtype, shape: &[u64], values: &[f32]) -> HeldArray {
    let bytes = values.iter().flat_map(|value| match dtype {
        Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    });
    HeldArray { dtype, shape: shape.to_vec(), bytes: bytes.collect() }
}

fn number(dtype: Dtype) -> Number {
    match dtype {
        Dtype::F16 => Number::F16,
        Dtype::BF16 => Number::Bf16,
        _ => Number::F32,
    }
}

/// A matrix of 4 rows and 8 columns as GPTQ describes it, in 2 groups: scale 10 * group + row, zero-point 4 * group +
/// row.
struct Parts {
    bits: u8,
    add: u8,
    tile: u64,
    scale: HeldArray,
    zeros: HeldArray,
    groups: Option<(HeldArray, u64)>,
}

impl Parts {
    fn new() -> Self {
        let values = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
        Self {
            bits: 8,
            add: 0,
            tile: 4,
            scale: floats(Dtype::F16, &[2, 4], &values),
            zeros: words(&[2, 1], &[0x0302_0100, 0x0706_0504]),
            groups: None,
        }
    }

    fn open(&self) -> Result<Dequantizer, String> {
        let packing = Packing { bits: self.bits, word: 32, along: Axis::Rows, order: Vec::new() };
        let transposed = |array| Field { array, view: View::TRANSPOSED, packing: None };
        let values = Dequantization {
            levels: Levels::Unsigned,
            scales: vec![Scale::Times(Factor::Numbers(Numbers {
                field: transposed("scale"),
                number: number(self.scale.dtype),
                tile: [1, self.tile],
            }))],
            zero: Zero::Codes(ZeroCodes {
                field: Field { packing: Some(packing), ..transposed("zeros") },
                levels: Levels::Unsigned,
                add: self.add,
                tile: [1, self.tile],
            }),
            column_groups: self.groups.as_ref().map(|(_, count)| ColumnGroups {
                field: Field { view: View::COLUMN, ..Field::of("groups") },
                count: *count,
            }),
            rule: None,
        };
        let arrays = |name: &&str| match *name {
            "scale" => self.scale.clone(),
            "zeros" => self.zeros.clone(),
            _ => self.groups.clone().unwrap().0,
        };
        match Dequantizer::open(&values, [4, 8], self.bits, &arrays) {
            Err(OpenError::Misfit(error)) => Err(error.to_string()),
            other => Ok(other.unwrap()),
        }
    }
}

#[test]
fn each_group_of_each_row_has_its_own() {
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        let mut parts = Parts::new();
        parts.scale = floats(dtype, &[2, 4], &[0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
        let opened = parts.open().unwrap();
        for row in 0..4u8 {
            for group in 0..2u8 {
                let (at, of) = (usize::from(row), usize::from(group));
                assert_eq!(opened.row(at).scale(of), f32::from(10 * group + row));
                assert_eq!(opened.row(at).zero(of), f32::from(4 * group + row));
                assert_eq!(opened.row(at).zero_byte(of), 4 * group + row);
            }
        }
        assert_eq!((opened.cols(), opened.is_integer()), (8, true));
    }
}

#[test]
fn zero_points_wrap_around() {
    for (bits, stored, want) in
        [(8u8, 255u32, 0u8), (4, 15, 0), (3, 7, 0), (2, 3, 0), (4, 7, 8), (2, 1, 2), (3, 3, 4)]
    {
        let mut parts = Parts::new();
        parts.bits = bits;
        let word = (0..4).fold(0, |word, code| word | stored << (code * u32::from(bits)));
        parts.zeros = words(&[2, 1], &[word, word]);
        assert_eq!(parts.open().unwrap().row(3).zero_byte(1), u8::try_from(stored).unwrap());
        parts.add = 1;
        assert_eq!(parts.open().unwrap().row(3).zero_byte(1), want, "{bits} bits");
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let refused = |change: &dyn Fn(&mut Parts), why: &str| {
        let mut parts = Parts::new();
        change(&mut parts);
        let found = parts.open().unwrap_err();
        assert!(found.contains(why), "{why}: {found}");
    };
    let groups = |values: [u32; 8]| move |p: &mut Parts| p.groups = Some((words(&[8], &values), 2));
    refused(&groups([0, 0, 0, 0, 0, 0, 0, 2]), "column_groups: a column of a group that there is not");
    refused(&groups([u32::MAX, 0, 0, 0, 0, 0, 0, 0]), "column_groups: a column");
    refused(&|p| p.groups = Some((words(&[7], &[0; 7]), 2)), "they do not fit");
    refused(&|p| p.groups = Some((words(&[8], &[0; 7]), 2)), "column_groups.array: it is cut short");
    refused(&|p| p.groups = Some((words(&[8], &[0; 8]), 0)), "column_groups");
    refused(&|p| p.groups = Some((words(&[8], &[0; 8]), u64::MAX)), "column_groups");
    refused(&|p| p.groups = Some((words(&[8], &[0; 8]), 3)), "they do not fit");
    refused(
        &|p| p.groups = Some((HeldArray { dtype: Dtype::I64, ..words(&[8], &[0; 16]) }, 2)),
        "column_groups.field",
    );
    refused(&|p| p.tile = 0, "tile");
    refused(&|p| p.tile = 3, "they do not fit");
    refused(&|p| p.scale = floats(Dtype::F16, &[1, 4], &[1.0; 4]), "they do not fit");
    refused(&|p| p.scale = floats(Dtype::F16, &[2, 3], &[1.0; 6]), "they do not fit");
    refused(&|p| p.scale.dtype = Dtype::I32, "scales.number");
    refused(&|p| p.scale.bytes.truncate(15), "scales.array: it is cut short");
    refused(&|p| p.zeros = words(&[1, 1], &[0]), "they do not fit");
    refused(&|p| p.zeros.dtype = Dtype::I64, "zero.packing.word");
    refused(&|p| p.zeros.bytes.truncate(7), "zero.array: it is cut short");
}

fn described(
    scales: Vec<Scale<&'static str>>,
    zero: Zero<&'static str>,
    levels: Levels,
) -> Dequantization<&'static str> {
    Dequantization { levels, scales, zero, column_groups: None, rule: None }
}

fn numbers(array: &'static str, number: Number, tile: [u64; 2]) -> Factor<&'static str> {
    Factor::Numbers(Numbers { field: Field::of(array), number, tile })
}

/// Made-up formats that nobody has yet: tiles of two dimensions, several scales of different tiles, levels that are
/// floats, biases.
#[test]
fn tiles_of_all_numbers_go_together() {
    let arrays = |name: &&str| match *name {
        // 2 x 3 blocks of 128 x 100.
        "blocks" => floats(Dtype::F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        "rows" => floats(Dtype::BF16, &[200, 1], &[0.5; 200]),
        // Columns in groups of 150.
        "fine" => HeldArray { dtype: Dtype::U8, shape: vec![1, 2], bytes: vec![127, 128] },
        "bias" => floats(Dtype::F32, &[1, 1], &[12.0]),
        _ => floats(Dtype::F32, &[], &[8.0]),
    };
    let values = described(
        vec![
            Scale::Times(numbers("blocks", Number::F32, [128, 100])),
            Scale::Times(numbers("rows", Number::Bf16, [1, 300])),
            Scale::Times(numbers("fine", Number::E8m0, [200, 150])),
            Scale::Over(numbers("all", Number::F32, [200, 300])),
        ],
        Zero::Bias(Numbers { field: Field::of("bias"), number: Number::F32, tile: [1000, 1000] }),
        Levels::Float(MiniFloat::E4m3),
    );
    let opened = Dequantizer::open(&values, [200, 300], 8, &arrays).unwrap();
    let runs: Vec<_> = opened.columns().runs().iter().map(|run| (run.start, run.end)).collect();
    assert_eq!(runs, [(0, 100), (100, 150), (150, 200), (200, 300)]);
    let scales = |row| (0..4).map(|group| opened.row(row).scale(group) * 16.0).collect::<Vec<_>>();
    assert_eq!(scales(127), [1.0, 2.0, 4.0, 6.0]);
    assert_eq!(scales(128), [4.0, 5.0, 10.0, 12.0]);
    assert_eq!(opened.row(0).zero(0), -12.0 * 16.0);
    assert!(!opened.is_integer() && !opened.is_symmetric() && !opened.has_no_zeros());
    // Larger than its numbers say, and smaller.
    let larger = opened.clone().resized([210, 310]);
    assert_eq!((larger.row(209).scale(3), larger.cols()), (opened.row(199).scale(3), 310));
    assert_eq!(opened.resized([100, 120]).columns().runs().len(), 2);
}

#[test]
fn the_last_divisor_is_kept_apart() {
    let arrays = |_: &&str| floats(Dtype::F32, &[2], &[127.0, -254.0]);
    let field = Field { view: View::COLUMN, ..Field::of("SCB") };
    let scb = Scale::Times(Factor::Numbers(Numbers { field, number: Number::F32, tile: [1, 40] }));
    let constant = Scale::Over(Factor::Constant(127.0.try_into().unwrap()));
    let values = described(vec![scb, constant], Zero::None, Levels::Signed);
    let opened = Dequantizer::open(&values, [2, 40], 8, &arrays).unwrap();
    assert_eq!((opened.row(0).scale(0), opened.row(1).scale(0), opened.undivided(1, 0)), (1.0, -2.0, -254.0));
    assert!(opened.is_symmetric() && opened.has_no_zeros());
    assert_eq!(opened.zero_code(), 0);
    for shape in [[3, 40], [1, 40]] {
        let opened = Dequantizer::open(&values, shape, 8, &arrays);
        assert_eq!(opened.is_err(), shape[0] > 2, "more numbers than rows are no harm, fewer are");
    }
    let none = described(Vec::new(), Zero::Constant(3), Levels::Unsigned);
    let opened = Dequantizer::open(&none, [2, 40], 8, &arrays).unwrap();
    assert_eq!((opened.row(1).scale(0), opened.row(1).zero(0), opened.zero_code()), (1.0, 3.0, 3));
}
