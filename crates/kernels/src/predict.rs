//! Element by element: the codes that those of a coarser quantiser let expect, or weights, and codes as multiples of a
//! step.
//!
//! Each backend is the portable code below, compiled for its instructions.

use crate::backend::{Backend, Kind};

/// Columns that have one scale and one zero-point in both quantisers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectRun {
    /// How many columns.
    pub len: usize,
    /// The coarser scale divided by the finer one.
    pub ratio: f32,
    /// The finer zero-point less the coarser one times `ratio`.
    pub offset: f32,
}

/// The codes that a quantiser has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodeRange {
    /// The least, -127 or 0.
    pub least: f32,
    /// The greatest, 127 or 255 at most.
    pub most: f32,
}

/// The level that a code stands for.
#[derive(Debug, Clone, Copy)]
pub enum LevelOf<'a> {
    /// The code itself.
    Unsigned,
    /// The code in two's complement.
    Signed,
    /// What a table has for it.
    Table(&'a [f32; 256]),
}

/// Adds to `out`, modulo 256, for each of the codes `given` the integer `rint(fl(fl(level * ratio) + offset))` within
/// `range`, half to even, as a byte; the least one for what is no number. `runs` cover the codes in order; where either
/// ends, so does the work.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub fn add_expected(
    backend: Backend,
    runs: &[ExpectRun],
    given: &[u8],
    level: LevelOf,
    range: CodeRange,
    out: &mut [u8],
) {
    match backend.kind() {
        Kind::Scalar => expect(runs, given, level, range, out),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { expect_avx2(runs, given, level, range, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { expect_avx512(runs, given, level, range, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn expect_avx2(runs: &[ExpectRun], given: &[u8], level: LevelOf, range: CodeRange, out: &mut [u8]) {
    expect(runs, given, level, range, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn expect_avx512(runs: &[ExpectRun], given: &[u8], level: LevelOf, range: CodeRange, out: &mut [u8]) {
    expect(runs, given, level, range, out);
}

#[inline(always)]
fn expect(runs: &[ExpectRun], given: &[u8], level: LevelOf, range: CodeRange, out: &mut [u8]) {
    let (mut given, mut out) = (given, out);
    for run in runs {
        let len = run.len.min(given.len()).min(out.len());
        let (codes, more) = given.split_at(len);
        let (now, later) = out.split_at_mut(len);
        let expected = |level: f32| nearest_byte(level * run.ratio + run.offset, range);
        let both = codes.iter().zip(now);
        match level {
            LevelOf::Signed => both.for_each(|(code, out)| {
                *out = out.wrapping_add(expected(f32::from(code.cast_signed())));
            }),
            LevelOf::Unsigned => both.for_each(|(code, out)| {
                *out = out.wrapping_add(expected(f32::from(*code)));
            }),
            LevelOf::Table(table) => both.for_each(|(code, out)| {
                *out = out.wrapping_add(expected(table[usize::from(*code)]));
            }),
        }
        (given, out) = (more, later);
    }
}

/// Columns that have one scale and one zero-point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundRun {
    /// How many columns.
    pub len: usize,
    /// What says how a weight is brought to levels: a scale or a factor.
    pub scale: f32,
    /// The level that stands for 0.
    pub zero: f32,
}

/// Adds to `out`, modulo 256, for each of `weights` the rank that is `nearest` to its level, `fl(level(weight, scale) +
/// zero)`. `runs` cover the weights in order; where either ends, so does the work.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub fn add_rounded<W: Copy>(
    backend: Backend,
    runs: &[RoundRun],
    weights: &[W],
    level: impl Fn(W, f32) -> f32 + Copy,
    nearest: impl Fn(f32) -> u8 + Copy,
    out: &mut [u8],
) {
    match backend.kind() {
        Kind::Scalar => round(runs, weights, level, nearest, out),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { round_avx2(runs, weights, level, nearest, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { round_avx512(runs, weights, level, nearest, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn round_avx2<W: Copy>(
    runs: &[RoundRun],
    weights: &[W],
    level: impl Fn(W, f32) -> f32 + Copy,
    nearest: impl Fn(f32) -> u8 + Copy,
    out: &mut [u8],
) {
    round(runs, weights, level, nearest, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn round_avx512<W: Copy>(
    runs: &[RoundRun],
    weights: &[W],
    level: impl Fn(W, f32) -> f32 + Copy,
    nearest: impl Fn(f32) -> u8 + Copy,
    out: &mut [u8],
) {
    round(runs, weights, level, nearest, out);
}

#[inline(always)]
fn round<W: Copy>(
    runs: &[RoundRun],
    weights: &[W],
    level: impl Fn(W, f32) -> f32 + Copy,
    nearest: impl Fn(f32) -> u8 + Copy,
    out: &mut [u8],
) {
    let (mut weights, mut out) = (weights, out);
    for run in runs {
        let len = run.len.min(weights.len()).min(out.len());
        let (now, more) = weights.split_at(len);
        let (to, later) = out.split_at_mut(len);
        for (weight, out) in now.iter().zip(to) {
            *out = out.wrapping_add(nearest(level(*weight, run.scale) + run.zero));
        }
        (weights, out) = (more, later);
    }
}

/// `value` rounded half to even and cut to `range`, as a byte; the least one for what is no number.
#[must_use]
#[inline(always)]
pub fn nearest_byte(value: f32, range: CodeRange) -> u8 {
    // Between 2^23 and 2^24, values of FP32 are whole numbers: adding 1.5 * 2^23 rounds half to even and leaves the
    // code in the low bits.
    const WHOLE: f32 = 12_582_912.0;
    // In this order comparisons take a NaN for the bound.
    let value = if value > range.least { value } else { range.least };
    let value = if value < range.most { value } else { range.most };
    (value + WHOLE).to_bits().to_le_bytes()[0]
}

/// Columns that have one zero-point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroRun {
    /// How many columns.
    pub len: usize,
    /// Their zero-point.
    pub zero: u8,
}

/// Adds `(code - zero) * 2^shift` of each of `codes` to `out`, modulo 256; `shift` is below 8. `runs` cover the codes
/// in order; where either ends, so does the work.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub fn add_multiples(backend: Backend, runs: &[ZeroRun], codes: &[u8], shift: u32, out: &mut [u8]) {
    match backend.kind() {
        Kind::Scalar => multiply(runs, codes, shift, out),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { multiply_avx2(runs, codes, shift, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { multiply_avx512(runs, codes, shift, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn multiply_avx2(runs: &[ZeroRun], codes: &[u8], shift: u32, out: &mut [u8]) {
    multiply(runs, codes, shift, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn multiply_avx512(runs: &[ZeroRun], codes: &[u8], shift: u32, out: &mut [u8]) {
    multiply(runs, codes, shift, out);
}

#[inline(always)]
fn multiply(runs: &[ZeroRun], codes: &[u8], shift: u32, out: &mut [u8]) {
    let shift = shift.min(7);
    let (mut codes, mut out) = (codes, out);
    for run in runs {
        let len = run.len.min(codes.len()).min(out.len());
        let (now, more) = codes.split_at(len);
        let (to, later) = out.split_at_mut(len);
        // Shifting bytes is done by many at once, multiplying them is not.
        now.iter().zip(to).for_each(|(code, out)| {
            *out = out.wrapping_add(code.wrapping_sub(run.zero) << shift);
        });
        (codes, out) = (more, later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE_BYTE: CodeRange = CodeRange { least: 0.0, most: 255.0 };
    const SIGNED: CodeRange = CodeRange { least: -127.0, most: 127.0 };

    proptest! {
        #[test]
        fn every_backend_is_the_definition(
            runs in proptest::collection::vec((0usize..200, any::<u32>(), any::<u32>(), any::<u8>()), 0..8),
            codes in proptest::collection::vec(any::<u8>(), 0..900),
            shift in 0u32..8,
            table in proptest::collection::vec(-300f32..300.0, 256),
        ) {
            let expects: Vec<ExpectRun> = runs
                .iter()
                .map(|&(len, ratio, offset, _)| {
                    // Likely numbers, and any at all.
                    let ratio = if ratio % 3 == 0 { f32::from_bits(ratio) } else { (ratio % 4000) as f32 / 100.0 };
                    let offset = if offset % 3 == 0 { f32::from_bits(offset) } else { (offset % 900) as f32 - 300.0 };
                    ExpectRun { len, ratio, offset }
                })
                .collect();
            let zeros: Vec<ZeroRun> = runs.iter().map(|&(len, .., zero)| ZeroRun { len, zero }).collect();
            let table: [f32; 256] = table.try_into().unwrap();
            let levels = [LevelOf::Signed, LevelOf::Unsigned, LevelOf::Table(&table)];
            for (range, level) in [WHOLE_BYTE, SIGNED].into_iter().flat_map(|range| levels.map(|level| (range, level))) {
                let mut want = vec![0xaa; codes.len()];
                add_expected(Backend::SCALAR, &expects, &codes, level, range, &mut want);
                let covered = runs.iter().map(|run| run.0).sum::<usize>().min(codes.len());
                prop_assert!(want[covered..].iter().all(|code| *code == 0xaa));
                for backend in Backend::available() {
                    let mut out = vec![0xaa; codes.len()];
                    add_expected(backend, &expects, &codes, level, range, &mut out);
                    prop_assert_eq!(&out, &want, "{}", backend);
                }
            }
            let weights: Vec<f32> = codes.iter().map(|code| table[usize::from(*code)]).collect();
            let rounds: Vec<RoundRun> =
                expects.iter().map(|run| RoundRun { len: run.len, scale: run.ratio, zero: run.offset }).collect();
            let add = |backend, out: &mut [u8]| {
                let nearest = |level| nearest_byte(level, WHOLE_BYTE);
                add_rounded(backend, &rounds, &weights, |weight, scale| weight / scale, nearest, out);
            };
            let mut want = vec![0xaa; codes.len()];
            add(Backend::SCALAR, &mut want);
            for backend in Backend::available() {
                let mut out = vec![0xaa; codes.len()];
                add(backend, &mut out);
                prop_assert_eq!(&out, &want, "{}", backend);
            }
            let mut want = vec![0xaa; codes.len()];
            let mut at = 0;
            for run in &zeros {
                for _ in 0..run.len.min(codes.len() - at) {
                    want[at] = codes[at].wrapping_sub(run.zero).wrapping_mul(1 << shift).wrapping_add(0xaa);
                    at += 1;
                }
            }
            for backend in Backend::available() {
                let mut out = vec![0xaa; codes.len()];
                add_multiples(backend, &zeros, &codes, shift, &mut out);
                prop_assert_eq!(&out, &want, "{}", backend);
            }
        }
    }

    #[test]
    fn codes_are_rounded_half_to_even_and_cut() {
        let cases = [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (254.5, 254),
            (255.5, 255),
            (1e30, 255),
            (-0.5, 0),
            (-3.0, 0),
            (f32::NAN, 0),
            (f32::INFINITY, 255),
            (f32::NEG_INFINITY, 0),
        ];
        for (value, code) in cases {
            assert_eq!(nearest_byte(value, WHOLE_BYTE), code, "{value}");
        }
        let cases = [(-0.5, 0), (-1.5, -2), (-126.5, -126), (-200.0, -127), (200.0, 127), (f32::NAN, -127)];
        for (value, code) in cases {
            assert_eq!(nearest_byte(value, SIGNED).cast_signed(), code, "{value}");
        }
    }
}
