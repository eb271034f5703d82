//! Whether two folders are equal, found out without the library whose work is being judged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

const BUFFER_BYTES: usize = 1 << 20;

/// What comparing two folders found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Files that are in both and equal.
    pub(crate) equal: u64,
    /// One line for each file that is not.
    pub(crate) differences: Vec<String>,
}

/// Compares every file below `original` with the one of the same name below `restored`. Links are followed: a hub's
/// cache consists of them.
pub(crate) fn compare(original: &Path, restored: &Path) -> Result<Comparison, Failure> {
    let wanted = files_below(original)?;
    let found = files_below(restored)?;
    let mut comparison = Comparison::default();
    for file in wanted.union(&found) {
        let difference = match (wanted.contains(file), found.contains(file)) {
            (true, false) => Some("is missing from the restored folder".to_owned()),
            (false, _) => Some("was not in the original folder".to_owned()),
            (true, true) => difference(&original.join(file), &restored.join(file))?,
        };
        match difference {
            None => comparison.equal += 1,
            Some(what) => comparison.differences.push(format!("{}: {what}", file.display())),
        }
    }
    Ok(comparison)
}

/// Bytes of all files below a folder.
pub(crate) fn total_bytes(root: &Path) -> Result<u64, Failure> {
    let size = |file: PathBuf| {
        let path = root.join(file);
        let metadata = fs::metadata(&path);
        metadata.map(|m| m.len()).map_err(|source| Failure::File { path, what: "cannot read", source })
    };
    files_below(root)?.into_iter().map(size).sum()
}

fn files_below(root: &Path) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut files = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = root.join(&folder);
        let failed = |source| Failure::File { path: full.clone(), what: "cannot read", source };
        for entry in fs::read_dir(&full).map_err(failed)? {
            let path = folder.join(entry.map_err(failed)?.file_name());
            if fs::metadata(root.join(&path)).map_err(failed)?.is_dir() {
                folders.push(path);
            } else {
                files.insert(path);
            }
        }
    }
    Ok(files)
}

fn difference(original: &Path, restored: &Path) -> Result<Option<String>, Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File { path, what: "cannot read", source }
    };
    let mut left = File::open(original).map_err(failed(original))?;
    let mut right = File::open(restored).map_err(failed(restored))?;
    let (mut a, mut b) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0;
    loop {
        let read = fill(&mut left, &mut a).map_err(failed(original))?;
        let other = fill(&mut right, &mut b).map_err(failed(restored))?;
        if a[..read] != b[..other] {
            let same = a[..read].iter().zip(&b[..other]).take_while(|(x, y)| x == y).count() as u64;
            return Ok(Some(format!("differs from byte {} on", offset + same)));
        }
        if read < BUFFER_BYTES {
            return Ok(None);
        }
        offset += read as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &[u8])]) {
        for (name, bytes) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    #[test]
    fn finds_every_kind_of_difference() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let large = vec![7; BUFFER_BYTES + 100];
        let same: [(&str, &[u8]); 3] = [("config.json", b"{}"), ("sub/large", &large), ("empty", b"")];
        write(&a, &same);
        write(&b, &same);
        assert_eq!(compare(&a, &b).unwrap(), Comparison { equal: 3, differences: vec![] });

        let mut flipped = large.clone();
        flipped[BUFFER_BYTES + 3] ^= 1;
        write(&b, &[("sub/large", &flipped), ("config.json", b"{} "), ("more", b"")]);
        fs::remove_file(b.join("empty")).unwrap();
        let comparison = compare(&a, &b).unwrap();
        assert_eq!(comparison.equal, 0);
        let want = [
            "config.json: differs from byte 2 on".to_owned(),
            "empty: is missing from the restored folder".to_owned(),
            "more: was not in the original folder".to_owned(),
            format!("{}: differs from byte {} on", Path::new("sub/large").display(), BUFFER_BYTES + 3),
        ];
        assert_eq!(comparison.differences, want);
        assert!(compare(&a, &dir.path().join("none")).is_err());
    }
}
