//! Chunks of codes given intervals.
//!
//! ```text
//! exceptions  u32
//! states      a u32 for each lane
//! exceptions  x (index in the chunk u32, rank u8)
//! words       u16 ...
//! ```
//!
//! An exception is a rank that has no slot, as its bin does not meet the interval of its weight, or hardly does; the
//! stream then has in its place the rank that the middle of the interval has.

use std::ops::Range;

use super::levels::{EdgeKind, Edges};
use super::row::{Row, Scaled};
use super::{Intervals, lanes, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::backend::{Backend, Kind};
use crate::codes::{Exceptions, Input};
use crate::error::{DecodeError, EncodeError};
use crate::rows::Rows;
use crate::scratch::Scratch;
use crate::stream::{Layout, States, WordReader, WordWriter};

/// What a chunk of codes is given, a part of a row at a time. Coders ask for parts in any order, and more than once:
/// what they get depends on the part alone.
pub trait CodeInputs {
    /// What is known of the weights in columns `cols` of row `row` of the chunk, and what their codes stand for.
    ///
    /// # Errors
    /// There is no such part, or its numbers are not such as there may be.
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<(Intervals<'_>, Scaled<'_>), DecodeError>;
}

/// Codes chunks of ranks given intervals.
#[derive(Debug, Clone)]
pub struct CodeRefiner {
    backend: Backend,
    layout: Layout,
    edges: Edges,
}

impl CodeRefiner {
    /// A coder for the ranks of a quantiser with these edges.
    #[must_use]
    pub fn new(edges: Edges, layout: Layout) -> Self {
        Self { backend: Backend::best(), layout, edges }
    }

    /// The same coder on another backend, for tests and measurements. What it writes is the same.
    #[must_use]
    pub fn on(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// One chunk of `ranks` in rows of `cols`.
    ///
    /// # Errors
    /// Inputs of other numbers of weights, too many elements, or exceptions that are more than a fifth of them.
    pub fn encode(
        &self,
        ranks: &[u8],
        cols: usize,
        inputs: &mut impl CodeInputs,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, EncodeError> {
        let mut exceptions = Exceptions::new(ranks.len())?;
        let words = &mut scratch.words;
        words.begin(ranks.len());
        let mut states = States::first(self.layout);
        let rows = Rows::new(ranks.len(), cols);
        for number in (0..rows.count()).rev() {
            let elements = rows.range(number);
            for part in parts(elements.len()).rev() {
                let start = elements.start + part.start;
                let ranks = &ranks[start..start + part.len()];
                let row = inputs.part(number, part).and_then(|of| row_of(of, ranks.len()));
                let row = row.map_err(|_| EncodeError::Shape)?;
                self.encode_row(&mut states, words, row, ranks, &mut |column| {
                    exceptions.push(start + column)
                });
            }
        }
        let words = words.words();
        let mut out = Vec::with_capacity(2048 + words.len());
        out.extend(exceptions.count()?.to_le_bytes());
        states.write(&mut out);
        for index in exceptions.sorted() {
            out.extend(index.to_le_bytes());
            // Of this chunk: what fills up a short row's last block has slots, whatever the levels are.
            out.push(ranks[index as usize]);
        }
        out.extend(words);
        Ok(out)
    }

    /// Decodes a chunk of `out.len()` ranks in rows of `cols`.
    ///
    /// # Errors
    /// The chunk is truncated or damaged, or what it is given does not fit; `out` then holds anything.
    pub fn decode(
        &self,
        chunk: &[u8],
        cols: usize,
        inputs: &mut impl CodeInputs,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let mut stream = self.open(chunk)?;
        for (number, elements) in Rows::new(out.len(), cols).iter().enumerate() {
            for part in parts(elements.len()) {
                let out = &mut out[elements.start + part.start..elements.start + part.end];
                let (intervals, scaled) = inputs.part(number, part)?;
                self.decode_part(&mut stream, intervals, scaled, out)?;
            }
        }
        stream.finish()
    }

    /// Begins to decode a chunk part by part.
    ///
    /// # Errors
    /// The chunk is truncated or damaged.
    pub fn open<'a>(&self, chunk: &'a [u8]) -> Result<CodeStream<'a>, DecodeError> {
        let mut input = Input(chunk);
        let exceptions = input.u32()? as usize;
        let states = input.states(self.layout)?;
        let exceptions = input.items::<5>(exceptions)?;
        Ok(CodeStream { states, words: WordReader::new(input.0)?, exceptions, done: 0 })
    }

    /// Decodes the next ranks of a chunk: of a part of a row as [`CodeInputs`] are asked for them.
    ///
    /// # Errors
    /// As of [`decode`](Self::decode).
    pub fn decode_part(
        &self,
        stream: &mut CodeStream,
        intervals: Intervals,
        scaled: Scaled,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let row = row_of((intervals, scaled), out.len())?;
        self.decode_row(&mut stream.states, &mut stream.words, row, out)?;
        stream.patch(out)
    }

    /// Decodes the ranks of a part of a row that begins at a column that 128 divides.
    #[allow(unsafe_code, reason = "calls functions that need instructions")]
    fn decode_row(
        &self,
        states: &mut States,
        words: &mut WordReader,
        row: Row,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        match self.backend.kind() {
            Kind::Scalar => scalar::decode_row(states, words, &self.edges, row, out, lanes::advance),
            // SAFETY: a backend of this kind exists only where the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { decode_row_avx2(states, words, &self.edges, row, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::decode_row(states, words, &self.edges, row, out) },
        }
    }

    /// Codes the ranks of a part of a row that begins at a column that 128 divides, its last one first. `outside` gets
    /// the columns of those whose bins do not meet their intervals.
    #[allow(unsafe_code, reason = "calls functions that need instructions")]
    fn encode_row(
        &self,
        states: &mut States,
        words: &mut WordWriter,
        row: Row,
        ranks: &[u8],
        outside: &mut dyn FnMut(usize),
    ) {
        match self.backend.kind() {
            Kind::Scalar => {
                scalar::encode_row(states, words, &self.edges, row, ranks, outside, lanes::put_all);
            }
            // SAFETY: a backend of this kind exists only where the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { encode_row_avx2(states, words, &self.edges, row, ranks, outside) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe {
                avx512::encode_row(states, words, &self.edges, row, ranks, outside);
            },
        }
    }
}

/// A chunk of codes that is decoded part by part, in order.
pub struct CodeStream<'a> {
    states: States,
    words: WordReader<'a>,
    /// Those that are yet to come.
    exceptions: &'a [[u8; 5]],
    /// Ranks decoded so far.
    done: usize,
}

impl std::fmt::Debug for CodeStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("CodeStream").field("done", &self.done).finish_non_exhaustive()
    }
}

impl CodeStream<'_> {
    /// Puts the exceptions among the ranks that follow in place.
    fn patch(&mut self, out: &mut [u8]) -> Result<(), DecodeError> {
        let first = self.done;
        self.done += out.len();
        while let Some((&[a, b, c, d, rank], rest)) = self.exceptions.split_first() {
            let index = u32::from_le_bytes([a, b, c, d]) as usize;
            if index >= self.done {
                break;
            }
            let index = index.checked_sub(first).ok_or(DecodeError::Corrupt("exceptions out of order"))?;
            out[index] = rank;
            self.exceptions = rest;
        }
        Ok(())
    }

    /// Whether the chunk ends here.
    ///
    /// # Errors
    /// It does not.
    pub fn finish(self) -> Result<(), DecodeError> {
        if !self.exceptions.is_empty() {
            return Err(DecodeError::Corrupt("an exception outside the chunk"));
        }
        self.words.finish()?;
        self.states.finish()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_row_avx2(
    states: &mut States,
    words: &mut WordReader,
    edges: &Edges,
    row: Row,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    if let EdgeKind::Integers = edges.kind {
        return avx2::decode_integers(states, words, edges.as_integers(), row, out);
    }
    let advance = |set: &mut _, slots: &_, window: &_| avx2::advance(set, slots, window);
    scalar::decode_row(states, words, edges, row, out, advance)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_row_avx2(
    states: &mut States,
    words: &mut WordWriter,
    edges: &Edges,
    row: Row,
    ranks: &[u8],
    outside: &mut dyn FnMut(usize),
) {
    let put = |set: &mut _, words: &mut _, slots: &_| avx2::put_all(set, words, slots);
    scalar::encode_row(states, words, edges, row, ranks, outside, put);
}

/// Columns that [`CodeInputs`] are asked for at a time at most: what is known of them stays in the first cache. With half
/// as many, going on from part to part took an eighth of the time.
pub const PART: usize = 1024;

/// The parts of a row of so many columns.
pub(super) fn parts(cols: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..cols.div_ceil(PART)).map(move |part| part * PART..cols.min((part + 1) * PART))
}

/// What is given as a row of so many weights.
fn row_of<'a>(
    (intervals, scaled): (Intervals<'a>, Scaled<'a>),
    weights: usize,
) -> Result<Row<'a>, DecodeError> {
    if intervals.are_of(weights) && scaled.is_for(weights) {
        return Ok(Row { intervals, scaled });
    }
    Err(DecodeError::Corrupt("intervals of another number than the codes"))
}
