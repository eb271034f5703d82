//! Floats, as which they are of those in the intervals that codes leave them.

use qstore_checkpoint::FloatKind;
use qstore_kernels::{
    Backend, Classifier, CodesCoder, DecodeError, EncodeError, FloatGrid, FloatRefiner, Layout, SymbolTable,
};

use super::factors::Factors;
use super::known::GivenWeights;
use crate::codec::float::{Parts, high_halves, values, with_rest};
use crate::codec::head::{read_tables, write_tables};
use crate::codec::workspace::{Workspace, at_least};

/// Codes floats of one kind given what is known of them.
#[derive(Debug, Clone)]
pub(crate) struct RefineFloats {
    float: FloatKind,
    coder: FloatRefiner,
    /// Of the stretches about codes that were moved, if there are such.
    stretches: Option<CodesCoder>,
    /// Of the matrix that has them.
    factors: Option<Factors>,
}

impl RefineFloats {
    /// With a table that fits this histogram, which [`count_near_zero`] has filled, and tables of stretches.
    pub(crate) fn fit(
        float: FloatKind,
        near_zero: &[u64; 256],
        stretches: Option<Vec<SymbolTable>>,
        layout: Layout,
    ) -> Result<Self, DecodeError> {
        let coder = FloatRefiner::new(grid(float), SymbolTable::from_histogram(near_zero), layout);
        let stretches = stretches.map(|tables| CodesCoder::new(tables, layout)).transpose()?;
        Ok(Self { float, coder, stretches, factors: None })
    }

    pub(crate) fn open(
        float: FloatKind,
        has_stretches: bool,
        layout: Layout,
        head: &mut &[u8],
    ) -> Result<Self, DecodeError> {
        let tables = has_stretches.then(|| read_tables(head)).transpose()?;
        let stretches = tables.map(|tables| CodesCoder::new(tables, layout)).transpose()?;
        let coder = FloatRefiner::new(grid(float), SymbolTable::read(head)?, layout);
        Ok(Self { float, coder, stretches, factors: None })
    }

    /// The same for a matrix that has factors, which come before all else of its head.
    pub(crate) fn with_factors(self, factors: Option<Factors>) -> Self {
        Self { factors, ..self }
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        self.factors.iter().for_each(|factors| factors.write(&mut head));
        head.extend(self.stretches.as_ref().map_or_else(Vec::new, |coder| write_tables(coder.tables())));
        self.coder.near_zero_table().write(&mut head);
        head
    }

    /// The floats.
    pub(crate) fn float(&self) -> FloatKind {
        self.float
    }

    /// `None` where too many weights are not in their intervals.
    pub(crate) fn encode(
        &self,
        raw: &[u8],
        given: GivenWeights,
        classifier: &Classifier,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let values = high_halves(self.float, raw);
        let given = GivenWeights { factors: self.factors.as_ref(), ..given };
        if !given.is_for(values.len()) || given.known.has_moved() != self.stretches.is_some() {
            return None;
        }
        let mut out = Vec::new();
        let mut symbols = Vec::new();
        if let Some(coder) = &self.stretches {
            symbols = stretches(self.float, raw, given)?;
            let coded = coder.encode(&symbols, given.cols(), classifier, &mut workspace.scratch).ok()?;
            out.extend(u32::try_from(coded.len()).ok()?.to_le_bytes());
            out.extend(coded);
        }
        let mut inputs = given.inputs(Backend::best(), &symbols).ok()?;
        out.extend(self.coder.encode(&values, given.cols(), &mut inputs, &mut workspace.scratch).ok()?);
        // The low halves stay where they were.
        with_rest(self.float, raw, out)
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        given: GivenWeights,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let given = GivenWeights { factors: self.factors.as_ref(), ..given };
        let weights = out.len() / self.float.width();
        if !given.is_for(weights) || given.known.has_moved() != self.stretches.is_some() {
            return Err(DecodeError::Corrupt("floats of another number than the codes that they are given"));
        }
        let Workspace { high, fine, .. } = workspace;
        Parts::of(self.float, stored, out.len())?.decode(out, high, |mut part, halves| {
            let mut symbols = &mut [][..];
            if let Some(coder) = &self.stretches {
                let (length, rest) = part.split_first_chunk().ok_or(DecodeError::Truncated)?;
                let length =
                    usize::try_from(u32::from_le_bytes(*length)).map_err(|_| DecodeError::Truncated)?;
                let (coded, rest) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
                symbols = at_least(fine, weights);
                coder.decode(coded, given.cols(), symbols)?;
                part = rest;
            }
            let mut inputs = given.inputs(Backend::best(), symbols)?;
            self.coder.decode(part, given.cols(), &mut inputs, halves)?;
            inputs.finish()
        })
    }
}

/// For each weight of a chunk the number of its stretch about the level of the code that was moved.
pub(crate) fn stretches(float: FloatKind, raw: &[u8], given: GivenWeights) -> Option<Vec<u8>> {
    let mut weights = vec![0.0; raw.len() / float.width()];
    values(float, raw, &mut weights);
    given.is_for(weights.len()).then(|| given.stretches(|index| weights[index]))?
}

/// Counts the symbols that the floats of a chunk near zero take; `symbols` say in which stretches they lie.
///
/// # Errors
/// What is given is for another number of weights.
pub(crate) fn count_near_zero(
    float: FloatKind,
    raw: &[u8],
    given: GivenWeights,
    symbols: &[u8],
    into: &mut [u64; 256],
) -> Result<(), EncodeError> {
    let values = high_halves(float, raw);
    if !given.is_for(values.len()) {
        return Err(EncodeError::Shape);
    }
    let mut inputs = given.inputs(Backend::best(), symbols).map_err(|_| EncodeError::Shape)?;
    FloatRefiner::count_near_zero(grid(float), &values, given.cols(), &mut inputs, into)
}

fn grid(float: FloatKind) -> FloatGrid {
    match float {
        FloatKind::Bf16 => FloatGrid::Bf16,
        FloatKind::F16 => FloatGrid::F16,
        FloatKind::ShortF16 => FloatGrid::ShortF16,
        FloatKind::F32 => FloatGrid::HighHalf,
    }
}
