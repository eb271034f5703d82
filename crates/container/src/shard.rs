//! Shards: safetensors files whose tensors are our streams.
//!
//! Each array with a stream has an entry of its own, U8, under its [`ArrayKey`]. At the end of the file lies its tail:
//! the tables of all arrays, the list of chunks and the plan. The manifest says how long these are and pins the tail by
//! hash. So one read opens a shard, and a reader that starts from the manifest notices any change of any byte that it
//! uses. The safetensors header is for other tools: all that it says follows from the tail.

use std::fmt::Write as _;
use std::ops::Range;

use crate::limits::{MAX_HEAD_BYTES, MAX_HEADER_BYTES};
use crate::{
    ArrayKey, ChunkForm, ChunkRecord, FORMAT_VERSION, FormatError, Hash128, ShardFile, ShardPlan,
    parse_chunks,
};

const TABLES: &str = "qstore.tables";
const CHUNKS: &str = "qstore.chunks";
const PLAN: &str = "qstore.plan";

/// The header of a shard: it reserves space first and is filled in last.
#[derive(Debug, Default)]
pub struct ShardLayout {
    streams: Vec<(String, u64)>,
}

impl ShardLayout {
    /// Appends the next stream.
    pub fn push(&mut self, key: &ArrayKey, bytes: u64) {
        self.streams.push((key.to_string(), bytes));
    }

    /// Bytes to reserve for the length field and the header of a shard with streams for `keys` of at most `bytes`
    /// together.
    #[must_use]
    pub fn reserve<'a>(keys: impl Iterator<Item = &'a ArrayKey>, bytes: u64) -> u64 {
        let mut layout = Self::default();
        // Numbers are shorter the smaller they are.
        keys.for_each(|key| layout.streams.push((key.to_string(), 0)));
        let streams = layout.streams.len() as u64 + 3;
        let longest = bytes.saturating_add(1 << 32).to_string().len() as u64;
        let text = layout.text(&Tail::default()).len() as u64;
        (8 + text + streams * 3 * longest).next_multiple_of(8)
    }

    fn text(&self, tail: &Tail) -> String {
        let mut text =
            format!(r#"{{"__metadata__":{{"format":"qstore","format_version":"{FORMAT_VERSION}"}}"#);
        let mut offset = 0u64;
        let ours = [(TABLES, tail.tables), (CHUNKS, tail.chunks), (PLAN, tail.plan)];
        let streams = self.streams.iter().map(|(name, bytes)| (name.as_str(), *bytes));
        for (name, bytes) in streams.chain(ours) {
            let end = offset.saturating_add(bytes);
            let name = serde_json::Value::from(name);
            // A string takes any text.
            let _ =
                write!(text, r#",{name}:{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{offset},{end}]}}"#);
            offset = end;
        }
        text.push('}');
        text
    }

    /// The length field and the header, `reserved` bytes in all, for a shard that ends with `tail`.
    ///
    /// # Errors
    /// The header does not fit what was reserved.
    pub fn finish(&self, tail: &Tail, reserved: u64) -> Result<Vec<u8>, FormatError> {
        let text = self.text(tail);
        let room = reserved.checked_sub(8).filter(|room| *room >= text.len() as u64);
        let room = room.ok_or_else(|| FormatError::new("its header is longer than was reserved"))?;
        let mut out = room.to_le_bytes().to_vec();
        out.extend(text.into_bytes());
        out.resize(usize::try_from(reserved).map_err(|_| FormatError::new("its header is too long"))?, b' ');
        Ok(out)
    }
}

/// How long the sections of a shard's tail are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// Bytes of all arrays' tables.
    pub tables: u64,
    /// Bytes of the list of chunks.
    pub chunks: u64,
    /// Bytes of the plan as it is stored.
    pub plan: u64,
}

impl Tail {
    /// Bytes of all of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.saturating_add(self.chunks).saturating_add(self.plan)
    }
}

/// A shard as its tail describes it.
#[derive(Debug)]
pub struct ShardContents {
    /// Its arrays.
    pub plan: ShardPlan,
    /// Their chunks: those of array `i` follow those of array `i - 1`.
    pub records: Vec<ChunkRecord>,
    /// For each array the index of its first record.
    pub first_records: Vec<usize>,
    /// For each array where its stream lies in the file, if it has one.
    pub streams: Vec<Option<Range<u64>>>,
    /// Bytes of the length field and the header: where the first stream begins.
    pub header_bytes: u64,
    /// For each array its tables; empty if it has none.
    pub tables: Vec<Box<[u8]>>,
}

impl ShardContents {
    /// Reads the tail of the shard that the manifest lists as `file`.
    ///
    /// # Errors
    /// Other bytes than the manifest pins, or a plan, tables and chunks that do not fit each other or the file.
    pub fn parse(file: &ShardFile, tail: &[u8]) -> Result<Self, FormatError> {
        if Hash128::of(tail) != file.id || tail.len() as u64 != file.tail.bytes() {
            return Err(FormatError::new("it is damaged, or is not the file that the manifest names"));
        }
        let lengths =
            [file.tail.tables, file.tail.chunks].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let parts = tail.split_at_checked(lengths[0]).and_then(|(tables, rest)| {
            let (chunks, plan) = rest.split_at_checked(lengths[1])?;
            Some((tables, chunks, plan))
        });
        let (tables, chunks, plan) = parts.ok_or_else(|| FormatError::new("its tail is cut short"))?;
        let (plan, records) = (ShardPlan::parse(plan)?, parse_chunks(chunks)?);
        Self::arrange(file, plan, records, tables)
    }

    /// Finds each array's records, tables and stream.
    fn arrange(
        file: &ShardFile,
        plan: ShardPlan,
        records: Vec<ChunkRecord>,
        mut tables: &[u8],
    ) -> Result<Self, FormatError> {
        let (mut next, mut streams_bytes) = (0, 0u64);
        let mut contents = Self {
            plan,
            records,
            first_records: Vec::new(),
            streams: Vec::new(),
            header_bytes: 0,
            tables: Vec::new(),
        };
        for array in &contents.plan.arrays {
            let damaged = |what: &str| FormatError::new(format!("{}: {what}", array.key));
            let count = usize::try_from(array.record_count()?).unwrap_or(usize::MAX);
            let own = next..usize::saturating_add(next, count);
            let records =
                contents.records.get(own.clone()).ok_or_else(|| damaged("its chunks are missing"))?;
            let (heads, data) = records.split_at(usize::from(array.has_head()).min(records.len()));
            if heads.len() != usize::from(array.has_head())
                || heads.iter().any(|record| record.form != ChunkForm::Head)
                || data.iter().any(|record| record.form == ChunkForm::Head)
            {
                return Err(damaged("its chunks do not fit its encoding"));
            }
            let mut own_tables: &[u8] = &[];
            if let Some(head) = heads.first() {
                if u64::from(head.length) > MAX_HEAD_BYTES {
                    return Err(damaged("its tables are longer than any"));
                }
                (own_tables, tables) = usize::try_from(head.length)
                    .ok()
                    .and_then(|length| tables.split_at_checked(length))
                    .ok_or_else(|| damaged("its tables are missing"))?;
                if !head.matches(own_tables) {
                    return Err(damaged("its tables are damaged"));
                }
            }
            contents.tables.push(own_tables.into());
            contents.first_records.push(next);
            let stream = array.encoding.has_stream().then(|| {
                let bytes: u64 = data.iter().map(|record| u64::from(record.length)).sum();
                let start = streams_bytes;
                streams_bytes = streams_bytes.saturating_add(bytes);
                start..streams_bytes
            });
            contents.streams.push(stream);
            next = own.end;
        }
        if next != contents.records.len() || !tables.is_empty() {
            return Err(FormatError::new("it has chunks or tables that belong to no array"));
        }
        let header =
            file.bytes.checked_sub(file.tail.bytes()).and_then(|bytes| bytes.checked_sub(streams_bytes));
        contents.header_bytes = header
            .filter(|header| (8..=MAX_HEADER_BYTES + 8).contains(header))
            .ok_or_else(|| FormatError::new("its streams do not fit it"))?;
        for range in contents.streams.iter_mut().flatten() {
            *range = range.start + contents.header_bytes..range.end + contents.header_bytes;
        }
        Ok(contents)
    }

    /// What the file begins with: the length field and the header.
    ///
    /// # Errors
    /// There is less room for it than it takes.
    pub fn header(&self, tail: &Tail) -> Result<Vec<u8>, FormatError> {
        let mut layout = ShardLayout::default();
        for (array, stream) in self.plan.arrays.iter().zip(&self.streams) {
            if let Some(range) = stream {
                layout.push(&array.key, range.end - range.start);
            }
        }
        layout.finish(tail, self.header_bytes)
    }
}
