//! A variant's folder, as its producer wrote it, seen as files and arrays.

mod exclude;
mod folder;
mod part;
mod shared;
mod source;
mod whole;

pub(crate) use exclude::Exclude;
pub(crate) use folder::{Scan, scan_folder};
pub(crate) use part::SourcePart;
pub(crate) use shared::SharedArray;
pub(crate) use source::{Source, SourceArray, SourceContent, SourceFile, is_config};
