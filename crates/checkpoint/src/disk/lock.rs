//! The right to write to a folder, which one process has at a time.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::calls;
use crate::error::{Error, IoContext as _, Result};

/// Names within a staging folder.
const LOCK: &str = "lock";
const ABOUT: &str = "about.txt";

/// What tells a staging folder from one of a user's.
const TEXT: &str =
    "Made by qstore, which is writing to the folder around this one or was interrupted when it did.
All in here is its own. The next qstore that writes to that folder removes it.
";
/// What a lock says that holds by being there.
const HELD: &str = "held by the qstore with process number ";

/// A locked staging folder. The lock is let go when this is dropped, and the folder is gone if it is empty by then.
#[derive(Debug)]
pub(super) struct Lock {
    folder: PathBuf,
    /// Locked, where the file system has locks; none once it is let go.
    file: Option<File>,
}

impl Lock {
    /// Makes the staging folder `folder` of `home` and locks it, or takes over one that an interrupted process left.
    pub(super) fn acquire(folder: &Path, home: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        // The process that held the lock removes the folder at its end; then it has to be made anew.
        for _ in 0..100 {
            match calls::create_dir(folder) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                result => result.at(folder, "cannot create")?,
            }
            match is_ours(folder) {
                Ok(true) => {}
                Ok(false) => {
                    let what = "it has the name of qstore's working folder, but qstore did not make it; move it elsewhere";
                    return Err(Error::usage(format!("{}: {what}", folder.display())));
                }
                // Gone meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(Error::Io { path: folder.to_owned(), what: "cannot read", source });
                }
            }
            let (mut file, is_new) = match calls::create_new(&path) {
                Ok(file) => (file, true),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    match File::options().read(true).write(true).open(&path) {
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                        result => (result.at(&path, "cannot open")?, false),
                    }
                }
                Err(source) => return Err(Error::Io { path, what: "cannot create", source }),
            };
            let has_locks = match calls::try_lock(&path, &file) {
                Err(TryLockError::WouldBlock) => return Err(Error::Busy(home.to_owned())),
                Err(TryLockError::Error(e)) if calls::is_lacking(&e) => false,
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io { path, what: "cannot lock", source });
                }
                Ok(()) => true,
            };
            let mut text = String::new();
            // What cannot be read holds nobody off.
            drop((&file).take(1000).read_to_string(&mut text));
            if !is_new && (!has_locks || text.starts_with(HELD)) {
                return Err(held(&path, home, &text));
            }
            let ours = same_file::Handle::from_file(file.try_clone().at(&path, "cannot lock")?)
                .at(&path, "cannot lock")?;
            if same_file::Handle::from_path(&path).is_ok_and(|there| there == ours) {
                if !has_locks {
                    // From now on it holds by being there.
                    writeln!(file, "{HELD}{}", std::process::id()).at(&path, "cannot write")?;
                }
                let lock = Self { folder: folder.to_owned(), file: Some(file) };
                lock.write_about()?;
                return Ok(lock);
            }
        }
        Err(Error::Busy(home.to_owned()))
    }

    fn write_about(&self) -> Result<()> {
        let path = self.folder.join(ABOUT);
        let mut file = match calls::create_new(&path) {
            // An interrupted run may have made it and not written it.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => calls::step(&path)
                .and_then(|()| File::options().write(true).open(&path))
                .at(&path, "cannot open")?,
            result => result.at(&path, "cannot create")?,
        };
        file.write_all(TEXT.as_bytes())
            .and_then(|()| calls::sync_file(&path, &file))
            .at(&path, "cannot write")
    }

    /// Whether an entry of the staging folder is part of the lock.
    pub(super) fn is_part(name: &std::ffi::OsStr) -> bool {
        name == LOCK || name == ABOUT
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run. The lock goes last, for whoever has it next is not to
        // lose what tells the folder. As long as anything is left, what tells the folder is needed.
        let is_bare = fs::read_dir(&self.folder)
            .is_ok_and(|mut all| all.all(|entry| entry.is_ok_and(|entry| Self::is_part(&entry.file_name()))));
        if is_bare {
            drop(calls::remove_file(&self.folder.join(ABOUT)));
        }
        drop(calls::remove_file(&self.folder.join(LOCK)));
        // Before the folder, as network file systems keep a file under a hidden name while it is open.
        drop(self.file.take());
        drop(calls::remove_dir(&self.folder));
    }
}

/// Whether a folder is a staging folder: it says so, or is all that is there before it does.
pub(super) fn is_ours(folder: &Path) -> std::io::Result<bool> {
    // All in it will be deleted, so it may not be a link to another.
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Ok(false);
    }
    let (mut about, mut others) = (None, false);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // A pipe would be waited for.
        let is_file = entry.file_type()?.is_file();
        let mut text = String::new();
        if is_file && Lock::is_part(&name) {
            // What is no text is not ours.
            let read = File::open(entry.path())?.take(1000).read_to_string(&mut text);
            text = if read.is_ok() { text } else { "?".to_owned() };
        }
        match name.to_str() {
            Some(ABOUT) if is_file && text == TEXT => about = Some(true),
            // It was about to be written.
            Some(ABOUT) if is_file && text.is_empty() => {}
            Some(ABOUT) => about = Some(false),
            Some(LOCK) if is_file && (text.is_empty() || text.starts_with(HELD)) => {}
            _ => others = true,
        }
    }
    Ok(about.unwrap_or(!others))
}

/// A lock that holds by being there may be of a process that is gone.
fn held(path: &Path, home: &Path, text: &str) -> Error {
    let number = text.strip_prefix(HELD).and_then(|rest| rest.split_whitespace().next()).unwrap_or("unknown");
    Error::usage(format!(
        "{}: another qstore (process number {number}) is writing here, or was killed when it did: this file system does not support locks, so qstore cannot tell. If none is \
         running, on any machine, delete {}",
        home.display(),
        path.display()
    ))
}
