//! A variant's folder, as its producer wrote it, seen as files and arrays.

mod exclude;
mod folder;
mod part;
mod source;
mod whole;

pub use exclude::Exclude;
pub use folder::{Scan, scan_folder};
pub use part::SourcePart;
pub use source::{Source, SourceArray, SourceContent, SourceFile, StoredArrays, name_in_file};
