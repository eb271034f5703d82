//! Cutting 16-bit floats into a symbol and raw bits, and joining them.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::Half;
use crate::backend::{Backend, Kind};
use crate::split::SplitWindow;

/// The symbol of each value into `symbols`, 0 for those that have none. Returns the sum of the symbols and how many
/// values have none.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn cut(
    backend: Backend,
    window: SplitWindow,
    values: &[Half],
    symbols: &mut [u8],
) -> (u64, usize) {
    match backend.kind() {
        Kind::Scalar => scalar::cut(window, values, symbols),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { x86::cut_avx2(window, values, symbols) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { x86::cut_avx512(window, values, symbols) },
    }
}

/// Appends the raw bits of each value as a bit plane (see [`crate::bits`]).
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn append_lows(backend: Backend, window: SplitWindow, values: &[Half], out: &mut Vec<u8>) {
    match backend.kind() {
        Kind::Scalar => scalar::append_lows(window, values, out),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { x86::append_lows_avx2(window, values, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { x86::append_lows_avx512(window, values, out) },
    }
}

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
