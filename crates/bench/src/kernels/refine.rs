//! Codes and weights given intervals: what codes of 4 bits leave of those of 8, and both of the weights.

use std::ops::Range;

use qstore_kernels::{
    Backend, Bins, CodeInputs, CodeRefiner, DecodeError, Each, Edges, FloatGrid, FloatInputs, FloatRefiner,
    Half, Intervals, Layout, PART, Scaled, Scratch, SymbolTable,
};

use super::data::{CHUNK, COLS, GROUP, Weights};
use super::work::{bits_of, failed};
use crate::error::{Error, Result};

/// Levels of 4 and of 8 bits, and the ends of their outermost bins.
const FOUR: (usize, [f32; 2]) = (16, [-0.5, 15.5]);
const EIGHT: (usize, [f32; 2]) = (256, [0.5, 255.5]);

/// How often one part is decoded in turn, its intervals in a core's first cache.
const TIMES: usize = 64;

/// The coders of one backend.
pub(super) struct Refiners {
    backend: Backend,
    four: Edges,
    eight: Edges,
    codes: CodeRefiner,
    floats: FloatRefiner,
}

/// All chunks as one backend has coded them.
pub(super) struct Refined {
    codes: Vec<Vec<u8>>,
    floats: Vec<Vec<u8>>,
    level: Level,
}

/// Codes of 8 bits of the first part of a row, several times over, and what ones of 4 bits say of their weights: one
/// level of a chain by itself, as it is decoded along with others.
struct Level {
    codes: Vec<u8>,
    intervals: AtHand,
}

/// What is known of a part, at hand.
struct AtHand {
    lo: Vec<f32>,
    hi: Vec<f32>,
    /// Scales, reciprocals and zero-points of the codes, each for 16 weights.
    scales: [Vec<f32>; 3],
}

impl CodeInputs for &AtHand {
    fn part(
        &mut self,
        _: usize,
        _: Range<usize>,
    ) -> std::result::Result<(Intervals<'_>, Scaled<'_>), DecodeError> {
        Ok((Intervals { lo: &self.lo, hi: &self.hi }, scaled(&self.scales)?))
    }
}

/// What a chunk is given, and what of it is at hand.
struct Given<'a> {
    refiners: &'a Refiners,
    weights: &'a Weights,
    first_row: usize,
    /// Whether the codes of 8 bits are given.
    eight: bool,
    lo: Vec<f32>,
    hi: Vec<f32>,
    /// Scales, their reciprocals and zero-points of both, each for 16 weights.
    scales: [[Vec<f32>; 3]; 2],
}

impl<'a> Given<'a> {
    fn new(refiners: &'a Refiners, weights: &'a Weights, chunk: usize, eight: bool) -> Self {
        let scales = std::array::from_fn(|_| std::array::from_fn(|_| Vec::new()));
        let first_row = chunk * (CHUNK / COLS);
        Self { refiners, weights, first_row, eight, lo: Vec::new(), hi: Vec::new(), scales }
    }

    /// Makes what is known of a part of a row.
    fn make(&mut self, row: usize, cols: Range<usize>) -> std::result::Result<(), DecodeError> {
        let (row, len) = (self.first_row + row, cols.len());
        let at = row * COLS + cols.start..row * COLS + cols.end;
        let [four, eight] = &mut self.scales;
        for of in four.iter_mut().chain(eight.iter_mut()) {
            of.resize(len.div_ceil(16), 0.0);
        }
        let groups = four[0].chunks_mut(GROUP / 16).zip(self.weights.scales_of_four(row, &cols));
        groups.for_each(|(to, scale)| to.fill(*scale));
        four[2].fill(8.0);
        eight[0].fill(self.weights.scale(row));
        eight[1].fill(1.0 / self.weights.scale(row));
        eight[2].fill(128.0);
        self.lo.resize(len, 0.0);
        self.hi.resize(len, 0.0);
        let backend = self.refiners.backend;
        let ranks = &self.weights.four[at.clone()];
        let bins = Bins { edges: &self.refiners.four, ends: FOUR.1, ranks, scaled: scaled(four)? };
        bins.begin(backend, &mut self.lo, &mut self.hi)?;
        if self.eight {
            let ranks = &self.weights.eight[at];
            let bins = Bins { edges: &self.refiners.eight, ends: EIGHT.1, ranks, scaled: scaled(eight)? };
            bins.narrow(backend, &mut self.lo, &mut self.hi)?;
        }
        Ok(())
    }
}

fn scaled([scales, inverses, zeros]: &[Vec<f32>; 3]) -> std::result::Result<Scaled<'_>, DecodeError> {
    let scaled = Scaled::new(scales, inverses, zeros, Each::Sixteen);
    scaled.ok_or(DecodeError::Corrupt("scales that there are not"))
}

impl CodeInputs for Given<'_> {
    fn part(
        &mut self,
        row: usize,
        cols: Range<usize>,
    ) -> std::result::Result<(Intervals<'_>, Scaled<'_>), DecodeError> {
        self.make(row, cols)?;
        Ok((Intervals { lo: &self.lo, hi: &self.hi }, scaled(&self.scales[1])?))
    }
}

impl FloatInputs for Given<'_> {
    fn part(&mut self, row: usize, cols: Range<usize>) -> std::result::Result<Intervals<'_>, DecodeError> {
        self.make(row, cols)?;
        Ok(Intervals { lo: &self.lo, hi: &self.hi })
    }
}

impl Refiners {
    pub(super) fn new(weights: &Weights, backend: Backend) -> Result<Self> {
        let levels = |count| Edges::integers(count).ok_or_else(|| failed("too many levels"));
        let (four, eight) = (levels(FOUR.0)?, levels(EIGHT.0)?);
        let codes = CodeRefiner::new(eight.clone(), Layout::Wide).on(backend);
        let mut this = Self { backend, four, eight, codes, floats: floats(&[0; 256], backend) };
        let mut wide = [0; 256];
        let mut given = Given::new(&this, weights, 0, true);
        let values = &weights.values[..CHUNK];
        FloatRefiner::count_near_zero(FloatGrid::Bf16, values, COLS, &mut given, &mut wide)
            .map_err(failed)?;
        this.floats = floats(&wide, backend);
        Ok(this)
    }

    /// Codes everything.
    pub(super) fn code(&self, weights: &Weights) -> Result<Refined> {
        let scratch = &mut Scratch::default();
        let codes = weights.eight.chunks(CHUNK).enumerate();
        let codes = codes
            .map(|(chunk, ranks)| self.encode_codes(weights, chunk, ranks, scratch))
            .collect::<Result<_>>()?;
        let floats = weights.values.chunks(CHUNK).enumerate().map(|(chunk, values)| {
            let mut given = Given::new(self, weights, chunk, true);
            self.floats.encode(values, COLS, &mut given, scratch).map_err(failed)
        });
        Ok(Refined { codes, floats: floats.collect::<Result<_>>()?, level: self.level(weights, scratch)? })
    }

    fn level(&self, weights: &Weights, scratch: &mut Scratch) -> Result<Level> {
        let mut given = Given::new(self, weights, 0, false);
        given.make(0, 0..PART).map_err(failed)?;
        let Given { lo, hi, scales: [_, scales], .. } = given;
        let intervals = AtHand { lo, hi, scales };
        let ranks = weights.eight[..PART].repeat(TIMES);
        let codes = self.codes.encode(&ranks, PART, &mut &intervals, scratch).map_err(failed)?;
        Ok(Level { codes, intervals })
    }

    /// Makes intervals of the codes of 4 bits of a chunk.
    pub(super) fn make_intervals(&self, weights: &Weights, chunk: usize) -> Result<()> {
        let mut given = Given::new(self, weights, chunk, false);
        for row in 0..CHUNK / COLS {
            for part in 0..COLS / PART {
                given.make(row, part * PART..(part + 1) * PART).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Decodes codes of the first part, as many as a chunk has.
    pub(super) fn decode_level(&self, refined: &Refined, out: &mut [u8]) -> Result<()> {
        let Level { codes, intervals } = &refined.level;
        out.chunks_mut(TIMES * PART)
            .try_for_each(|out| self.codes.decode(codes, PART, &mut { intervals }, out).map_err(failed))
    }

    fn encode_codes(
        &self,
        weights: &Weights,
        chunk: usize,
        ranks: &[u8],
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>> {
        let mut given = Given::new(self, weights, chunk, false);
        self.codes.encode(ranks, COLS, &mut given, scratch).map_err(failed)
    }

    /// Decodes the codes of a chunk.
    pub(super) fn decode_codes(
        &self,
        weights: &Weights,
        refined: &Refined,
        chunk: usize,
        out: &mut [u8],
    ) -> Result<()> {
        let mut given = Given::new(self, weights, chunk, false);
        self.codes.decode(&refined.codes[chunk], COLS, &mut given, out).map_err(failed)
    }

    /// Decodes the floats of a chunk.
    pub(super) fn decode_floats(
        &self,
        weights: &Weights,
        refined: &Refined,
        chunk: usize,
        out: &mut [Half],
    ) -> Result<()> {
        let mut given = Given::new(self, weights, chunk, true);
        self.floats.decode(&refined.floats[chunk], COLS, &mut given, out).map_err(failed)
    }

    /// Codes the codes of a chunk, decodes them and compares.
    pub(super) fn encode_verified(
        &self,
        weights: &Weights,
        chunk: usize,
        scratch: &mut Scratch,
        back: &mut [u8],
    ) -> Result<()> {
        let ranks = &weights.eight[chunk * CHUNK..(chunk + 1) * CHUNK];
        let coded = self.encode_codes(weights, chunk, ranks, scratch)?;
        let mut given = Given::new(self, weights, chunk, false);
        self.codes.decode(&coded, COLS, &mut given, back).map_err(failed)?;
        if back == ranks {
            return Ok(());
        }
        Err(Error::Peer("a coder does not decode to what it has encoded".to_owned()))
    }
}

impl Refined {
    /// Bits a weight of the codes and of the floats.
    pub(super) fn bits(&self, weights: &Weights) -> [f64; 2] {
        [&self.codes, &self.floats].map(|chunks| bits_of(chunks, weights))
    }
}

fn floats(near_zero: &[u64; 256], backend: Backend) -> FloatRefiner {
    FloatRefiner::new(FloatGrid::Bf16, SymbolTable::from_histogram(near_zero), Layout::Wide).on(backend)
}
