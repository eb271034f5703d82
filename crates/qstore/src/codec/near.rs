//! Floats that are nearly known: scales of one quantiser given those of another, to which they are nearly proportional,
//! and floats that were made of codes. Stored is by how many floats each lies off the one that is expected.

use qstore_checkpoint::FloatKind;
use qstore_kernels::DecodeError;

use super::float::values;
use super::planes::Planes;
use super::workspace::{Workspace, at_least};
use crate::quant::Dequantizer;

/// What a chunk of floats is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenNear<'a> {
    /// The others, as they lie in their array.
    pub(crate) raw: &'a [u8],
    pub(crate) float: FloatKind,
    /// What each is multiplied with.
    pub(crate) times: f32,
}

/// What a chunk of floats is given that was made of codes, of rows from `first_row` on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenValues<'a> {
    pub(crate) codes: &'a [u8],
    pub(crate) first_row: usize,
    /// What they stand for.
    pub(crate) values: &'a Dequantizer,
}

/// What floats are nearly.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected<'a> {
    /// Others, times a constant.
    Floats(GivenNear<'a>),
    /// What codes stand for.
    Values(GivenValues<'a>),
}

/// Codes the floats of one array.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Near {
    float: FloatKind,
    planes: Planes,
}

impl Near {
    pub(crate) fn new(float: FloatKind) -> Self {
        Self { float, planes: Planes::writer(float.width() as u64, false) }
    }

    pub(crate) fn encode(self, raw: &[u8], given: Expected) -> Option<Vec<u8>> {
        let expected = self.expected(raw.len(), given)?;
        let mut distances = vec![0; raw.len()];
        let each = distances.chunks_exact_mut(self.float.width()).zip(raw.chunks_exact(self.float.width()));
        for ((to, own), expected) in each.zip(expected) {
            let distance = self.ordinal(number(own)).wrapping_sub(self.ordinal(expected)) & self.mask();
            put(to, self.folded(distance));
        }
        self.planes.encode(&distances)
    }

    pub(crate) fn decode(
        self,
        stored: &[u8],
        given: Expected,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let other = DecodeError::Corrupt("floats of another number than what they are given");
        let expected = self.expected(out.len(), given).ok_or(other)?;
        let distances = at_least(&mut workspace.fine, out.len());
        self.planes.decode(stored, distances)?;
        let width = self.float.width();
        let each = out.chunks_exact_mut(width).zip(distances.chunks_exact(width));
        for ((to, distance), expected) in each.zip(expected) {
            let distance = self.unfolded(number(distance));
            put(to, self.of_ordinal(self.ordinal(expected).wrapping_add(distance) & self.mask()));
        }
        Ok(())
    }

    /// The bits of the floats that are expected for so many bytes; `None` if there are not as many.
    fn expected(self, bytes: usize, given: Expected) -> Option<impl Iterator<Item = u32>> {
        let numbers = match given {
            Expected::Floats(GivenNear { raw, float, times }) => {
                let count = raw.len() / float.width();
                let mut others = vec![0.0; count];
                if count * float.width() == raw.len() {
                    values(float, raw, &mut others);
                    others.iter_mut().for_each(|other| *other *= times);
                }
                others
            }
            Expected::Values(GivenValues { codes, first_row, values }) => {
                let lines = (first_row..).zip(codes.chunks(values.cols().max(1)));
                lines.flat_map(|(row, codes)| values.values_of(row, codes)).collect()
            }
        };
        let fits = numbers.len() * self.float.width() == bytes;
        fits.then(|| numbers.into_iter().map(move |number| self.nearest(number)))
    }

    /// The bits of the float that is nearest to a number, and 0 for what is none.
    fn nearest(self, number: f32) -> u32 {
        match self.float {
            _ if number.is_nan() => 0,
            FloatKind::F32 => number.to_bits(),
            FloatKind::Bf16 => half::bf16::from_f32(number).to_bits().into(),
            FloatKind::F16 | FloatKind::ShortF16 => half::f16::from_f32(number).to_bits().into(),
        }
    }

    fn mask(self) -> u32 {
        u32::MAX >> (32 - self.bits())
    }

    fn bits(self) -> u32 {
        8 * u32::try_from(self.float.width()).unwrap_or(4)
    }

    /// Numbers that ascend as the floats with these bits do.
    fn ordinal(self, bits: u32) -> u32 {
        let sign = 1 << (self.bits() - 1);
        if bits & sign == 0 { bits | sign } else { !bits & self.mask() }
    }

    fn of_ordinal(self, ordinal: u32) -> u32 {
        let sign = 1 << (self.bits() - 1);
        if ordinal & sign == 0 { !ordinal & self.mask() } else { ordinal & !sign }
    }

    /// A distance with its sign in the lowest bit, so that small ones either way are small numbers.
    fn folded(self, distance: u32) -> u32 {
        let is_below = distance >> (self.bits() - 1);
        ((distance << 1) ^ 0u32.wrapping_sub(is_below)) & self.mask()
    }

    fn unfolded(self, folded: u32) -> u32 {
        (folded >> 1) ^ 0u32.wrapping_sub(folded & 1)
    }
}

/// Little-endian bytes of a number of 16 or 32 bits.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn put(to: &mut [u8], number: u32) {
    to.copy_from_slice(&number.to_le_bytes()[..to.len()]);
}
