//! Floats given their quantisation codes: the main stream of a residual.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod pieces;
mod scalar;
mod table;

pub use table::BinTable;

use crate::Half;
use crate::backend::{Backend, Kind};
use crate::error::DecodeError;
use crate::rows::Rows;
use crate::stream::{States, WordReader, WordWriter};

pub(crate) const MAGNITUDE: u16 = 0x7fff;
pub(crate) const SIGN: u16 = 0x8000;
/// Slots of the uniform coder: `2^RESIDUAL_BITS`.
pub(crate) const RESIDUAL_BITS: u32 = 16;

/// Values that follow the last code of 0 in [`StreamInputs::zeros`], for backends that read whole registers.
pub(crate) const ZEROS_SLACK: usize = 32;

/// What the main stream of a chunk is decoded with.
pub(crate) struct StreamInputs<'a> {
    pub(crate) rows: Rows<'a>,
    /// The bins of each row; as many as there are rows.
    pub(crate) bins: &'a [&'a BinTable],
    /// As many as there are values.
    pub(crate) codes: &'a [u8],
    /// The values whose codes are 0, in order, and [`ZEROS_SLACK`] more.
    pub(crate) zeros: &'a [Half],
}

/// Decodes the main stream and puts the values of codes of 0 in their places. `out` has as many values as there are
/// codes.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn decode(
    backend: Backend,
    states: &mut States,
    words: &mut WordReader,
    given: &StreamInputs,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    match backend.kind() {
        Kind::Scalar => scalar::decode(states, words, given, out),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::decode(states, words, given, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::decode(states, words, given, out) },
    }
}

/// Codes one row, its last element first; codes of 0 are passed over. `outside` gets the column of each weight that is
/// not in its bin, in whose place there is the bin's first.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn encode_row(
    backend: Backend,
    states: &mut States,
    words: &mut WordWriter,
    bins: &BinTable,
    codes: &[u8],
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    match backend.kind() {
        Kind::Scalar => scalar::encode_row(states, words, bins, codes, values, outside),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::encode_row(states, words, bins, codes, values, outside) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::encode_row(states, words, bins, codes, values, outside) },
    }
}

/// Copies the values whose codes are 0 to the front of `list`, which has room for all and [`ZEROS_SLACK`] more; returns
/// how many they are.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn list_zeros(backend: Backend, codes: &[u8], values: &[Half], list: &mut [Half]) -> usize {
    match backend.kind() {
        Kind::Scalar => scalar::list_zeros(codes, values, list),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => scalar::list_zeros(codes, values, list),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::list_zeros(codes, values, list) },
    }
}

pub(crate) fn is_negative(code: u8) -> bool {
    code.cast_signed() < 0
}

pub(crate) fn bin_of(code: u8) -> usize {
    usize::from(code.cast_signed().unsigned_abs().min(127))
}
