//! Floats given their quantisation codes.

use qstore_kernels::{BinTable, DecodeError, Layout, ResidualCoder, SymbolTable, zero_symbols};

use super::float::{LONG_BYTES, Parts, high_halves, with_rest};
use super::workspace::Workspace;
use crate::scheme::FloatKind;

/// What a chunk is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenRows<'a> {
    /// The code of each weight.
    pub(crate) codes: &'a [u8],
    /// The bins of each row.
    pub(crate) bins: &'a [&'a BinTable],
}

/// Codes floats of one kind given the codes of one array.
#[derive(Debug, Clone)]
pub(crate) struct Residual {
    float: FloatKind,
    coder: ResidualCoder,
}

impl Residual {
    /// With a table of codes of 0 that fits this histogram, which [`count_zeros`] has filled.
    pub(crate) fn fit(float: FloatKind, zeros: &[u64; 256], layout: Layout) -> Result<Self, DecodeError> {
        let coder = ResidualCoder::new(float.mantissa_bits(), SymbolTable::from_histogram(zeros), layout)?;
        Ok(Self { float, coder })
    }

    /// The floats.
    pub(crate) fn float(&self) -> FloatKind {
        self.float
    }

    pub(crate) fn open(float: FloatKind, layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        let coder = ResidualCoder::new(float.mantissa_bits(), SymbolTable::read(head)?, layout)?;
        Ok(Self { float, coder })
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        self.coder.zero_table().write(&mut head);
        head
    }

    pub(crate) fn encode(
        &self,
        raw: &[u8],
        cols: usize,
        given: GivenRows,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let high = high_halves(self.float, raw);
        let coded = self.coder.encode(given.codes, &high, cols, given.bins, &mut workspace.scratch).ok()?;
        with_rest(self.float, raw, coded)
    }

    /// How many weights of a coded chunk fell outside their bins.
    pub(crate) fn exceptions(&self, stored: &[u8]) -> u32 {
        let count = |chunk: &[u8]| chunk.first_chunk().map_or(0, |count| u32::from_le_bytes(*count));
        let skip = match self.float {
            FloatKind::Bf16 | FloatKind::F16 => 0,
            FloatKind::F32 => 4,
            FloatKind::ShortF16 => 4 + LONG_BYTES * count(stored) as usize,
        };
        stored.get(skip..).map_or(0, count)
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        cols: usize,
        given: GivenRows,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let Workspace { scratch, high, .. } = workspace;
        Parts::of(self.float, stored, out.len())?.decode(out, high, |part, halves| {
            self.coder.decode(part, given.codes, cols, given.bins, scratch, halves)
        })
    }
}

/// Counts the symbols that the codes of 0 of a chunk take.
pub(crate) fn count_zeros(
    float: FloatKind,
    raw: &[u8],
    cols: usize,
    given: GivenRows,
    into: &mut [u64; 256],
) {
    let values = high_halves(float, raw);
    zero_symbols(given.codes, &values, cols, given.bins, float.mantissa_bits())
        .for_each(|symbol| into[usize::from(symbol)] += 1);
}
