//! Checkpoint folders: reading one, making one, and changing a folder so that it is as it was or as it will be.
//!
//! [`scan_folder`] sees a folder as files made of arrays ([`Source`]). [`NewFolder`] makes one that appears complete or
//! not at all, and [`Staging`] makes a change of one atomic. [`ordered`] shares work among threads. All of it says what
//! went wrong as [`Error`], and how far it has come to [`Progress`].
//!
//! This is what `qstore` and `qstore-quantize` have in common.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "test data is made with casts"
    )
)]

mod disk;
mod error;
mod file;
mod floats;
mod gather;
mod ingest;
mod memory;
mod options;
mod pipeline;
mod progress;
mod shard_name;
mod transpose;

#[cfg(all(unix, any(test, feature = "faults")))]
pub use disk::unsyncable;
#[cfg(any(test, feature = "faults"))]
pub use disk::{Ability, Fault, lacking, with_fault};
pub use disk::{
    FileWriter, Move, NewFolder, NewFolders, Staging, Syncs, available, check_apart, check_empty, check_free,
    check_room, create_dir_all, create_new, rename, size_text,
};
pub use error::{Error, IoContext, Result, Subject};
pub use file::{read_exact_at, read_range, read_safetensors_header, zeroed};
pub use floats::{FloatKind, in_bf16, in_f16};
pub use gather::gather;
pub use ingest::{
    Exclude, Scan, Source, SourceArray, SourceContent, SourceFile, SourcePart, StoredArrays, name_in_file,
    scan_folder,
};
pub use memory::{TensorBytes, size};
pub use options::{Options, WriteOptions};
pub use pipeline::{CHUNK_MEMORY, Window, ordered};
pub use progress::{Progress, Silent, Stop};
pub use shard_name::ShardSet;
pub use transpose::transpose;
