//! A variant's folder, as its producer wrote it, seen as files and arrays.

mod folder;
mod shared;
mod source;

pub(crate) use folder::scan_folder;
pub(crate) use shared::SharedArray;
pub(crate) use source::{Source, SourceArray, SourceContent};
