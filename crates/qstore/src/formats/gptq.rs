//! GPTQ's checkpoint formats, `gptq` and `gptq_v2`.
//!
//! `X.qweight` holds codes of 2, 3, 4 or 8 bits in I32 words of shape [in * bits / 32, out]: each column of words is a
//! stream of the bits of one output's codes, low bits first. `X.scales` [groups, out] and `X.qzeros` I32 [groups, out *
//! bits / 32] hold a scale and a zero-point for each group of inputs, and `X.g_idx` I32 [in] says which group an input
//! belongs to. The number of bits follows from the shapes. Zero-points are stored less one (`gptq`) or as they are
//! (`gptq_v2`), which no tensor says. Codes make up for the errors of those before them, so that no rule takes weights
//! to them.

use qstore_container::{
    Axis, ColumnGroups, Dequantization, Dtype, Factor, Field, Levels, Number, Numbers, Packing, QuantMatrix,
    Scale, View, Zero, ZeroCodes,
};

use super::{ArrayInfo, Format, Malformed, QuantGroup, Tensors};

/// The format's entry in [`super::ALL`].
pub(super) struct Gptq;

impl Format for Gptq {
    fn methods(&self) -> &'static [&'static str] {
        &["gptq"]
    }

    fn find(&self, tensors: &Tensors<'_>) -> Vec<Result<QuantGroup, Malformed>> {
        tensors.all().filter_map(|codes| look(codes, tensors)).collect()
    }
}

/// The matrix whose codes `codes` are, or why it is none; `None` if nothing says that it might be.
fn look(codes: &ArrayInfo, tensors: &Tensors<'_>) -> Option<Result<QuantGroup, Malformed>> {
    let base = codes.name.strip_suffix(".qweight")?;
    let beside = |suffix: &str| tensors.beside(codes, &format!("{base}.{suffix}"));
    let found = match (beside("scales"), beside("qzeros")) {
        (None, None) => return None,
        (Some(scale), Some(zeros)) => describe(codes, scale, zeros, beside("g_idx")),
        (None, Some(_)) => Err("it has zero-points but no scales beside it"),
        (Some(_), None) => Err("it has scales but no zero-points beside it"),
    };
    let group = |candidates| QuantGroup {
        weight: format!("{base}.weight"),
        folder: codes.folder().to_owned(),
        format: "gptq",
        candidates,
    };
    Some(found.map(group).map_err(|why| Malformed { name: codes.name.clone(), why }))
}

fn describe(
    codes: &ArrayInfo,
    scale: &ArrayInfo,
    zeros: &ArrayInfo,
    groups: Option<&ArrayInfo>,
) -> Result<Vec<QuantMatrix<qstore_container::ArrayKey>>, &'static str> {
    let (&[words, rows], &[group_count, scaled]) = (&codes.shape[..], &scale.shape[..]) else {
        return Err("it or its scales are no matrix");
    };
    let is_words = |array: &ArrayInfo| array.dtype == Dtype::I32;
    if !is_words(codes) || !is_words(zeros) {
        return Err("its codes or zero-points are not packed into I32 words");
    }
    let number = match scale.dtype {
        Dtype::F16 => Number::F16,
        Dtype::BF16 => Number::Bf16,
        Dtype::F32 => Number::F32,
        _ => return Err("its scales are no floats of 16 or 32 bits"),
    };
    if scaled != rows || rows == 0 || group_count == 0 {
        return Err("its scales are not those of its columns, as GPTQ packs them");
    }
    let fits = |bits: &u8| {
        let all = rows.checked_mul((*bits).into()).filter(|all| all.is_multiple_of(32));
        all.is_some_and(|all| zeros.shape == [group_count, all / 32])
    };
    let bits = [2, 3, 4, 8].into_iter().find(fits);
    let bits = bits.ok_or("its zero-points do not fit its scales, at any number of bits")?;
    let all = words.checked_mul(32).filter(|all| all.is_multiple_of(bits.into()));
    let cols = all.map(|all| all / u64::from(bits)).ok_or("its words do not hold whole codes")?;
    if groups.is_some_and(|groups| !is_words(groups) || groups.shape != [cols]) {
        return Err("its g_idx does not have a group for each of its inputs");
    }
    if group_count > cols {
        return Err("it has more groups than inputs");
    }
    let packed = |array: &ArrayInfo, along| Field {
        array: array.key.clone(),
        view: View::TRANSPOSED,
        packing: Some(Packing { bits, word: 32, along, order: Vec::new() }),
    };
    let tile = [1, cols.div_ceil(group_count)];
    let scales = Field { view: View::TRANSPOSED, ..Field::of(scale.key.clone()) };
    let candidate = |add| QuantMatrix {
        shape: [rows, cols],
        codes: packed(codes, Axis::Columns),
        values: Dequantization {
            levels: Levels::Unsigned,
            scales: vec![Scale::Times(Factor::Numbers(Numbers { field: scales.clone(), number, tile }))],
            zero: Zero::Codes(ZeroCodes {
                field: packed(zeros, Axis::Rows),
                levels: Levels::Unsigned,
                add,
                tile,
            }),
            column_groups: groups.map(|groups| ColumnGroups {
                field: Field { view: View::COLUMN, ..Field::of(groups.key.clone()) },
                count: group_count,
            }),
            rule: None,
        },
    };
    Ok([1, 0].map(candidate).into())
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::*;
    use qstore_container::ArrayKey;

    fn array(name: &str, dtype: Dtype, shape: &[u64]) -> ArrayInfo {
        ArrayInfo::new(&ArrayKey::Tensor(name.to_owned()), &"model.safetensors".into(), dtype, shape).unwrap()
    }

    /// The tensors of a matrix of 64 rows and 96 columns, in 3 groups.
    fn tensors(bits: u64) -> Vec<ArrayInfo> {
        vec![
            array("m.qweight", Dtype::I32, &[96 * bits / 32, 64]),
            array("m.qzeros", Dtype::I32, &[3, 64 * bits / 32]),
            array("m.scales", Dtype::F16, &[3, 64]),
            array("m.g_idx", Dtype::I32, &[96]),
        ]
    }

    fn changed(bits: u64, index: usize, dtype: Dtype, shape: &[u64]) -> Vec<QuantGroup> {
        let mut all = tensors(bits);
        (all[index].dtype, all[index].shape) = (dtype, shape.to_vec());
        find(&all)
    }

    fn find(all: &[ArrayInfo]) -> Vec<QuantGroup> {
        let checkpoint = Checkpoint { tensors: all.to_vec(), ..Checkpoint::default() };
        Gptq.find(&Tensors::new(&checkpoint)).into_iter().flatten().collect()
    }

    #[test]
    fn bits_follow_from_shapes() {
        for bits in [2, 3, 4, 8] {
            for with_groups in [true, false] {
                let mut all = tensors(bits.into());
                if !with_groups {
                    all.pop();
                }
                let [group] = &find(&all)[..] else { panic!("{bits}") };
                assert_eq!((group.weight.as_str(), group.shape()), ("m.weight", [64, 96]));
                let [less_one, as_is] = &group.candidates[..] else { panic!("{bits}") };
                for (matrix, want) in [(less_one, 1), (as_is, 0)] {
                    assert_eq!(matrix.check(), Ok(()));
                    assert_eq!(matrix.bits(), bits);
                    assert!(matches!(&matrix.values.zero, Zero::Codes(codes) if codes.add == want));
                    assert_eq!(matrix.values.column_groups.is_some(), with_groups);
                    let names: Vec<_> = matrix.arrays().filter_map(|key| key.tensor()).collect();
                    let all = ["m.qweight", "m.scales", "m.qzeros", "m.g_idx"];
                    assert_eq!(names, all[..if with_groups { 4 } else { 3 }]);
                }
            }
        }
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
            assert_eq!(changed(4, 2, dtype, &[3, 64]).len(), 1);
        }
    }

    #[test]
    fn what_does_not_fit_is_no_group() {
        for missing in 0..3 {
            let mut all = tensors(4);
            all.remove(missing);
            assert_eq!(find(&all), [], "without tensor {missing}");
        }
        let cases: [(usize, Dtype, &[u64]); 18] = [
            (0, Dtype::I64, &[12, 64]),
            (0, Dtype::U32, &[12, 64]),
            (0, Dtype::I32, &[12, 65]),
            (0, Dtype::I32, &[13, 64]),
            (0, Dtype::I32, &[768]),
            (0, Dtype::I32, &[u64::MAX, 64]),
            (1, Dtype::F32, &[3, 8]),
            (1, Dtype::I32, &[3, 7]),
            (1, Dtype::I32, &[2, 8]),
            (1, Dtype::I32, &[24]),
            (2, Dtype::F64, &[3, 64]),
            (2, Dtype::I32, &[3, 64]),
            (2, Dtype::F16, &[3, 63]),
            (2, Dtype::F16, &[0, 64]),
            (2, Dtype::F16, &[192]),
            (3, Dtype::I64, &[96]),
            (3, Dtype::I32, &[95]),
            (3, Dtype::I32, &[96, 1]),
        ];
        for (index, dtype, shape) in cases {
            assert_eq!(changed(4, index, dtype, shape), [], "tensor {index} as {dtype} {shape:?}");
        }
        // 3 bits a code, but no whole number of codes in a column of words.
        assert_eq!(changed(3, 0, Dtype::I32, &[10, 64]), []);
        // Nothing says how many bits there are where there are no rows.
        let empty = [
            array("m.qweight", Dtype::I32, &[12, 0]),
            array("m.qzeros", Dtype::I32, &[3, 0]),
            array("m.scales", Dtype::F16, &[3, 0]),
        ];
        assert_eq!(find(&empty), []);
    }

    /// AWQ has the same names, and words along the outputs.
    #[test]
    fn awq_is_another_format() {
        let awq = [
            array("m.qweight", Dtype::I32, &[96, 64 * 4 / 32]),
            array("m.qzeros", Dtype::I32, &[3, 64 * 4 / 32]),
            array("m.scales", Dtype::F16, &[3, 64]),
        ];
        assert_eq!(find(&awq), []);
    }
}
