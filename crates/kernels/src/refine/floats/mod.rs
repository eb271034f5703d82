//! Chunks of floats of 16 bits given intervals.
//!
//! Within an interval weights are taken for equally likely: a float has a share as wide as how far it is to the next.
//! Near zero there are too many for that. An interval is *wide* if it has zero or reaches over more than three binades;
//! what lies three binades below its greatest magnitude, or more, is near zero, and has one share. Such floats form a
//! list of their own in the order of the chunk, coded behind the others in the same lanes, as one long row: symbol
//! `top - (magnitude >> mantissa)`, the number of binades below the greatest that is near zero, with the mantissa kept
//! raw, and the sign where the interval has both.
//!
//! ```text
//! exceptions  u32
//! near zero   u32
//! signs       u32
//! states      a u32 for each lane
//! mantissas   of those near zero, as a bit plane
//! signs       of those whose interval has both, as a bit plane
//! exceptions  x (index in the chunk u32, value u16)
//! words       u16 ...
//! ```

#[cfg(target_arch = "x86_64")]
mod avx512;
mod grid;
mod near_zero;
mod rows;

use std::ops::Range;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::codes::parts;
use super::scalar::{Advance, Put};
use super::{Intervals, lanes, number};
use crate::Half;
use crate::backend::{Backend, Kind};
use crate::bits::{pack_plane, plane_bytes, unpack_plane};
use crate::codes::{Exceptions, Input};
use crate::error::{DecodeError, EncodeError};
use crate::rows::Rows;
use crate::scratch::Scratch;
use crate::split::patch;
use crate::stream::{Layout, States, WordReader, WordWriter};
use crate::symbols::{self, DecodeTable, EncodeTable};
use crate::table::SymbolTable;

pub use grid::FloatGrid;
use grid::{Cut, F16};
use near_zero::{Listed, NearZero};

/// The sign bit of a float.
const SIGN: u16 = 0x8000;

/// What a chunk of floats is given, a part of a row at a time. Coders ask for parts in any order, and more than once:
/// what they get depends on the part alone.
pub trait FloatInputs {
    /// What is known of the weights in columns `cols` of row `row` of the chunk.
    ///
    /// # Errors
    /// There is no such part, or its numbers are not such as there may be.
    fn part(&mut self, row: usize, cols: Range<usize>) -> Result<Intervals<'_>, DecodeError>;
}

/// Codes chunks of floats given intervals.
#[derive(Debug, Clone)]
pub struct FloatRefiner {
    backend: Backend,
    layout: Layout,
    grid: FloatGrid,
    near_zero: Box<SymbolTable>,
    decode_near_zero: DecodeTable,
    /// Made when the first chunk is encoded; readers need none.
    encode_near_zero: OnceLock<EncodeTable>,
}

impl FloatRefiner {
    /// A coder for floats of this type, `near_zero` being the table of those near zero.
    #[must_use]
    pub fn new(grid: FloatGrid, near_zero: SymbolTable, layout: Layout) -> Self {
        let backend = Backend::best();
        let decode_near_zero = DecodeTable::new(&near_zero, layout, backend);
        Self {
            backend,
            layout,
            grid,
            near_zero: Box::new(near_zero),
            decode_near_zero,
            encode_near_zero: OnceLock::new(),
        }
    }

    /// The same coder on another backend, for tests and measurements. What it writes is the same.
    #[must_use]
    pub fn on(self, backend: Backend) -> Self {
        let decode_near_zero = DecodeTable::new(&self.near_zero, self.layout, backend);
        Self { backend, decode_near_zero, ..self }
    }

    /// The table of floats near zero.
    #[must_use]
    pub fn near_zero_table(&self) -> &SymbolTable {
        &self.near_zero
    }

    /// Counts the symbols that the floats of a chunk take that are near zero, for the table.
    ///
    /// # Errors
    /// Inputs of other numbers of weights.
    pub fn count_near_zero(
        grid: FloatGrid,
        values: &[Half],
        cols: usize,
        inputs: &mut impl FloatInputs,
        into: &mut [u64; 256],
    ) -> Result<(), EncodeError> {
        let listed = near_zero::list(grid, values, cols, inputs).ok_or(EncodeError::Shape)?;
        let symbols = listed.iter().filter_map(|listed| listed.known.symbol(grid, values[listed.index]));
        symbols.for_each(|symbol| into[usize::from(symbol)] += 1);
        Ok(())
    }

    /// One chunk of `values` in rows of `cols`.
    ///
    /// # Errors
    /// Inputs of other numbers of weights, too many elements, or exceptions that are more than a fifth of them.
    pub fn encode(
        &self,
        values: &[Half],
        cols: usize,
        inputs: &mut impl FloatInputs,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, EncodeError> {
        let mut exceptions = Exceptions::new(values.len())?;
        let listed = near_zero::list(self.grid, values, cols, inputs).ok_or(EncodeError::Shape)?;
        let mut symbols = Vec::with_capacity(listed.len());
        for Listed { index, known } in &listed {
            let symbol = known.symbol(self.grid, values[*index]);
            let symbol = symbol.filter(|symbol| self.near_zero.frequency(*symbol) > 0);
            if symbol.is_none() {
                exceptions.push(*index);
            }
            symbols.push(symbol.unwrap_or_else(|| self.near_zero.likeliest()));
        }
        let words = &mut scratch.words;
        words.begin(values.len());
        let mut states = States::first(self.layout);
        let encode_near_zero =
            self.encode_near_zero.get_or_init(|| EncodeTable::new(&self.near_zero, self.layout));
        // Those that the table lacks have been replaced.
        symbols::encode_row(self.backend, &mut states, words, encode_near_zero, &symbols, &mut |_| {});
        let rows = Rows::new(values.len(), cols);
        for number in (0..rows.count()).rev() {
            let elements = rows.range(number);
            for part in parts(elements.len()).rev() {
                let start = elements.start + part.start;
                let values = &values[start..start + part.len()];
                let intervals = inputs.part(number, part).map_err(|_| EncodeError::Shape)?;
                if !intervals.are_of(values.len()) {
                    return Err(EncodeError::Shape);
                }
                let mut outside = |column| exceptions.push(start + column);
                self.encode_row(&mut states, words, intervals, values, &mut outside);
            }
        }
        let value = |listed: &Listed| u16::from_le_bytes(values[listed.index]);
        let with_sign = listed.iter().filter(|listed| listed.known.has_both_signs());
        let mantissa = self.grid.mantissa_bits();
        let words = words.words();
        let mut out = Vec::with_capacity(2048 + listed.len() * 2 + words.len());
        out.extend(exceptions.count()?.to_le_bytes());
        for count in [listed.len(), with_sign.clone().count()] {
            out.extend(u32::try_from(count).map_err(|_| EncodeError::Shape)?.to_le_bytes());
        }
        states.write(&mut out);
        pack_plane(listed.iter().map(|listed| value(listed) & ((1 << mantissa) - 1)), mantissa, &mut out);
        pack_plane(with_sign.map(|listed| value(listed) >> 15), 1, &mut out);
        for index in exceptions.sorted() {
            out.extend(index.to_le_bytes());
            // Of this chunk: what fills up a short row's last block is the one float of its interval.
            out.extend(values[index as usize]);
        }
        out.extend(words);
        Ok(out)
    }

    /// Decodes a chunk of `out.len()` floats in rows of `cols`.
    ///
    /// # Errors
    /// The chunk is truncated or damaged, or what it is given does not fit; `out` then holds anything.
    pub fn decode(
        &self,
        chunk: &[u8],
        cols: usize,
        inputs: &mut impl FloatInputs,
        out: &mut [Half],
    ) -> Result<(), DecodeError> {
        let mut input = Input(chunk);
        let exceptions = input.u32()? as usize;
        let (near_zero, signs) = (input.u32()? as usize, input.u32()? as usize);
        if near_zero > out.len() || signs > near_zero {
            return Err(DecodeError::Corrupt("more floats near zero than there are"));
        }
        let mut states = input.states(self.layout)?;
        let mantissa = self.grid.mantissa_bits();
        let mantissas = input.take(plane_bytes(near_zero, mantissa))?;
        let sign_plane = input.take(plane_bytes(signs, 1))?;
        let exceptions = input.items::<6>(exceptions)?;
        let mut words = WordReader::new(input.0)?;
        let mut listed = Vec::with_capacity(near_zero);
        for (number, elements) in Rows::new(out.len(), cols).iter().enumerate() {
            for part in parts(elements.len()) {
                let start = elements.start + part.start;
                let out = &mut out[start..elements.start + part.end];
                let intervals = inputs.part(number, part)?;
                if !intervals.are_of(out.len()) {
                    return Err(DecodeError::Corrupt("intervals of another number than the floats"));
                }
                self.decode_row(&mut states, &mut words, intervals, out, &mut |column| {
                    let known = NearZero::of(self.grid, intervals.lo[column], intervals.hi[column]);
                    listed.push(Listed { index: start + column, known });
                })?;
                if listed.len() > near_zero {
                    return Err(DecodeError::Corrupt("another number of floats near zero"));
                }
            }
        }
        let with_sign: Vec<usize> =
            listed.iter().filter(|listed| listed.known.has_both_signs()).map(|listed| listed.index).collect();
        if listed.len() != near_zero || with_sign.len() != signs {
            return Err(DecodeError::Corrupt("another number of floats near zero"));
        }
        let mut symbols = vec![0; near_zero];
        symbols::decode_row(self.backend, &mut states, &mut words, &self.decode_near_zero, &mut symbols)?;
        words.finish()?;
        states.finish()?;
        for (Listed { index, known }, symbol) in listed.iter().zip(&symbols) {
            out[*index] = known.float(self.grid, *symbol).to_le_bytes();
        }
        unpack_plane(mantissas, near_zero, mantissa, |number, bits| {
            add_bits(&mut out[listed[number].index], bits)
        })?;
        unpack_plane(sign_plane, signs, 1, |number, sign| add_bits(&mut out[with_sign[number]], sign << 15))?;
        patch(exceptions, out)
    }

    /// Decodes the floats of a part of a row that begins at a column that 128 divides; `near_zero` gets the columns of
    /// those near zero, of which it decodes no more.
    #[allow(unsafe_code, reason = "calls functions that need instructions")]
    fn decode_row(
        &self,
        states: &mut States,
        words: &mut WordReader,
        intervals: Intervals,
        out: &mut [Half],
        near_zero: &mut dyn FnMut(usize),
    ) -> Result<(), DecodeError> {
        match (self.backend.kind(), Cut::of(self.grid)) {
            (Kind::Scalar, _) => {
                decode_row(states, words, self.grid, intervals, out, near_zero, lanes::advance)
            }
            // SAFETY: a backend of this kind exists only where the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512, Some(cut)) => unsafe {
                avx512::decode_row(states, words, cut, intervals, out, near_zero)
            },
            // SAFETY: as above; a processor with AVX-512 has AVX2.
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2 | Kind::Avx512, _) => unsafe {
                decode_row_avx2(states, words, self.grid, intervals, out, near_zero)
            },
        }
    }

    /// Codes the floats of a part of a row that begins at a column that 128 divides, its last one first, of those near
    /// zero no more than that. `outside` gets the columns of those that are not in their intervals.
    #[allow(unsafe_code, reason = "calls functions that need instructions")]
    fn encode_row(
        &self,
        states: &mut States,
        words: &mut WordWriter,
        intervals: Intervals,
        values: &[Half],
        outside: &mut dyn FnMut(usize),
    ) {
        match (self.backend.kind(), Cut::of(self.grid)) {
            (Kind::Scalar, _) => {
                encode_row(states, words, self.grid, intervals, values, outside, lanes::put_all);
            }
            // SAFETY: a backend of this kind exists only where the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512, Some(cut)) => unsafe {
                avx512::encode_row(states, words, cut, intervals, values, outside);
            },
            // SAFETY: as above; a processor with AVX-512 has AVX2.
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2 | Kind::Avx512, _) => unsafe {
                encode_row_avx2(states, words, self.grid, intervals, values, outside);
            },
        }
    }
}

fn add_bits(value: &mut Half, bits: u16) {
    *value = (u16::from_le_bytes(*value) | bits).to_le_bytes();
}

#[inline(always)]
fn decode_row(
    states: &mut States,
    words: &mut WordReader,
    grid: FloatGrid,
    intervals: Intervals,
    out: &mut [Half],
    near_zero: &mut dyn FnMut(usize),
    advance: impl Advance,
) -> Result<(), DecodeError> {
    match grid {
        FloatGrid::Bf16 => rows::decode_row(states, words, Cut::BF16, intervals, out, near_zero, advance),
        FloatGrid::HighHalf => {
            rows::decode_row(states, words, Cut::HIGH_HALF, intervals, out, near_zero, advance)
        }
        FloatGrid::F16 => rows::decode_row(states, words, F16::<false>, intervals, out, near_zero, advance),
        FloatGrid::ShortF16 => {
            rows::decode_row(states, words, F16::<true>, intervals, out, near_zero, advance)
        }
    }
}

#[inline(always)]
fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    grid: FloatGrid,
    intervals: Intervals,
    values: &[Half],
    outside: &mut dyn FnMut(usize),
    put: impl Put,
) {
    match grid {
        FloatGrid::Bf16 => rows::encode_row(states, words, Cut::BF16, intervals, values, outside, put),
        FloatGrid::HighHalf => {
            rows::encode_row(states, words, Cut::HIGH_HALF, intervals, values, outside, put)
        }
        FloatGrid::F16 => rows::encode_row(states, words, F16::<false>, intervals, values, outside, put),
        FloatGrid::ShortF16 => rows::encode_row(states, words, F16::<true>, intervals, values, outside, put),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_row_avx2(
    states: &mut States,
    words: &mut WordReader,
    grid: FloatGrid,
    intervals: Intervals,
    out: &mut [Half],
    near_zero: &mut dyn FnMut(usize),
) -> Result<(), DecodeError> {
    let advance = |set: &mut _, slots: &_, window: &_| avx2::advance(set, slots, window);
    decode_row(states, words, grid, intervals, out, near_zero, advance)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_row_avx2(
    states: &mut States,
    words: &mut WordWriter,
    grid: FloatGrid,
    intervals: Intervals,
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    let put = |set: &mut _, words: &mut _, slots: &_| avx2::put_all(set, words, slots);
    encode_row(states, words, grid, intervals, values, outside, put);
}
