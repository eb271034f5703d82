//! Headers of safetensors files: those of checkpoints and our own.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::limits::{MAX_DIMENSIONS, MAX_HEADER_BYTES};
use crate::{Dtype, FormatError};

/// The entry of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// The length of the JSON header of a safetensors file of `file_bytes` bytes that begins with `prefix`.
///
/// # Errors
/// The header is longer than the file or than [`MAX_HEADER_BYTES`].
pub fn header_length(prefix: [u8; 8], file_bytes: u64) -> Result<u64, FormatError> {
    let length = u64::from_le_bytes(prefix);
    if length > MAX_HEADER_BYTES {
        return Err(FormatError::new(format!(
            "its header claims {length} bytes, more than any safetensors file has; is it a safetensors file?"
        )));
    }
    if length.saturating_add(8) > file_bytes {
        return Err(FormatError::new(format!(
            "its header claims {length} bytes, but the file has {file_bytes}; it is cut short or not a safetensors file"
        )));
    }
    Ok(length)
}

/// One tensor in a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpan {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes, as offsets in the file.
    pub bytes: Range<u64>,
}

/// A safetensors header that has been checked: the tensors lie one after another and fill the file.
#[derive(Debug, Clone)]
pub struct SafetensorsHeader {
    /// The header's JSON text exactly as stored, padding included.
    pub text: String,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorSpan>,
    /// The string pairs under `__metadata__`.
    pub metadata: HashMap<String, String>,
}

impl SafetensorsHeader {
    /// Parses the `header` of a file of `file_bytes` bytes; `header` is what follows the first 8 bytes.
    ///
    /// # Errors
    /// Not a valid safetensors header, a name that occurs twice, or tensors that do not exactly fill the file.
    pub fn parse(header: Vec<u8>, file_bytes: u64) -> Result<Self, FormatError> {
        let start = 8 + header.len() as u64;
        let text = String::from_utf8(header).map_err(|_| FormatError::new("its header is not UTF-8"))?;
        let Entries { metadata, mut tensors } = serde_json::from_str(&text).map_err(|e| bad_json(&e))?;
        let mut names = HashSet::with_capacity(tensors.len());
        if let Some(twice) = tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
            return Err(bad_json(&format!("the name {:?} occurs twice", twice.name)));
        }
        drop(names);
        tensors.sort_by(|a, b| {
            (a.bytes.start, a.bytes.end, &a.name).cmp(&(b.bytes.start, b.bytes.end, &b.name))
        });
        let data = check_spans(&tensors).map_err(|e| bad_json(&e))?;
        let end = start.saturating_add(data);
        if end != file_bytes {
            return Err(FormatError::new(format!(
                "its tensors end at byte {end}, but the file has {file_bytes} bytes: it is {}",
                if end > file_bytes { "cut short" } else { "followed by bytes that belong to no tensor" }
            )));
        }
        for tensor in &mut tensors {
            // The end of each is at most the file's.
            tensor.bytes = start + tensor.bytes.start..start + tensor.bytes.end;
        }
        Ok(Self { text, tensors, metadata: metadata.unwrap_or_default() })
    }
}

fn bad_json(error: &dyn fmt::Display) -> FormatError {
    FormatError::new(format!("its header is not a safetensors header: {error}"))
}

/// Where the last tensor ends. What is refused is what the safetensors library refuses.
fn check_spans(tensors: &[TensorSpan]) -> Result<u64, String> {
    let mut end = 0;
    for TensorSpan { name, dtype, shape, bytes } in tensors {
        if bytes.start != end || bytes.end < bytes.start {
            return Err(format!("the offset of tensor {name:?} is not where the one before it ends"));
        }
        let elements = shape.iter().try_fold(1u64, |product, d| product.checked_mul(*d));
        let bits = elements.and_then(|elements| elements.checked_mul(dtype.bitsize() as u64));
        let bits = bits.ok_or_else(|| format!("the shape of tensor {name:?} overflows"))?;
        if !bits.is_multiple_of(8) || bits / 8 != bytes.end - bytes.start {
            return Err(format!("tensor {name:?} has another size than its shape"));
        }
        end = bytes.end;
    }
    Ok(end)
}

/// The entries of a header, not yet checked against each other. The safetensors library's own reading keeps one of the
/// values of a name that occurs twice, in silence, and holds all of the JSON in a form that is many times as large.
struct Entries {
    metadata: Option<HashMap<String, String>>,
    /// Offsets count from the end of the header.
    tensors: Vec<TensorSpan>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries { metadata: None, tensors: Vec::new() };
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if metadata {
                    return Err(serde::de::Error::custom(format!("the name {name:?} occurs twice")));
                }
                metadata = true;
                entries.metadata = map.next_value()?;
            } else {
                let span = map.next_value::<Span>();
                let Span { dtype, shape, data_offsets: (start, end) } =
                    span.map_err(|e| serde::de::Error::custom(format!("tensor {name:?}: {e}")))?;
                entries.tensors.push(TensorSpan { name, dtype, shape: shape.0, bytes: start..end });
            }
        }
        Ok(entries)
    }
}

/// A tensor's entry; fields of other names are allowed, as the safetensors library allows them.
#[derive(Deserialize)]
struct Span {
    #[serde(deserialize_with = "known_dtype")]
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

fn known_dtype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Dtype, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = Dtype::deserialize(StrDeserializer::<serde::de::value::Error>::new(&text));
    let unknown = |_| {
        format!(
            "this version does not know its dtype {text:?}; use a newer one, or leave the file out (--exclude)"
        )
    };
    known.map_err(unknown).map_err(serde::de::Error::custom)
}

/// A shape of at most [`MAX_DIMENSIONS`] dimensions.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a shape")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(dimension) = items.next_element()? {
            if shape.len() == MAX_DIMENSIONS {
                return Err(serde::de::Error::custom(format!("more than {MAX_DIMENSIONS} dimensions")));
            }
            shape.push(dimension);
        }
        Ok(Shape(shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, data: u64) -> Result<SafetensorsHeader, FormatError> {
        SafetensorsHeader::parse(text.as_bytes().to_vec(), 8 + text.len() as u64 + data)
    }

    #[test]
    fn reads_tensors_in_file_order() {
        let header = parse(
            r#"{"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"I8","shape":[0],"data_offsets":[4,4]}} "#,
            16,
        )
        .unwrap();
        let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "z", "b"]);
        assert_eq!(header.tensors[2].shape, [2, 3]);
        assert!(header.text.ends_with(' '));
    }

    #[test]
    fn refuses_what_cannot_be_restored_or_trusted() {
        let one = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        assert!(parse(one, 4).is_ok());
        let cases = [
            (one, 5, "followed by bytes"),
            (one, 3, "cut short"),
            (r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}"#, 5, "offset"),
            (r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,3]}}"#, 3, "shape"),
            (r#"{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}"#, 4, "header"),
            (r#"{"a":{"dtype":"U8","shape":[4611686018427387904,8],"data_offsets":[0,4]}}"#, 4, "overflow"),
            (
                r#"{"a":{"dtype":"Q7","shape":[4],"data_offsets":[0,4]}}"#,
                4,
                "tensor \"a\": this version does not know its dtype \"Q7\"",
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}"#,
                4,
                "twice",
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
                6,
                "offset",
            ),
            ("[]", 0, "header"),
            ("", 0, "header"),
        ];
        for (text, data, word) in cases {
            // The library looks at tensors alone, and keeps one of two of a name.
            let file = [
                &(text.len() as u64).to_le_bytes()[..],
                text.as_bytes(),
                &[0; 8][..usize::try_from(data).unwrap()],
            ]
            .concat();
            assert!(word == "twice" || safetensors::SafeTensors::deserialize(&file).is_err(), "{text}");
            let error = parse(text, data).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn lengths_are_checked_before_use() {
        assert!(header_length(u64::MAX.to_le_bytes(), 100).is_err());
        assert!(header_length(100u64.to_le_bytes(), 107).is_err());
        assert_eq!(header_length(99u64.to_le_bytes(), 107), Ok(99));
    }
}
