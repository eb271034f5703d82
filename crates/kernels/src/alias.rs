//! Slots arranged so that a decoder needs no table of 4096 entries (Walker's alias method, as Giesen applied it to such
//! coders in 2014).
//!
//! The slots form 256 buckets of 16, one for each symbol. A bucket holds slots of its own symbol first and, if these
//! are fewer than 16, slots of one other symbol after them. So the symbol follows from the bucket and one comparison,
//! and all lookups are of tables of 256 bytes, which fit into vector registers.

#![allow(
    clippy::cast_possible_truncation,
    reason = "symbols are below 256, and what is left of a bucket below 16"
)]

use crate::table::SymbolTable;

/// Slots of a bucket.
pub(crate) const BUCKET: u16 = 16;

/// What each bucket holds.
#[derive(Debug, Clone)]
pub(crate) struct Alias {
    /// How many slots of its own symbol.
    pub(crate) own: [u8; 256],
    /// The symbol of the other slots.
    pub(crate) other: [u8; 256],
    /// Which of that symbol's slots the first of them is.
    pub(crate) first: [u16; 256],
}

impl Alias {
    /// The arrangement for a table. It is part of the format: decoders must come to the same.
    pub(crate) fn new(table: &SymbolTable) -> Self {
        let mut alias = Self { own: [16; 256], other: std::array::from_fn(|i| i as u8), first: [0; 256] };
        let mut rest: [u16; 256] = std::array::from_fn(|i| table.frequency(i as u8) as u16);
        // Symbols with too few slots for their bucket, in the order in which they are served, and those with too many.
        let mut poor: Vec<usize> = (0..256).filter(|&s| rest[s] < BUCKET).collect();
        let mut rich = (0..256).filter(|&s| rest[s] > BUCKET).collect::<Vec<_>>().into_iter().peekable();
        let mut next = 0;
        // The frequencies add up to 256 buckets: while one is poor another is rich.
        while let (Some(&bucket), Some(&giver)) = (poor.get(next), rich.peek()) {
            next += 1;
            rest[giver] -= BUCKET - rest[bucket];
            alias.own[bucket] = rest[bucket] as u8;
            alias.other[bucket] = giver as u8;
            alias.first[bucket] = rest[giver];
            if rest[giver] <= BUCKET {
                rich.next();
            }
            if rest[giver] < BUCKET {
                poor.push(giver);
            }
        }
        alias
    }

    /// The symbol of a slot, and which of the symbol's slots it is.
    pub(crate) fn at(&self, slot: u16) -> (u8, u16) {
        let (bucket, place) = (usize::from(slot / BUCKET), slot % BUCKET);
        let own = u16::from(self.own[bucket]);
        if place < own {
            (bucket as u8, place)
        } else {
            (self.other[bucket], self.first[bucket] + place - own)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(histogram: &[u64; 256]) {
        let table = SymbolTable::from_histogram(histogram);
        let alias = Alias::new(&table);
        // Every slot of every symbol is somewhere, once.
        let mut seen: Vec<Vec<bool>> = (0..=255).map(|s| vec![false; table.frequency(s) as usize]).collect();
        for slot in 0..4096 {
            let (symbol, offset) = alias.at(slot);
            let place = &mut seen[usize::from(symbol)][usize::from(offset)];
            assert!(!*place, "slot {slot} is symbol {symbol}'s number {offset}, as another is");
            *place = true;
        }
        assert!(seen.iter().flatten().all(|seen| *seen));
    }

    proptest! {
        #[test]
        fn every_slot_has_its_place(counts in proptest::collection::vec(prop_oneof![Just(0u64), 0u64..50, 0u64..1 << 50], 256)) {
            check(&counts.try_into().unwrap());
        }
    }

    #[test]
    fn extremes_have_their_place() {
        check(&[1; 256]);
        check(&[0; 256]);
        for only in [0, 7, 255] {
            let mut histogram = [0; 256];
            histogram[only] = 5;
            check(&histogram);
            histogram[only ^ 128] = 5;
            check(&histogram);
        }
    }
}
