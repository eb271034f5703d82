//! One array of a shard: how it is stored, and in which chunks.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::fields::{some_chunk, some_hash, some_mantissa};
use crate::limits::{
    BYTES_OF_A_CHUNK, MAX_CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_GIVEN, MAX_RESIDUAL_CHUNK_ROWS, MAX_RESIDUAL_ROWS,
    MAX_SMALL_CHUNKS, MAX_TRANSPOSED_BYTES,
};
use crate::{ArrayKey, Axis, Dtype, Encoding, Finite, FormatError, Hash128, KnownMatrix, Packing};

/// How an array is cut into chunks: rows of `cols` elements, `rows` rows to a chunk; the last row and the last chunk
/// may be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkShape {
    /// Rows a chunk.
    pub rows: u64,
    /// Elements a row.
    pub cols: u64,
    /// Lanes of a chunk's coder.
    #[serde(default, skip_serializing_if = "Lanes::is_default")]
    pub lanes: Lanes,
}

/// Where a chunk lies in what is coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Its rows.
    pub rows: Range<u64>,
    /// Its columns.
    pub cols: Range<u64>,
}

/// How many lanes a coder has, which also says how its slots are arranged; plans give the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum Lanes {
    /// 64 lanes, ascending slots. What plans mean that do not say.
    #[default]
    Narrow,
    /// 128 lanes, alias slots.
    Wide,
}

impl Lanes {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Lanes> for u16 {
    fn from(lanes: Lanes) -> Self {
        match lanes {
            Lanes::Narrow => 64,
            Lanes::Wide => 128,
        }
    }
}

impl TryFrom<u16> for Lanes {
    type Error = FormatError;

    fn try_from(lanes: u16) -> Result<Self, FormatError> {
        match lanes {
            64 => Ok(Self::Narrow),
            128 => Ok(Self::Wide),
            _ => Err(FormatError::new(format!("a coder has 64 or 128 lanes, not {lanes}"))),
        }
    }
}

impl ChunkShape {
    /// That of what has no chunks of its own: a slice, or what is stored by parts.
    pub const NONE: Self = Self { rows: 0, cols: 0, lanes: Lanes::Narrow };

    fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// One array of a variant: a tensor, a file that is not safetensors (as U8), a bundle, or a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredArray {
    /// Which.
    pub key: ArrayKey,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<u64>,
    /// XXH3-128 of its bytes; a slice has none of its own.
    #[serde(default, deserialize_with = "some_hash", skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash128>,
    /// Its chunks. Elements of a type smaller than a byte count as packed: by bytes. [`ChunkShape::NONE`] for a slice
    /// and for what is stored by parts.
    #[serde(
        default = "no_chunk",
        deserialize_with = "some_chunk",
        skip_serializing_if = "ChunkShape::is_none"
    )]
    pub chunk: ChunkShape,
    /// Mantissa bits that its floats use, where an encoding of floats makes use of their having fewer than their type:
    /// 7 of F16 that was once BF16.
    #[serde(default, deserialize_with = "some_mantissa", skip_serializing_if = "Option::is_none")]
    pub mantissa: Option<u8>,
    /// Encoding.
    pub encoding: Encoding,
}

fn no_chunk() -> ChunkShape {
    ChunkShape::NONE
}

impl StoredArray {
    /// Bytes of the array decoded.
    ///
    /// # Errors
    /// A shape that overflows, or a number of bits that fills no whole bytes.
    pub fn bytes(&self) -> Result<u64, FormatError> {
        array_bytes(self.dtype, &self.shape)
            .ok_or_else(|| FormatError::new(format!("{}: its shape is absurd", self.key)))
    }

    /// Bytes of an element; 1 for the types that are smaller.
    #[must_use]
    pub fn width(&self) -> u64 {
        (self.dtype.bitsize() as u64 / 8).max(1)
    }

    /// Bytes of a full chunk, decoded; of what has none of its own all that it has.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        if !self.encoding.has_chunks() {
            return self.bytes().unwrap_or(0).max(1);
        }
        self.chunk.cols.saturating_mul(self.chunk.rows).saturating_mul(self.width())
    }

    /// Rows and columns of the matrix that it is, if it is one.
    #[must_use]
    pub fn matrix_shape(&self) -> Option<[u64; 2]> {
        match self.encoding.layout() {
            Some(layout) => layout.words_of(&self.shape),
            None => self.shape[..].try_into().ok(),
        }
    }

    /// Rows and columns of what is coded: of an array of a matrix its own, or those of its transposed; of any other,
    /// rows of `cols`, of which the last may be short.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn coded_shape(&self) -> Result<[u64; 2], FormatError> {
        if let (Some([first, second]), true) = (self.matrix_shape(), self.encoding.is_of_matrix()) {
            return Ok(if self.encoding.is_transposed() { [second, first] } else { [first, second] });
        }
        let elements = self.bytes()?.div_ceil(self.width());
        Ok([elements.div_ceil(self.chunk.cols.max(1)), self.chunk.cols])
    }

    /// Chunks that rows are cut into side by side: more than one where chunks of codes have fewer columns than there
    /// are.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn chunks_across(&self) -> Result<u64, FormatError> {
        Ok(self.coded_shape()?[1].div_ceil(self.chunk.cols.max(1)).max(1))
    }

    /// Number of data chunks.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn chunk_count(&self) -> Result<u64, FormatError> {
        if !self.encoding.has_chunks() {
            return Ok(1);
        }
        if self.bytes()? == 0 {
            return Ok(0);
        }
        Ok(self.coded_shape()?[0].div_ceil(self.chunk.rows.max(1)).saturating_mul(self.chunks_across()?))
    }

    /// The rows and columns that chunk `index` has of what is coded. The last row of an array that is no matrix may be
    /// short.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn chunk_place(&self, index: u64) -> Result<ChunkPlace, FormatError> {
        let ([rows, cols], across) = (self.coded_shape()?, self.chunks_across()?);
        let (row, column) =
            ((index / across).saturating_mul(self.chunk.rows), index % across * self.chunk.cols);
        let (row_end, column_end) = (row.saturating_add(self.chunk.rows), column + self.chunk.cols);
        Ok(ChunkPlace { rows: row.min(rows)..row_end.min(rows), cols: column..column_end.min(cols) })
    }

    /// Decoded bytes of chunk `index`.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn bytes_of_chunk(&self, index: u64) -> Result<u64, FormatError> {
        if self.chunks_across()? == 1 {
            let before = index.saturating_mul(self.chunk_bytes());
            return Ok(self.bytes()?.saturating_sub(before).min(self.chunk_bytes()));
        }
        let place = self.chunk_place(index)?;
        Ok((place.rows.end - place.rows.start) * (place.cols.end - place.cols.start) * self.width())
    }

    /// Number of records in the list of chunks: those of the data and, for some encodings, a head.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn record_count(&self) -> Result<u64, FormatError> {
        match self.encoding {
            Encoding::Reference { .. } | Encoding::Slice { .. } | Encoding::Parts { .. } => Ok(0),
            _ => Ok(self.chunk_count()?.saturating_add(u64::from(self.encoding.has_head()))),
        }
    }

    /// Whether the first record is a head.
    #[must_use]
    pub fn has_head(&self) -> bool {
        self.encoding.has_head()
    }

    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let bad = |what: &str| Err(FormatError::new(format!("{}: {what}", self.key)));
        let bytes = self.bytes()?;
        let has_chunks = self.encoding.has_chunks();
        if self.hash.is_none() != self.encoding.is_slice() || self.chunk.is_none() == has_chunks {
            return bad("a hash or a chunk's shape is missing, or is that of a slice");
        }
        let is_whole = matches!(self.encoding, Encoding::Dequantized { .. });
        let split =
            matches!(self.encoding, Encoding::FloatSplit) || self.encoding.is_of_floats() && !is_whole;
        if self.mantissa.is_some_and(|bits| bits != 7 || self.dtype != Dtype::F16 || !split) {
            return bad("mantissas that are shorter than any that are made use of");
        }
        if !has_chunks {
            return Ok(());
        }
        if self.chunk.cols == 0 || self.chunk.rows == 0 || self.chunk_bytes() > MAX_CHUNK_BYTES {
            return bad("its chunks are empty or larger than a reader accepts");
        }
        let is_reference = matches!(self.encoding, Encoding::Reference { .. });
        if !is_reference && self.chunk_count()? > MAX_SMALL_CHUNKS.saturating_add(bytes / BYTES_OF_A_CHUNK) {
            return bad("more and smaller chunks than a reader accepts");
        }
        let float = FLOATS.contains(&self.dtype);
        let rows = self.coded_shape()?[0].min(self.chunk.rows);
        match &self.encoding {
            Encoding::FloatSplit if !float => bad("a float split of elements that are no BF16, F16 or F32"),
            Encoding::FloatSplit if rows > MAX_CHUNK_ROWS => bad("chunks of more rows than a reader accepts"),
            encoding if encoding.is_of_matrix() => self.check_matrix(bytes, rows),
            Encoding::Codes { .. } if self.width() != 1 => bad("codes of more than a byte"),
            Encoding::Codes { .. } if rows > MAX_CHUNK_ROWS => {
                bad("chunks of more rows than a reader accepts")
            }
            Encoding::Verbatim { offset, .. } if offset.checked_add(bytes).is_none() => {
                bad("an offset out of range")
            }
            _ => Ok(()),
        }
    }

    /// [`check`](Self::check) of an encoding that is for rows of a matrix, of which a chunk has `rows`.
    fn check_matrix(&self, bytes: u64, rows: u64) -> Result<(), FormatError> {
        let bad = |what: &str| Err(FormatError::new(format!("{}: {what}", self.key)));
        let named = |e: FormatError| FormatError::new(format!("{}: {e}", self.key));
        let Some([first, second]) = self.matrix_shape() else { return bad("its encoding is for a matrix") };
        let (all_rows, cols) = if self.encoding.is_transposed() { (second, first) } else { (first, second) };
        let is_float = FLOATS.contains(&self.dtype);
        let layout = self.encoding.layout();
        // Chunks of packed codes that lie transposed may be cut across, at whole codes.
        let whole = |packing: &Packing| {
            self.encoding.is_transposed()
                && self.chunk.cols < cols
                && (packing.along == Axis::Rows
                    || self
                        .chunk
                        .cols
                        .saturating_mul(packing.word.into())
                        .is_multiple_of(packing.bits.max(1).into()))
        };
        if cols != self.chunk.cols && !layout.and_then(|layout| layout.packing.as_ref()).is_some_and(whole) {
            return bad("its encoding is for rows of another length");
        }
        let fits = match layout.map(|layout| &layout.packing) {
            None => is_float,
            Some(None) => self.width() == 1 && self.dtype.bitsize() == 8,
            Some(Some(packing)) => {
                packing.check().map_err(|e| named(FormatError::new(format!("layout.{e}"))))?;
                self.dtype.bitsize() == usize::from(packing.word) && self.dtype != Dtype::F64
            }
        };
        if !fits {
            return bad("its encoding is for other elements");
        }
        if all_rows > MAX_RESIDUAL_ROWS || rows > MAX_RESIDUAL_CHUNK_ROWS {
            return bad("a matrix of more rows than a reader accepts");
        }
        if self.encoding.is_transposed() && bytes > MAX_TRANSPOSED_BYTES {
            return bad("a transposed matrix larger than a reader accepts");
        }
        if let Some(layout) = layout {
            if let Some(packing) = &layout.packing
                && packing.along == Axis::Rows
                && !packing.word.is_multiple_of(packing.bits)
            {
                // A chunk of whole rows would hold parts of codes.
                return bad("layout.packing: codes that lie across words from row to row");
            }
            let Some(codes) = layout.codes_of(&self.shape) else { return bad("its shape is absurd") };
            // All bits of its words are of codes, or some would be lost.
            let bits =
                codes[0].checked_mul(codes[1]).and_then(|count| count.checked_mul(layout.bits().into()));
            if bits != bytes.checked_mul(8) {
                return bad("its codes do not fill whole words");
            }
            // What is done with packed codes is done with one a byte.
            if bytes.min(self.chunk_bytes()) > MAX_CHUNK_BYTES / 8 * u64::from(layout.bits()) {
                return bad("chunks of more codes than a reader accepts");
            }
        }
        if let Encoding::StepResidual { subdivisions, .. } = &self.encoding
            && !(-8..=7).contains(subdivisions)
        {
            return bad("subdivisions: other than -8 to 7");
        }
        for given in self.encoding.given() {
            given.check().map_err(|e| named(FormatError::new(format!("given.{e}"))))?;
            if matches!(self.encoding, Encoding::Residual { .. }) && given.values.rule.is_none() {
                return bad("given.rule: a residual of codes that do not follow from their weights");
            }
        }
        if let Encoding::Refine { known, .. } | Encoding::RefineFloats { known, .. } = &self.encoding {
            self.check_known(known, rows)?;
        }
        if let Some(floats) = self.encoding.floats() {
            floats.check().map_err(|e| named(FormatError::new(format!("floats.{e}"))))?;
            if floats.packing.is_some() {
                return bad("floats.packing: floats are not packed");
            }
        }
        if let (Some(own), Some(layout)) = (self.encoding.own(), layout) {
            own.check(layout.bits()).map_err(|e| named(FormatError::new(format!("own.{e}"))))?;
        }
        Ok(())
    }
}

impl StoredArray {
    /// Whether an array may be given these matrices, of which a chunk has so many of its rows.
    fn check_known(&self, known: &[KnownMatrix], rows: u64) -> Result<(), FormatError> {
        let bad = |what: &str| Err(FormatError::new(format!("{}: known: {what}", self.key)));
        if !(1..=MAX_GIVEN).contains(&known.len()) {
            return bad("no matrix, or more than a reader accepts");
        }
        if !known.iter().any(KnownMatrix::says) {
            return bad("no matrix says anything");
        }
        let inverted = |ends: [Finite; 2]| ends[0].get() > ends[1].get();
        if known.iter().filter_map(|known| known.ends).any(inverted) {
            return bad("ends of which the first is beyond the second");
        }
        if known.iter().any(|known| known.factors.is_some() && known.around.is_none()) {
            return bad("factors without distances from the codes");
        }
        let moved: Vec<_> = known.iter().filter(|known| known.around.is_some()).collect();
        if moved.len() > 1 || !moved.is_empty() && matches!(self.encoding, Encoding::Refine { .. }) {
            return bad("distances from the codes of several matrices, or for codes");
        }
        for one in moved {
            let around = one.around.as_deref().unwrap_or_default();
            let fits = (3..=17).contains(&around.len()) && around.is_sorted_by(|a, b| a.get() <= b.get());
            if !fits || one.ends.is_some() {
                return bad("around: not 3 to 17 ascending distances, or ends as well");
            }
        }
        // A reader holds a chunk of each.
        let weights = rows.saturating_mul(self.chunk.cols).saturating_mul(self.width());
        if weights.saturating_mul(known.len() as u64) > 4 * MAX_CHUNK_BYTES {
            return bad("more codes for a chunk than a reader accepts");
        }
        Ok(())
    }
}

/// The element types whose arrays are coded as floats.
const FLOATS: [Dtype; 3] = [Dtype::BF16, Dtype::F16, Dtype::F32];

/// Bytes of an array, `None` where that overflows or is not whole.
pub(crate) fn array_bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |product, &d| product.checked_mul(d))?;
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}
