//! Floats, as which they are of those in the intervals that codes leave them.

use qstore_checkpoint::FloatKind;
use qstore_kernels::{Backend, DecodeError, EncodeError, FloatGrid, FloatRefiner, Layout, SymbolTable};

use super::known::GivenWeights;
use crate::codec::float::{Parts, high_halves, with_rest};
use crate::codec::workspace::Workspace;

/// Codes floats of one kind given what is known of them.
#[derive(Debug, Clone)]
pub(crate) struct RefineFloats {
    float: FloatKind,
    coder: FloatRefiner,
}

impl RefineFloats {
    /// With a table that fits this histogram, which [`count_wide`] has filled.
    pub(crate) fn fit(float: FloatKind, wide: &[u64; 256], layout: Layout) -> Self {
        Self { float, coder: FloatRefiner::new(grid(float), SymbolTable::from_histogram(wide), layout) }
    }

    pub(crate) fn open(float: FloatKind, layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { float, coder: FloatRefiner::new(grid(float), SymbolTable::read(head)?, layout) })
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        self.coder.wide_table().write(&mut head);
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
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let values = high_halves(self.float, raw);
        if !given.is_for(values.len()) {
            return None;
        }
        let mut inputs = given.inputs(Backend::best()).ok()?;
        let coded = self.coder.encode(&values, given.cols(), &mut inputs, &mut workspace.scratch).ok()?;
        // The low halves stay where they were.
        with_rest(self.float, raw, coded)
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        given: GivenWeights,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        if !given.is_for(out.len() / self.float.width()) {
            return Err(DecodeError::Corrupt("floats of another number than the codes that they are given"));
        }
        Parts::of(self.float, stored, out.len())?.decode(out, &mut workspace.high, |part, halves| {
            let mut inputs = given.inputs(Backend::best())?;
            self.coder.decode(part, given.cols(), &mut inputs, halves)?;
            inputs.finish()
        })
    }
}

/// Counts the symbols that the floats of a chunk in wide intervals take.
///
/// # Errors
/// What is given is for another number of weights.
pub(crate) fn count_wide(
    float: FloatKind,
    raw: &[u8],
    given: GivenWeights,
    into: &mut [u64; 256],
) -> Result<(), EncodeError> {
    let values = high_halves(float, raw);
    if !given.is_for(values.len()) {
        return Err(EncodeError::Shape);
    }
    let mut inputs = given.inputs(Backend::best()).map_err(|_| EncodeError::Shape)?;
    FloatRefiner::count_wide(grid(float), &values, given.cols(), &mut inputs, into)
}

fn grid(float: FloatKind) -> FloatGrid {
    match float {
        FloatKind::Bf16 => FloatGrid::Bf16,
        FloatKind::F16 => FloatGrid::F16,
        FloatKind::ShortF16 => FloatGrid::ShortF16,
        FloatKind::F32 => FloatGrid::HighHalf,
    }
}
