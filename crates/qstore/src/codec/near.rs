//! Floats given others that are nearly proportional to them, such as the scales of one quantiser given those of
//! another: by how many floats each lies off the other one times a constant.

use qstore_checkpoint::FloatKind;
use qstore_kernels::DecodeError;

use super::float::values;
use super::planes::Planes;
use super::workspace::{Workspace, at_least};

/// What a chunk of floats is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenNear<'a> {
    /// The others, as they lie in their array.
    pub(crate) raw: &'a [u8],
    pub(crate) float: FloatKind,
    /// What each is multiplied with.
    pub(crate) times: f32,
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

    pub(crate) fn encode(self, raw: &[u8], given: GivenNear) -> Option<Vec<u8>> {
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
        given: GivenNear,
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
    fn expected(self, bytes: usize, given: GivenNear) -> Option<impl Iterator<Item = u32>> {
        let count = given.raw.len() / given.float.width();
        let fits = count * given.float.width() == given.raw.len() && count * self.float.width() == bytes;
        let mut others = vec![0.0; if fits { count } else { 0 }];
        values(given.float, given.raw, &mut others);
        fits.then(|| others.into_iter().map(move |other| self.nearest(other * given.times)))
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
