//! What a reader accepts at most. A file that asks for more is refused before anything is allocated.

/// Bytes of a safetensors header, ours or a checkpoint's (the limit of the safetensors library).
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Dimensions of a tensor.
pub const MAX_DIMENSIONS: usize = 1024;
/// Bytes of `qstore.json`.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// Bytes of a shard's tail: its tables, list of chunks and plan. A reader holds all of it.
pub const MAX_TAIL_BYTES: u64 = 1 << 30;
/// Bytes of a shard's plan, decompressed.
pub const MAX_PLAN_BYTES: u64 = 512 << 20;
/// A plan may expand by at most this factor, beside [`PLAN_SLACK_BYTES`]. Those of large models expand by 15.
pub const MAX_PLAN_EXPANSION: u64 = 50;
/// Base-2 logarithm of the window that a plan's Zstandard frame may ask for.
pub const MAX_PLAN_WINDOW_LOG: u32 = 23;
/// What even the smallest plan may take decompressed.
pub const PLAN_SLACK_BYTES: u64 = 1 << 20;
/// Bytes of one decoded chunk.
pub const MAX_CHUNK_BYTES: u64 = 16 << 20;
/// Chunks of an array, beside one for every [`BYTES_OF_A_CHUNK`] of its bytes: a reader knows the place of each.
pub const MAX_SMALL_CHUNKS: u64 = 64;
/// Bytes for which an array may have another chunk.
pub const BYTES_OF_A_CHUNK: u64 = 1 << 10;
/// Rows of one chunk of `codes` or `float-split`: working memory is by the row.
pub const MAX_CHUNK_ROWS: u64 = 1 << 20;
/// Rows of one chunk of a `residual`: each may need bins of its own.
pub const MAX_RESIDUAL_CHUNK_ROWS: u64 = 1 << 14;
/// Rows of a `residual`, and so the scales that a reader holds.
pub const MAX_RESIDUAL_ROWS: u64 = 1 << 22;
/// Bytes of a field that says what codes stand for: a reader holds all of it.
pub const MAX_VALUES_BYTES: u64 = 128 << 20;
/// What all files of a variant may ask for beside their bytes, as a multiple of these and beside [`ASIDE_SLACK_BYTES`]:
/// what codes stand for, codes and floats that are given and what these are given in turn, and what is decoded of an
/// array for a part of it. Real models ask for one or two times their bytes, small ones of the tests for five; codes of
/// two bits that are rounded from floats with sixteen variants below would ask for sixty.
pub const MAX_ASIDE: u64 = 128;
/// What even the smallest variant may ask for beside the bytes of its arrays.
pub const ASIDE_SLACK_BYTES: u64 = 1 << 30;
/// Scales of a quantised matrix, one for each group of columns of each row or tile of rows: a reader holds them all.
pub const MAX_SCALES: u64 = 1 << 26;
/// Groups of columns in all rows of a chunk of a residual: each may need bins of its own.
pub const MAX_CHUNK_GROUPS: u64 = 1 << 17;
/// Matrices that an array is given.
pub const MAX_GIVEN: usize = 16;
/// Bytes of a matrix that is stored transposed: a reader holds all of it to give any part.
pub const MAX_TRANSPOSED_BYTES: u64 = 256 << 20;
/// Bytes of a bundle: a reader of one slice decodes the chunk that holds it, and keeps that for others.
pub const MAX_BUNDLE_BYTES: u64 = 1 << 20;
/// Bytes of the tables at the front of an array's stream: sixteen of the largest, and a little.
pub const MAX_HEAD_BYTES: u64 = 16 << 10;
/// Characters of a variant's name.
pub const MAX_VARIANT_NAME: usize = 64;
/// Characters of an original file's path.
pub const MAX_PATH: usize = 4096;
/// Variants in one store.
pub const MAX_VARIANTS: usize = 256;
/// Files of one kind (shards of a variant, original files) that a list may name.
pub const MAX_FILES: usize = 1_000_000;
/// Bytes of a text of a note in the manifest, and of a pattern of files that were left out.
pub const MAX_NOTE_TEXT: usize = 4096;
/// Notes on a variant in the manifest, and patterns of files that were left out.
pub const MAX_NOTES: usize = 1000;
