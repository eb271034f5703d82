//! Room on a file system.

use std::io;
use std::path::Path;

use super::calls::parent_of;
use crate::error::{IoContext as _, Result};

/// Bytes of a block, where a file system says nothing sensible.
const BLOCK: u64 = 4096;

/// Bytes that may still be written below `path`, which need not exist yet; `None` where that cannot be told.
pub fn available(path: &Path) -> Option<u64> {
    blocks(path).map(|(free, block)| free.saturating_mul(block))
}

/// Free blocks, and their size, of the file system that `path` will lie on.
#[cfg(unix)]
fn blocks(path: &Path) -> Option<(u64, u64)> {
    let existing = std::iter::successors(Some(path), |path| Some(parent_of(path)).filter(|up| up != path));
    let existing = existing.take(4096).find(|path| path.exists())?;
    let found = rustix::fs::statvfs(existing).ok()?;
    // Mounts of object storage have no size that they could tell.
    (found.f_blocks > 0 && found.f_frsize > 0).then_some((found.f_bavail, found.f_frsize))
}

#[cfg(not(unix))]
fn blocks(_: &Path) -> Option<(u64, u64)> {
    None
}

/// Fails if files of these sizes do not fit where `folder` is or will be.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`].
pub fn check_room(folder: &Path, files: impl Iterator<Item = u64>) -> Result<()> {
    let Some((free, block)) = blocks(folder) else { return Ok(()) };
    // A block more, for the folder.
    let in_blocks = |bytes: u64| bytes.div_ceil(block.clamp(1, BLOCK)).saturating_mul(block.clamp(1, BLOCK));
    let need = files.map(in_blocks).fold(block.clamp(1, BLOCK), u64::saturating_add);
    let free = free.saturating_mul(block);
    if need <= free {
        return Ok(());
    }
    let what = format!("{} are needed, and its file system has {} free", size_text(need), size_text(free));
    Err(io::Error::new(io::ErrorKind::StorageFull, what)).at(folder, "not enough room")
}

/// A size for people.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::DECIMAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn what_cannot_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b/c");
        let free = available(&new).unwrap();
        assert!(free > 0);
        check_room(&new, [1000, 0].into_iter()).unwrap();
        let error = check_room(&new, [u64::MAX, 5].into_iter()).unwrap_err().to_string();
        assert!(error.contains("a/b/c: not enough room") && error.contains("free"), "{error}");
    }
}
