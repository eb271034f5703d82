//! What an optimal prefix code takes: Huffman's, with code words of a bounded length.

/// Bits of the longest code word, where so few bits suffice for as many symbols.
const LIMIT: u32 = 16;
/// Fewer symbols in all never get a code word longer than [`LIMIT`]: for one of n bits Huffman's tree needs the (n +
/// 2)th Fibonacci number of them.
const LEAST_DEEP: u64 = 4181;
/// A table for symbols of which many occur: the length of each one's code word, a byte.
pub(super) const DENSE: u64 = 8;

/// Bits of all symbols that occur so often, coded, and of a table with `entry` bits for each that does. A symbol that
/// is alone takes no bits, as the table names it.
pub(super) fn huffman_bits(counts: &[u64], entry: u64) -> u64 {
    let mut counts: Vec<u64> = counts.iter().copied().filter(|count| *count > 0).collect();
    counts.sort_unstable();
    coded_bits(&counts) + entry * counts.len() as u64
}

/// Bits of the code words; `counts` are sorted and none is 0.
fn coded_bits(counts: &[u64]) -> u64 {
    let shallow = counts.iter().sum::<u64>() < LEAST_DEEP;
    if shallow || counts.len() > 1 << LIMIT { unlimited(counts) } else { limited(counts, LIMIT) }
}

/// Huffman: the two rarest become one until one is left. What is joined is a bit longer each time, so the sum of all
/// that is joined is the length in all.
fn unlimited(counts: &[u64]) -> u64 {
    let mut leaves = counts.iter().copied().peekable();
    // Sums are made in ascending order, so a queue suffices.
    let mut joined = std::collections::VecDeque::with_capacity(counts.len());
    let mut bits = 0;
    for _ in 1..counts.len() {
        let mut rarest = || match (leaves.peek(), joined.front()) {
            (Some(leaf), Some(sum)) if leaf <= sum => leaves.next(),
            (Some(_), None) => leaves.next(),
            _ => joined.pop_front(),
        };
        let sum = rarest().unwrap_or(0) + rarest().unwrap_or(0);
        bits += sum;
        joined.push_back(sum);
    }
    bits
}

/// Package-merge (Larmore and Hirschberg): each symbol is a coin of every denomination from 2^-1 to 2^-limit, worth its
/// count; the cheapest coins that make up n - 1 are as many for each symbol as its code word has bits.
fn limited(counts: &[u64], limit: u32) -> u64 {
    if counts.len() < 2 {
        return 0;
    }
    let mut coins = counts.to_vec();
    for _ in 1..limit {
        let packages = coins.as_chunks().0.iter().map(|[a, b]| a + b);
        let mut merged = Vec::with_capacity(counts.len() + coins.len() / 2);
        let mut leaves = counts.iter().copied().peekable();
        for package in packages {
            while let Some(leaf) = leaves.next_if(|leaf| *leaf <= package) {
                merged.push(leaf);
            }
            merged.push(package);
        }
        merged.extend(leaves);
        coins = merged;
    }
    coins.iter().take(2 * counts.len() - 2).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn textbook_codes() {
        // One code word of one bit and four of three.
        assert_eq!(unlimited(&[5, 6, 6, 7, 15]), 15 + 3 * (5 + 6 + 6 + 7));
        assert_eq!(unlimited(&[1, 1, 2, 4]), 4 + 2 * 2 + 3 + 3);
        assert_eq!(unlimited(&[3, 3]), 6);
        assert_eq!(unlimited(&[7]), 0);
        assert_eq!(unlimited(&[]), 0);
        // With two bits at most, all have two.
        assert_eq!(limited(&[1, 1, 2, 4], 2), 16);
        assert_eq!(limited(&[1, 1, 2, 4], 3), 14);
        assert_eq!(limited(&[7], 16), 0);
    }

    #[test]
    fn tables_take_a_byte_a_symbol() {
        assert_eq!(huffman_bits(&[4, 0, 1, 2, 1], DENSE), 14 + 4 * 8);
        assert_eq!(huffman_bits(&[9], DENSE), 8);
        assert_eq!(huffman_bits(&[], DENSE), 0);
    }

    #[test]
    fn code_words_are_bounded() {
        // Fibonacci numbers make Huffman's tree a chain.
        let mut counts = vec![1u64, 1];
        while counts.len() < 24 {
            counts.push(counts[counts.len() - 1] + counts[counts.len() - 2]);
        }
        let (free, bounded) = (unlimited(&counts), coded_bits(&counts));
        assert!(free < bounded && bounded < free + free / 100, "{free} {bounded}");
        assert_eq!(limited(&counts, 23), free);
        // The largest tree that is not checked.
        assert_eq!(counts[..17].iter().sum::<u64>(), LEAST_DEEP - 1);
        assert_eq!(limited(&counts[..17], LIMIT), unlimited(&counts[..17]));
    }

    proptest! {
        #[test]
        fn a_bound_that_does_not_bind_costs_nothing(mut counts in proptest::collection::vec(1u64..1000, 0..40)) {
            counts.sort_unstable();
            prop_assert_eq!(limited(&counts, 40), unlimited(&counts));
        }
    }
}
