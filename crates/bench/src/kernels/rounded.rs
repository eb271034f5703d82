//! Codes of an archived variant: by how much each lies off the one that its weight, which is at hand, is rounded to.

use qstore_kernels::{
    Backend, Classifier, CodeRange, CodesCoder, Half, Layout, RoundRun, Scratch, SymbolTable, add_rounded,
    nearest_byte,
};

use super::data::{CHUNK, COLS, Weights};
use super::work::failed;
use crate::error::Result;

/// The codes of LLM.int8().
const RANGE: CodeRange = CodeRange { least: -127.0, most: 127.0 };

/// The coder of one backend.
pub(super) struct Rounding {
    backend: Backend,
    coder: CodesCoder,
}

impl Rounding {
    pub(super) fn new(backend: Backend) -> Result<Self> {
        // Rounded by the rule, no code lies off; a few in a million might.
        let mut shifts = [0; 256];
        (shifts[0], shifts[1], shifts[255]) = (1_000_000, 1, 1);
        let tables = vec![SymbolTable::from_histogram(&shifts)];
        Ok(Self { backend, coder: CodesCoder::new(tables, Layout::Wide).map_err(failed)?.on(backend) })
    }

    /// Codes everything.
    pub(super) fn code(&self, weights: &Weights) -> Result<Vec<Vec<u8>>> {
        let scratch = &mut Scratch::default();
        let code = |(chunk, codes): (usize, &[u8])| {
            let mut shifts = vec![0; codes.len()];
            self.add_rounded(weights, chunk, &mut shifts);
            shifts.iter_mut().zip(codes).for_each(|(shift, code)| *shift = code.wrapping_sub(*shift));
            self.coder.encode(&shifts, COLS, &Classifier::single(), scratch).map_err(failed)
        };
        weights.codes.chunks(CHUNK).enumerate().map(code).collect()
    }

    /// Decodes the codes of a chunk.
    pub(super) fn decode(
        &self,
        weights: &Weights,
        coded: &[Vec<u8>],
        chunk: usize,
        out: &mut [u8],
    ) -> Result<()> {
        self.coder.decode(&coded[chunk], COLS, out).map_err(failed)?;
        self.add_rounded(weights, chunk, out);
        Ok(())
    }

    /// Adds the codes that the weights of a chunk are rounded to.
    fn add_rounded(&self, weights: &Weights, chunk: usize, out: &mut [u8]) {
        let values = weights.values[chunk * CHUNK..(chunk + 1) * CHUNK].chunks(COLS);
        let first = chunk * (CHUNK / COLS);
        for (number, (values, out)) in values.zip(out.chunks_mut(COLS)).enumerate() {
            let run = RoundRun { len: COLS, scale: weights.factor(first + number), zero: 0.0 };
            let level =
                |half: Half, factor| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16) * factor;
            let nearest = |level| nearest_byte(level, RANGE);
            add_rounded(self.backend, &[run], values, level, nearest, out);
        }
    }
}
