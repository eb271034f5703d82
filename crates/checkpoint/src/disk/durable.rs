//! Files that reach the disk while other work goes on.
//!
//! To sync a file is to wait for the disk, and a file of gigabytes that is synced at its end has the processor idle all
//! that time. So a thread of its own syncs, now and then while a file is written and once it is complete; and whoever
//! commits waits for it.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::calls;
use crate::error::{Error, IoContext as _, Result};
use crate::progress::Progress;

/// Written bytes after which the disk is to begin with them.
const SOME: u64 = 32 << 20;

/// Files that wait to be synced, each with a handle of the process's few. Beyond that, whoever has another waits.
const WAITING: usize = 16;

/// How often whoever waits for the disk looks whether to go on.
const LOOK: Duration = Duration::from_millis(2);

/// Smaller writes are put together; larger ones are not copied.
const BUFFER: usize = 64 << 10;

/// Syncs files on a thread of its own. Dropped before they were waited for, it has let go of all of them, and syncs no
/// more.
#[derive(Debug)]
pub struct Syncs {
    /// None once all has been handed over.
    queue: Option<SyncSender<(PathBuf, File)>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The file that could not be synced, and why.
    failure: Mutex<Option<(PathBuf, io::Error)>>,
    /// Files that are in the queue or being synced.
    waiting: AtomicUsize,
    /// Nobody waits for them any more.
    given_up: AtomicBool,
}

impl Syncs {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn new() -> Result<Self> {
        let (queue, files) = sync_channel(WAITING);
        let shared = Arc::<Shared>::default();
        let work = {
            let shared = Arc::clone(&shared);
            move || sync_all(&files, &shared)
        };
        let thread = std::thread::Builder::new().name("sync".to_owned()).spawn(work);
        let thread =
            thread.map_err(|e| Error::usage(format!("cannot start a thread that syncs files: {e}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), shared })
    }

    /// Has a complete file synced.
    ///
    /// # Errors
    /// A file handed over before could not be synced.
    pub fn begin(&self, path: PathBuf, file: File) -> Result<()> {
        self.check()?;
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread ends before the queue only if it fails, which `wait` tells.
        self.queue.as_ref().map_or(Ok(()), |queue| queue.send((path, file)).or(Ok(())))
    }

    /// Has the disk begin with what was written to `file`, unless it is busy or there are no handles left: it will be
    /// synced anyway.
    fn begin_some(&self, path: &Path, file: &File) -> Result<()> {
        if self.shared.waiting.load(Ordering::Relaxed) > 0 {
            return self.check();
        }
        file.try_clone().map_or(Ok(()), |file| self.begin(path.to_owned(), file))
    }

    fn check(&self) -> Result<()> {
        match &*self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((path, error)) => Err(again(error)).at(path, "cannot write"),
        }
    }

    /// Waits until all files that were handed over are on the disk.
    ///
    /// # Errors
    /// One of them could not be synced, or `progress` said to stop.
    pub fn wait(&mut self, progress: &dyn Progress) -> Result<()> {
        self.queue = None;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            progress.advance(0)?;
            std::thread::sleep(LOOK);
        }
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            return Err(Error::internal("the thread that syncs files failed"));
        }
        self.check()
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.shared.given_up.store(true, Ordering::Relaxed);
        // Nobody commits these files: what became of them does not matter.
        drop(self.join());
    }
}

/// Syncs files as they come; after a failure none.
fn sync_all(files: &Receiver<(PathBuf, File)>, shared: &Shared) {
    for (path, file) in files {
        if shared.given_up.load(Ordering::Relaxed) {
            continue;
        }
        if let Err(error) = calls::sync_file(&path, &file) {
            *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((path, error));
            return;
        }
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The same error: whoever asks next is told, too.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// A file that is being written from its beginning to its end.
#[derive(Debug)]
pub struct FileWriter<'a> {
    path: PathBuf,
    file: BufWriter<File>,
    syncs: &'a Syncs,
    /// Bytes written since the disk was last told to begin.
    fresh: u64,
}

impl<'a> FileWriter<'a> {
    /// The file at `path`, open as `file`, which `syncs` will sync.
    #[must_use]
    pub fn new(path: PathBuf, file: File, syncs: &'a Syncs) -> Self {
        Self { path, file: BufWriter::with_capacity(BUFFER, file), syncs, fresh: 0 }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes`, and goes on after them.
    ///
    /// # Errors
    /// They cannot be written, or another file could not be synced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        calls::step(&self.path).and_then(|()| self.file.write_all(bytes)).at(&self.path, "cannot write")?;
        self.fresh += bytes.len() as u64;
        if self.fresh < SOME {
            return Ok(());
        }
        self.fresh = 0;
        self.syncs.begin_some(&self.path, self.file.get_ref())
    }

    /// Goes on at byte `position`.
    pub fn seek(&mut self, position: u64) -> Result<()> {
        self.file.seek(io::SeekFrom::Start(position)).map(drop).at(&self.path, "cannot write")
    }

    /// Ends the file, which will be synced; returns its size.
    pub fn finish(self) -> Result<u64> {
        let Self { path, file, syncs, .. } = self;
        let ended = file.into_inner().map_err(io::IntoInnerError::into_error);
        let (file, bytes) = ended
            .and_then(|file| file.metadata().map(|data| (file, data.len())))
            .at(&path, "cannot write")?;
        syncs.begin(path, file)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(unix)]
    use crate::disk::unsyncable;
    use crate::progress::Silent;

    #[test]
    fn what_was_written_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut syncs = Syncs::new().unwrap();
        for number in 0..100u64 {
            let path = dir.path().join(number.to_string());
            let mut file = FileWriter::new(path.clone(), File::create(&path).unwrap(), &syncs);
            file.seek(8).unwrap();
            file.write(&number.to_le_bytes()).unwrap();
            file.seek(0).unwrap();
            file.write(b"the head").unwrap();
            assert_eq!(file.finish().unwrap(), 16);
        }
        syncs.wait(&Silent).unwrap();
        assert_eq!(syncs.shared.waiting.load(Ordering::Relaxed), 0);
        for number in 0..100u64 {
            let bytes = std::fs::read(dir.path().join(number.to_string())).unwrap();
            assert_eq!(bytes, [&b"the head"[..], &number.to_le_bytes()].concat());
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_failure_is_told_to_whoever_comes_next_and_to_the_one_who_waits() {
        let mut syncs = Syncs::new().unwrap();
        let failed = |result: Result<()>| {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("some/file"), "{text}");
        };
        syncs.begin("some/file".into(), unsyncable().unwrap()).unwrap();
        while syncs.check().is_ok() {
            std::thread::yield_now();
        }
        let good = tempfile::tempfile().unwrap();
        failed(syncs.begin("other".into(), good.try_clone().unwrap()));
        failed(syncs.begin_some(Path::new("other"), &good));
        failed(syncs.wait(&Silent));
        failed(syncs.wait(&Silent));
    }

    #[test]
    #[cfg(unix)]
    fn nothing_is_synced_that_nobody_waits_for() {
        let syncs = Syncs::new().unwrap();
        syncs.shared.given_up.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&syncs.shared);
        syncs.begin("some/file".into(), unsyncable().unwrap()).unwrap();
        drop(syncs);
        assert!(shared.failure.lock().unwrap().is_none());
    }
}
