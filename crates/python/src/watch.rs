//! Long operations: on a thread of their own, while the caller's tells of progress and hears Ctrl-C.

use std::ffi::CString;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use qstore::{Error, Progress};

use crate::errors::OrRaise as _;

/// How often Python hears of progress, and Ctrl-C is heard.
const INTERVAL: Duration = Duration::from_millis(50);

/// Runs `work` on another thread. Meanwhile this one calls `callback(stage, done, total)`, gives Python's warnings, and handles signals; if one of them raises,
/// the work is stopped, and that is what is raised.
///
/// # Errors
/// What `work` returns, or what was raised meanwhile.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    work: impl FnOnce(&dyn Progress) -> qstore::Result<T> + Send,
) -> PyResult<T> {
    let watch = Watch::default();
    let mut reporter = Reporter { callback, stage: None, shown: 0 };
    let (outcome, mut raised) = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let _finish = Finish(&watch);
            work(&watch)
        });
        let mut raised = None;
        loop {
            let finished = py.detach(|| watch.wait());
            let told = if raised.is_none() { reporter.tell(py, &watch) } else { Ok(()) };
            if let Err(error) = told {
                raised = Some(error);
                watch.stop.store(true, Ordering::Relaxed);
            }
            if finished {
                return (py.detach(|| worker.join()), raised);
            }
        }
    });
    if matches!(outcome, Ok(Ok(_))) && raised.is_none() {
        raised = reporter.complete(py).err();
    }
    match (outcome, raised) {
        (Err(panic), _) => resume_unwind(panic),
        (_, Some(error)) => Err(error),
        (Ok(result), None) => result.or_raise(py),
    }
}

/// What the thread that works says, and is told.
#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    /// Bytes of the stage that is under way.
    done: AtomicU64,
    events: Mutex<Vec<Event>>,
    finished: Mutex<bool>,
    changed: Condvar,
}

enum Event {
    /// A stage begins.
    Begin {
        stage: String,
        total: u64,
    },
    Warning(String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Waits until the work is finished, or for an interval; says whether it is.
    fn wait(&self) -> bool {
        let finished = lock(&self.finished);
        let waited = self.changed.wait_timeout_while(finished, INTERVAL, |finished| !*finished);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Progress for Watch {
    fn begin(&self, stage: &str, total: u64) {
        let mut events = lock(&self.events);
        self.done.store(0, Ordering::Relaxed);
        events.push(Event::Begin { stage: stage.to_owned(), total });
    }

    fn advance(&self, bytes: u64) -> qstore::Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    fn warn(&self, text: &str) {
        lock(&self.events).push(Event::Warning(text.to_owned()));
    }
}

/// Says that the work is finished, also when it panics.
struct Finish<'a>(&'a Watch);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        *lock(&self.0.finished) = true;
        self.0.changed.notify_all();
    }
}

/// Calls Python.
struct Reporter {
    callback: Option<Py<PyAny>>,
    /// The stage that is under way, and its total.
    stage: Option<(String, u64)>,
    /// What was last told to be done of it.
    shown: u64,
}

impl Reporter {
    fn tell(&mut self, py: Python<'_>, watch: &Watch) -> PyResult<()> {
        py.check_signals()?;
        let (events, done) = {
            let mut events = lock(&watch.events);
            (std::mem::take(&mut *events), watch.done.load(Ordering::Relaxed))
        };
        for event in events {
            match event {
                Event::Begin { stage, total } => {
                    self.complete(py)?;
                    self.stage = Some((stage, total));
                    self.call(py, 0)?;
                }
                Event::Warning(text) => warn(py, &text)?,
            }
        }
        if done > self.shown { self.call(py, done) } else { Ok(()) }
    }

    /// Tells that the stage is done: of some bytes, such as those of headers, nobody says that they are.
    fn complete(&mut self, py: Python<'_>) -> PyResult<()> {
        match &self.stage {
            Some((_, total)) if *total > self.shown => self.call(py, *total),
            _ => Ok(()),
        }
    }

    fn call(&mut self, py: Python<'_>, done: u64) -> PyResult<()> {
        self.shown = done;
        if let (Some(callback), Some((stage, total))) = (&self.callback, &self.stage) {
            callback.call1(py, (stage, done, *total))?;
        }
        Ok(())
    }
}

/// Warns at the line that called the package: two frames up is whoever called the function that called this module.
fn warn(py: Python<'_>, text: &str) -> PyResult<()> {
    let class = py.import("qstore.errors")?.getattr("QStoreWarning")?;
    let text = CString::new(text).unwrap_or_else(|_| c"a warning that cannot be shown".to_owned());
    PyErr::warn(py, &class, &text, 2)
}
