//! How the bytes of an array are stored, as plans say it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::fields::EncodingFields;
use crate::{
    ArrayKey, Axis, Dequantization, Field, Finite, Packing, Part, QuantMatrix, RelativePath, VariantName,
    View,
};

/// An array of a variant, seen from another array.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayRef {
    /// The variant: the one that the referring array is in, or one that this is given.
    pub variant: VariantName,
    /// The array.
    pub array: ArrayKey,
}

/// How codes lie in the elements of their array, and which way round they are coded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeLayout {
    /// Whether what is coded are the rows of the transposed array, a matrix.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transposed: bool,
    /// Elements of a row of the matrix, which is not transposed, where the array is cut into rows otherwise than by its
    /// last dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitch: Option<u64>,
    /// How codes lie in the elements; each is one of a byte if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
}

impl CodeLayout {
    /// The rows and columns of codes that lie in rows and columns of words, as they are coded.
    #[must_use]
    pub fn codes_in(&self, [rows, columns]: [Range<usize>; 2]) -> [Range<usize>; 2] {
        let Some(packing) = &self.packing else { return [rows, columns] };
        let codes =
            |words: usize| words.saturating_mul(packing.word.into()) / usize::from(packing.bits.max(1));
        match packing.along {
            Axis::Rows => [codes(rows.start)..codes(rows.end), columns],
            Axis::Columns => [rows, codes(columns.start)..codes(columns.end)],
        }
    }

    /// Whether each element is a code, in the order of the array.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Bits of a code.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.packing.as_ref().map_or(8, |packing| packing.bits)
    }

    /// Where the codes of a field lie, if they are all that its array has.
    #[must_use]
    pub fn of<A>(field: &Field<A>) -> Option<Self> {
        let View { pitch, transposed, .. } = field.view;
        let layout = Self { transposed, pitch, packing: field.packing.clone() };
        (layout.is_of(field) && !(transposed && pitch.is_some())).then_some(layout)
    }

    /// The matrix that the elements of an array of this shape are, rows and columns as they lie there.
    #[must_use]
    pub fn words_of(&self, shape: &[u64]) -> Option<[u64; 2]> {
        let Some(pitch) = self.pitch else { return shape.try_into().ok() };
        let elements = shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension))?;
        (pitch > 0 && !self.transposed && elements.is_multiple_of(pitch)).then(|| [elements / pitch, pitch])
    }

    /// Rows and columns of the codes of an array of this shape.
    #[must_use]
    pub fn codes_of(&self, shape: &[u64]) -> Option<[u64; 2]> {
        let [rows, cols] = self.words_of(shape)?;
        let words = if self.transposed { [cols, rows] } else { [rows, cols] };
        self.packing.as_ref().map_or(Some(words), |packing| packing.unpacked(words))
    }

    /// Whether the codes of a field of an array that has this layout are the coded ones, in their order.
    #[must_use]
    pub fn is_of<A>(&self, field: &Field<A>) -> bool {
        let view = View { slab: None, rows: None, ..field.view.clone() };
        let order = View { transposed: self.transposed, pitch: self.pitch, ..View::WHOLE };
        view == order && field.packing == self.packing
    }
}

/// A quantised matrix from which something is known of the weights of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownMatrix {
    /// The matrix.
    pub matrix: QuantMatrix<ArrayRef>,
    /// The levels at which the bins of its least code and of its greatest end, if its codes say between which edges
    /// weights lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<[Finite; 2]>,
    /// Distances from the level of a code, ascending, if its codes were moved: of each weight is stored between which of
    /// them it lies. Without these and without ends its codes say nothing: those of a later matrix are given them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub around: Option<Vec<Finite>>,
    /// What of such a matrix was multiplied with factors before it was rounded, as AWQ does it; the head has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factors: Option<FactorsOf>,
}

/// What has factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactorsOf {
    /// Each column.
    Columns,
    /// Each column, and each row as well.
    Both,
}

impl KnownMatrix {
    /// Whether its codes say anything of weights.
    #[must_use]
    pub fn says(&self) -> bool {
        self.ends.is_some() || self.around.is_some()
    }
}

/// How the bytes of an array are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", try_from = "EncodingFields")]
pub enum Encoding {
    /// Not at all: they equal those of another array.
    Reference {
        /// The other array, which is itself no reference.
        to: ArrayRef,
        /// Which of its elements: those of a matrix, in its rows.
        #[serde(default, skip_serializing_if = "View::is_whole")]
        view: View,
    },
    /// As matrices that are each stored by itself.
    Parts {
        /// All of them, in the array's order.
        parts: Vec<Part>,
    },
    /// In the original file, which the store keeps as it is under the variant's name.
    Verbatim {
        /// Path of the file in the variant.
        file: RelativePath,
        /// First byte in the file.
        offset: u64,
    },
    /// In a bundle, which this shard has.
    Slice {
        /// The bundle.
        of: ArrayKey,
        /// First byte in it.
        offset: u64,
    },
    /// As what floats add to codes that follow from them by a rule: their places among the floats of their codes.
    Residual {
        /// The quantised matrix, whose rule is known.
        given: Box<QuantMatrix<ArrayRef>>,
        /// Whether it is that of the transposed array, which is then what is coded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        transposed: bool,
    },
    /// As how far floats lie off what codes stand for, of which they were made.
    Dequantized {
        /// The quantised matrix.
        given: Box<QuantMatrix<ArrayRef>>,
        /// Whether it is that of the transposed array, which is then what is coded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        transposed: bool,
    },
    /// As what floats add to codes that a quantiser has moved: by how many subdivisions of its scale each weight lies
    /// off its code, then its place in the subdivision.
    StepResidual {
        /// The quantised matrix.
        given: Box<QuantMatrix<ArrayRef>>,
        /// The base-2 logarithm of the number of subdivisions that a scale has, -8 to 7.
        subdivisions: i8,
        /// Whether the matrix is that of the transposed array, which is then what is coded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        transposed: bool,
    },
    /// Codes, as how far each lies off what the code of a lower variant lets expect.
    CodeResidual {
        /// The lower variant's matrix.
        given: Box<QuantMatrix<ArrayRef>>,
        /// What these codes stand for.
        own: Box<Dequantization<ArrayRef>>,
        /// Where they lie.
        #[serde(default, skip_serializing_if = "CodeLayout::is_plain")]
        layout: CodeLayout,
    },
    /// Codes, as which they are of those whose bins meet what is known of each weight.
    Refine {
        /// What that is known from, in the order in which it narrows the weights' intervals.
        known: Vec<KnownMatrix>,
        /// What these codes stand for.
        own: Box<Dequantization<ArrayRef>>,
        /// Where they lie.
        #[serde(default, skip_serializing_if = "CodeLayout::is_plain")]
        layout: CodeLayout,
    },
    /// Codes, as how far each lies off the one that a float of a higher variant is rounded to.
    Rounded {
        /// Where the floats lie.
        floats: Field<ArrayRef>,
        /// What these codes stand for.
        own: Box<Dequantization<ArrayRef>>,
        /// Where they lie.
        #[serde(default, skip_serializing_if = "CodeLayout::is_plain")]
        layout: CodeLayout,
    },
    /// Floats, as how far each lies off a multiple of one of a lower variant, such as scales given scales.
    Near {
        /// Where the floats lie.
        floats: Field<ArrayRef>,
        /// What each is multiplied with.
        times: Finite,
    },
    /// Floats, as which they are of those in the intervals that are left of the weights.
    RefineFloats {
        /// What these are known from, in the order in which it narrows them.
        known: Vec<KnownMatrix>,
        /// Whether these matrices are those of the transposed array, which is then what is coded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        transposed: bool,
    },
    /// Codes of up to a byte with order-0 tables.
    Codes {
        /// Where they lie.
        #[serde(default, skip_serializing_if = "CodeLayout::is_plain")]
        layout: CodeLayout,
    },
    /// High bits of floats coded, sign and low bits raw.
    FloatSplit,
    /// Zstandard, over the bytes regrouped by their place in an element.
    Zstd,
    /// As they are.
    Raw,
}

impl Encoding {
    /// The name that the plan and the command line use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "reference",
            Self::Parts { .. } => "parts",
            Self::Verbatim { .. } => "verbatim",
            Self::Slice { .. } => "slice",
            Self::Residual { .. } => "residual",
            Self::Dequantized { .. } => "dequantized",
            Self::StepResidual { .. } => "step-residual",
            Self::CodeResidual { .. } => "code-residual",
            Self::Refine { .. } => "refine",
            Self::RefineFloats { .. } => "refine-floats",
            Self::Rounded { .. } => "rounded",
            Self::Near { .. } => "near",
            Self::Codes { .. } => "codes",
            Self::FloatSplit => "float-split",
            Self::Zstd => "zstd",
            Self::Raw => "raw",
        }
    }

    /// Codes of a byte each, in the order of the array.
    #[must_use]
    pub fn plain_codes() -> Self {
        Self::Codes { layout: CodeLayout::default() }
    }

    /// The quantised matrices that it is given, in order.
    pub fn given(&self) -> impl Iterator<Item = &QuantMatrix<ArrayRef>> {
        let one = match self {
            Self::Residual { given, .. }
            | Self::Dequantized { given, .. }
            | Self::StepResidual { given, .. }
            | Self::CodeResidual { given, .. } => Some(&**given),
            _ => None,
        };
        one.into_iter().chain(self.known().iter().map(|known| &known.matrix))
    }

    /// Those of them whose codes its own decoder reads.
    pub fn read_given(&self) -> impl Iterator<Item = &QuantMatrix<ArrayRef>> {
        let silent = |index: usize| self.known().get(index).is_some_and(|known| !known.says());
        self.given().enumerate().filter(move |(index, _)| !silent(*index)).map(|(_, given)| given)
    }

    /// The matrices from which it is known where its weights lie.
    #[must_use]
    pub fn known(&self) -> &[KnownMatrix] {
        match self {
            Self::Refine { known, .. } | Self::RefineFloats { known, .. } => known,
            _ => &[],
        }
    }

    /// What the array's own codes stand for, where decoding needs to know.
    #[must_use]
    pub fn own(&self) -> Option<&Dequantization<ArrayRef>> {
        match self {
            Self::CodeResidual { own, .. } | Self::Refine { own, .. } | Self::Rounded { own, .. } => {
                Some(own)
            }
            _ => None,
        }
    }

    /// The floats that it is given.
    #[must_use]
    pub fn floats(&self) -> Option<&Field<ArrayRef>> {
        match self {
            Self::Rounded { floats, .. } | Self::Near { floats, .. } => Some(floats),
            _ => None,
        }
    }

    /// The arrays that decoding needs, beside a bundle.
    pub fn needs(&self) -> impl Iterator<Item = &ArrayRef> {
        let target = match self {
            Self::Reference { to, .. } => Some(to),
            _ => self.floats().map(|floats| &floats.array),
        };
        let given = self.given().flat_map(QuantMatrix::arrays);
        target.into_iter().chain(given).chain(self.own().into_iter().flat_map(Dequantization::arrays))
    }

    /// Where the codes that it codes lie.
    #[must_use]
    pub fn layout(&self) -> Option<&CodeLayout> {
        match self {
            Self::Codes { layout }
            | Self::CodeResidual { layout, .. }
            | Self::Refine { layout, .. }
            | Self::Rounded { layout, .. } => Some(layout),
            _ => None,
        }
    }

    /// Whether what is coded is the transposed of the array, a matrix.
    #[must_use]
    pub fn is_transposed(&self) -> bool {
        match self {
            Self::Residual { transposed, .. }
            | Self::Dequantized { transposed, .. }
            | Self::StepResidual { transposed, .. }
            | Self::RefineFloats { transposed, .. } => *transposed,
            _ => self.layout().is_some_and(|layout| layout.transposed),
        }
    }

    /// The rows and columns of what it is given that belong to rows and columns of what is coded.
    #[must_use]
    pub fn given_block(&self, block: [Range<usize>; 2]) -> [Range<usize>; 2] {
        match self {
            Self::CodeResidual { layout, .. }
            | Self::Refine { layout, .. }
            | Self::Rounded { layout, .. } => layout.codes_in(block),
            _ => block,
        }
    }

    /// How several codes are packed into each element.
    #[must_use]
    pub fn packing(&self) -> Option<&Packing> {
        self.layout()?.packing.as_ref()
    }

    /// Whether it is what floats add to codes.
    #[must_use]
    pub fn is_of_floats(&self) -> bool {
        let is_residual = matches!(self, Self::Residual { .. } | Self::StepResidual { .. });
        is_residual || matches!(self, Self::RefineFloats { .. } | Self::Dequantized { .. })
    }

    /// Whether it is floats that are near others.
    #[must_use]
    pub fn is_near(&self) -> bool {
        matches!(self, Self::Near { .. })
    }

    /// Whether decoding needs arrays of other variants that it is given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.is_of_floats()
            || self.is_near()
            || matches!(self, Self::CodeResidual { .. } | Self::Refine { .. } | Self::Rounded { .. })
    }

    /// Whether what is coded are rows of a matrix.
    pub fn is_of_matrix(&self) -> bool {
        self.is_given() || self.layout().is_some_and(|layout| !layout.is_plain())
    }

    /// Whether it is stored in chunks, its own or those of a file that is kept or of what it refers to.
    #[must_use]
    pub fn has_chunks(&self) -> bool {
        !matches!(self, Self::Slice { .. } | Self::Parts { .. })
    }

    /// Whether it is a slice of a bundle.
    #[must_use]
    pub fn is_slice(&self) -> bool {
        matches!(self, Self::Slice { .. })
    }

    pub(crate) fn has_head(&self) -> bool {
        let is_without = matches!(self, Self::Refine { .. } | Self::Near { .. } | Self::Dequantized { .. });
        self.is_given() && !is_without || matches!(self, Self::FloatSplit | Self::Codes { .. })
    }

    /// Whether the shard has a stream for the array.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        !matches!(
            self,
            Self::Reference { .. } | Self::Verbatim { .. } | Self::Slice { .. } | Self::Parts { .. }
        )
    }
}
