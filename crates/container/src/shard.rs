//! Layer shards: safetensors files whose tensors are our streams.
//!
//! Each array with a stream has an entry of its own, U8, under its [`ArrayKey`]; two further entries hold the list of chunks and the plan.
//! `__metadata__` pins both by hash, and the manifest pins the header by hash, so that a reader that starts from the manifest notices any
//! change of any byte.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use crate::{
    ArrayKey, ChunkForm, ChunkRecord, FORMAT_VERSION, FormatError, Hash128, SafetensorsHeader, ShardPlan,
    parse_chunks,
};

const PLAN: &str = "qstore.plan";
const CHUNKS: &str = "qstore.chunks";

/// The header of a shard that is being written: it reserves space first and is filled in last.
#[derive(Debug, Default)]
pub struct ShardLayout {
    streams: Vec<(String, u64)>,
}

impl ShardLayout {
    /// Appends the next stream.
    pub fn push(&mut self, key: &ArrayKey, bytes: u64) {
        self.streams.push((key.to_string(), bytes));
    }

    /// Bytes to reserve for the length field and the header of a shard with streams for `keys` of at most `bytes` together.
    #[must_use]
    pub fn reserve<'a>(keys: impl Iterator<Item = &'a ArrayKey>, bytes: u64) -> u64 {
        let mut layout = Self::default();
        // Numbers are shorter the smaller they are.
        keys.for_each(|key| layout.streams.push((key.to_string(), 0)));
        let streams = layout.streams.len() as u64 + 2;
        let longest = bytes.saturating_add(1 << 32).to_string().len() as u64;
        let placeholder = Hash128(0);
        let text = layout.text(placeholder, placeholder, 0, 0).len() as u64;
        (8 + text + streams * 3 * longest).next_multiple_of(8)
    }

    fn text(&self, plan: Hash128, chunks: Hash128, chunk_bytes: u64, plan_bytes: u64) -> String {
        let mut text = format!(
            r#"{{"__metadata__":{{"format":"qstore","format_version":"{FORMAT_VERSION}","plan_xxh3":"{plan}","chunks_xxh3":"{chunks}"}}"#
        );
        let mut offset = 0u64;
        let ours = [(CHUNKS.to_owned(), chunk_bytes), (PLAN.to_owned(), plan_bytes)];
        for (name, bytes) in self.streams.iter().chain(&ours) {
            let end = offset.saturating_add(*bytes);
            let name = serde_json::Value::from(name.as_str());
            // A string takes any text.
            let _ =
                write!(text, r#",{name}:{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{offset},{end}]}}"#);
            offset = end;
        }
        text.push('}');
        text
    }

    /// The length field and the header, `reserved` bytes in all, for a shard that ends with the streams `chunks` and `plan`.
    ///
    /// # Errors
    /// The header does not fit what was reserved.
    pub fn finish(&self, chunks: &[u8], plan: &[u8], reserved: u64) -> Result<Vec<u8>, FormatError> {
        let (chunk_bytes, plan_bytes) = (chunks.len() as u64, plan.len() as u64);
        let text = self.text(Hash128::of(plan), Hash128::of(chunks), chunk_bytes, plan_bytes);
        let room = reserved.checked_sub(8).filter(|room| *room >= text.len() as u64);
        let room = room.ok_or_else(|| FormatError::new("its header is longer than was reserved"))?;
        let mut out = room.to_le_bytes().to_vec();
        out.extend(text.into_bytes());
        out.resize(usize::try_from(reserved).map_err(|_| FormatError::new("its header is too long"))?, b' ');
        Ok(out)
    }
}

/// The header of a shard that is being read.
#[derive(Debug)]
pub struct ShardHeader {
    streams: HashMap<String, Range<u64>>,
    plan_hash: Hash128,
    chunks_hash: Hash128,
    /// XXH3-128 of the header, which the manifest names.
    pub id: Hash128,
}

impl ShardHeader {
    /// Parses the header of a shard of `file_bytes` bytes; `header` is what follows the first 8 bytes.
    ///
    /// # Errors
    /// Not safetensors, not a shard of ours, or of a version that this one does not read.
    pub fn parse(header: Vec<u8>, file_bytes: u64) -> Result<Self, FormatError> {
        let id = Hash128::of(&header);
        let parsed = SafetensorsHeader::parse(header, file_bytes)?;
        let field = |name: &str| {
            parsed
                .metadata
                .get(name)
                .ok_or_else(|| FormatError::new("it is a safetensors file but no QStore layer"))
        };
        if field("format")? != "qstore" {
            return Err(FormatError::new("it is a safetensors file but no QStore layer"));
        }
        let version = field("format_version")?;
        if *version != FORMAT_VERSION.to_string() {
            return Err(FormatError::new(format!(
                "it has format version {version}; this qstore reads version {FORMAT_VERSION}: use a newer one"
            )));
        }
        let (plan_hash, chunks_hash) = (field("plan_xxh3")?.parse()?, field("chunks_xxh3")?.parse()?);
        let streams = parsed.tensors.into_iter().map(|t| (t.name, t.bytes)).collect();
        Ok(Self { streams, plan_hash, chunks_hash, id })
    }

    fn own_stream(&self, name: &str) -> Result<Range<u64>, FormatError> {
        self.streams.get(name).cloned().ok_or_else(|| FormatError::new(format!("it has no stream {name}")))
    }

    /// Where the plan lies in the file.
    ///
    /// # Errors
    /// There is none.
    pub fn plan_range(&self) -> Result<Range<u64>, FormatError> {
        self.own_stream(PLAN)
    }

    /// Where the list of chunks lies in the file.
    ///
    /// # Errors
    /// There is none.
    pub fn chunks_range(&self) -> Result<Range<u64>, FormatError> {
        self.own_stream(CHUNKS)
    }

    /// The plan and the list of chunks from their streams' bytes, checked against the header and each other.
    ///
    /// # Errors
    /// A hash, a number of chunks or a stream's length that does not fit.
    pub fn contents(&self, plan: &[u8], chunks: &[u8]) -> Result<ShardContents, FormatError> {
        if Hash128::of(plan) != self.plan_hash || Hash128::of(chunks) != self.chunks_hash {
            return Err(FormatError::new("its plan or its list of chunks is damaged"));
        }
        let (plan, records) = (ShardPlan::parse(plan)?, parse_chunks(chunks)?);
        let mut rest = &records[..];
        let mut streams = Vec::with_capacity(plan.arrays.len());
        for array in &plan.arrays {
            let damaged = |what: &str| FormatError::new(format!("{}: {what}", array.key));
            let count = usize::try_from(array.record_count()?).unwrap_or(usize::MAX);
            let (own, tail) =
                rest.split_at_checked(count).ok_or_else(|| damaged("its chunks are missing"))?;
            rest = tail;
            let head_first = own
                .iter()
                .enumerate()
                .all(|(i, r)| (r.form == ChunkForm::Head) == (array.has_head() && i == 0));
            if !head_first {
                return Err(damaged("its chunks do not fit its encoding"));
            }
            streams.push(if array.encoding.has_stream() {
                let range = self.own_stream(&array.key.to_string())?;
                let stored: u64 = own.iter().map(|r| u64::from(r.length)).sum();
                if range.end - range.start != stored {
                    return Err(damaged("its stream has another length than its chunks"));
                }
                Some(range)
            } else {
                None
            });
        }
        if !rest.is_empty() || streams.iter().flatten().count() + 2 != self.streams.len() {
            return Err(FormatError::new("it has chunks or streams that belong to no array"));
        }
        Ok(ShardContents { plan, records, streams })
    }
}

/// What a shard holds.
#[derive(Debug)]
pub struct ShardContents {
    /// Its arrays.
    pub plan: ShardPlan,
    /// Their chunks: those of array `i` follow those of array `i - 1`.
    pub records: Vec<ChunkRecord>,
    /// For each array where its stream lies in the file, if it has one.
    pub streams: Vec<Option<Range<u64>>>,
}
