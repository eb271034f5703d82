//! Cutting floats: the portable code compiled for more instructions, but for the packing of raw bits, for which there
//! is one.

use std::arch::x86_64::_pext_u64;

use super::scalar;
use crate::Half;
use crate::split::SplitWindow;

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn cut_avx2(window: SplitWindow, values: &[Half], symbols: &mut [u8]) -> (u64, usize) {
    scalar::cut(window, values, symbols)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn cut_avx512(window: SplitWindow, values: &[Half], symbols: &mut [u8]) -> (u64, usize) {
    scalar::cut(window, values, symbols)
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn append_lows_avx2(window: SplitWindow, values: &[Half], out: &mut Vec<u8>) {
    scalar::append_lows(window, values, out);
}

// Q: why here alone? Processors of AMD's before Zen 3 have AVX2 and this instruction, but take a hundred cycles and
// more for it; all with AVX-512 take one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn append_lows_avx512(window: SplitWindow, values: &[Half], out: &mut Vec<u8>) {
    // Of each of four values the low bits and the sign, which is above them already.
    let kept = (((1u64 << window.shift()) - 1) | 1 << 15) * 0x0001_0001_0001_0001;
    scalar::append_fours(window, values, out, |four| _pext_u64(four, kept));
}
