//! Cutting 16-bit floats into a symbol and raw bits, and joining them.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use crate::Half;
use crate::backend::{Backend, Kind};
use crate::split::SplitWindow;

pub(crate) use scalar::{append_lows, cut};

/// Joins `symbols` and the bits of `plane` (see [`crate::bits`]) to floats, as many as there are symbols.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn join(backend: Backend, window: SplitWindow, symbols: &[u8], plane: &[u8], out: &mut [Half]) {
    match backend.kind() {
        Kind::Scalar => scalar::join(window, symbols, plane, out),
        // Shifts by different numbers of bits are what this takes, and AVX2 has none for 16 bits.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => scalar::join(window, symbols, plane, out),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::join(window, symbols, plane, out) },
    }
}
