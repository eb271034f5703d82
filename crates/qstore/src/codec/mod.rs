//! One codec for each way in which a chunk can be coded: bytes of whole rows to stored bytes, and back.

mod code_residual;
mod codes;
mod float;
mod head;
mod near;
mod not_symbols;
mod places;
mod planes;
mod refine;
mod residual;
mod rounded;
mod shifted;
mod step_residual;
#[cfg(test)]
mod tests;
mod workspace;

use qstore_container::{ChunkShape, Encoding, Lanes, StoredArray};
use qstore_kernels::{Classifier, DecodeError, Layout};

pub(crate) use code_residual::{GivenCodes, Predictor};
pub(crate) use codes::{Codes, Symbols};
pub(crate) use float::{FloatSplit, high_halves, low_width, values};
pub(crate) use near::{Expected, GivenNear, GivenValues, Near};
pub(crate) use not_symbols::not_symbols;
pub(crate) use planes::Planes;
pub(crate) use refine::{
    Factors, GivenWeights, KnownBins, KnownCodes, KnownWeights, OwnBins, Refine, RefineFloats,
    count_near_zero, stretches,
};
pub(crate) use residual::{Bins, GivenBins, Residual, count_zeros};
pub(crate) use rounded::GivenFloats;
pub(crate) use shifted::{Shifted, shifts};
pub(crate) use step_residual::{GivenSubdivisions, StepResidual, Subdivisions, split};
pub(crate) use workspace::{Workspace, at_least, with_workspace};

use qstore_checkpoint::FloatKind;

/// How the chunks of one array are coded, tables included.
#[derive(Debug, Clone)]
pub(crate) enum Codec {
    Raw,
    Zstd(Planes),
    Codes(Codes),
    FloatSplit(FloatSplit),
    Residual(Residual),
    StepResidual(StepResidual),
    CodeResidual(Shifted),
    Refine(Refine),
    RefineFloats(RefineFloats),
    Rounded(Shifted),
    Near(Near),
}

/// What a chunk is coded given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GivenOfChunk<'a> {
    Nothing,
    /// For a residual.
    Bins(GivenBins<'a>),
    /// For a step residual.
    Subdivisions(GivenSubdivisions<'a>),
    /// For a code residual.
    Codes(GivenCodes<'a>),
    /// For what is refined.
    Weights(GivenWeights<'a>),
    /// For what is rounded.
    Floats(GivenFloats<'a>),
    /// For floats that are nearly known.
    Expected(Expected<'a>),
}

/// How streams of chunks of this shape are laid out.
pub(crate) fn layout_of(chunk: ChunkShape) -> Layout {
    match chunk.lanes {
        Lanes::Narrow => Layout::Narrow,
        Lanes::Wide => Layout::Wide,
    }
}

impl Codec {
    /// The stored bytes of a chunk, or `None` if they would not be fewer.
    pub(crate) fn encode(
        &self,
        raw: &[u8],
        cols: usize,
        classifier: &Classifier,
        given: GivenOfChunk,
        workspace: &mut Workspace,
    ) -> Option<Vec<u8>> {
        let coded = match (self, given) {
            (Self::Raw, _) => None,
            (Self::Zstd(planes), _) => planes.encode(raw),
            (Self::Codes(codes), _) => codes.encode(raw, cols, classifier, workspace),
            (Self::FloatSplit(split), _) => split.encode(raw, cols, classifier, workspace),
            (Self::Residual(residual), GivenOfChunk::Bins(given)) => residual.encode(raw, given, workspace),
            (Self::StepResidual(residual), GivenOfChunk::Subdivisions(given)) => {
                residual.encode(raw, given, classifier, workspace)
            }
            (Self::CodeResidual(residual), GivenOfChunk::Codes(given)) => {
                residual.encode(raw, cols, given, classifier, workspace)
            }
            (Self::Refine(refine), GivenOfChunk::Weights(given)) => {
                refine.encode(raw, cols, given, workspace)
            }
            (Self::RefineFloats(refine), GivenOfChunk::Weights(given)) => {
                refine.encode(raw, given, classifier, workspace)
            }
            (Self::Rounded(rounded), GivenOfChunk::Floats(given)) => {
                rounded.encode(raw, cols, given, classifier, workspace)
            }
            (Self::Near(near), GivenOfChunk::Expected(given)) => near.encode(raw, given),
            _ => None,
        };
        coded.filter(|coded| coded.len() < raw.len())
    }

    /// Decodes a coded chunk into `out`.
    pub(crate) fn decode(
        &self,
        stored: &[u8],
        cols: usize,
        given: GivenOfChunk,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        match (self, given) {
            (Self::Raw, _) => Err(DecodeError::Corrupt("a coded chunk in a raw array")),
            (Self::Zstd(planes), _) => planes.decode(stored, out),
            (Self::Codes(codes), _) => codes.decode(stored, cols, out),
            (Self::FloatSplit(split), _) => split.decode(stored, cols, workspace, out),
            (Self::Residual(residual), GivenOfChunk::Bins(given)) => {
                residual.decode(stored, given, workspace, out)
            }
            (Self::StepResidual(residual), GivenOfChunk::Subdivisions(given)) => {
                residual.decode(stored, given, workspace, out)
            }
            (Self::CodeResidual(residual), GivenOfChunk::Codes(given)) => {
                residual.decode(stored, cols, given, workspace, out)
            }
            (Self::Refine(refine), GivenOfChunk::Weights(given)) => {
                refine.decode(stored, cols, given, workspace, out)
            }
            (Self::RefineFloats(refine), GivenOfChunk::Weights(given)) => {
                refine.decode(stored, given, workspace, out)
            }
            (Self::Rounded(rounded), GivenOfChunk::Floats(given)) => {
                rounded.decode(stored, cols, given, workspace, out)
            }
            (Self::Near(near), GivenOfChunk::Expected(given)) => near.decode(stored, given, workspace, out),
            _ => Err(DecodeError::Corrupt("a chunk without what it is given")),
        }
    }

    /// Mantissa bits that floats use, if their coder makes use of their having fewer than their type.
    pub(crate) fn mantissa(&self) -> Option<u8> {
        let float = match self {
            Self::FloatSplit(split) => split.float(),
            Self::Residual(residual) => residual.float(),
            Self::StepResidual(residual) => residual.float(),
            Self::RefineFloats(refine) => refine.float(),
            _ => return None,
        };
        (float == FloatKind::ShortF16).then_some(7)
    }

    /// The stored form of the tables, for the encodings that have any.
    pub(crate) fn head(&self) -> Option<Vec<u8>> {
        match self {
            Self::Raw | Self::Zstd(_) | Self::Refine(_) | Self::Near(_) => None,
            Self::Codes(codes) => Some(codes.head()),
            Self::FloatSplit(split) => Some(split.head()),
            Self::Residual(residual) => Some(residual.head()),
            Self::StepResidual(residual) => Some(residual.head()),
            Self::CodeResidual(residual) => Some(residual.head()),
            Self::RefineFloats(refine) => Some(refine.head()),
            Self::Rounded(rounded) => Some(rounded.head()),
        }
    }

    /// The codec of a stored array with this `head` (empty for encodings that have none).
    pub(crate) fn open(array: &StoredArray, head: &[u8]) -> Result<Self, DecodeError> {
        let float =
            || FloatKind::of_stored(array).ok_or(DecodeError::Corrupt("a float coder for other elements"));
        let mut head = head;
        let layout = layout_of(array.chunk);
        let codec = match &array.encoding {
            Encoding::Raw | Encoding::Verbatim { .. } | Encoding::Slice { .. } => Self::Raw,
            Encoding::Zstd => Self::Zstd(Planes::reader(array.width())),
            Encoding::Codes { layout: codes } => Self::Codes(Codes::open(codes, layout, &mut head)?),
            Encoding::FloatSplit => Self::FloatSplit(FloatSplit::open(float()?, layout, &mut head)?),
            Encoding::Residual { .. } => Self::Residual(Residual::open(float()?, layout, &mut head)?),
            Encoding::StepResidual { .. } => {
                Self::StepResidual(StepResidual::open(float()?, layout, &mut head)?)
            }
            Encoding::CodeResidual { layout: codes, .. } => {
                Self::CodeResidual(Shifted::open(codes, layout, &mut head)?)
            }
            Encoding::Refine { layout: codes, .. } => Self::Refine(Refine::new(codes, layout)),
            Encoding::RefineFloats { known, .. } => {
                let has_stretches = known.iter().any(|known| known.around.is_some());
                let of = known.iter().find_map(|known| known.factors);
                let shape = array.coded_shape().map_err(|_| DecodeError::Corrupt("no matrix"))?;
                let factors = of
                    .map(|of| Factors::read(of, shape.map(qstore_checkpoint::size), &mut head))
                    .transpose()?;
                let refine = RefineFloats::open(float()?, has_stretches, layout, &mut head)?;
                Self::RefineFloats(refine.with_factors(factors))
            }
            Encoding::Rounded { layout: codes, .. } => {
                Self::Rounded(Shifted::open(codes, layout, &mut head)?)
            }
            Encoding::Near { .. } | Encoding::Dequantized { .. } => Self::Near(Near::new(float()?)),
            Encoding::Reference { .. } | Encoding::Parts { .. } => {
                return Err(DecodeError::Corrupt("a reference to a reference"));
            }
        };
        if !head.is_empty() {
            return Err(DecodeError::Corrupt("a head that is too long"));
        }
        Ok(codec)
    }
}
