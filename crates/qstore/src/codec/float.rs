//! Floats without a twin.
//!
//! 32-bit floats are cut in two: their high halves are coded as 16-bit floats are, and their low halves follow as a bit plane, without the low
//! bits that are 0 in the whole chunk (all of them where the floats were widened from BF16).
//!
//! ```text
//! length  u32    F32 alone: bytes of the coded high halves
//! high    ...
//! width   u8     F32 alone: bits kept of each low half, the topmost of its 16
//! low     plane  F32 alone
//! ```

use std::borrow::Cow;

use qstore_kernels::{
    Classifier, DecodeError, Half, Layout, SplitCoder, SplitWindow, SymbolTable, pack_plane, plane_bytes,
    unpack_plane,
};

use super::head::{read_tables, write_tables};
use super::workspace::{Workspace, at_least};
use crate::scheme::FloatKind;

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
        with_low_halves(self.float, raw, coded)
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

/// The high 16 bits of each float.
pub(crate) fn high_halves(float: FloatKind, raw: &[u8]) -> Cow<'_, [Half]> {
    match float {
        FloatKind::Bf16 | FloatKind::F16 => Cow::Borrowed(raw.as_chunks().0),
        FloatKind::F32 => raw.as_chunks::<4>().0.iter().map(|&[_, _, low, high]| [low, high]).collect(),
    }
}

/// The low half of each 32-bit float.
fn low_halves(raw: &[u8]) -> impl Iterator<Item = u16> {
    raw.as_chunks::<4>().0.iter().map(|&[low, high, ..]| u16::from_le_bytes([low, high]))
}

/// How many leading bits of the low halves are in use.
pub(crate) fn low_width(float: FloatKind, raw: &[u8]) -> u32 {
    match float {
        FloatKind::Bf16 | FloatKind::F16 => 0,
        FloatKind::F32 => 16 - low_halves(raw).fold(0, |all, low| all | low).trailing_zeros(),
    }
}

/// Completes a chunk whose high halves are `coded`.
pub(crate) fn with_low_halves(float: FloatKind, raw: &[u8], coded: Vec<u8>) -> Option<Vec<u8>> {
    if float != FloatKind::F32 {
        return Some(coded);
    }
    let width = low_width(float, raw);
    let mut out = u32::try_from(coded.len()).ok()?.to_le_bytes().to_vec();
    out.extend(coded);
    out.push(u8::try_from(width).ok()?);
    pack_plane(low_halves(raw).map(|low| low.checked_shr(16 - width).unwrap_or(0)), width, &mut out);
    Some(out)
}

/// The two parts of a chunk.
pub(crate) struct Parts<'a> {
    high: &'a [u8],
    low: Option<(u32, &'a [u8])>,
}

impl<'a> Parts<'a> {
    /// Cuts the chunk of `out_bytes` decoded bytes.
    pub(crate) fn of(float: FloatKind, stored: &'a [u8], out_bytes: usize) -> Result<Self, DecodeError> {
        if !out_bytes.is_multiple_of(float.width()) {
            return Err(DecodeError::Corrupt("a chunk that ends within a float"));
        }
        if float != FloatKind::F32 {
            return Ok(Self { high: stored, low: None });
        }
        let (length, rest) = stored.split_first_chunk().ok_or(DecodeError::Truncated)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::Truncated)?;
        let (high, rest) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        let (width, plane) = rest.split_first().ok_or(DecodeError::Truncated)?;
        let width = u32::from(*width);
        if width > 16 || plane.len() != plane_bytes(out_bytes / 4, width) {
            return Err(DecodeError::Corrupt("low halves of another length"));
        }
        Ok(Self { high, low: Some((width, plane)) })
    }

    /// Decodes the floats into `out`, their high halves by `decode`, which is given the part that holds them; `buffer` is for those of 32-bit floats.
    pub(crate) fn decode(
        &self,
        out: &mut [u8],
        buffer: &mut Vec<Half>,
        decode: impl FnOnce(&[u8], &mut [Half]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let Some((width, plane)) = self.low else { return decode(self.high, out.as_chunks_mut().0) };
        let floats = out.as_chunks_mut::<4>().0;
        let high = at_least(buffer, floats.len());
        decode(self.high, high)?;
        unpack_plane(plane, high.len(), width, |index, low| {
            let low = low.checked_shl(16 - width).unwrap_or(0).to_le_bytes();
            floats[index] = [low[0], low[1], high[index][0], high[index][1]];
        })
    }
}
