//! Reading the plan's objects that come in several kinds.
//!
//! serde's own way to read such objects holds all of their JSON in a form that is many times as large before it looks
//! at the kind, and lets unknown fields of kinds without fields pass. Here each field is read as what it is, and then
//! the kind says which ones must be there.

use serde::{Deserialize, Deserializer};

use crate::{
    ArrayKey, ArrayRef, ChunkShape, CodeLayout, Dequantization, Encoding, Field, FileContent, Finite,
    FormatError, Hash128, KnownMatrix, Part, QuantMatrix, RelativePath, View,
};

/// The fields of every [`Encoding`].
#[derive(Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EncodingFields {
    kind: Option<EncodingKind>,
    to: Option<ArrayRef>,
    view: Option<View>,
    parts: Option<Vec<Part>>,
    file: Option<RelativePath>,
    of: Option<ArrayKey>,
    offset: Option<u64>,
    transposed: Option<bool>,
    given: Option<Box<QuantMatrix<ArrayRef>>>,
    known: Option<Vec<KnownMatrix>>,
    floats: Option<Field<ArrayRef>>,
    times: Option<Finite>,
    own: Option<Box<Dequantization<ArrayRef>>>,
    subdivisions: Option<i8>,
    layout: Option<CodeLayout>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EncodingKind {
    Reference,
    Parts,
    Verbatim,
    Slice,
    Residual,
    Dequantized,
    StepResidual,
    CodeResidual,
    Refine,
    RefineFloats,
    Rounded,
    Near,
    FloatSplit,
    Codes,
    Zstd,
    Raw,
}

impl EncodingFields {
    /// The encoding, without its fields here; `None` if it lacks one.
    fn take(&mut self) -> Option<Encoding> {
        Some(match self.kind.take()? {
            EncodingKind::Reference => {
                Encoding::Reference { to: self.to.take()?, view: self.view.take().unwrap_or_default() }
            }
            EncodingKind::Parts => Encoding::Parts { parts: self.parts.take()? },
            EncodingKind::Verbatim => {
                Encoding::Verbatim { file: self.file.take()?, offset: self.offset.take()? }
            }
            EncodingKind::Slice => Encoding::Slice { of: self.of.take()?, offset: self.offset.take()? },
            EncodingKind::Residual => Encoding::Residual {
                given: self.given.take()?,
                transposed: self.transposed.take().unwrap_or(false),
            },
            EncodingKind::Dequantized => Encoding::Dequantized {
                given: self.given.take()?,
                transposed: self.transposed.take().unwrap_or(false),
            },
            EncodingKind::StepResidual => Encoding::StepResidual {
                given: self.given.take()?,
                subdivisions: self.subdivisions.take()?,
                transposed: self.transposed.take().unwrap_or(false),
            },
            EncodingKind::CodeResidual => Encoding::CodeResidual {
                given: self.given.take()?,
                own: self.own.take()?,
                layout: self.layout.take().unwrap_or_default(),
            },
            EncodingKind::Refine => Encoding::Refine {
                known: self.known.take()?,
                own: self.own.take()?,
                layout: self.layout.take().unwrap_or_default(),
            },
            EncodingKind::RefineFloats => Encoding::RefineFloats {
                known: self.known.take()?,
                transposed: self.transposed.take().unwrap_or(false),
            },
            EncodingKind::Rounded => Encoding::Rounded {
                floats: self.floats.take()?,
                own: self.own.take()?,
                layout: self.layout.take().unwrap_or_default(),
            },
            EncodingKind::Near => Encoding::Near { floats: self.floats.take()?, times: self.times.take()? },
            EncodingKind::FloatSplit => Encoding::FloatSplit,
            EncodingKind::Codes => Encoding::Codes { layout: self.layout.take().unwrap_or_default() },
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

/// A hash that is there: a slice has none, and not one of `null`.
pub(crate) fn some_hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hash128>, D::Error> {
    Hash128::deserialize(deserializer).map(Some)
}

/// A number of mantissa bits that is there.
pub(crate) fn some_mantissa<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    u8::deserialize(deserializer).map(Some)
}

/// A chunk's shape that is there: a slice has none, and not an empty one.
pub(crate) fn some_chunk<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChunkShape, D::Error> {
    let chunk = ChunkShape::deserialize(deserializer)?;
    if chunk.cols == 0 || chunk.rows == 0 {
        return Err(serde::de::Error::custom("empty chunks"));
    }
    Ok(chunk)
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
    use crate::{
        Axis, ColumnGroups, Factor, Inverse, Levels, MiniFloat, Number, Numbers, Packing, Rounded, Rule,
        Scale, View, Zero, ZeroCodes,
    };

    fn numbers(array: ArrayRef) -> Numbers<ArrayRef> {
        Numbers {
            field: Field { view: View::COLUMN, ..Field::of(array) },
            number: Number::F16,
            tile: [1, 96],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let array = || ArrayRef { variant: "int8".parse().unwrap(), array: "tensor:x".parse().unwrap() };
        let layout = |transposed| CodeLayout {
            transposed,
            pitch: if transposed { None } else { Some(96) },
            packing: Some(Packing { bits: 3, word: 32, along: Axis::Columns, order: Vec::new() }),
        };
        let values = |zero, column_groups| Dequantization {
            levels: Levels::Signed,
            scales: vec![
                Scale::Times(Factor::Numbers(numbers(array()))),
                Scale::Over(Factor::Constant(127.0.try_into().unwrap())),
            ],
            zero,
            column_groups,
            rule: None,
        };
        let plain =
            || QuantMatrix { shape: [64, 96], codes: Field::of(array()), values: values(Zero::None, None) };
        let full = || QuantMatrix {
            shape: [64, 96],
            codes: Field { view: View::TRANSPOSED, packing: layout(true).packing, array: array() },
            values: Dequantization {
                rule: Some(Rule {
                    weights: Rounded::F16,
                    inverse: Inverse::ReciprocalUp,
                    result: Rounded::Bf16,
                }),
                ..values(
                    Zero::Codes(ZeroCodes {
                        field: Field::of(array()),
                        levels: Levels::Unsigned,
                        add: 1,
                        tile: [1, 96],
                    }),
                    Some(ColumnGroups { field: Field::of(array()), count: 3 }),
                )
            },
        };
        let floats = QuantMatrix {
            values: Dequantization {
                levels: Levels::Float(MiniFloat::E2m1),
                ..values(Zero::Bias(numbers(array())), None)
            },
            ..full()
        };
        let table = (0..8u8).map(|level| f32::from(level).try_into().unwrap()).collect();
        let table = QuantMatrix {
            values: Dequantization { levels: Levels::Table(table), ..values(Zero::Constant(-3), None) },
            ..full()
        };
        let bins = |matrix| KnownMatrix {
            matrix,
            ends: Some([-8.5, 7.0].map(|end| end.try_into().unwrap())),
            around: None,
            factors: None,
        };
        let around = |matrix| KnownMatrix {
            matrix,
            ends: None,
            around: Some([-1.0, -0.5, 0.75].map(|edge: f32| edge.try_into().unwrap()).to_vec()),
            factors: Some(crate::FactorsOf::Both),
        };
        let encodings = [
            Encoding::StepResidual { given: Box::new(full()), subdivisions: 3, transposed: true },
            Encoding::StepResidual { given: Box::new(floats), subdivisions: -2, transposed: false },
            Encoding::CodeResidual {
                given: Box::new(table),
                own: Box::new(values(Zero::None, None)),
                layout: CodeLayout::default(),
            },
            Encoding::CodeResidual {
                given: Box::new(plain()),
                own: Box::new(values(Zero::None, None)),
                layout: layout(true),
            },
            Encoding::Refine {
                known: vec![bins(plain()), bins(full())],
                own: Box::new(values(Zero::None, None)),
                layout: layout(true),
            },
            Encoding::RefineFloats { known: vec![around(plain()), bins(full())], transposed: false },
            Encoding::Rounded {
                floats: Field { view: View::TRANSPOSED, ..Field::of(array()) },
                own: Box::new(values(Zero::None, None)),
                layout: layout(false),
            },
            Encoding::Near { floats: Field::of(array()), times: (-0.0625).try_into().unwrap() },
            Encoding::RefineFloats { known: vec![bins(full()), bins(plain())], transposed: true },
            Encoding::Codes { layout: layout(false) },
            Encoding::Reference { to: array(), view: View::WHOLE },
            Encoding::Reference { to: array(), view: View::TRANSPOSED },
            Encoding::Parts { parts: vec![Part { array: ArrayKey::Part(3), view: View::TRANSPOSED }] },
            Encoding::Verbatim { file: "a/b".parse().unwrap(), offset: u64::MAX },
            Encoding::Slice { of: "bundle:7".parse().unwrap(), offset: 0 },
            Encoding::Residual { given: Box::new(plain()), transposed: false },
            Encoding::Residual { given: Box::new(full()), transposed: true },
            Encoding::FloatSplit,
            Encoding::plain_codes(),
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
            r#"{"kind":"codes","layout":{"transpose":true}}"#,
            r#"{"kind":"residual","given":{"shape":[1,1],"codes":{"array":{"variant":"a","array":"file:b"}}}}"#,
            r#"{"kind":"refine-floats"}"#,
            r#"{"kind":"near","times":1}"#,
            r#"{"kind":"near","floats":{"array":{"variant":"a","array":"file:b"}},"times":1e39}"#,
            r#"{"kind":"rounded","floats":{"array":{"variant":"a","array":"file:b"}}}"#,
            r#"{"kind":"refine-floats","known":[{"matrix":1,"ends":[0,1]}]}"#,
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
