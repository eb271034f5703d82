//! Where the bins of a row begin and how wide they are.

/// The bins of one row scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinTable {
    /// Least magnitude of each bin, and above it (16 bits on) its frequency.
    pub(super) edges: [u32; 128],
    /// `floor(2^32 / frequency) + 1`: `(slot * reciprocal) >> 32` is `slot / frequency` exactly, as both are below
    /// 2^16.
    pub(super) reciprocal: [u32; 128],
    /// The same once more for backends that look bytes up in registers.
    pub(super) planes: Planes,
}

/// A byte of each entry in a plane of its own. A slot divided by its frequency is about `slot * factor >> (16 +
/// shift)`: that, or one more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planes {
    pub(super) lo: [[u8; 128]; 2],
    pub(super) frequency: [[u8; 128]; 2],
    pub(super) factor: [[u8; 128]; 2],
    /// Of wide tables alone.
    pub(super) shift: [u8; 128],
    /// Whether a bin has more than 255 magnitudes. Where none has, `factor` is their number (one byte), and `shift` 0.
    pub(super) wide: bool,
}

impl BinTable {
    /// From each bin's least magnitude and the number of magnitudes in it, for codes of 0 to 127. A width of 0 counts
    /// as 1; of a least magnitude the low 15 bits count, as the highest bit of a value is its sign.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "every quotient is below the type's end; see the ranges beside them"
    )]
    pub fn new(lo: &[u16; 128], width: &[u16; 128]) -> Self {
        // Whole arrays at a time and without branches, so that compilers make vector code of it: on short rows this
        // costs more than decoding. Quotients of such numbers are never so close to the next integer that rounding them
        // in binary32 or binary64 reaches it.
        let width = width.map(|width| width.clamp(1, 1 << 15));
        let lo = lo.map(|lo| lo & 0x7fff);
        // Between 2 and 65,535.
        let frequency = width.map(|width| (65_536.0 / f32::from(width)).min(65_535.0) as i32 as u16);
        let mut table = Self {
            edges: [0; 128],
            // Below 2^32, as the frequency is at least 2.
            reciprocal: frequency.map(|f| (4_294_967_296.0 / f64::from(f)) as i64 as u32 + 1),
            planes: Planes {
                lo: lo.map_planes(),
                frequency: frequency.map_planes(),
                factor: width.map_planes(),
                shift: [0; 128],
                wide: width.iter().any(|&width| width > 255),
            },
        };
        for (edge, (&lo, &frequency)) in table.edges.iter_mut().zip(lo.iter().zip(&frequency)) {
            *edge = u32::from(lo) | u32::from(frequency) << 16;
        }
        if table.planes.wide {
            let shift = frequency.map(|f| (f.ilog2() & 15) as u8);
            let factor = |(f, shift): (u16, u8)| {
                (f64::from(1u32 << (16 + shift)) / f64::from(f)).min(65_535.0) as i32 as u16
            };
            let mut factors = [0; 128];
            for (to, from) in factors.iter_mut().zip(frequency.into_iter().zip(shift)) {
                *to = factor(from);
            }
            table.planes.factor = factors.map_planes();
            table.planes.shift = shift;
        }
        table
    }

    /// Least magnitude of a bin.
    #[inline(always)]
    pub(crate) fn lo(&self, bin: usize) -> u16 {
        (self.edges[bin] & 0xffff) as u16
    }

    /// Its frequency.
    #[inline(always)]
    pub(crate) fn frequency(&self, bin: usize) -> u32 {
        self.edges[bin] >> 16
    }

    /// The binade of the least magnitude that is not of code 0.
    pub(crate) fn zero_top(&self, mantissa_bits: u32) -> u16 {
        self.lo(1) >> mantissa_bits
    }
}

/// Low bytes and high bytes.
trait MapPlanes {
    fn map_planes(&self) -> [[u8; 128]; 2];
}

impl MapPlanes for [u16; 128] {
    fn map_planes(&self) -> [[u8; 128]; 2] {
        [self.map(|value| value.to_le_bytes()[0]), self.map(|value| value.to_le_bytes()[1])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Backends that keep a value's sign apart would take its bit for one of the magnitude's, and others would not.
    #[test]
    fn a_least_magnitude_has_no_sign() {
        assert_eq!(BinTable::new(&[0x8001; 128], &[3; 128]), BinTable::new(&[1; 128], &[3; 128]));
    }

    /// Both ways to divide a slot by a frequency, for every width that a bin can have.
    #[test]
    fn slots_are_divided_exactly() {
        for width in 0..=u16::MAX {
            let table = BinTable::new(&[0; 128], &[width; 128]);
            let f = table.frequency(127);
            assert_eq!(f, (65_536 / u32::from(width.clamp(1, 1 << 15))).min(65_535));
            assert_eq!(u64::from(table.reciprocal[127]), (1u64 << 32) / u64::from(f) + 1);
            let Planes { factor: [low, high], shift, wide, .. } = &table.planes;
            let factor = u32::from(low[5]) | u32::from(high[5]) << 8;
            assert!(*wide || (high[5] == 0 && shift[5] == 0));
            for slot in [0, 1, f - 1, f, f + 1, 2 * f - 1, 65_535 / f * f - 1, 65_535 / f * f, 65_535] {
                let slot = slot.min(65_535);
                let by_reciprocal = (u64::from(slot) * u64::from(table.reciprocal[127])) >> 32;
                assert_eq!(by_reciprocal, u64::from(slot / f), "{slot} / {f}");
                let mut place = ((slot * factor) >> 16) >> shift[5];
                place += u32::from(slot - place * f >= f);
                assert_eq!(place, slot / f, "{slot} / {f} by factor {factor} and shift {}", shift[5]);
            }
        }
    }
}
