//! GPTQ's tensors, made by rounding to nearest: no calibration, each matrix by itself.
//!
//! A matrix of `rows` output and `cols` input features becomes, as gptqmodel 7 reads them (`checkpoint_format` "gptq"):
//!
//! | tensor | type | shape | holds |
//! |---|---|---|---|
//! | `X.qweight` | I32 | [cols * bits / 32, rows] | codes, packed along the columns |
//! | `X.qzeros` | I32 | [groups, rows * bits / 32] | zero-points minus one, packed along the rows |
//! | `X.scales` | F16 | [groups, rows] | scales |
//! | `X.g_idx` | I32 | [cols] | the group of each column |

mod config;
mod group;
mod pack;

use qstore_checkpoint::{Error, Result};
use qstore_container::Dtype;

use super::matrix::{Matrix, Rows, length};
use super::precision::Gptq;
use super::task::Part;
use crate::save::NewTensor;

pub(super) use config::{FILE, quantization_config};
use group::Unfit;

/// Rows and columns come in multiples of this: gptqmodel packs 32 at a time, and kernels for GPUs ask for no fewer.
pub(super) const PACKED_TOGETHER: u64 = 32;

/// A matrix that becomes GPTQ tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GptqMatrix {
    pub(super) matrix: Matrix,
    pub(super) gptq: Gptq,
}

/// Indices of the tensors among those of [`GptqMatrix::outputs`].
const CODES: usize = 0;
const ZERO_POINTS: usize = 1;
const SCALES: usize = 2;
const GROUPS: usize = 3;

impl GptqMatrix {
    /// What keeps the matrix from being read, if anything does.
    pub(super) fn misfit(self) -> Option<String> {
        let Matrix { rows, cols, .. } = self.matrix;
        let group = self.gptq.group_size.columns(cols);
        if !rows.is_multiple_of(PACKED_TOGETHER) || !cols.is_multiple_of(PACKED_TOGETHER) {
            return Some(format!(
                "has {rows} output and {cols} input features; GPTQ packs {PACKED_TOGETHER} of each together, and these are no multiples"
            ));
        }
        (!cols.is_multiple_of(group)).then(|| {
            format!("has {cols} input features, which groups of {group} do not divide; choose another size (--group-size)")
        })
    }

    fn group_columns(self) -> u64 {
        self.gptq.group_size.columns(self.matrix.cols)
    }

    /// The tensors that a weight called `name` becomes.
    pub(super) fn outputs(self, name: &str) -> Vec<NewTensor> {
        let Matrix { rows, cols, .. } = self.matrix;
        let module = name.strip_suffix("weight").unwrap_or(name);
        let groups = cols / self.group_columns();
        let in_word = self.gptq.bits.codes_in_word() as u64;
        vec![
            NewTensor::new(&format!("{module}qweight"), Dtype::I32, &[cols / in_word, rows]),
            NewTensor::new(&format!("{module}qzeros"), Dtype::I32, &[groups, rows / in_word]),
            NewTensor::new(&format!("{module}scales"), Dtype::F16, &[groups, rows]),
            NewTensor::new(&format!("{module}g_idx"), Dtype::I32, &[cols]),
        ]
    }

    /// What becomes of some rows, as many as are packed together or a multiple of it. All tensors but `g_idx` lie
    /// transposed, so that rows of the matrix are columns of theirs.
    pub(super) fn quantise(self, rows: &Rows<'_>) -> Result<Vec<Part>> {
        let Gptq { bits, zero_point, .. } = self.gptq;
        let (cols, group) = (length(self.matrix.cols), length(self.group_columns()));
        let mut codes = Vec::with_capacity(rows.weights.len());
        let (mut scales, mut zero_points) = (Vec::new(), Vec::new());
        for (row, weights) in rows.each() {
            for weights in weights.chunks_exact(group) {
                let group = group::quantise(weights, bits, zero_point, &mut codes)
                    .map_err(|unfit| self.error(rows, row, unfit))?;
                scales.push(group.scale.to_bits());
                zero_points.push(group.zero_point - 1);
            }
        }
        let groups = cols / group;
        let in_word = bits.codes_in_word() as u64;
        let (first, all, count) = (rows.range.start, self.matrix.rows, rows.count() as u64);
        let zero_words = first / in_word..(first + count) / in_word;
        let codes = pack::along_rows(&codes, cols, bits);
        let zero_points = pack::across_rows(&zero_points, groups, bits);
        let scales = pack::transposed(&scales, groups).flat_map(u16::to_le_bytes).collect();
        let mut parts = vec![
            Part::columns(CODES, 4, first..first + count, all, codes),
            Part::columns(ZERO_POINTS, 4, zero_words, all / in_word, zero_points),
            Part::columns(SCALES, 2, first..first + count, all, scales),
        ];
        if first == 0 {
            let groups = (0..self.matrix.cols).map(|col| col / self.group_columns());
            let indices = groups.flat_map(|group| u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes());
            parts.push(Part::whole(GROUPS, 0, indices.collect()));
        }
        Ok(parts)
    }

    fn error(self, rows: &Rows<'_>, row: u64, unfit: Unfit) -> Error {
        let (what, why) = match unfit {
            Unfit::Nan => ("a weight that is no number (NaN)", "for which GPTQ has no code"),
            Unfit::Infinite => ("an infinite weight", "for which GPTQ has no code"),
            Unfit::TooLarge => ("a weight that is too large", "for which FP16 has no scale"),
        };
        rows.error(row, what, why)
    }
}
