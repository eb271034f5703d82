//! Changing a folder so that a crash at any moment leaves the old state or the new one.
//!
//! Everything new is made in a staging folder, which also holds the lock of the one process that may write. When all is
//! there and synced, what is about to happen is written down; then the new files move into place, none of them over
//! another; for a store the new manifest then replaces the old one in a single rename, which is the commit; then the
//! files that it does not name any more go.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use qstore_container::RelativePath;

use super::calls;
use super::journal::{Decisive, Item, Journal};
use super::lock::{self, Lock};
use crate::error::{Error, IoContext as _, Result};

/// Name of the staging folder within a folder that is changed.
pub(super) const STAGING: &str = ".qstore-staging";
const NEW: &str = "new";
const JOURNAL: &str = "change.json";

/// The right to write to a folder, and the place where new files are made.
#[derive(Debug)]
pub struct Staging {
    home: PathBuf,
    folder: PathBuf,
    can: Abilities,
    /// Whether what was written down is for the next run to act on.
    keep: bool,
    /// Held until dropped.
    _lock: Lock,
}

/// What a file system does that not every one does.
#[derive(Debug, Clone, Copy)]
struct Abilities {
    rename_folders: bool,
    sync_folders: bool,
}

/// What a change does once its new files are there.
#[derive(Debug, Default)]
pub struct Move {
    /// The file that decides.
    pub decisive: Option<&'static str>,
    /// Whether it replaces the one of its name.
    pub replaces: bool,
    /// Files of the folder that are its own: a new one of the same name replaces it, as it has the same content.
    pub own: HashSet<RelativePath>,
    /// Files that go.
    pub leaving: Vec<RelativePath>,
    /// Folders that go with them if nothing is left in them, outer ones first.
    pub left_folders: Vec<RelativePath>,
}

impl Staging {
    /// Locks the folder `home`, which exists, and finishes or undoes what an interrupted change of it has left.
    ///
    /// # Errors
    /// [`Error::Busy`], or a file system that lacks what is needed.
    pub fn begin(home: &Path) -> Result<Self> {
        Self::begin_at(&home.join(STAGING), home)
    }

    /// The same with the staging folder at `folder`, on the same file system; `home` need not exist.
    pub(super) fn begin_at(folder: &Path, home: &Path) -> Result<Self> {
        let lock = Lock::acquire(folder, home)?;
        let can = Abilities { rename_folders: false, sync_folders: false };
        let mut staging =
            Self { home: home.to_owned(), folder: folder.to_owned(), can, keep: false, _lock: lock };
        // Until that is done, what was written down is needed.
        staging.keep = folder.join(JOURNAL).exists();
        staging.can = staging.probe()?;
        staging.recover()?;
        staging.keep = false;
        staging.clear()?;
        let new = staging.new_files();
        calls::create_dir(&new).at(&new, "cannot create")?;
        Ok(staging)
    }

    /// The folder that is changed.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The folder for new files.
    pub fn new_files(&self) -> PathBuf {
        self.folder.join(NEW)
    }

    pub(super) fn can_rename_folders(&self) -> bool {
        self.can.rename_folders
    }

    /// Whether a staging folder is in `home`: of a change that is under way or was interrupted.
    pub fn is_in(home: &Path) -> bool {
        Self::is_at(&home.join(STAGING))
    }

    /// Whether `folder` is a staging folder.
    pub(super) fn is_at(folder: &Path) -> bool {
        lock::is_ours(folder).unwrap_or(false)
    }

    /// What an interrupted change of `home` has left, by the names in it: the next one removes it.
    pub fn leftovers(home: &Path) -> Vec<String> {
        let folder = home.join(STAGING);
        if !Self::is_at(&folder) {
            return Vec::new();
        }
        let mut left = vec![STAGING.to_owned()];
        if let Some(journal) = Journal::read(&folder.join(JOURNAL)) {
            let is_new = |item: &&Item| !is_absent(&folder.join(NEW).join(item.path.as_str()));
            let decided = is_decided(home, &folder.join(NEW), &journal);
            let items = if decided { &journal.leaving } else { &journal.arriving };
            let gone = items.iter().filter(|item| item.is_in(home) && (decided || !is_new(item)));
            let tops: BTreeSet<&str> = gone.filter_map(|item| item.path.components().next()).collect();
            left.extend(tops.into_iter().map(str::to_owned));
        }
        left
    }

    /// What the file system can do, tried.
    fn probe(&self) -> Result<Abilities> {
        let (one, two) = (self.folder.join("probe"), self.folder.join("probe-renamed"));
        // Of a run that was interrupted when it tried.
        [&one.join("file"), &two].iter().for_each(|left| drop(calls::remove_file(left)));
        [&one, &two].iter().for_each(|left| drop(calls::remove_dir(left)));
        let inner = one.join("file");
        calls::create_dir(&one).at(&one, "cannot create")?;
        drop(calls::create_new(&inner).at(&inner, "cannot create")?);
        calls::rename(&inner, &two).map_err(|e| {
            let home = self.home.display();
            Error::usage(format!(
                "{home}: its file system cannot rename files ({e}), without which nothing can be put in place whole; write to a folder on another one, and copy that"
            ))
        })?;
        calls::remove_file(&two).at(&two, "cannot remove")?;
        let rename_folders = match calls::rename_new(&one, &two) {
            Ok(()) => {
                calls::remove_dir(&two).at(&two, "cannot remove")?;
                true
            }
            Err(_) => {
                calls::remove_dir(&one).at(&one, "cannot remove")?;
                false
            }
        };
        let sync_folders = match calls::sync_folder(&self.folder) {
            Ok(()) => true,
            Err(e) if calls::is_lacking(&e) => false,
            Err(source) => {
                return Err(Error::Io { path: self.folder.clone(), what: "cannot sync", source });
            }
        };
        Ok(Abilities { rename_folders, sync_folders })
    }

    /// Makes the entries of a folder durable, where the file system can.
    pub(super) fn sync(&self, folder: &Path) -> Result<()> {
        if self.can.sync_folders { calls::sync_folder(folder).at(folder, "cannot sync") } else { Ok(()) }
    }

    /// Moves every new file into place and does the rest of `change`. All new files are on the disk.
    ///
    /// # Errors
    /// A name that is taken, or whatever the file system says. Unless the decisive file is in place by then, the folder
    /// is as it was; if it is, the next run does what is left to do.
    pub fn publish(&mut self, change: Move) -> Result<()> {
        let new = self.new_files();
        let replaces = change.replaces;
        let (journal, again) = self.plan(change).at(&new, "cannot read")?;
        if let Some(decisive) = journal.decisive.as_ref().filter(|_| !replaces) {
            self.check_free(decisive.path.as_str())?;
        }
        for path in tops(&journal) {
            self.check_free(path.as_str())?;
        }
        for path in &again {
            let to = self.home.join(path.as_str());
            calls::rename(&new.join(path.as_str()), &to).at(&to, "cannot replace")?;
        }
        self.sync(&new)?;
        self.write_down(&journal)?;
        if let Err(error) = self.arrive(&journal, replaces) {
            // What was named before goes only when it is sure that it is not any more. And if the disk does not even
            // take back what has arrived, the next run does.
            let decided = journal.decisive.is_some() && self.is_decided(&journal);
            self.keep = decided || self.undo(&journal).is_err();
            return Err(error);
        }
        let finished = self.finish(&journal);
        self.keep = finished.is_err();
        finished
    }

    /// What `change` is, in full, and the files that are there already.
    fn plan(&self, change: Move) -> io::Result<(Journal, Vec<RelativePath>)> {
        let Move { decisive, own, leaving, left_folders, .. } = change;
        let (new, mut journal, mut again) = (self.new_files(), Journal::default(), Vec::new());
        for entry in walkdir::WalkDir::new(&new).min_depth(1).sort_by_file_name() {
            let entry = entry?;
            let path = entry.path().strip_prefix(&new).map_err(io::Error::other)?;
            let path = path.to_str().ok_or(ErrorKind::InvalidFilename)?;
            if Some(path) == decisive {
                continue;
            }
            let path = path.parse().map_err(io::Error::other)?;
            if own.contains(&path) && self.home.join(path.as_str()).symlink_metadata().is_ok() {
                again.push(path);
                continue;
            }
            let item = Item::at(&new, &path)?;
            if entry.file_type().is_dir() { journal.folders.push(item) } else { journal.arriving.push(item) }
        }
        // What is gone already need not go.
        let there = |paths: Vec<RelativePath>| {
            paths.iter().filter_map(|path| Item::at(&self.home, path).ok()).collect()
        };
        (journal.leaving, journal.left_folders) = (there(leaving), there(left_folders));
        let decisive = decisive.map(str::parse::<RelativePath>).transpose().map_err(io::Error::other)?;
        let decisive = decisive.map(|path| Decisive::at(&new, &path)).transpose()?;
        Ok((Journal { decisive, makes_folders: !self.can.rename_folders, ..journal }, again))
    }

    /// # Errors
    /// Something has that name, or one that the file system takes for it.
    pub fn check_free(&self, path: &str) -> Result<()> {
        let path = self.home.join(path);
        if path.symlink_metadata().is_ok() { Err(taken(&path)) } else { Ok(()) }
    }

    /// Makes a new folder of new files.
    ///
    /// # Errors
    /// Another one has that name, or one that the file system takes for it.
    pub fn make_folder(&self, name: &str) -> Result<()> {
        let path = self.new_files().join(name);
        match calls::create_dir(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(taken(&self.home.join(name))),
            result => result.at(&path, "cannot create"),
        }
    }

    /// Makes the new file `name` of `text`, on the disk.
    pub fn write(&self, name: &str, text: &[u8]) -> Result<()> {
        write(&self.new_files().join(name), text)
    }

    fn write_down(&self, journal: &Journal) -> Result<()> {
        let path = self.folder.join(JOURNAL);
        write(&path, &serde_json::to_vec(journal).map_err(io::Error::from).at(&path, "cannot write")?)?;
        self.sync(&self.folder)
    }

    /// Moves the new files into place, the decisive one last, which may replace another.
    fn arrive(&self, journal: &Journal, replaces: bool) -> Result<()> {
        let new = self.new_files();
        let at = |path: &RelativePath| (new.join(path.as_str()), self.home.join(path.as_str()));
        let moved = |(from, to): (PathBuf, PathBuf)| match calls::rename_new(&from, &to) {
            Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) => {
                Err(taken(&to))
            }
            result => result.at(&to, "cannot move into place"),
        };
        for folder in journal.folders.iter().rev() {
            self.sync(&new.join(folder.path.as_str()))?;
        }
        if self.can.rename_folders {
            for path in tops(journal) {
                moved(at(path))?;
            }
        } else {
            for folder in &journal.folders {
                let to = self.home.join(folder.path.as_str());
                match calls::create_dir(&to) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(taken(&to)),
                    result => result.at(&to, "cannot create")?,
                }
            }
            for item in &journal.arriving {
                moved(at(&item.path))?;
            }
            for folder in journal.folders.iter().rev() {
                self.sync(&self.home.join(folder.path.as_str()))?;
            }
        }
        self.sync(&self.home)?;
        if let Some(decisive) = &journal.decisive {
            let (from, to) = at(&decisive.path);
            if replaces {
                calls::rename(&from, &to).at(&to, "cannot replace")?;
            } else {
                moved((from, to))?;
            }
            self.sync(&self.home)?;
        }
        Ok(())
    }

    /// Removes what goes.
    fn finish(&self, journal: &Journal) -> Result<()> {
        for item in &journal.leaving {
            self.remove(item)?;
        }
        for folder in journal.left_folders.iter().rev().filter(|folder| folder.is_in(&self.home)) {
            self.remove_folder(&folder.path)?;
        }
        Ok(())
    }

    /// Takes back what has arrived.
    fn undo(&self, journal: &Journal) -> Result<()> {
        let new = self.new_files();
        for item in &journal.arriving {
            // What has not arrived yet may have a namesake in its place.
            if is_absent(&new.join(item.path.as_str())) {
                self.remove(item)?;
            }
        }
        for folder in journal.folders.iter().rev() {
            // Of one that is made where it belongs it is not known which it is; but only an empty one goes.
            if journal.makes_folders || folder.is_in(&self.home) {
                self.remove_folder(&folder.path)?;
            }
        }
        Ok(())
    }

    /// Removes a folder unless something is in it, or something else is in its place.
    fn remove_folder(&self, path: &RelativePath) -> Result<()> {
        use ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound, ResourceBusy};
        let path = self.home.join(path.as_str());
        match calls::remove_dir(&path) {
            Err(e) if matches!(e.kind(), NotFound | DirectoryNotEmpty | NotADirectory | ResourceBusy) => {
                Ok(())
            }
            result => result.at(&path, "cannot remove"),
        }
    }

    /// Removes a file if it is the one that is meant.
    fn remove(&self, item: &Item) -> Result<()> {
        if !item.is_in(&self.home) {
            return Ok(());
        }
        let path = self.home.join(item.path.as_str());
        match calls::remove_file(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            result => result.at(&path, "cannot remove"),
        }
    }

    /// Finishes or undoes a change that was interrupted.
    fn recover(&self) -> Result<()> {
        // One that is not whole was being written: nothing had moved by then.
        let Some(journal) = Journal::read(&self.folder.join(JOURNAL)) else { return Ok(()) };
        if !self.is_decided(&journal) {
            return self.undo(&journal);
        }
        self.sync(&self.home)?;
        self.finish(&journal)
    }

    fn is_decided(&self, journal: &Journal) -> bool {
        is_decided(&self.home, &self.new_files(), journal)
    }

    /// Removes all in the staging folder but the lock: first what was written down, for without the rest it would say
    /// what is not so.
    fn clear(&self) -> Result<()> {
        let journal = self.folder.join(JOURNAL);
        match calls::remove_file(&journal) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            result => result.at(&journal, "cannot remove").and_then(|()| self.sync(&self.folder))?,
        }
        for entry in walkdir::WalkDir::new(&self.folder).min_depth(1).contents_first(true) {
            let entry = entry.map_err(io::Error::from).at(&self.folder, "cannot read")?;
            if entry.depth() == 1 && Lock::is_part(entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let removed =
                if entry.file_type().is_dir() { calls::remove_dir(path) } else { calls::remove_file(path) };
            removed.at(path, "cannot remove")?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        if !self.keep {
            drop(self.clear());
        }
    }
}

/// Whether what decides has happened to `home`, `new` being the folder of new files.
fn is_decided(home: &Path, new: &Path, journal: &Journal) -> bool {
    match &journal.decisive {
        Some(decisive) => decisive.is_in(home),
        None => journal.arriving.iter().all(|item| is_absent(&new.join(item.path.as_str()))),
    }
}

/// Whether nothing is at `path`, and not only that it cannot be told.
fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound)
}

/// What moves as a whole where folders can be renamed: files and folders that lie in no other.
fn tops(journal: &Journal) -> impl Iterator<Item = &RelativePath> {
    let all = journal.folders.iter().chain(&journal.arriving);
    all.map(|item| &item.path).filter(|path| path.is_file_name())
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    let write = || {
        let mut file = calls::create_new(path)?;
        calls::step(path).and_then(|()| io::Write::write_all(&mut file, text))?;
        calls::sync_file(path, &file)
    };
    write().at(path, "cannot write")
}

fn taken(path: &Path) -> Error {
    let what = "something that qstore did not make has this name; move it elsewhere, or use another name";
    Error::usage(format!("{}: {what}", path.display()))
}
