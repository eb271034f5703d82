//! Failures of the disk, for tests: the n-th call below a folder fails, or it and all that follow do, as if the process
//! had been killed.

#[cfg(unix)]
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::calls::Ability;

/// What happens at the n-th call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, as on a full disk; what follows does not.
    Fails,
    /// Nothing happens any more on the disk.
    Killed,
}

static LACKING: Mutex<Vec<(PathBuf, &'static [Ability])>> = Mutex::new(Vec::new());

/// Runs `work` while the file system below `folder` lacks something.
pub fn lacking<R>(folder: &Path, what: &'static [Ability], work: impl FnOnce() -> R) -> R {
    LACKING.lock().unwrap_or_else(PoisonError::into_inner).push((folder.to_owned(), what));
    let result = work();
    LACKING.lock().unwrap_or_else(PoisonError::into_inner).retain(|(below, _)| below != folder);
    result
}

/// Whether something can be done to `path`.
pub(super) fn lacks(path: &Path, ability: Ability) -> io::Result<()> {
    let all = LACKING.lock().unwrap_or_else(PoisonError::into_inner);
    let is_lacking = all.iter().any(|(below, what)| path.starts_with(below) && what.contains(&ability));
    if is_lacking { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
}

struct Armed {
    below: PathBuf,
    fault: Fault,
    /// Calls that are still to succeed.
    left: u64,
    /// Calls so far.
    calls: u64,
}

static ARMED: Mutex<Vec<Armed>> = Mutex::new(Vec::new());

fn armed<R>(work: impl FnOnce(&mut Vec<Armed>) -> R) -> R {
    work(&mut ARMED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `work` while call number `nth` below `folder` (the first is 0) ends in `fault`; also says how many calls there
/// were.
pub fn with_fault<R>(folder: &Path, fault: Fault, nth: u64, work: impl FnOnce() -> R) -> (R, u64) {
    let below = folder.to_owned();
    armed(|all| all.push(Armed { below: below.clone(), fault, left: nth, calls: 0 }));
    let result = work();
    let calls = armed(|all| {
        let at = all.iter().position(|one| one.below == below);
        at.map_or(0, |at| all.swap_remove(at).calls)
    });
    (result, calls)
}

/// The call on `path` that is about to be made.
pub(super) fn step(path: &Path) -> io::Result<()> {
    armed(|all| {
        let Some(one) = all.iter_mut().find(|one| path.starts_with(&one.below)) else { return Ok(()) };
        one.calls += 1;
        if one.left > 0 {
            one.left -= 1;
            return Ok(());
        }
        if one.fault == Fault::Fails {
            one.left = u64::MAX;
        }
        Err(io::Error::other("a failure of the test's making"))
    })
}

/// What cannot be synced, as if the disk failed: a pipe.
///
/// # Errors
/// The system has none to give.
#[cfg(unix)]
pub fn unsyncable() -> io::Result<File> {
    let (_, end) = io::pipe()?;
    Ok(File::from(std::os::fd::OwnedFd::from(end)))
}
