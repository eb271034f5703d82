//! What every backend must do: write the bytes that the portable code writes, and read every stream, whole or damaged,
//! to the same result. `./test` runs this under AddressSanitizer as well, which shows that no stream makes a backend
//! read or write out of bounds.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test data is made with casts, and a test that cannot go on should panic"
)]

use proptest::prelude::*;
use qstore_kernels::{
    Backend, BinTable, ClassFit, CodesCoder, DecodeError, Half, Histograms, Layout, ResidualCoder, Rows,
    Scratch, SplitCoder, SplitWindow, SymbolTable, code_bucket, split_bucket, split_histogram, zero_symbols,
};

const LAYOUTS: [Layout; 2] = [Layout::Narrow, Layout::Wide];

/// A coder of any kind, with what its chunks are given.
enum Coder {
    Codes(CodesCoder, ClassFit),
    Split(SplitCoder, ClassFit),
    Residual(ResidualCoder, Given),
}

/// What weights are given: a code each, and bins for each piece of a row.
#[derive(Clone)]
struct Given {
    codes: Vec<u8>,
    bins: Vec<BinTable>,
    /// Columns at which the pieces end.
    ends: Vec<usize>,
}

impl Given {
    /// Rows that are not cut.
    fn whole(codes: &[u8], bins: Vec<BinTable>, cols: usize) -> Self {
        Self { codes: codes.to_vec(), bins, ends: vec![cols] }
    }

    fn rows(&self, values: usize) -> (Rows<'_>, Vec<&BinTable>) {
        let rows = Rows::cut(values, &self.ends);
        (rows, (0..rows.count()).map(|row| &self.bins[table_of(row, self.bins.len())]).collect())
    }
}

/// The bins of a row.
fn table_of(row: usize, tables: usize) -> usize {
    row * 7 % tables
}

impl Coder {
    fn on(&self, backend: Backend) -> Self {
        match self {
            Self::Codes(coder, fit) => Self::Codes(coder.clone().on(backend), fit.clone()),
            Self::Split(coder, fit) => Self::Split(coder.clone().on(backend), fit.clone()),
            Self::Residual(coder, given) => Self::Residual(coder.clone().on(backend), given.clone()),
        }
    }

    fn encode(&self, data: &[u8], cols: usize, scratch: &mut Scratch) -> Option<Vec<u8>> {
        let halves: &[Half] = data.as_chunks().0;
        match self {
            Self::Codes(coder, fit) => coder.encode(data, cols, &fit.classifier, scratch).ok(),
            Self::Split(coder, fit) => coder.encode(halves, cols, &fit.classifier, scratch).ok(),
            Self::Residual(coder, given) => {
                let (rows, bins) = given.rows(halves.len());
                coder.encode(&given.codes, halves, rows, &bins, scratch).ok()
            }
        }
    }

    /// The result, and on success what was decoded.
    fn decode(
        &self,
        chunk: &[u8],
        cols: usize,
        bytes: usize,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, DecodeError> {
        // One byte off, so that nothing is aligned, between bytes that must stay.
        let mut memory = vec![0xa5; bytes + 2];
        let out = &mut memory[1..=bytes];
        match self {
            Self::Codes(coder, _) => coder.decode(chunk, cols, out)?,
            Self::Split(coder, _) => coder.decode(chunk, cols, scratch, out.as_chunks_mut().0)?,
            Self::Residual(coder, given) => {
                let (rows, bins) = given.rows(bytes / 2);
                coder.decode(chunk, &given.codes, rows, &bins, scratch, out.as_chunks_mut().0)?;
            }
        }
        assert_eq!((memory[0], memory[bytes + 1]), (0xa5, 0xa5), "a write outside the output");
        memory.truncate(bytes + 1);
        memory.remove(0);
        Ok(memory)
    }
}

/// Every backend encodes `data` to the same chunk, and decodes it, every damaged form of it and every truncation to the
/// same.
fn check(coder: &Coder, data: &[u8], cols: usize, damage: &[(usize, u8)]) {
    let scratch = &mut Scratch::default();
    let scalar = coder.on(Backend::SCALAR);
    let Some(chunk) = scalar.encode(data, cols, scratch) else {
        for backend in Backend::available() {
            assert!(coder.on(backend).encode(data, cols, scratch).is_none(), "{backend}");
        }
        return;
    };
    let mut bad = chunk.clone();
    let mut streams = vec![chunk.clone()];
    for &(at, bits) in damage {
        let at = at % bad.len();
        bad[at] ^= bits | 1;
        streams.push(bad.clone());
        streams.push(chunk[..at].to_vec());
    }
    // Extremes: states and words of all ones, and of all zeros behind states that are in range.
    for byte in [0xff, 0, 1, 0x80] {
        let mut stream = chunk.clone();
        stream.iter_mut().skip(4 + 300).for_each(|b| *b = byte);
        streams.push(stream);
    }
    let wanted: Vec<_> =
        streams.iter().map(|stream| scalar.decode(stream, cols, data.len(), scratch)).collect();
    assert_eq!(wanted[0].as_deref(), Ok(data));
    for backend in Backend::available() {
        let coder = coder.on(backend);
        assert!(coder.encode(data, cols, scratch).as_ref() == Some(&chunk), "{backend} writes other bytes");
        for (number, (stream, wanted)) in streams.iter().zip(&wanted).enumerate() {
            // In a block of its own, so that a read behind its end is one behind the allocation.
            let stream = stream.clone().into_boxed_slice();
            let got = coder.decode(&stream, cols, data.len(), scratch);
            assert!(
                got == *wanted,
                "{backend} reads stream {number} otherwise, {} bytes in rows of {cols}",
                data.len()
            );
        }
    }
}

fn codes_coder(sample: &[u8], cols: usize, layout: Layout) -> Coder {
    let mut histograms = Histograms::default();
    for row in Rows::new(sample.len(), cols).iter() {
        histograms.add_row(code_bucket(&sample[row.clone()]), sample[row].iter().copied());
    }
    let fit = ClassFit::new(&histograms, 1);
    Coder::Codes(CodesCoder::new(fit.tables.clone(), layout).unwrap(), fit)
}

fn split_coder(sample: &[u8], cols: usize, shift: u32, layout: Layout) -> Coder {
    let values: Vec<u16> = sample.as_chunks().0.iter().map(|half| u16::from_le_bytes(*half)).collect();
    let window = SplitWindow::best(shift, &split_histogram(values.iter().copied(), shift));
    let mut histograms = Histograms::default();
    for row in Rows::new(values.len(), cols).iter() {
        let row = &values[row];
        let bucket = split_bucket(window, 7, row.iter().copied());
        histograms.add_row(bucket, row.iter().filter_map(|&value| window.symbol(value)));
    }
    let fit = ClassFit::new(&histograms, 1);
    Coder::Split(SplitCoder::new(window, 7, fit.tables.clone(), layout).unwrap(), fit)
}

/// Bins of `step` magnitudes each from `first` on.
fn bins(first: u16, step: u16) -> BinTable {
    let mut lo = [0; 128];
    for (k, lo) in (0u16..).zip(&mut lo).skip(1) {
        *lo = first.saturating_add(step.saturating_mul(k - 1)).min(0x7fff);
    }
    BinTable::new(&lo, &[step; 128])
}

fn residual_coder(given: Given, data: &[u8], mantissa: u32, layout: Layout) -> Coder {
    let halves: &[Half] = data.as_chunks().0;
    let mut histogram = [0; 256];
    let (rows, bins) = given.rows(halves.len());
    zero_symbols(&given.codes, halves, rows, &bins, mantissa)
        .for_each(|symbol| histogram[usize::from(symbol)] += 1);
    let table = SymbolTable::from_histogram(&histogram);
    Coder::Residual(ResidualCoder::new(mantissa, table, layout).unwrap(), given)
}

/// Weights that lie in the bins of their codes, but for one in sixteen.
fn weights(codes: &[u8], ends: &[usize], bins: &[(u16, u16)], seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u16
    };
    let rows = Rows::cut(codes.len(), ends);
    let weight = |(row, &code): (usize, &u8)| {
        let (first, step) = bins[table_of(row, bins.len())];
        let (random, odd) = (next(), next() % 16 == 0);
        let k = u16::from(code.cast_signed().unsigned_abs().min(127));
        let magnitude = match k {
            _ if odd => random,
            0 => random % first.max(1),
            _ => first.wrapping_add(step.wrapping_mul(k - 1)).wrapping_add(random % step.max(1)),
        };
        (magnitude & 0x7fff | u16::from(code.cast_signed() < 0) << 15).to_le_bytes()
    };
    let row_of = rows.iter().enumerate().flat_map(|(row, range)| range.map(move |_| row));
    row_of.zip(codes).flat_map(weight).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn codes(
        data in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..2500),
            proptest::collection::vec(120u8..136, 0..2500),
            proptest::collection::vec(prop_oneof![50 => Just(3u8), 1 => any::<u8>()], 0..2500),
        ],
        cols in prop_oneof![1usize..400, Just(64), Just(128), Just(192), Just(256)],
        seen in 0usize..3000,
        damage in proptest::collection::vec(any::<(usize, u8)>(), 4),
    ) {
        for layout in LAYOUTS {
            check(&codes_coder(&data, cols, layout), &data, cols, &damage);
            check(&codes_coder(&data[..seen.min(data.len())], cols, layout), &data, cols, &damage);
        }
    }

    #[test]
    fn floats(
        data in prop_oneof![
            proptest::collection::vec(any::<[u8; 2]>(), 0..1500),
            proptest::collection::vec((any::<u8>(), prop_oneof![0x3bu8..0x3e, 0xbbu8..0xbe]).prop_map(|(a, b)| [a, b]), 0..1500),
        ],
        cols in prop_oneof![1usize..400, Just(64), Just(128), Just(192)],
        shift in 1u32..=14,
        damage in proptest::collection::vec(any::<(usize, u8)>(), 4),
    ) {
        let data = data.as_flattened();
        for layout in LAYOUTS {
            check(&split_coder(data, cols, shift, layout), data, cols, &damage);
        }
    }

    #[test]
    fn residuals(
        codes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..2500),
            proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..2500),
            proptest::collection::vec(Just(0u8), 0..500),
        ],
        cols in prop_oneof![1usize..400, Just(64), Just(128), Just(192), Just(256)],
        tables in proptest::collection::vec((1u16..0x6000, prop_oneof![Just(1u16), 1u16..40, 200u16..300, 1u16..2000]), 1..5),
        mantissa in prop_oneof![Just(7u32), Just(10), 1u32..=14],
        cuts in prop_oneof![Just(vec![]), proptest::collection::vec(1usize..400, 1..6)],
        seed in any::<u64>(),
        damage in proptest::collection::vec(any::<(usize, u8)>(), 4),
    ) {
        let mut ends: Vec<_> = cuts.into_iter().filter(|end| *end < cols).chain([cols]).collect();
        ends.sort_unstable();
        ends.dedup();
        let data = weights(&codes, &ends, &tables, seed);
        let bins: Vec<_> = tables.iter().map(|&(first, step)| bins(first, step)).collect();
        for layout in LAYOUTS {
            let given = Given { codes: codes.clone(), bins: bins.clone(), ends: ends.clone() };
            check(&residual_coder(given, &data, mantissa, layout), &data, cols, &damage);
        }
    }
}

#[test]
fn every_length_of_a_row() {
    let source: Vec<u8> = (0..3000u32).map(|i| (i * i % 251) as u8).collect();
    for length in 0..=400 {
        for cols in [length.max(1), 64, 128, 130] {
            for layout in LAYOUTS {
                let data = &source[..length];
                check(&codes_coder(data, cols, layout), data, cols, &[(5, 8), (length, 1)]);
                let floats = &source[..2 * length];
                check(&split_coder(floats, cols, 6, layout), floats, cols, &[(9, 8)]);
                let tables = [(0x3000, 17), (0x1000, 300)];
                let weights = weights(data, &[cols], &tables, length as u64);
                let bins: Vec<_> = tables.iter().map(|&(first, step)| bins(first, step)).collect();
                let coder = residual_coder(Given::whole(data, bins, cols), &weights, 7, layout);
                check(&coder, &weights, cols, &[(length, 4)]);
            }
        }
    }
}

/// Long streams, as divisions that are estimated may be wrong for one state in millions. Distributions from flat to
/// nearly certain have quotients of all lengths.
#[test]
fn long_streams() {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for spread in [0u32, 1, 3, 6, 7, 24] {
        // The sum of random bits is nearly normal; the more bits, the narrower for what can be.
        let data: Vec<u8> = (0..1 << 18)
            .map(|_| match spread {
                0 => next() as u8,
                24 => u8::from(next() % 4096 == 0),
                bits => (next() & ((1 << bits) - 1)).count_ones() as u8 * 36,
            })
            .collect();
        let bins = [(0x1000, 1 + 37 * spread as u16), (0x3000, 1), (0x3800, 255)];
        let weights = weights(&data, &[1000], &bins, u64::from(spread));
        let tables: Vec<_> = bins.iter().map(|&(first, step)| self::bins(first, step)).collect();
        for layout in LAYOUTS {
            check(&codes_coder(&data, 1000, layout), &data, 1000, &[]);
            check(
                &residual_coder(Given::whole(&data, tables.clone(), 1000), &weights, 7, layout),
                &weights,
                1000,
                &[],
            );
        }
    }
}

/// Long rows, for which backends look more closely at the bins: with few widths or many, in a small range or a large
/// one.
#[test]
fn long_rows() {
    let next = std::cell::Cell::new(5u64);
    let random = || {
        next.set(next.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (next.get() >> 40) as u16
    };
    // Bins that follow each other from `first` on.
    let table = |first: u16, width: &dyn Fn(u16) -> u16| {
        let (mut lo, mut widths, mut at) = ([0; 128], [1; 128], first);
        for k in 1..128 {
            (lo[k], widths[k]) = (at & 0x7fff, width(k as u16));
            at = at.wrapping_add(widths[k]);
        }
        (lo, widths)
    };
    let tables = [
        table(0x3a00, &|k| 200 / k + 1),
        table(0x3af0, &|k| 255 / (k % 31 + 1)),
        table(0x3a10, &|k| 255 / (k % 32 + 1)),
        table(0x3a20, &|k| k % 31 + 1),
        table(0x3a30, &|k| k % 32 + 1),
        table(0x3afe, &|k| 14 + u16::from(k % 16 == 0)),
        table(0x3aff, &|k| 16 + u16::from(k % 16 == 0)),
        table(0x7ff0, &|k| k),
        table(0x1000, &|k| 600 / k),
    ];
    for (number, (lo, widths)) in tables.iter().enumerate() {
        for cols in [1023, 1024, 1100, 1088] {
            let codes: Vec<u8> = (0..2300).map(|_| (random() >> (random() % 8)) as u8).collect();
            let weight = |&code: &u8| {
                let k = usize::from(code.cast_signed().unsigned_abs().min(127));
                let magnitude = if random() % 64 == 0 {
                    random()
                } else {
                    lo[k].wrapping_add(random() % widths[k].max(1))
                };
                (magnitude & 0x7fff | u16::from(code.cast_signed() < 0) << 15).to_le_bytes()
            };
            let weights: Vec<u8> = codes.iter().flat_map(weight).collect();
            let damage = [(700, 1), (usize::from(random()), 8), (usize::from(random()), 64)];
            for layout in LAYOUTS {
                // The row before has the others' bins.
                let bins =
                    [BinTable::new(lo, widths), BinTable::new(&tables[number / 2].0, &tables[number / 2].1)];
                for bins in [&bins[..], &bins[..1]] {
                    let given = Given::whole(&codes, bins.to_vec(), cols);
                    check(&residual_coder(given, &weights, 7, layout), &weights, cols, &damage);
                }
            }
        }
    }
}

#[test]
fn this_machine_tests_more_than_the_definition() {
    let names: Vec<_> = Backend::available().iter().map(|backend| backend.name()).collect();
    println!("tested: {}", names.join(", "));
    assert_eq!(names[0], "scalar");
    assert_eq!(Backend::best().name(), names[names.len() - 1]);
}
