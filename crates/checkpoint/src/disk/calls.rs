//! The calls that change folders: one place, so that tests can have any of them fail.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

/// What comes before each call. In tests a call may fail, or be the last before the process is gone.
#[cfg(not(any(test, feature = "faults")))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it can fail")]
pub(super) fn step(_: &Path) -> io::Result<()> {
    Ok(())
}
/// In tests a file system may lack something.
#[cfg(not(any(test, feature = "faults")))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it can fail")]
fn lacks(_: &Path, _: Ability) -> io::Result<()> {
    Ok(())
}
#[cfg(any(test, feature = "faults"))]
pub(super) use super::faults::{lacks, step};

/// What not every file system does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "faults")), expect(unreachable_pub, reason = "only tests name it"))]
pub enum Ability {
    /// Locks of files.
    Lock,
    /// Other names for files.
    RenameFiles,
    /// Other names for folders.
    RenameFolders,
    /// Folders whose entries can be made durable.
    SyncFolders,
}

pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    step(path)?;
    fs::create_dir(path)
}

/// Makes a folder and those above it that are missing.
///
/// # Errors
/// They cannot be made.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    step(path)?;
    fs::create_dir_all(path)
}

/// Makes a file that was not there.
///
/// # Errors
/// It is there, or cannot be made.
pub fn create_new(path: &Path) -> io::Result<File> {
    step(path)?;
    File::options().read(true).write(true).create_new(true).open(path)
}

/// Whether an error says that the file system does not do such a thing, rather than that it failed.
pub(super) fn is_lacking(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, IsADirectory, PermissionDenied, Unsupported};
    #[cfg(unix)]
    let no_locks = error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error());
    #[cfg(not(unix))]
    let no_locks = false;
    no_locks || matches!(error.kind(), InvalidInput | IsADirectory | PermissionDenied | Unsupported)
}

/// Gives a file another name, in the place of whatever has that name.
///
/// # Errors
/// It cannot be renamed.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step(to).and_then(|()| lacks(to, Ability::RenameFiles))?;
    fs::rename(from, to)
}

/// Gives a file or folder a name that nothing has.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    step(to)?;
    lacks(to, if from.is_dir() { Ability::RenameFolders } else { Ability::RenameFiles })?;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // File systems that do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            result => return Ok(result?),
        }
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    step(path)?;
    fs::remove_file(path)
}

/// Removes a folder that is empty.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    step(path)?;
    fs::remove_dir(path)
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    step(path).and_then(|()| lacks(path, Ability::SyncFolders))?;
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes a file durable.
pub(super) fn sync_file(path: &Path, file: &File) -> io::Result<()> {
    step(path)?;
    file.sync_all()
}

/// Locks a file, if nobody has.
pub(super) fn try_lock(path: &Path, file: &File) -> Result<(), TryLockError> {
    step(path).and_then(|()| lacks(path, Ability::Lock)).map_err(TryLockError::Error)?;
    file.try_lock()
}

/// The folder that `path` lies in, if need be the current one.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
