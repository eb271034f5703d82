//! Floats in intervals that have too many of them.

use super::super::codes::parts;
use super::super::{Intervals, greater};
use super::grid::{Cut, F16, FloatGrid, Grid as _};
use super::rows::Floats;
use super::{FloatInputs, SIGN};
use crate::Half;
use crate::rows::Rows;

/// A weight whose interval is wide.
pub(super) struct Listed {
    /// Its place in the chunk.
    pub(super) index: usize,
    pub(super) wide: Wide,
}

/// What is known of such a weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide {
    /// The exponent of the greatest magnitude.
    top: u16,
    /// The sign bit, if all of them have one sign.
    sign: Option<u16>,
}

impl Wide {
    pub(super) fn of(grid: FloatGrid, lo: f32, hi: f32) -> Self {
        let most = greater(greater(-lo, hi), 0.0);
        let last = match grid {
            FloatGrid::Bf16 | FloatGrid::HighHalf => Cut::BF16.to(most),
            FloatGrid::F16 => F16::<false>.to(most),
            FloatGrid::ShortF16 => F16::<true>.to(most),
        };
        let sign = match (lo >= 0.0, hi <= 0.0) {
            (true, _) => Some(0),
            (false, true) => Some(SIGN),
            (false, false) => None,
        };
        // A magnitude has 15 bits.
        Self { top: u16::try_from(last >> grid.mantissa_bits()).unwrap_or(u16::MAX), sign }
    }

    pub(super) fn has_both_signs(self) -> bool {
        self.sign.is_none()
    }

    /// How many binades below the greatest a float is. `None` if it is not in the interval, or too far below.
    pub(super) fn symbol(self, grid: FloatGrid, value: Half) -> Option<u8> {
        let value = u16::from_le_bytes(value);
        let below = self.top.checked_sub((value & !SIGN) >> grid.mantissa_bits())?;
        u8::try_from(below).ok().filter(|_| self.sign.is_none_or(|sign| sign == value & SIGN))
    }

    /// The float of a symbol, without its mantissa, and without its sign if there are both.
    pub(super) fn float(self, grid: FloatGrid, symbol: u8) -> u16 {
        let exponent = self.top.saturating_sub(u16::from(symbol));
        exponent << grid.mantissa_bits() & !SIGN | self.sign.unwrap_or(0)
    }
}

/// The weights of a chunk whose intervals are wide. `None` where intervals are of another number than the weights.
pub(super) fn list(
    grid: FloatGrid,
    len: usize,
    cols: usize,
    inputs: &mut impl FloatInputs,
) -> Option<Vec<Listed>> {
    let mut listed = Vec::new();
    for (number, elements) in Rows::new(len, cols).iter().enumerate() {
        for part in parts(elements.len()) {
            let (start, columns) = (elements.start + part.start, part.len());
            let Intervals { lo, hi } = inputs.part(number, part).ok().filter(|of| of.are_of(columns))?;
            // Whether an interval is wide does not depend on the type.
            let wide = lo.iter().zip(hi).enumerate();
            let wide = wide.filter(|(_, (lo, hi))| Floats::of(Cut::BF16, **lo, **hi).wide);
            listed.extend(
                wide.map(|(column, (lo, hi))| Listed {
                    index: start + column,
                    wide: Wide::of(grid, *lo, *hi),
                }),
            );
        }
    }
    Some(listed)
}
