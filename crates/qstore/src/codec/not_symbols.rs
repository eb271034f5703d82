//! What of a coded chunk is not its symbols.

use qstore_checkpoint::FloatKind;
use qstore_container::{Encoding, StoredArray};
use qstore_kernels::DecodeError;

use super::layout_of;

/// Bytes of a coded chunk that are not its symbols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NotSymbols {
    /// What no table, bin or interval has, or no shorter float: where each lies, and itself.
    pub(crate) exceptions: u64,
    /// Where coders begin.
    pub(crate) states: u64,
}

/// An index and a code, or an index and 16 bits of a float.
const CODE: u64 = 4 + 1;
const FLOAT: u64 = 4 + 2;

/// What of `chunk`, a coded one of `array`, is not its symbols.
///
/// # Errors
/// It is truncated.
pub(crate) fn not_symbols(array: &StoredArray, chunk: &[u8]) -> Result<NotSymbols, DecodeError> {
    let mut parts = Parts { array, chunk, found: NotSymbols::default() };
    match &array.encoding {
        Encoding::Codes { .. }
        | Encoding::CodeResidual { .. }
        | Encoding::Rounded { .. }
        | Encoding::Refine { .. } => parts.coder(CODE)?,
        Encoding::FloatSplit | Encoding::Residual { .. } => {
            parts.begin_floats()?;
            parts.coder(FLOAT)?;
        }
        Encoding::StepResidual { .. } => {
            parts.part_before()?;
            parts.begin_floats()?;
            parts.coder(FLOAT)?;
        }
        Encoding::RefineFloats { known, .. } => {
            parts.begin_floats()?;
            if known.iter().any(|known| known.around.is_some()) {
                parts.part_before()?;
            }
            parts.coder(FLOAT)?;
        }
        Encoding::Raw
        | Encoding::Zstd
        | Encoding::Near { .. }
        | Encoding::Dequantized { .. }
        | Encoding::Verbatim { .. }
        | Encoding::Reference { .. }
        | Encoding::Slice { .. }
        | Encoding::Parts { .. } => {}
    }
    Ok(parts.found)
}

/// A chunk, from a part of it on.
struct Parts<'a> {
    array: &'a StoredArray,
    chunk: &'a [u8],
    found: NotSymbols,
}

impl Parts<'_> {
    fn number(&mut self) -> Result<u64, DecodeError> {
        let (number, rest) = self.chunk.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.chunk = rest;
        Ok(u32::from_le_bytes(*number).into())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), DecodeError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.chunk = self.chunk.get(bytes..).ok_or(DecodeError::Truncated)?;
        Ok(())
    }

    /// A coder's exceptions, each of so many bytes, and its states; what follows is left where it is.
    fn coder(&mut self, exception: u64) -> Result<(), DecodeError> {
        let exceptions = exception * self.number()?;
        let states = layout_of(self.array.chunk).state_bytes() as u64;
        if exceptions + states > self.chunk.len() as u64 {
            return Err(DecodeError::Truncated);
        }
        self.found.exceptions += exceptions;
        self.found.states += states;
        Ok(())
    }

    /// A chunk of codes before another one, with its length.
    fn part_before(&mut self) -> Result<(), DecodeError> {
        let length = self.number()?;
        let behind = self.chunk;
        self.coder(CODE)?;
        self.chunk = behind;
        self.skip(length)
    }

    /// What lies around a chunk of 16-bit floats.
    fn begin_floats(&mut self) -> Result<(), DecodeError> {
        match FloatKind::of_stored(self.array) {
            Some(FloatKind::ShortF16) => {
                let long = FLOAT * self.number()?;
                self.found.exceptions += long;
                self.skip(long)
            }
            Some(FloatKind::F32) => self.number().map(drop),
            _ => Ok(()),
        }
    }
}
