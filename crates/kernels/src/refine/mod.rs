//! Codes and floats given intervals that their weights lie in.
//!
//! A quantiser that rounds says of each weight that it lies between two edges. What is known of a weight from several
//! of them is an interval, and a code of another is one of those whose bins meet it: they share 65,536 slots by the
//! widths of what they have of the interval. Where only one meets it, it has all slots: it costs nothing and reads
//! nothing. A float is one of those that an interval has left.
//!
//! *Ranks* number the levels of a quantiser in ascending order. All is computed by single operations of binary32, each
//! rounded to nearest, in the order that the portable code has them; so every backend comes to the same shares.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
mod floats;
mod intervals;
mod lanes;
mod levels;
mod row;
mod scalar;
#[cfg(test)]
mod tests;
mod weight;

pub use codes::{CodeInputs, CodeRefiner, CodeStream, PART};
pub use floats::{FloatGrid, FloatInputs, FloatRefiner};
pub use intervals::{Bins, Intervals};
pub use levels::Edges;
pub use row::{Each, Scaled};

/// Bits of a slot.
const SLOT_BITS: u32 = 16;
/// Slots that the codes of an interval share.
const SLOTS: f32 = 65_536.0;
/// The narrowest interval that is told from a point.
const NARROWEST: f32 = f32::from_bits(0x0d80_0000);
/// Where intervals begin before anything is known, and the greatest zero-point and level: such that nothing is lost of
/// the reciprocal of a width, whether it is one of slots or of all of them.
pub const WIDEST: f32 = f32::from_bits(0x7b80_0000);
/// The greatest level of a table, and the greatest edge between stretches: a zero-point of [`WIDEST`] lies beyond all, by
/// as much as leaves each of them outside of any interval.
const GREATEST_EDGE: f32 = WIDEST / 2.0;
/// The least scale. With a smaller one, 0 above all, the bins of different ranks could not be told apart.
pub const LEAST_SCALE: f32 = f32::from_bits(0x0e80_0000);
/// Added to a number below 2^22 it leaves that number, rounded to an integer, half to even, in the low bits.
const INTEGER: f32 = 8_388_608.0;
/// The bits of [`INTEGER`]: above those of the integers that are added to it.
#[cfg(target_arch = "x86_64")]
const ABOVE: i32 = INTEGER.to_bits().cast_signed();

/// A number from 0 to 2^22, rounded.
#[inline(always)]
fn number(value: f32) -> u32 {
    (value + INTEGER).to_bits() & 0x7f_ffff
}

/// The same as a float.
#[inline(always)]
fn integer(value: f32) -> f32 {
    (value + INTEGER) - INTEGER
}

/// The greater one; the second where either is no number.
#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The lesser one; the second where either is no number.
#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}
