//! Floats given their quantisation codes.

use std::collections::HashMap;

use qstore_container::{QuantScheme, Rounding};
use qstore_kernels::{DecodeError, ResidualCoder, RowBins, SymbolTable, zero_symbols};

use super::float::{Parts, high_halves, with_low_halves};
use crate::scheme::{self, FloatKind};

/// What a chunk is given: the rows' codes and scales.
#[derive(Debug, Clone)]
pub(crate) struct GivenRows {
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f32>,
}

/// Codes floats of one kind given the codes of one array.
#[derive(Debug, Clone)]
pub(crate) struct Residual {
    float: FloatKind,
    scheme: QuantScheme,
    rounding: Rounding,
    coder: ResidualCoder,
}

impl Residual {
    /// Fits the table of codes of 0 to sampled chunks: their raw bytes with what they are given.
    pub(crate) fn fit(
        float: FloatKind,
        scheme: QuantScheme,
        rounding: Rounding,
        cols: usize,
        sample: &[(Vec<u8>, GivenRows)],
    ) -> Result<Self, DecodeError> {
        let mut histogram = [0u64; 256];
        for (raw, given) in sample {
            let bins = row_bins(scheme, rounding, float, &given.scales);
            let values = high_halves(float, raw);
            zero_symbols(&given.codes, &values, cols, &bins, float.mantissa_bits())
                .for_each(|symbol| histogram[usize::from(symbol)] += 1);
        }
        let coder = ResidualCoder::new(float.mantissa_bits(), SymbolTable::from_histogram(&histogram))?;
        Ok(Self { float, scheme, rounding, coder })
    }

    pub(crate) fn open(
        float: FloatKind,
        scheme: QuantScheme,
        rounding: Rounding,
        head: &mut &[u8],
    ) -> Result<Self, DecodeError> {
        let coder = ResidualCoder::new(float.mantissa_bits(), SymbolTable::read(head)?)?;
        Ok(Self { float, scheme, rounding, coder })
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        self.coder.zero_table().write(&mut head);
        head
    }

    pub(crate) fn encode(&self, raw: &[u8], cols: usize, given: &GivenRows) -> Option<Vec<u8>> {
        let bins = row_bins(self.scheme, self.rounding, self.float, &given.scales);
        let coded = self.coder.encode(&given.codes, &high_halves(self.float, raw), cols, &bins).ok()?;
        with_low_halves(self.float, raw, coded)
    }

    /// How many weights of a coded chunk fell outside their bins.
    pub(crate) fn exceptions(&self, stored: &[u8]) -> u32 {
        let skip = if self.float == FloatKind::F32 { 4 } else { 0 };
        stored.get(skip..).and_then(|chunk| chunk.first_chunk()).map_or(0, |count| u32::from_le_bytes(*count))
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        cols: usize,
        given: &GivenRows,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let parts = Parts::of(self.float, stored, out.len())?;
        let bins = row_bins(self.scheme, self.rounding, self.float, &given.scales);
        let mut high = vec![0; out.len() / self.float.width()];
        self.coder.decode(parts.high, &given.codes, cols, &bins, &mut high)?;
        parts.join(&high, out)
    }
}

/// The bins of each row; rows of equal scale share a table.
fn row_bins(scheme: QuantScheme, rounding: Rounding, float: FloatKind, scales: &[f32]) -> RowBins {
    let scheme = scheme::of(scheme);
    let mut bins = RowBins::default();
    let mut known = HashMap::new();
    for scale in scales {
        let table = *known
            .entry(scale.to_bits())
            .or_insert_with(|| bins.add_table(scheme.bins(rounding, *scale, float)));
        bins.add_row(table);
    }
    bins
}
