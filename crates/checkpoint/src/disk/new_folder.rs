//! A folder that appears complete or not at all.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::calls::{self, parent_of};
use super::durable::{FileWriter, Syncs};
use super::space::check_room;
use super::staging::{Move, STAGING, Staging};
use crate::error::{Error, IoContext as _, Result};
use crate::progress::Progress;

/// A folder in the making. Dropped uncommitted, it is gone, and so are the folders that were made for it.
///
/// One that is not there yet is made beside its place and then renamed, so that it is there when it is complete. One
/// that is there and empty may be a mount point, or beside nothing that may be written; its files are made within it,
/// and are in their places when all are complete.
#[derive(Debug)]
pub struct NewFolder {
    target: PathBuf,
    /// Whether the folder is there already.
    is_there: bool,
    /// Before the staging folder, in which their files lie, since fields are dropped in order.
    syncs: Syncs,
    staging: Staging,
    /// After the staging folder, which lies in them.
    made: NewFolders,
}

/// Folders that were not there before, the innermost first. Dropped, those that have stayed empty are gone.
#[derive(Debug)]
pub struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes `folder` and what is missing above it.
    pub fn make(folder: &Path) -> Result<Self> {
        let missing =
            folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let made = Self(missing.map(Path::to_owned).collect());
        calls::create_dir_all(folder).at(folder, "cannot create")?;
        Ok(made)
    }

    /// Makes them durable.
    pub fn sync(&self, staging: &Staging) -> Result<()> {
        self.0.iter().try_for_each(|folder| staging.sync(parent_of(folder)))
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // One with something in it is not removed, and is wanted.
            drop(calls::remove_dir(folder));
        }
    }
}

impl NewFolder {
    /// Begins a folder that will be `target`, which must not exist or be an empty folder.
    ///
    /// # Errors
    /// [`Error::Usage`] if `target` is taken, [`Error::Busy`] if another process makes it, an I/O error if nothing can
    /// be made there.
    pub fn begin(target: &Path) -> Result<Self> {
        // Without a dot at its end, which has no name.
        let target: &Path = &target.components().collect::<PathBuf>();
        let beside = beside(target);
        if let Some(beside) = beside.as_ref().filter(|beside| Staging::is_at(beside)) {
            // Of an interrupted run. What cannot be removed is in nobody's way, unless that run goes on.
            if let Err(Error::Busy(target)) = Staging::begin_at(beside, target) {
                return Err(Error::Busy(target));
            }
        }
        check_free(target)?;
        let syncs = Syncs::new()?;
        if let (Some(beside), false) = (&beside, target.exists()) {
            let made = NewFolders::make(parent_of(target))?;
            let staging = Staging::begin_at(beside, target)?;
            if staging.can_rename_folders() {
                check_empty(target)?;
                return Ok(Self { target: target.to_owned(), is_there: false, syncs, staging, made });
            }
        }
        let made = NewFolders::make(target)?;
        let staging = Staging::begin(target)?;
        check_empty(target)?;
        Ok(Self { target: target.to_owned(), is_there: true, syncs, staging, made })
    }

    /// Fails if files of these sizes do not fit where they will lie.
    ///
    /// # Errors
    /// No room.
    pub fn check_room(&self, files: impl Iterator<Item = u64>) -> Result<()> {
        check_room(&self.target, files)
    }

    /// Makes the file `path`, of `bytes` bytes, all zero.
    pub fn create(&self, path: &str, bytes: u64) -> Result<(PathBuf, File)> {
        let path = self.staging.new_files().join(path);
        let parent = parent_of(&path);
        calls::create_dir_all(parent).at(parent, "cannot create")?;
        let file = calls::create_new(&path).at(&path, "cannot create")?;
        file.set_len(bytes).at(&path, "cannot write")?;
        Ok((path, file))
    }

    /// Makes the folder `path`, if it is not there.
    pub fn create_folder(&self, path: &str) -> Result<()> {
        let path = self.staging.new_files().join(path);
        calls::create_dir_all(&path).at(&path, "cannot create")
    }

    /// Begins the file `path`, which will be synced when the folder is committed.
    pub fn writer(&self, path: &str) -> Result<FileWriter<'_>> {
        let (path, file) = self.create(path, 0)?;
        Ok(FileWriter::new(path, file, &self.syncs))
    }

    /// Has a complete file of the folder synced by when it is committed.
    pub fn sync(&self, path: PathBuf, file: File) -> Result<()> {
        self.syncs.begin(path, file)
    }

    /// Makes the file `path` of all that `content` gives.
    pub fn write(&self, path: &str, content: &mut dyn Read) -> Result<()> {
        let mut file = self.writer(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = content.read(&mut buffer).at(file.path(), "cannot write")?;
            if read == 0 {
                return file.finish().map(drop);
            }
            file.write(&buffer[..read])?;
        }
    }

    /// Puts the folder in its place, when its files are on the disk.
    ///
    /// # Errors
    /// A target that was taken meanwhile, an I/O error, or [`Error::Stopped`]. The target is then as it was, or
    /// complete, if no more than syncing the folders above it failed.
    pub fn commit(mut self, progress: &dyn Progress) -> Result<()> {
        self.syncs.wait(progress)?;
        if self.is_there {
            self.staging.publish(Move::default())?;
        } else {
            let new = self.staging.new_files();
            for entry in walkdir::WalkDir::new(&new).contents_first(true) {
                let entry = entry.map_err(|e| Error::input(&new, e))?;
                if entry.file_type().is_dir() {
                    self.staging.sync(entry.path())?;
                }
            }
            calls::rename_new(&new, &self.target).at(&self.target, "cannot move into place")?;
            self.staging.sync(parent_of(&self.target))?;
        }
        self.made.sync(&self.staging)
    }
}

/// Where a folder that will be `target` is made; `None` if its name leaves no room for another.
fn beside(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?.to_str()?;
    (name.len() <= 200).then(|| parent_of(target).join(format!(".{name}{STAGING}")))
}

/// Fails if `target` would lie within `source`, which is only read.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_apart(source: &Path, target: &Path) -> Result<()> {
    let there = target.ancestors().find_map(|above| {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        above.canonicalize().ok()
    });
    let source_there = source.canonicalize().ok();
    if there.zip(source_there).is_some_and(|(target, source)| target.starts_with(source)) {
        let (target, source) = (target.display(), source.display());
        return Err(Error::usage(format!(
            "{target}: it lies within {source}, which is only read; give another folder"
        )));
    }
    Ok(())
}

/// Fails if `target` is there and is not an empty folder. What an interrupted run has left in it is for the next one to
/// remove.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_free(target: &Path) -> Result<()> {
    if Staging::is_in(target) { Ok(()) } else { check_empty(target) }
}

/// Fails if `target` is there and is not a folder that is empty but for a staging folder, or what a file system keeps
/// in its first folder.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_empty(target: &Path) -> Result<()> {
    let is_nothing = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        (name == STAGING || name == "lost+found") && entry.path().is_dir()
    };
    let taken = |what: &str| Err(Error::usage(format!("{}: {what}", target.display())));
    if fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    if !target.exists() {
        return taken("this link leads nowhere; give a new folder");
    }
    if !target.is_dir() {
        return taken("this is not a folder; give a new one");
    }
    let entries = fs::read_dir(target).at(target, "cannot read")?.collect::<io::Result<Vec<_>>>();
    let entries = entries.at(target, "cannot read")?;
    let others: Vec<_> = entries.into_iter().filter(|entry| !is_nothing(entry)).collect();
    match &others[..] {
        [] => Ok(()),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let first = first.file_name();
            let first = first.to_string_lossy();
            taken(&format!("it exists and is not an empty folder: it has {first}{more}; give a new one"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn entries(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn appears_when_committed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/model");
        let folder = NewFolder::begin(&target).unwrap();
        folder.write("sub/x", &mut &b"text"[..]).unwrap();
        folder.create("y", 3).unwrap();
        assert!(!target.exists());
        folder.commit(&Silent).unwrap();
        assert_eq!(entries(&target), ["sub", "y"]);
        assert_eq!(entries(&dir.path().join("a")), ["model"]);
        assert_eq!(fs::read(target.join("sub/x")).unwrap(), b"text");
        assert_eq!(fs::read(target.join("y")).unwrap(), [0; 3]);
    }

    #[test]
    #[cfg(unix)]
    fn does_not_appear_when_a_file_is_not_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        let folder = NewFolder::begin(&target).unwrap();
        folder.write("x", &mut &b"text"[..]).unwrap();
        folder.syncs.begin("y".into(), crate::disk::unsyncable().unwrap()).unwrap();
        assert!(folder.commit(&Silent).is_err());
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn leaves_nothing_when_given_up_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        let deep = dir.path().join("a/b/model");
        for target in [&target, &deep] {
            let folder = NewFolder::begin(target).unwrap();
            folder.write("x", &mut &b"text"[..]).unwrap();
            drop(folder);
            assert!(entries(dir.path()).is_empty());
        }
        fs::create_dir(dir.path().join("a")).unwrap();
        drop(NewFolder::begin(&deep).unwrap());
        assert_eq!(entries(dir.path()), ["a"], "a folder that was there stays");
        fs::remove_dir(dir.path().join("a")).unwrap();
        fs::create_dir(&target).unwrap();
        NewFolder::begin(&target).unwrap().commit(&Silent).unwrap();
        fs::write(target.join("x"), "").unwrap();
        assert!(matches!(NewFolder::begin(&target), Err(Error::Usage(_))));
        assert_eq!(entries(dir.path()), ["model"]);
    }
}
