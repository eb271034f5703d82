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
            if !is_words(codes) || !is_words(zeros) || !float || scaled != rows || group_count == 0 {
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
