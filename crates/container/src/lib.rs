//! The typed headers of a QStore store: bytes in, checked values out, and back. No file is opened here.
//!
//! A store is a folder with a [`Manifest`] (`qstore.json`) and shards, each a safetensors file whose streams are
//! described by a [`ShardPlan`] and located by [`ChunkRecord`]s, both at its end ([`ShardContents`]). `docs/format.md`
//! is the normative text.
//!
//! Everything read here may be hostile: each parser checks lengths against [`limits`] and the real size of the file
//! before it allocates, and what it returns is consistent in itself.

#![forbid(unsafe_code)]

mod bundles;
mod chunks;
mod encoding;
mod error;
mod fields;
mod hash;
mod header;
pub mod limits;
mod manifest;
mod names;
mod parts;
mod plan;
mod quant;
mod shard;
mod stored_array;
mod unshared;
mod view;

pub use chunks::{ChunkForm, ChunkRecord, parse_chunks, write_chunks};
pub use encoding::{ArrayRef, CodeLayout, Encoding, FactorsOf, KnownMatrix};
pub use error::FormatError;
pub use hash::{Hash128, Sha256Hex};
pub use header::{SafetensorsHeader, TensorSpan, header_length};
pub use manifest::{FORMAT_VERSION, Manifest, ShardFile, VariantEntry};
pub use names::{ArrayKey, RelativePath, VariantName};
pub use parts::Part;
pub use plan::{FileContent, Given, OriginalFile, ShardPlan};
pub use quant::{
    Axis, ColumnGroups, Dequantization, Factor, Field, Finite, Inverse, Levels, MiniFloat, Nested, Number,
    Numbers, Packing, QuantMatrix, Rounded, Rule, Scale, Zero, ZeroCodes,
};
pub use safetensors::Dtype;
pub use shard::{ShardContents, ShardLayout, Tail};
pub use stored_array::{ChunkPlace, ChunkShape, Lanes, StoredArray};
pub use unshared::{Unshared, Why};
pub use view::{Placed, RowOrder, RowRange, View};
