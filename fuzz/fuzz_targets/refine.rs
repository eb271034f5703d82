//! Codes and floats given intervals, of the fuzzer's numbers: decoding returns; what a coder encodes, it decodes to the
//! same; and every backend does what the scalar one does.
#![no_main]

use std::ops::Range;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore_kernels::{
    Backend, Bins, CodeInputs, CodeRefiner, DecodeError, Each, Edges, FloatGrid, FloatInputs, FloatRefiner,
    Half, Intervals, LEAST_SCALE, Layout, Scaled, Scratch, SymbolTable, WIDEST,
};

#[derive(Debug, Arbitrary)]
struct Input {
    /// What weights are given, and at last the quantiser whose codes are coded.
    quantisers: Vec<Quantiser>,
    cols: u16,
    /// Ends of intervals; without them, they follow from the codes that are given.
    ends: Option<Vec<(u32, u32)>>,
    values: Vec<Half>,
    /// How often all is repeated: short inputs, too, then fill the blocks that backends work on.
    repeat: u8,
    wide: bool,
    grid: u8,
    /// Symbols of wide intervals.
    counts: Vec<u16>,
    /// A chunk to decode; without one, what the coder encodes.
    chunk: Option<Vec<u8>>,
    /// Bits to flip in what the coder encodes, and how much to cut off.
    damage: Vec<(u16, u8)>,
    cut: u16,
}

#[derive(Debug, Arbitrary)]
struct Quantiser {
    kind: u8,
    count: u8,
    table: Vec<f32>,
    /// Bits of floats, so that all there are come up.
    scales: Vec<u32>,
    zeros: Vec<u32>,
    ends: [u32; 2],
    sixteen: bool,
    ranks: Vec<u8>,
}

fn finite(bits: u32) -> f32 {
    Some(f32::from_bits(bits)).filter(|number| number.is_finite()).unwrap_or(1.0)
}

/// A quantiser, its numbers repeated for all weights.
struct Opened {
    edges: Edges,
    ends: [f32; 2],
    each: Each,
    scales: Vec<f32>,
    inverses: Vec<f32>,
    zeros: Vec<f32>,
    ranks: Vec<u8>,
}

impl Quantiser {
    fn open(&self, weights: usize) -> Option<Opened> {
        let edges = match self.kind % 6 {
            0 => Edges::integers(usize::from(self.count) + 1),
            1 => Edges::floats(8, 3, 7),
            2 => Edges::floats(8, 2, 15),
            3 => Edges::floats(4, 1, 1),
            4 => Edges::floats(
                u32::from(self.count % 9),
                u32::from(self.count / 9 % 5),
                u32::from(self.count / 45),
            ),
            _ => Edges::table(&self.table),
        }?;
        let numbers = |of: &[u32]| {
            let all = of.iter().copied().chain(of.is_empty().then_some(0x3c00_0000)).cycle();
            all.map(finite).take(weights).collect::<Vec<_>>()
        };
        let each = if self.sixteen { Each::Sixteen } else { Each::Weight };
        let scale = |number: f32| number.abs().max(LEAST_SCALE);
        let scales: Vec<f32> = numbers(&self.scales).into_iter().map(scale).collect();
        let inverses = scales.iter().map(|scale| 1.0 / scale).collect();
        let zeros = numbers(&self.zeros).into_iter().map(|zero| zero.clamp(-WIDEST, WIDEST)).collect();
        let ranks = self.ranks.iter().copied().chain([1]).cycle().take(weights).collect();
        let ends = self.ends.map(finite);
        Some(Opened { edges, ends, each, scales, inverses, zeros, ranks })
    }
}

impl Opened {
    fn scaled(&self, first: usize, len: usize) -> Scaled<'_> {
        let part = match self.each {
            Each::Weight => first..first + len,
            Each::Sixteen => first / 16..first / 16 + len.div_ceil(16),
        };
        let scales = &self.scales[part.clone()];
        let (inverses, zeros) = (&self.inverses[part.clone()], &self.zeros[part]);
        Scaled::new(scales, inverses, zeros, self.each).expect("numbers that are allowed")
    }
}

/// What chunks are given.
struct Given<'a> {
    backend: Backend,
    input: &'a Input,
    given: &'a [Opened],
    own: &'a Opened,
    cols: usize,
    lo: Vec<f32>,
    hi: Vec<f32>,
}

impl Given<'_> {
    fn make(&mut self, row: usize, cols: Range<usize>) -> Range<usize> {
        let at = row * self.cols + cols.start..row * self.cols + cols.end;
        self.lo = vec![0.0; at.len()];
        self.hi = vec![0.0; at.len()];
        if let Some(ends) = self.input.ends.as_ref().filter(|ends| !ends.is_empty()) {
            let ends = at.clone().map(|at| ends[at % ends.len()]);
            for ((lo, hi), ends) in self.lo.iter_mut().zip(&mut self.hi).zip(ends) {
                let [a, b] = [ends.0, ends.1].map(|bits| finite(bits).clamp(-WIDEST, WIDEST));
                (*lo, *hi) = (a.min(b), a.max(b));
            }
        }
        let known = self.input.ends.is_some();
        for (number, of) in self.given.iter().enumerate() {
            let (ranks, scaled) = (&of.ranks[at.clone()], of.scaled(at.start, at.len()));
            let bins = Bins { edges: &of.edges, ends: of.ends, ranks, scaled };
            let make = if number == 0 && !known { Bins::begin } else { Bins::narrow };
            make(&bins, self.backend, &mut self.lo, &mut self.hi).expect("as many of all");
        }
        at
    }
}

impl CodeInputs for Given<'_> {
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<(Intervals<'_>, Scaled<'_>), DecodeError> {
        let at = self.make(row, cols);
        Ok((Intervals { lo: &self.lo, hi: &self.hi }, self.own.scaled(at.start, at.len())))
    }
}

impl FloatInputs for Given<'_> {
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<Intervals<'_>, DecodeError> {
        self.make(row, cols);
        Ok(Intervals { lo: &self.lo, hi: &self.hi })
    }
}

fuzz_target!(|input: Input| {
    let values = input.values.repeat(1 + usize::from(input.repeat % 32));
    let cols = usize::from(input.cols % 700) + 1;
    let weights = values.len();
    // Room for a short last sixteen of each row.
    let room = weights + 16;
    let Some(mut opened) =
        input.quantisers.iter().take(5).map(|of| of.open(room)).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let Some(own) = opened.pop() else { return };
    let layout = if input.wide { Layout::Wide } else { Layout::Narrow };
    let grid = [FloatGrid::Bf16, FloatGrid::HighHalf, FloatGrid::F16, FloatGrid::ShortF16];
    let grid = grid[usize::from(input.grid % 4)];
    let mut counts = [0; 256];
    input.counts.iter().zip(&mut counts).for_each(|(from, to)| *to = u64::from(*from));
    let table = SymbolTable::from_histogram(&counts);
    let mut results = Vec::new();
    for backend in Backend::available() {
        let given = || Given {
            backend,
            input: &input,
            given: &opened,
            own: &own,
            cols,
            lo: Vec::new(),
            hi: Vec::new(),
        };
        let codes = CodeRefiner::new(own.edges.clone(), layout).on(backend);
        let ranks = &own.ranks[..weights];
        let coded = codes.encode(ranks, cols, &mut given(), &mut Scratch::default());
        let mut back = vec![0; weights];
        if let Ok(chunk) = &coded {
            codes.decode(chunk, cols, &mut given(), &mut back).expect("what was encoded");
            assert!(back == ranks, "{backend}: other codes");
        }
        let other = damaged(&input, coded.as_deref().unwrap_or_default());
        let decoded = codes.decode(&other, cols, &mut given(), &mut back).is_ok().then_some(back);
        let floats = FloatRefiner::new(grid, table.clone(), layout).on(backend);
        let coded_floats = floats.encode(&values, cols, &mut given(), &mut Scratch::default());
        let mut back = vec![[0; 2]; weights];
        if let Ok(chunk) = &coded_floats {
            floats.decode(chunk, cols, &mut given(), &mut back).expect("what was encoded");
            assert!(back == values, "{backend}: other floats");
        }
        let other = damaged(&input, coded_floats.as_deref().unwrap_or_default());
        let decoded_floats = floats.decode(&other, cols, &mut given(), &mut back).is_ok().then_some(back);
        results.push((coded, decoded, coded_floats, decoded_floats));
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "backends differ");
});

fn damaged(input: &Input, coded: &[u8]) -> Vec<u8> {
    let mut chunk = input.chunk.clone().unwrap_or_else(|| coded.to_vec());
    for (at, bits) in &input.damage {
        if let Some(byte) = chunk.get_mut(usize::from(*at)) {
            *byte ^= bits;
        }
    }
    let left = chunk.len().saturating_sub(usize::from(input.cut % 64));
    chunk.truncate(left);
    chunk
}
