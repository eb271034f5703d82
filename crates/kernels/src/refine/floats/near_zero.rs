//! Floats near zero, of which a wide interval has too many.

use super::super::Intervals;
use super::super::codes::parts;
use super::grid::{Cut, F16, FloatGrid, Grid};
use super::rows::{ALL_NEAR_ZERO, Floats};
use super::{FloatInputs, SIGN};
use crate::Half;
use crate::rows::Rows;

/// A float near zero.
pub(super) struct Listed {
    /// Its place in the chunk.
    pub(super) index: usize,
    pub(super) known: NearZero,
}

/// What is known of such a float.
#[derive(Debug, Clone, Copy)]
pub(super) struct NearZero {
    /// The greatest exponent.
    top: u16,
    /// The sign bit, if all of them have one sign.
    sign: Option<u16>,
}

impl NearZero {
    /// Of an interval that has some.
    pub(super) fn of(grid: FloatGrid, lo: f32, hi: f32) -> Self {
        let mantissa = grid.mantissa_bits();
        match grid {
            FloatGrid::Bf16 => Self::in_floats(Cut::BF16, Floats::of(Cut::BF16, lo, hi), mantissa),
            FloatGrid::HighHalf => {
                Self::in_floats(Cut::HIGH_HALF, Floats::of(Cut::HIGH_HALF, lo, hi), mantissa)
            }
            FloatGrid::F16 => Self::in_floats(F16::<false>, Floats::of(F16::<false>, lo, hi), mantissa),
            FloatGrid::ShortF16 => Self::in_floats(F16::<true>, Floats::of(F16::<true>, lo, hi), mantissa),
        }
    }

    /// Of a float that is near zero in its interval.
    fn of_value(grid: FloatGrid, lo: f32, hi: f32, value: Half) -> Option<Self> {
        let bits = u16::from_le_bytes(value);
        let found = match grid {
            FloatGrid::Bf16 => Floats::of(Cut::BF16, lo, hi).locate(bits),
            FloatGrid::HighHalf => Floats::of(Cut::HIGH_HALF, lo, hi).locate(bits),
            FloatGrid::F16 => Floats::of(F16::<false>, lo, hi).locate(bits),
            FloatGrid::ShortF16 => Floats::of(F16::<true>, lo, hi).locate(bits),
        };
        found.near_zero.then(|| Self::of(grid, lo, hi))
    }

    fn in_floats<G: Grid>(grid: G, floats: Floats<G>, mantissa: u32) -> Self {
        let greatest = if floats.near_zero == ALL_NEAR_ZERO {
            grid.to(floats.to)
        } else {
            grid.from(floats.near_zero).saturating_sub(1)
        };
        // A magnitude has 15 bits.
        let top = u16::try_from(greatest >> mantissa).unwrap_or(u16::MAX);
        let mirrored = if floats.mirror == 0 { 0 } else { SIGN };
        Self { top, sign: (!floats.both_signs).then_some(mirrored) }
    }

    pub(super) fn has_both_signs(self) -> bool {
        self.sign.is_none()
    }

    /// How many binades below the greatest a float is. `None` if that is too many, or none.
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

/// The floats of a chunk that are near zero. `None` where intervals are of another number than the weights.
pub(super) fn list(
    grid: FloatGrid,
    values: &[Half],
    cols: usize,
    inputs: &mut impl FloatInputs,
) -> Option<Vec<Listed>> {
    let mut listed = Vec::new();
    for (number, elements) in Rows::new(values.len(), cols).iter().enumerate() {
        for part in parts(elements.len()) {
            let (start, columns) = (elements.start + part.start, part.len());
            let Intervals { lo, hi } = inputs.part(number, part).ok().filter(|of| of.are_of(columns))?;
            let ends = lo.iter().zip(hi).zip(start..);
            listed.extend(ends.filter_map(|((lo, hi), index)| {
                let known = NearZero::of_value(grid, *lo, *hi, values[index])?;
                Some(Listed { index, known })
            }));
        }
    }
    Some(listed)
}
