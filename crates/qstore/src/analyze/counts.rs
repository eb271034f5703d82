//! How often symbols occur, by themselves and along with others, and the entropies that follow.

/// Codes or floats of a matrix, in rows of output features; each is one symbol.
#[derive(Debug)]
pub(super) struct Symbols {
    /// Their little-endian bytes.
    pub(super) bytes: Vec<u8>,
    /// Bytes of one: 1, 2 or 4.
    pub(super) width: usize,
}

impl Symbols {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    /// Symbol `index`.
    pub(super) fn get(&self, index: usize) -> u32 {
        read(&self.bytes[index * self.width..(index + 1) * self.width])
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.bytes.chunks_exact(self.width).map(read)
    }
}

fn read(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// Counts symbols that pass by.
#[derive(Debug)]
pub(super) enum Counter {
    /// Of one or two bytes: a place for each.
    Dense { width: usize, counts: Vec<u64> },
    /// Of four bytes: all of them.
    Sparse(Vec<u32>),
}

impl Counter {
    /// For symbols of `width` bytes.
    pub(super) fn new(width: usize) -> Self {
        match width {
            4 => Self::Sparse(Vec::new()),
            _ => Self::Dense { width, counts: vec![0; 1 << (8 * width)] },
        }
    }

    /// Whole symbols.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Dense { width, counts } => {
                bytes.chunks_exact(*width).for_each(|symbol| counts[read(symbol) as usize] += 1);
            }
            Self::Sparse(symbols) => symbols.extend(bytes.chunks_exact(4).map(read)),
        }
    }

    /// How often each symbol occurred that did.
    pub(super) fn finish(self) -> Vec<u64> {
        match self {
            Self::Dense { counts, .. } => counts.into_iter().filter(|count| *count > 0).collect(),
            Self::Sparse(mut symbols) => {
                symbols.sort_unstable();
                symbols.chunk_by(|a, b| a == b).map(|run| run.len() as u64).collect()
            }
        }
    }
}

/// For each code in `low` that occurs, how often each symbol occurs along with it.
pub(super) fn counts_given(high: &Symbols, low: &[u8]) -> Vec<Vec<u64>> {
    if high.width == 4 {
        let mut both: Vec<u64> =
            high.iter().zip(low).map(|(high, low)| u64::from(*low) << 32 | u64::from(high)).collect();
        both.sort_unstable();
        return counts_by_code(&both);
    }
    // Few of the pairs occur, and those that do lie near each other: places come in pages of 256.
    let mut page_of = vec![u32::MAX; 1 << 16];
    let mut pages: Vec<[u32; 256]> = Vec::new();
    for (high, low) in high.iter().zip(low) {
        let page = &mut page_of[usize::from(*low) << 8 | (high >> 8) as usize];
        if *page == u32::MAX {
            *page = u32::try_from(pages.len()).unwrap_or(u32::MAX);
            pages.push([0; 256]);
        }
        pages[*page as usize][(high & 255) as usize] += 1;
    }
    let of_code = |places: &[u32]| {
        let pages = places.iter().filter_map(|page| pages.get(*page as usize));
        let counts: Vec<u64> =
            pages.flatten().filter(|count| **count > 0).map(|count| u64::from(*count)).collect();
        counts
    };
    page_of.chunks(256).map(of_code).filter(|counts| !counts.is_empty()).collect()
}

/// Counts the equal ones among sorted pairs of a code (above bit 32) and a symbol, for each code.
pub(super) fn counts_by_code(sorted: &[u64]) -> Vec<Vec<u64>> {
    let of_code = |pairs: &[u64]| pairs.chunk_by(|a, b| a == b).map(|run| run.len() as u64).collect();
    sorted.chunk_by(|a, b| a >> 32 == b >> 32).map(of_code).collect()
}

/// Bits of all symbols that occur so often, at -log2 of its frequency each.
pub(super) fn entropy_bits(counts: &[u64]) -> f64 {
    let weigh = |count: u64| if count == 0 { 0.0 } else { real(count) * real(count).log2() };
    weigh(counts.iter().sum()) - counts.iter().map(|count| weigh(*count)).sum::<f64>()
}

/// Bits in whole.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of bits, which is not negative"
)]
pub(super) fn whole(bits: f64) -> u64 {
    bits.max(0.0).round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "counts, of which a few digits are shown")]
pub(super) fn real(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }

    #[test]
    fn entropies_by_hand() {
        near(entropy_bits(&[]), 0.0);
        near(entropy_bits(&[7]), 0.0);
        near(entropy_bits(&[4, 4]), 8.0);
        // A half, a quarter and two eighths: 1.75 bits each.
        near(entropy_bits(&[8, 4, 2, 2]), 28.0);
        near(entropy_bits(&[1, 0, 3]), 8.0 - 3.0 * 3f64.log2());
    }

    #[test]
    fn symbols_of_every_width_are_counted() {
        for width in [1, 2, 4] {
            let symbols: Vec<u8> =
                [5u32, 6, 5, 200].iter().flat_map(|v| v.to_le_bytes()[..width].to_vec()).collect();
            let mut counter = Counter::new(width);
            counter.add(&symbols);
            assert_eq!(counter.finish(), [2, 1, 1]);
            let symbols = Symbols { bytes: symbols, width };
            assert_eq!((symbols.len(), symbols.get(3)), (4, 200));
            assert_eq!(counts_given(&symbols, &[0, 0, 0, 255]), [vec![2, 1], vec![1]]);
            assert_eq!(counts_given(&symbols, &[1, 2, 1, 2]), [vec![2], vec![1, 1]]);
        }
    }

    #[test]
    fn what_follows_from_the_code_costs_nothing_given_it() {
        let low: Vec<u8> = (0..=255).chain(0..=255).collect();
        let follows = Symbols { bytes: low.iter().flat_map(|code| [*code, 0x3f]).collect(), width: 2 };
        assert!(counts_given(&follows, &low).iter().all(|counts| entropy_bits(counts) == 0.0));
        // Two symbols for each code, as often: a bit each.
        let bytes = low.iter().enumerate().flat_map(|(at, code)| [*code, u8::from(at > 255)]).collect();
        let given = counts_given(&Symbols { bytes, width: 2 }, &low);
        near(given.iter().map(|counts| entropy_bits(counts)).sum(), 512.0);
    }
}
