//! Floats without a twin.
//!
//! 32-bit floats are cut in two: their high halves are coded as 16-bit floats are, and their low halves follow as a bit
//! plane, without the low bits that are 0 in the whole chunk (all of them where the floats were widened from BF16).
//!
//! FP16 numbers that were once BF16 have mantissas that end in three zeros; they are coded without these, and the few
//! that end otherwise (the least ones, which FP16 cannot hold exactly) are listed.
//!
//! ```text
//! long    u32    short F16 alone: how many mantissas end in other bits
//! long    x (index in the chunk u32, value u16)
//! length  u32    F32 alone: bytes of the coded high halves
//! high    ...
//! width   u8     F32 alone: bits kept of each low half, the topmost of its 16
//! low     plane  F32 alone
//! ```

use std::borrow::Cow;

use qstore_checkpoint::FloatKind;
use qstore_kernels::{
    Classifier, DecodeError, Half, Layout, SplitCoder, SplitWindow, SymbolTable, pack_plane, plane_bytes,
    unpack_plane,
};

use super::head::{read_tables, write_tables};
use super::workspace::{Workspace, at_least};

/// Codes floats of one kind with the window and tables of one array.
#[derive(Debug, Clone)]
pub(crate) struct FloatSplit {
    float: FloatKind,
    coder: SplitCoder,
}

impl FloatSplit {
    pub(crate) fn new(
        float: FloatKind,
        window: SplitWindow,
        tables: Vec<SymbolTable>,
        layout: Layout,
    ) -> Result<Self, DecodeError> {
        let coder = SplitCoder::new(window, float.mantissa_bits(), tables, layout)?;
        Ok(Self { float, coder })
    }

    /// The floats.
    pub(crate) fn float(&self) -> FloatKind {
        self.float
    }

    pub(crate) fn open(float: FloatKind, layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        let ([shift, low, high], rest) = head.split_first_chunk().ok_or(DecodeError::Truncated)?;
        *head = rest;
        let window = SplitWindow::new(u32::from(*shift), u16::from_le_bytes([*low, *high]))?;
        Self::new(float, window, read_tables(head)?, layout)
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let window = self.coder.window();
        // The shift is at most 14.
        let mut head = vec![u8::try_from(window.shift()).unwrap_or(u8::MAX)];
        head.extend(window.base().to_le_bytes());
        head.extend(write_tables(self.coder.tables()));
        head
    }

    pub(crate) fn encode(
        &self,
        raw: &[u8],
        cols: usize,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let high = high_halves(self.float, raw);
        let coded = self.coder.encode(&high, cols, classifier, &mut workspace.scratch).ok()?;
        with_rest(self.float, raw, coded)
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        cols: usize,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let Workspace { scratch, high, .. } = workspace;
        Parts::of(self.float, stored, out.len())?
            .decode(out, high, |part, halves| self.coder.decode(part, cols, scratch, halves))
    }
}

/// Bytes of a mantissa that is longer than others, as it is listed.
pub(crate) const LONG_BYTES: usize = 6;
/// Zeros at the end of the mantissas of short F16 numbers.
const SHORT_BY: u32 = 3;
const SIGN: u16 = 0x8000;

fn shortened(half: Half) -> Half {
    let value = u16::from_le_bytes(half);
    (value & SIGN | (value & !SIGN) >> SHORT_BY).to_le_bytes()
}

fn lengthened(half: Half) -> Half {
    let value = u16::from_le_bytes(half);
    (value & SIGN | value << SHORT_BY & !SIGN).to_le_bytes()
}

/// The high 16 bits of each float, or what is left of a shorter one.
pub(crate) fn high_halves(float: FloatKind, raw: &[u8]) -> Cow<'_, [Half]> {
    match float {
        FloatKind::Bf16 | FloatKind::F16 => Cow::Borrowed(raw.as_chunks().0),
        FloatKind::ShortF16 => raw.as_chunks().0.iter().map(|half| shortened(*half)).collect(),
        FloatKind::F32 => raw.as_chunks::<4>().0.iter().map(|&[_, _, low, high]| [low, high]).collect(),
    }
}

/// Floats as binary32.
pub(crate) fn values(float: FloatKind, raw: &[u8], values: &mut [f32]) {
    let bits = |value: &mut f32, bits: u32| *value = f32::from_bits(bits);
    match float {
        FloatKind::Bf16 => {
            let halves = raw.as_chunks().0.iter().map(|half| u32::from(u16::from_le_bytes(*half)) << 16);
            values.iter_mut().zip(halves).for_each(|(value, half)| bits(value, half));
        }
        FloatKind::F32 => {
            let words = raw.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
            values.iter_mut().zip(words).for_each(|(value, word)| bits(value, word));
        }
        FloatKind::F16 | FloatKind::ShortF16 => {
            let halves = raw.as_chunks().0.iter().map(|half| u16::from_le_bytes(*half));
            values.iter_mut().zip(halves).for_each(|(value, half)| {
                let magnitude = FloatKind::F16.value(u32::from(half & 0x7fff));
                *value = if half & 0x8000 == 0 { magnitude } else { -magnitude };
            });
        }
    }
}

/// The low half of each 32-bit float.
fn low_halves(raw: &[u8]) -> impl Iterator<Item = u16> {
    raw.as_chunks::<4>().0.iter().map(|&[low, high, ..]| u16::from_le_bytes([low, high]))
}

/// How many leading bits of the low halves are in use.
pub(crate) fn low_width(float: FloatKind, raw: &[u8]) -> u32 {
    match float {
        FloatKind::Bf16 | FloatKind::F16 | FloatKind::ShortF16 => 0,
        FloatKind::F32 => 16 - low_halves(raw).fold(0, |all, low| all | low).trailing_zeros(),
    }
}

/// Completes a chunk whose high halves are `coded`.
pub(crate) fn with_rest(float: FloatKind, raw: &[u8], coded: Vec<u8>) -> Option<Vec<u8>> {
    match float {
        FloatKind::Bf16 | FloatKind::F16 => return Some(coded),
        FloatKind::ShortF16 => return with_long(raw, &coded),
        FloatKind::F32 => {}
    }
    let width = low_width(float, raw);
    let mut out = u32::try_from(coded.len()).ok()?.to_le_bytes().to_vec();
    out.extend(coded);
    out.push(u8::try_from(width).ok()?);
    pack_plane(low_halves(raw).map(|low| low.checked_shr(16 - width).unwrap_or(0)), width, &mut out);
    Some(out)
}

fn with_long(raw: &[u8], coded: &[u8]) -> Option<Vec<u8>> {
    let is_long = |half: &Half| u16::from_le_bytes(*half).trailing_zeros() < SHORT_BY;
    let halves = (0u32..).zip(raw.as_chunks::<2>().0);
    let mut long = Vec::new();
    for (index, half) in halves.filter(|(_, half)| is_long(half)) {
        long.extend(index.to_le_bytes());
        long.extend(half);
    }
    let mut out = u32::try_from(long.len() / LONG_BYTES).ok()?.to_le_bytes().to_vec();
    out.extend(long);
    out.extend(coded);
    Some(out)
}

/// The parts of a chunk.
pub(crate) struct Parts<'a> {
    high: &'a [u8],
    rest: Rest<'a>,
}

/// What is left of the floats.
enum Rest<'a> {
    Nothing,
    /// The low halves, of which so many bits are kept.
    Low(u32, &'a [u8]),
    /// Those that are longer than others.
    Long(&'a [[u8; LONG_BYTES]]),
}

impl<'a> Parts<'a> {
    /// Cuts the chunk of `out_bytes` decoded bytes.
    pub(crate) fn of(float: FloatKind, stored: &'a [u8], out_bytes: usize) -> Result<Self, DecodeError> {
        if !out_bytes.is_multiple_of(float.width()) {
            return Err(DecodeError::Corrupt("a chunk that ends within a float"));
        }
        if matches!(float, FloatKind::Bf16 | FloatKind::F16) {
            return Ok(Self { high: stored, rest: Rest::Nothing });
        }
        let (length, rest) = stored.split_first_chunk().ok_or(DecodeError::Truncated)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::Truncated)?;
        if float == FloatKind::ShortF16 {
            let bytes = length.checked_mul(LONG_BYTES).ok_or(DecodeError::Truncated)?;
            let (long, high) = rest.split_at_checked(bytes).ok_or(DecodeError::Truncated)?;
            return Ok(Self { high, rest: Rest::Long(long.as_chunks().0) });
        }
        let (high, rest) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        let (width, plane) = rest.split_first().ok_or(DecodeError::Truncated)?;
        let width = u32::from(*width);
        if width > 16 || plane.len() != plane_bytes(out_bytes / 4, width) {
            return Err(DecodeError::Corrupt("low halves of another length"));
        }
        Ok(Self { high, rest: Rest::Low(width, plane) })
    }

    /// Decodes the floats into `out`, their high halves by `decode`, which is given the part that holds them; `buffer`
    /// is for those of 32-bit floats.
    pub(crate) fn decode(
        &self,
        out: &mut [u8],
        buffer: &mut Vec<Half>,
        decode: impl FnOnce(&[u8], &mut [Half]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let (width, plane) = match self.rest {
            Rest::Nothing => return decode(self.high, out.as_chunks_mut().0),
            Rest::Long(long) => {
                let halves = out.as_chunks_mut().0;
                decode(self.high, halves)?;
                halves.iter_mut().for_each(|half| *half = lengthened(*half));
                for &[a, b, c, d, low, high] in long {
                    let index = u32::from_le_bytes([a, b, c, d]) as usize;
                    let half = halves.get_mut(index);
                    *half.ok_or(DecodeError::Corrupt("a float outside the chunk"))? = [low, high];
                }
                return Ok(());
            }
            Rest::Low(width, plane) => (width, plane),
        };
        let floats = out.as_chunks_mut::<4>().0;
        let high = at_least(buffer, floats.len());
        decode(self.high, high)?;
        unpack_plane(plane, high.len(), width, |index, low| {
            let low = low.checked_shl(16 - width).unwrap_or(0).to_le_bytes();
            floats[index] = [low[0], low[1], high[index][0], high[index][1]];
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cuts floats and joins them again, their high halves as they are.
    fn round_trip(float: FloatKind, raw: &[u8]) -> usize {
        let high: Vec<u8> = high_halves(float, raw).as_flattened().to_vec();
        let stored = with_rest(float, raw, high).unwrap();
        let mut back = vec![0xaa; raw.len()];
        let copy = |part: &[u8], halves: &mut [Half]| {
            halves.as_flattened_mut().copy_from_slice(part);
            Ok(())
        };
        Parts::of(float, &stored, raw.len()).unwrap().decode(&mut back, &mut Vec::new(), copy).unwrap();
        assert_eq!(back, raw);
        stored.len()
    }

    proptest! {
        #[test]
        fn floats_come_back(words in proptest::collection::vec(any::<u32>(), 0..200)) {
            let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            for float in [FloatKind::Bf16, FloatKind::F16, FloatKind::ShortF16, FloatKind::F32] {
                round_trip(float, &raw);
            }
        }
    }

    #[test]
    fn only_longer_mantissas_are_listed() {
        let mut halves: Vec<u16> = (0..1000u16).map(|i| i * 8).collect();
        assert_eq!(round_trip(FloatKind::ShortF16, &le_bytes(&halves)), 4 + 2000);
        halves[17] |= 0x8004;
        assert_eq!(round_trip(FloatKind::ShortF16, &le_bytes(&halves)), 4 + LONG_BYTES + 2000);
        assert_eq!(
            FloatKind::fitting(qstore_container::Dtype::F16, &le_bytes(&halves)),
            Some(FloatKind::ShortF16)
        );
        let all: Vec<u16> = (0..1000).collect();
        assert_eq!(FloatKind::fitting(qstore_container::Dtype::F16, &le_bytes(&all)), Some(FloatKind::F16));
        // A float that is listed must lie in the chunk.
        let mut outside = vec![1, 0, 0, 0, 4, 0, 0, 0, 0, 0];
        outside.extend([0; 8]);
        let parts = Parts::of(FloatKind::ShortF16, &outside, 8).unwrap();
        assert!(parts.decode(&mut [0; 8], &mut Vec::new(), |_, _| Ok(())).is_err());
        assert!(Parts::of(FloatKind::ShortF16, &[2, 0, 0, 0, 0, 0], 8).is_err());
    }

    fn le_bytes(halves: &[u16]) -> Vec<u8> {
        halves.iter().flat_map(|half| half.to_le_bytes()).collect()
    }
}
