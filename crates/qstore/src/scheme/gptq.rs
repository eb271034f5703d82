//! GPTQ's checkpoint formats, `gptq` and `gptq_v2`.
//!
//! `X.qweight` holds codes of 2, 3, 4 or 8 bits in I32 words of shape [in * bits / 32, out]: each column of words is a stream of the bits of one output's
//! codes, low bits first. `X.scales` [groups, out] and `X.qzeros` I32 [groups, out * bits / 32] hold a scale and a zero-point for each group of inputs, and
//! `X.g_idx` I32 [in] says which group an input belongs to. The number of bits follows from the shapes.

use std::collections::HashMap;

use qstore_container::{ArrayKey, Dtype};

use super::{ArrayInfo, GroupGrid, QuantGroup, Scheme};

/// The scheme's entry in [`super::ALL`].
pub(crate) struct Gptq;

impl Scheme for Gptq {
    fn find(&self, arrays: &[ArrayInfo]) -> Vec<QuantGroup> {
        let by_name: HashMap<&str, &ArrayInfo> =
            arrays.iter().filter_map(|array| Some((array.key.tensor()?, array))).collect();
        let group = |codes: &ArrayInfo| {
            let base = codes.key.tensor()?.strip_suffix(".qweight")?;
            let beside = |suffix: &str| by_name.get(format!("{base}.{suffix}").as_str()).copied();
            let (scale, zeros, groups) = (beside("scales")?, beside("qzeros")?, beside("g_idx"));
            let (&[words, rows], &[group_count, scaled]) = (&codes.shape[..], &scale.shape[..]) else {
                return None;
            };
            let is_words = |array: &ArrayInfo| array.dtype == Dtype::I32;
            let float = matches!(scale.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32);
            if !is_words(codes)
                || !is_words(zeros)
                || !float
                || scaled != rows
                || rows == 0
                || group_count == 0
            {
                return None;
            }
            let fits = |bits: &u64| {
                let all = rows.checked_mul(*bits).filter(|all| all.is_multiple_of(32));
                all.is_some_and(|all| zeros.shape == [group_count, all / 32])
            };
            let bits = [2, 3, 4, 8].into_iter().find(fits)?;
            let cols = words.checked_mul(32).filter(|all| all.is_multiple_of(bits))? / bits;
            if let Some(groups) = groups
                && (!is_words(groups) || groups.shape != [cols])
            {
                return None;
            }
            Some(QuantGroup {
                weight: format!("{base}.weight"),
                shape: [rows, cols],
                codes: codes.key.clone(),
                grid: GroupGrid::Gptq {
                    bits: u8::try_from(bits).ok()?,
                    scale: scale.key.clone(),
                    zeros: zeros.key.clone(),
                    groups: groups.map(|groups| groups.key.clone()),
                },
            })
        };
        arrays.iter().filter(|array| matches!(array.key, ArrayKey::Tensor(_))).filter_map(group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(name: &str, dtype: Dtype, shape: &[u64]) -> ArrayInfo {
        ArrayInfo { key: ArrayKey::Tensor(name.to_owned()), dtype, shape: shape.to_vec() }
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
        Gptq.find(&all)
    }

    #[test]
    fn bits_follow_from_shapes() {
        let key = |name: &str| ArrayKey::Tensor(name.to_owned());
        for bits in [2, 3, 4, 8] {
            for with_groups in [true, false] {
                let mut all = tensors(bits.into());
                if !with_groups {
                    all.pop();
                }
                let grid = GroupGrid::Gptq {
                    bits,
                    scale: key("m.scales"),
                    zeros: key("m.qzeros"),
                    groups: with_groups.then(|| key("m.g_idx")),
                };
                let want = QuantGroup {
                    weight: "m.weight".to_owned(),
                    shape: [64, 96],
                    codes: key("m.qweight"),
                    grid,
                };
                assert_eq!(Gptq.find(&all), [want]);
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
            assert_eq!(Gptq.find(&all), [], "without tensor {missing}");
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
        assert_eq!(Gptq.find(&empty), []);
    }

    /// AWQ has the same names, and words along the outputs.
    #[test]
    fn awq_is_another_format() {
        let awq = [
            array("m.qweight", Dtype::I32, &[96, 64 * 4 / 32]),
            array("m.qzeros", Dtype::I32, &[3, 64 * 4 / 32]),
            array("m.scales", Dtype::F16, &[3, 64]),
        ];
        assert_eq!(Gptq.find(&awq), []);
    }
}
