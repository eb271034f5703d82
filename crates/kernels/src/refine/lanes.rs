//! How the states of a block take what has been found: the definition.

use super::SLOT_BITS;
use crate::stream::{LANES, LOWER, WINDOW, WordWriter, put};

/// The slots that what is coded in each lane has: the first one, and the first that is not.
pub(super) struct Slots {
    pub(super) first: [u32; LANES],
    pub(super) end: [u32; LANES],
}

impl Slots {
    pub(super) const NONE: Self = Self { first: [0; LANES], end: [0; LANES] };
}

/// The slot that a state is in.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "16 bits")]
pub(super) fn slot_of(state: u32) -> f32 {
    f32::from((state & 0xffff) as u16)
}

/// States after what has these slots, filled up with words of the window; returns with how many.
#[inline(always)]
pub(super) fn advance(set: &mut [u32; LANES], slots: &Slots, window: &[u8; WINDOW]) -> usize {
    let mut low = [0u8; LANES];
    for lane in 0..LANES {
        let (first, end) = (slots.first[lane], slots.end[lane]);
        let offset = (set[lane] & 0xffff).wrapping_sub(first);
        set[lane] = (end - first).wrapping_mul(set[lane] >> 16).wrapping_add(offset);
        low[lane] = u8::from(set[lane] < LOWER);
    }
    let mut lanes = mask_of(&low);
    let words = window.as_chunks::<2>().0.iter();
    for word in words.take(lanes.count_ones() as usize) {
        let lane = lanes.trailing_zeros() as usize % LANES;
        lanes &= lanes - 1;
        set[lane] = set[lane] << 16 | u32::from(u16::from_le_bytes(*word));
    }
    low.iter().map(|low| usize::from(*low)).sum()
}

/// Lanes that have a 1, as bits.
#[inline(always)]
fn mask_of(lanes: &[u8; LANES]) -> u64 {
    let mut mask = 0;
    for (eight, number) in lanes.as_chunks::<8>().0.iter().zip(0..) {
        // The product's high byte gathers the low bits of all bytes: byte `j` adds to bit `56 + j`.
        let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (8 * number);
    }
    mask
}

/// Codes in each lane what has these slots.
#[inline(always)]
pub(super) fn put_all(set: &mut [u32; LANES], words: &mut WordWriter, slots: &Slots) {
    let (room, mut used) = (words.room(), 0);
    for (lane, state) in set.iter_mut().enumerate().rev() {
        let first = slots.first[lane];
        let frequency = slots.end[lane] - first;
        // What has all slots is not coded.
        if frequency < 1 << SLOT_BITS {
            let slot = |offset| first + offset;
            put(state, room, &mut used, frequency, u32::MAX / frequency, SLOT_BITS, slot);
        }
    }
    words.keep(used);
}
