//! Telling a store that was changed under its reader from one that is damaged.

use std::io::ErrorKind;
use std::path::Path;

use qstore_container::limits::MAX_MANIFEST_BYTES;
use qstore_container::{Manifest, VariantEntry};

use crate::error::Error;

/// `error` of a reader of `entry` in the store in `folder`, or that the store has another variant of that name by now, or none.
pub(crate) fn or_changed(error: Error, folder: &Path, entry: &VariantEntry) -> Error {
    let could_be = match &error {
        Error::Io { source, .. } => source.kind() == ErrorKind::NotFound,
        Error::Damaged { .. } => true,
        _ => false,
    };
    let is_other = |manifest: Manifest| manifest.variant(&entry.name) != Some(entry);
    if could_be && current(folder).is_some_and(is_other) { Error::Changed(folder.to_owned()) } else { error }
}

/// The manifest as it is now, if there is one.
fn current(folder: &Path) -> Option<Manifest> {
    let path = folder.join(Manifest::FILE_NAME);
    let size = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?.len();
    let text = (size <= MAX_MANIFEST_BYTES).then(|| std::fs::read(&path).ok())??;
    Manifest::parse(&text).ok()
}
