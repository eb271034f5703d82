//! A folder that appears complete or not at all.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::durable::{FileWriter, Syncs};
use crate::error::{Error, IoContext as _, Result};
use crate::file::sync_folder;

/// A folder in the making, beside its target. Dropped uncommitted, it is gone, and so are the parents that it made.
#[derive(Debug)]
pub(crate) struct NewFolder {
    target: PathBuf,
    /// Within the temporary folder, which is closed to others while this one has the usual permissions.
    folder: PathBuf,
    /// Before the temporary folder, in which their files lie, since fields are dropped in order.
    syncs: Syncs,
    temporary: TempDir,
    /// After the temporary folder, which lies in them.
    parents: NewFolders,
}

/// Folders that were not there before, the innermost first. Dropped, those that have stayed empty are gone.
#[derive(Debug)]
pub(crate) struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes `folder` and what is missing above it.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let missing =
            folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let made = Self(missing.map(Path::to_owned).collect());
        fs::create_dir_all(folder).at(folder, "cannot create")?;
        Ok(made)
    }

    /// Makes them durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.0.iter().try_for_each(|folder| sync_folder(parent_of(folder)))
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // One with something in it is not removed, and is wanted.
            drop(fs::remove_dir(folder));
        }
    }
}

impl NewFolder {
    /// Begins a folder that will be `target`, which must not exist or be an empty folder.
    ///
    /// # Errors
    /// [`Error::Usage`] if `target` is taken, an I/O error if nothing can be made beside it.
    pub(crate) fn begin(target: &Path) -> Result<Self> {
        if target.symlink_metadata().is_ok() && !is_empty_folder(target) {
            let text = format!("{}: it exists and is not an empty folder; give a new one", target.display());
            return Err(Error::usage(text));
        }
        let parent = parent_of(target);
        let parents = NewFolders::make(parent)?;
        let temporary = tempfile::Builder::new().prefix(".qstore-").tempdir_in(parent);
        let temporary = temporary.at(parent, "cannot create a folder in")?;
        let folder = temporary.path().join("files");
        fs::create_dir(&folder).at(&folder, "cannot create")?;
        Ok(Self { target: target.to_owned(), folder, temporary, syncs: Syncs::new()?, parents })
    }

    /// Makes the file `path`, of `bytes` bytes, all zero.
    pub(crate) fn create(&self, path: &str, bytes: u64) -> Result<(PathBuf, File)> {
        let path = self.folder.join(path);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).at(parent, "cannot create")?;
        let file = File::create_new(&path).at(&path, "cannot create")?;
        file.set_len(bytes).at(&path, "cannot write")?;
        Ok((path, file))
    }

    /// Makes the folder `path`, if it is not there.
    pub(crate) fn create_folder(&self, path: &str) -> Result<()> {
        let path = self.folder.join(path);
        fs::create_dir_all(&path).at(&path, "cannot create")
    }

    /// Begins the file `path`, which will be synced when the folder is committed.
    pub(crate) fn writer(&self, path: &str) -> Result<FileWriter<'_>> {
        let (path, file) = self.create(path, 0)?;
        Ok(FileWriter::new(path, file, &self.syncs))
    }

    /// Makes the file `path` of all that `content` gives.
    pub(crate) fn write(&self, path: &str, content: &mut dyn Read) -> Result<()> {
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

    /// Puts the folder in its place, when the files of its writers are on the disk; others have been synced.
    pub(crate) fn commit(mut self) -> Result<()> {
        self.syncs.wait()?;
        for entry in walkdir::WalkDir::new(&self.folder).contents_first(true) {
            let entry = entry.map_err(|e| Error::input(&self.folder, e))?;
            if entry.file_type().is_dir() {
                sync_folder(entry.path())?;
            }
        }
        if is_empty_folder(&self.target) {
            fs::remove_dir(&self.target).at(&self.target, "cannot replace")?;
        }
        fs::rename(&self.folder, &self.target).at(&self.target, "cannot move into place")?;
        let parent = parent_of(&self.target);
        self.temporary.close().at(parent, "cannot remove the temporary folder in")?;
        sync_folder(parent)?;
        self.parents.sync()
    }
}

/// The folder that `path` lies in, if need be the current one.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn is_empty_folder(path: &Path) -> bool {
    path.is_dir() && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        folder.commit().unwrap();
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
        folder.syncs.begin("y".into(), crate::durable::tests::unsyncable()).unwrap();
        assert!(folder.commit().is_err());
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
        NewFolder::begin(&target).unwrap().commit().unwrap();
        fs::write(target.join("x"), "").unwrap();
        assert!(matches!(NewFolder::begin(&target), Err(Error::Usage(_))));
        assert_eq!(entries(dir.path()), ["model"]);
    }
}
