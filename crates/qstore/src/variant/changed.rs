//! Telling a store that was changed under its reader from one that is damaged.

use std::io::ErrorKind;

use qstore_checkpoint::Error;
use qstore_container::limits::MAX_MANIFEST_BYTES;
use qstore_container::{Manifest, VariantEntry};

use crate::storage::Storage;

/// `error` of a reader of variants in a store, or that the store has others of their names by now, or none.
pub(crate) fn or_changed(error: Error, storage: &dyn Storage, entries: &[&VariantEntry]) -> Error {
    let could_be = match &error {
        Error::Io { source, .. } => matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof),
        Error::Damaged { .. } => true,
        _ => false,
    };
    let is_other =
        |now: Manifest| entries.iter().any(|entry| now.variant(&entry.name).is_none_or(|now| now != *entry));
    if could_be && current(storage).is_some_and(is_other) {
        return Error::Changed(storage.location().to_owned());
    }
    error
}

/// The manifest as it is now, if there is one.
fn current(storage: &dyn Storage) -> Option<Manifest> {
    let text = storage.read_all(Manifest::FILE_NAME, MAX_MANIFEST_BYTES).ok()?;
    Manifest::parse(&text).ok()
}
