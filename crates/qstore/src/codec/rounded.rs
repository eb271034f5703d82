//! Codes given floats of a higher variant: by how many levels each lies off the one that its weight is rounded to,
//! modulo 256. That is 0 where the quantiser rounds by a rule that is known, so little but scales is left; calibration
//! and error feedback move codes by a few.

use qstore_checkpoint::FloatKind;

use super::float::values;
use super::shifted::Expecting;
use crate::quant::{LevelTable, Rounder};

/// What a chunk of codes is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenFloats<'a> {
    /// The weights as they lie in their array.
    pub(crate) raw: &'a [u8],
    pub(crate) float: FloatKind,
    /// The row that they begin with.
    pub(crate) first_row: usize,
    /// The columns that they are of.
    pub(crate) columns: (usize, usize),
    pub(crate) rounder: &'a Rounder,
}

impl Expecting for GivenFloats<'_> {
    fn cols(&self) -> usize {
        self.columns.1.saturating_sub(self.columns.0)
    }

    fn add_expected(&self, out: &mut [u8]) {
        let (columns, cols) = (self.columns.0..self.columns.1, self.cols().max(1));
        let rows = self.raw.chunks(cols * self.float.width()).zip(out.chunks_mut(cols));
        let mut weights = Vec::new();
        for (row, (raw, out)) in (self.first_row..).zip(rows) {
            // BF16 is read on the way.
            if self.float == FloatKind::Bf16 {
                let value = |half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16);
                self.rounder.add_expected(row, &columns, (raw.as_chunks().0, value), out);
                continue;
            }
            weights.resize(cols, 0.0);
            values(self.float, raw, &mut weights);
            self.rounder.add_expected(row, &columns, (&weights, |weight: f32| weight), out);
        }
    }

    fn is_for(&self, weights: usize) -> bool {
        weights.checked_mul(self.float.width()) == Some(self.raw.len())
            && weights.is_multiple_of(self.cols().max(1))
    }

    fn levels(&self) -> &LevelTable {
        self.rounder.levels()
    }
}
