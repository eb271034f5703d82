//! Whether what a peer has in memory is what the source holds, byte for byte. This is done after the time is taken, so
//! it may be slow.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use qstore::TensorBytes;
use qstore_checkpoint::read_exact_at;

use crate::checkpoint::{Checkpoint, SourceFile};
use crate::error::{IoContext as _, Result};

/// Bytes of the source that are read at a time.
const STEP: usize = 1 << 20;

/// What a load brought into memory.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) parts: Vec<Part>,
    /// Stored bytes that were read.
    pub(crate) bytes_read: u64,
}

/// A piece of a variant in memory.
#[derive(Debug)]
pub(crate) struct Part {
    /// The variant's name.
    pub(crate) variant: String,
    pub(crate) what: What,
    pub(crate) data: TensorBytes,
}

/// Which piece.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// A file as it is, by its path.
    File(String),
    /// A tensor's elements, by its name, or `FILE:NAME` where several files have that name.
    Tensor(String),
}

/// Parts that are yet to be compared, by variant.
type Parts<'a> = HashMap<(String, What), &'a [u8]>;

impl Loaded {
    /// The first difference from the source; `None` if every tensor is there and as it should be.
    pub(crate) fn difference(&self, variants: &[Checkpoint]) -> Result<Option<String>> {
        let mut parts = Parts::new();
        for part in &self.parts {
            if parts.insert((part.variant.clone(), part.what.clone()), &part.data).is_some() {
                return Ok(Some(format!("{}: {:?} is there twice", part.variant, part.what)));
            }
        }
        for variant in variants {
            for file in variant.tensor_files() {
                if let Some(found) = file_difference(&mut parts, variant, file)? {
                    return Ok(Some(format!("{}: {found}", variant.name)));
                }
            }
        }
        let surplus = parts.keys().next();
        Ok(surplus.map(|(variant, what)| format!("{variant}: {what:?} is not in the source")))
    }
}

/// Compares a file's tensors with the parts that they are in, and takes those off the list.
fn file_difference(parts: &mut Parts<'_>, variant: &Checkpoint, file: &SourceFile) -> Result<Option<String>> {
    let path = variant.folder.join(&file.path);
    let source = File::open(&path).at(&path, "cannot open")?;
    if let Some(data) = parts.remove(&(variant.name.clone(), What::File(file.path.clone()))) {
        return Ok(
            range_difference(&source, &path, 0, file.bytes, data)?.map(|d| format!("{}: {d}", file.path))
        );
    }
    for tensor in &file.tensors {
        let names = [tensor.name.clone(), format!("{}:{}", file.path, tensor.name)];
        let data =
            names.into_iter().find_map(|name| parts.remove(&(variant.name.clone(), What::Tensor(name))));
        let Some(data) = data else {
            return Ok(Some(format!("{} was not loaded", tensor.name)));
        };
        if let Some(difference) = range_difference(&source, &path, tensor.offset, tensor.bytes, data)? {
            return Ok(Some(format!("{}: {difference}", tensor.name)));
        }
    }
    Ok(None)
}

/// Compares `data` with the `bytes` bytes of a file from `offset` on.
fn range_difference(
    file: &File,
    path: &Path,
    offset: u64,
    bytes: u64,
    data: &[u8],
) -> Result<Option<String>> {
    if data.len() as u64 != bytes {
        return Ok(Some(format!("{} bytes were loaded of {bytes}", data.len())));
    }
    let mut buffer = vec![0; STEP.min(data.len())];
    for (at, part) in (0u64..).step_by(STEP).zip(data.chunks(STEP)) {
        let buffer = &mut buffer[..part.len()];
        read_exact_at(file, buffer, offset + at).at(path, "cannot read")?;
        if buffer != part {
            return Ok(Some(format!("its bytes differ from byte {at} on or later")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Tensor;

    fn part(what: What, data: &[u8]) -> Part {
        let mut held = TensorBytes::zeroed(data.len() as u64).unwrap();
        held.copy_from_slice(data);
        Part { variant: "v".to_owned(), what, data: held }
    }

    fn tensor(name: &str, data: &[u8]) -> Part {
        part(What::Tensor(name.to_owned()), data)
    }

    fn file(data: &[u8]) -> Part {
        part(What::File("f".to_owned()), data)
    }

    #[test]
    fn every_difference_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "headAABBB").unwrap();
        let at = |name: &str, offset, bytes| Tensor { name: name.to_owned(), offset, bytes };
        let files =
            vec![SourceFile { path: "f".to_owned(), bytes: 9, tensors: vec![at("a", 4, 2), at("b", 6, 3)] }];
        let variants = [Checkpoint { name: "v".to_owned(), folder: dir.path().to_owned(), files }];
        let difference = |parts| Loaded { parts, bytes_read: 0 }.difference(&variants).unwrap();
        assert_eq!(difference(vec![tensor("b", b"BBB"), tensor("a", b"AA")]), None);
        assert_eq!(difference(vec![tensor("f:b", b"BBB"), tensor("f:a", b"AA")]), None);
        assert_eq!(difference(vec![file(b"headAABBB")]), None);
        let wrong = [
            (vec![tensor("a", b"AA")], "b was not loaded"),
            (vec![tensor("a", b"AA"), tensor("b", b"BB")], "2 bytes were loaded of 3"),
            (vec![tensor("a", b"AA"), tensor("b", b"BBX")], "differ"),
            (vec![tensor("a", b"AA"), tensor("a", b"AA")], "twice"),
            (vec![tensor("a", b"AA"), tensor("b", b"BBB"), tensor("c", b"")], "not in the source"),
            (vec![file(b"headAABXB")], "differ"),
            (vec![], "was not loaded"),
        ];
        for (parts, part) in wrong {
            assert!(difference(parts).unwrap().contains(part), "{part}");
        }
    }
}
