//! Reading the plan's objects that come in several kinds.
//!
//! serde's own way to read such objects holds all of their JSON in a form that is many times as large before it looks at the kind, and lets
//! unknown fields of kinds without fields pass. Here each field is read as what it is, and then the kind says which ones must be there.

use serde::{Deserialize, Deserializer};

use crate::{
    ArrayKey, ArrayRef, Encoding, FileContent, FormatError, Grid, Hash128, QuantGrid, QuantScheme, Quantised,
    RelativePath, Rounding,
};

/// The fields of every [`Encoding`].
#[derive(Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EncodingFields {
    kind: Option<EncodingKind>,
    to: Option<ArrayRef>,
    file: Option<RelativePath>,
    of: Option<ArrayKey>,
    offset: Option<u64>,
    codes: Option<ArrayRef>,
    scale: Option<ArrayRef>,
    scheme: Option<QuantScheme>,
    rounding: Option<Rounding>,
    transposed: Option<bool>,
    given: Option<Quantised>,
    own: Option<QuantGrid>,
    steps: Option<u8>,
    bits: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EncodingKind {
    Reference,
    Verbatim,
    Slice,
    Residual,
    StepResidual,
    CodeResidual,
    Packed,
    FloatSplit,
    Codes,
    Zstd,
    Raw,
}

impl EncodingFields {
    /// The encoding, without its fields here; `None` if it lacks one.
    fn take(&mut self) -> Option<Encoding> {
        Some(match self.kind.take()? {
            EncodingKind::Reference => Encoding::Reference { to: self.to.take()? },
            EncodingKind::Verbatim => {
                Encoding::Verbatim { file: self.file.take()?, offset: self.offset.take()? }
            }
            EncodingKind::Slice => Encoding::Slice { of: self.of.take()?, offset: self.offset.take()? },
            EncodingKind::Residual => Encoding::Residual {
                codes: self.codes.take()?,
                scale: self.scale.take()?,
                scheme: self.scheme.take()?,
                rounding: self.rounding.take()?,
                transposed: self.transposed.take().unwrap_or(false),
            },
            EncodingKind::StepResidual => Encoding::StepResidual {
                given: self.given.take()?,
                steps: self.steps.take()?,
                transposed: self.transposed.take().unwrap_or(false),
            },
            EncodingKind::CodeResidual => {
                Encoding::CodeResidual { given: self.given.take()?, own: self.own.take()? }
            }
            EncodingKind::Packed => Encoding::Packed { bits: self.bits.take()? },
            EncodingKind::FloatSplit => Encoding::FloatSplit,
            EncodingKind::Codes => Encoding::Codes,
            EncodingKind::Zstd => Encoding::Zstd,
            EncodingKind::Raw => Encoding::Raw,
        })
    }
}

impl TryFrom<EncodingFields> for Encoding {
    type Error = FormatError;

    fn try_from(mut fields: EncodingFields) -> Result<Self, FormatError> {
        let encoding = fields.take().filter(|_| fields == EncodingFields::default());
        encoding.ok_or_else(|| FormatError::new("an encoding has other fields than those of its kind"))
    }
}

/// The fields of every [`QuantGrid`].
#[derive(Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuantGridFields {
    scheme: Option<QuantScheme>,
    bits: Option<u8>,
    scale: Option<ArrayRef>,
    zeros: Option<ArrayRef>,
    zero_offset: Option<u8>,
    groups: Option<ArrayRef>,
}

impl QuantGridFields {
    fn take(&mut self) -> Option<QuantGrid> {
        Some(match self.scheme.take()? {
            QuantScheme::LlmInt8 => QuantGrid::LlmInt8 { scale: self.scale.take()? },
            QuantScheme::Gptq => QuantGrid::Gptq {
                bits: self.bits.take()?,
                scale: self.scale.take()?,
                zeros: self.zeros.take()?,
                zero_offset: self.zero_offset.take()?,
                groups: self.groups.take(),
            },
        })
    }
}

impl TryFrom<QuantGridFields> for QuantGrid {
    type Error = FormatError;

    fn try_from(mut fields: QuantGridFields) -> Result<Self, FormatError> {
        let grid = fields.take().filter(|_| fields == QuantGridFields::default());
        grid.ok_or_else(|| FormatError::new("a quantisation grid has other fields than those of its scheme"))
    }
}

/// A hash that is there: a slice has none, and not one of `null`.
pub(crate) fn some_hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hash128>, D::Error> {
    Hash128::deserialize(deserializer).map(Some)
}

/// A number of mantissa bits that is there.
pub(crate) fn some_mantissa<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    u8::deserialize(deserializer).map(Some)
}

/// A grid that is there: a slice has none, and not an empty one.
pub(crate) fn some_grid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Grid, D::Error> {
    let grid = Grid::deserialize(deserializer)?;
    if grid.cols == 0 || grid.rows_per_chunk == 0 {
        return Err(serde::de::Error::custom("a grid with empty chunks"));
    }
    Ok(grid)
}

/// The fields of every [`FileContent`].
#[derive(Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContentFields {
    kind: Option<ContentKind>,
    header: Option<String>,
    tensors: Option<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ContentKind {
    Safetensors,
    Opaque,
}

impl ContentFields {
    fn take(&mut self) -> Option<FileContent> {
        Some(match self.kind.take()? {
            ContentKind::Safetensors => {
                FileContent::Safetensors { header: self.header.take()?, tensors: self.tensors.take()? }
            }
            ContentKind::Opaque => FileContent::Opaque,
        })
    }
}

impl TryFrom<ContentFields> for FileContent {
    type Error = FormatError;

    fn try_from(mut fields: ContentFields) -> Result<Self, FormatError> {
        let content = fields.take().filter(|_| fields == ContentFields::default());
        content.ok_or_else(|| FormatError::new("a file's content has other fields than those of its kind"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let array = || ArrayRef { variant: "int8".parse().unwrap(), array: "tensor:x".parse().unwrap() };
        let residual = |transposed| Encoding::Residual {
            codes: array(),
            scale: array(),
            scheme: QuantScheme::LlmInt8,
            rounding: Rounding::Quotient127,
            transposed,
        };
        let gptq = |groups: bool| QuantGrid::Gptq {
            bits: 4,
            scale: array(),
            zeros: array(),
            zero_offset: 1,
            groups: groups.then(array),
        };
        let quantised = |grid| Quantised { codes: array(), grid };
        let encodings = [
            Encoding::StepResidual { given: quantised(gptq(true)), steps: 8, transposed: true },
            Encoding::CodeResidual {
                given: quantised(gptq(false)),
                own: QuantGrid::LlmInt8 { scale: array() },
            },
            Encoding::Packed { bits: 3 },
            Encoding::Reference { to: array() },
            Encoding::Verbatim { file: "a/b".parse().unwrap(), offset: u64::MAX },
            Encoding::Slice { of: "bundle:7".parse().unwrap(), offset: 0 },
            residual(false),
            residual(true),
            Encoding::FloatSplit,
            Encoding::Codes,
            Encoding::Zstd,
            Encoding::Raw,
        ];
        for encoding in encodings {
            let text = serde_json::to_string(&encoding).unwrap();
            assert_eq!(serde_json::from_str::<Encoding>(&text).unwrap(), encoding);
            for more in [r#","x":1}"#, r#","offset":1,"to":{"variant":"a","array":"file:b"}}"#] {
                let text = text.strip_suffix('}').unwrap().to_owned() + more;
                assert!(serde_json::from_str::<Encoding>(&text).is_err(), "{text}");
            }
        }
        let contents = [
            FileContent::Opaque,
            FileContent::Safetensors { header: "{}".to_owned(), tensors: vec!["x".to_owned()] },
        ];
        for content in contents {
            let text = serde_json::to_string(&content).unwrap();
            assert_eq!(serde_json::from_str::<FileContent>(&text).unwrap(), content);
        }
        for text in [
            "{}",
            r#"{"kind":"codes","kind":"codes"}"#,
            r#"{"kind":"reference"}"#,
            r#"{"kind":"magic"}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Encoding>(text).is_err(), "{text}");
        }
        for text in [r#"{"kind":"opaque","tensors":[]}"#, r#"{"kind":"safetensors","header":""}"#] {
            assert!(serde_json::from_str::<FileContent>(text).is_err(), "{text}");
        }
    }
}
