//! The system's page cache: filling it with what will be read, and making it forget.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::error::{IoContext as _, Result};

/// How the page cache is made to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// By advice for each file.
    Advice,
    /// By dropping all that the system has cached, which only root may.
    Everything,
}

/// Reads every file below `folder` once.
pub(crate) fn warm(folder: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    each_file(folder, |path| {
        let mut file = File::open(path).at(path, "cannot open")?;
        while file.read(&mut buffer).at(path, "cannot read")? > 0 {}
        Ok(())
    })
}

/// Makes the page cache forget every file below `folder`.
pub(crate) fn forget(folder: &Path, means: Means) -> Result<()> {
    each_file(folder, |path| {
        let file = File::open(path).at(path, "cannot open")?;
        // Only what is on the disk can be forgotten.
        file.sync_all().at(path, "cannot sync")?;
        system::forget(&file).at(path, "cannot drop from the page cache")
    })?;
    if means == Means::Everything {
        system::forget_everything().at(Path::new(system::DROP_CACHES), "cannot write")?;
    }
    Ok(())
}

/// Finds out, with a file in `folder`, how the page cache can be made to forget; or why it cannot.
pub(crate) fn means(folder: &Path) -> Result<Means, String> {
    let folder = tempfile::tempdir_in(folder).map_err(|e| e.to_string())?;
    let path = folder.path().join("probe");
    std::fs::write(&path, vec![1; 1 << 20]).map_err(|e| e.to_string())?;
    for means in [Means::Advice, Means::Everything] {
        forget(folder.path(), means).map_err(|e| e.to_string())?;
        if !system::is_cached(&path).map_err(|e| e.to_string())? {
            return Ok(means);
        }
    }
    Err("the system keeps files cached when it is asked not to".to_owned())
}

fn each_file(folder: &Path, mut act: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in walkdir::WalkDir::new(folder).follow_links(true) {
        let entry = entry.map_err(std::io::Error::from).at(folder, "cannot list")?;
        if entry.file_type().is_file() {
            act(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io::{self, IoSliceMut};
    use std::path::Path;

    use rustix::fs::{Advice, fadvise};
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    /// See proc_sys_vm(5).
    pub(super) const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

    pub(super) fn forget(file: &File) -> io::Result<()> {
        Ok(fadvise(file, 0, None, Advice::DontNeed)?)
    }

    pub(super) fn forget_everything() -> io::Result<()> {
        std::fs::write(DROP_CACHES, "1")
    }

    /// Whether a byte in the middle of the file can be had without waiting for the disk.
    pub(super) fn is_cached(path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        let middle = file.metadata()?.len() / 2;
        let mut byte = [0];
        match preadv2(&file, &mut [IoSliceMut::new(&mut byte)], middle, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read > 0),
            Err(Errno::AGAIN) => Ok(false),
            // As on tmpfs, whose files are always in memory.
            Err(Errno::OPNOTSUPP) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the file system does not tell what is cached",
            )),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    pub(super) const DROP_CACHES: &str = "drop_caches";

    fn unsupported<T>() -> io::Result<T> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the page cache can be dropped on Linux only"))
    }

    pub(super) fn forget(_: &File) -> io::Result<()> {
        unsupported()
    }

    pub(super) fn forget_everything() -> io::Result<()> {
        unsupported()
    }

    pub(super) fn is_cached(_: &Path) -> io::Result<bool> {
        unsupported()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_can_be_read_whatever_the_cache_holds() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let path = dir.path().join("sub/a");
        std::fs::write(&path, vec![7; 300_000]).unwrap();
        warm(dir.path()).unwrap();
        #[cfg(target_os = "linux")]
        forget(dir.path(), Means::Advice).unwrap();
        assert!(std::fs::read(&path).unwrap() == vec![7; 300_000]);
        assert!(warm(&dir.path().join("none")).is_err());
        // Some file systems forget and some do not; what matters is that neither is an error here.
        if let Err(why) = means(dir.path()) {
            assert!(!why.is_empty());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the probe is gone");
    }
}
