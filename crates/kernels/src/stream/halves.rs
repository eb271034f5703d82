//! How the portable decoders hold states while they work.

use super::{LANES, States, WINDOW};

/// The states of each set of lanes.
pub(crate) struct HalvedStates {
    count: usize,
    sets: [Halves; 2],
}

impl HalvedStates {
    pub(crate) fn of(states: &States) -> Self {
        let mut halved = Self { count: states.sets().len(), sets: [Halves::NONE; 2] };
        for (halves, states) in halved.sets.iter_mut().zip(states.sets()) {
            *halves = Halves::of(states);
        }
        halved
    }

    /// Puts the states back.
    pub(crate) fn write(&self, states: &mut States) {
        for (halves, states) in self.sets.iter().zip(states.sets_mut()) {
            halves.write(states);
        }
    }

    /// The set that block number `block` of a row uses.
    #[inline(always)]
    pub(crate) fn set(&mut self, block: usize) -> &mut Halves {
        &mut self.sets[block % 2 % self.count]
    }
}

/// The states of a set, their high halves and their low halves, and behind them a lane that nobody reads.
// Q: why apart? All arithmetic is then of 16 bits, eight lanes to a register even where these have 128 bits; a state is
// too low if its high half is 0; and to fill it up its low half becomes the high one and the word the low one.
pub(crate) struct Halves {
    pub(crate) high: [u16; LANES + 1],
    pub(crate) low: [u16; LANES + 1],
}

/// Lanes that are filled up in one go. How many there are is random and so is guessed wrongly; in fours it is so less
/// often.
const GROUP: usize = 4;

impl Halves {
    const NONE: Self = Self { high: [0; LANES + 1], low: [0; LANES + 1] };

    #[allow(clippy::cast_possible_truncation, reason = "these are the halves")]
    pub(crate) fn of(states: &[u32; LANES]) -> Self {
        let mut halves = Self::NONE;
        for ((high, low), state) in halves.high.iter_mut().zip(&mut halves.low).zip(states) {
            *high = (state >> 16) as u16;
            *low = *state as u16;
        }
        halves
    }

    /// Puts the states back.
    pub(crate) fn write(&self, states: &mut [u32; LANES]) {
        for (state, (high, low)) in states.iter_mut().zip(self.high.iter().zip(&self.low)) {
            *state = u32::from(*high) << 16 | u32::from(*low);
        }
    }

    /// Fills up those states that are too low, in the order of their lanes, each with the next word of `window`.
    /// Returns how many that were.
    // Q: why not as each state is made? Of codes half of all states need a word, of weights a fifth, and which ones is
    // random. A branch for each would be guessed wrongly; doing it for all and keeping what counts takes longer. So all
    // lanes to visit are found first, without a branch.
    #[inline(always)]
    pub(crate) fn refill(&mut self, window: &[u8; WINDOW]) -> usize {
        let words = window.as_chunks::<2>().0;
        let mut lanes = self.too_low();
        let used = lanes.count_ones() as usize;
        for first in (0..used).step_by(GROUP) {
            for number in first..first + GROUP {
                // When there are no more, this is the lane behind the last.
                let lane = lanes.trailing_zeros() as usize;
                lanes &= lanes.wrapping_sub(1);
                self.high[lane] = self.low[lane];
                self.low[lane] = u16::from_le_bytes(words[number % LANES]);
            }
        }
        used
    }

    /// The lanes whose states are too low, as bits.
    #[inline(always)]
    fn too_low(&self) -> u64 {
        // Bytes of 0 or 1 first, all of them, so that compilers make vector code of it.
        let mut low = [0; LANES];
        for (low, high) in low.iter_mut().zip(&self.high) {
            *low = u8::from(*high == 0);
        }
        let mut lanes = 0;
        for (eight, number) in low.as_chunks::<8>().0.iter().zip(0..) {
            // The product's high byte gathers the low bits of all bytes: byte `j` adds to bit `56 + j`.
            let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            lanes |= bits << (8 * number);
        }
        lanes
    }
}

/// The halves of `a * b + c`, which must be below `2^32`.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the high half of 32 bits")]
pub(crate) fn multiply_add(a: u16, b: u16, c: u16) -> (u16, u16) {
    // Each half by itself, which is how vector units multiply.
    let high = ((u32::from(a) * u32::from(b)) >> 16) as u16;
    let low = a.wrapping_mul(b).wrapping_add(c);
    (high + u16::from(low < c), low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn states_are_filled_up_in_order(
            mut states in proptest::collection::vec(prop_oneof![any::<u32>(), any::<u16>().prop_map(u32::from)], LANES),
            words in proptest::collection::vec(any::<u16>(), LANES),
        ) {
            let mut window = [0; WINDOW];
            for (bytes, word) in window.as_chunks_mut().0.iter_mut().zip(&words) {
                *bytes = word.to_le_bytes();
            }
            let mut halves = Halves::of(states.first_chunk().unwrap());
            let used = halves.refill(&window);
            let mut words = words.iter();
            for state in states.iter_mut().filter(|state| **state < crate::stream::LOWER) {
                *state = *state << 16 | u32::from(*words.next().unwrap());
            }
            prop_assert_eq!(used, LANES - words.len());
            let mut got = [0; LANES];
            halves.write(&mut got);
            prop_assert_eq!(&got[..], states);
        }

        #[test]
        fn halves_multiply_as_whole_numbers_do(a in 0u16..=u16::MAX, b in 0u16..=u16::MAX, c in 0u16..=u16::MAX) {
            if let Some(whole) = (u32::from(a) * u32::from(b)).checked_add(u32::from(c)) {
                let (high, low) = multiply_add(a, b, c);
                prop_assert_eq!(u32::from(high) << 16 | u32::from(low), whole);
            }
        }
    }
}
