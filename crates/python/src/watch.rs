//! Long operations: on a thread of their own, while the caller's tells of progress and hears Ctrl-C.

use std::ffi::CString;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use qstore::{Progress, Stop};

use crate::errors::OrRaise as _;

/// How often Python hears of progress, and Ctrl-C is heard.
const INTERVAL: Duration = Duration::from_millis(50);

/// Runs `work` on another thread. Meanwhile this one calls `callback(stage, done, total)`, gives Python's warnings, and
/// handles signals; if one of them raises, the work is stopped, and that is what is raised. No stage goes on before its
/// beginning was told of.
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
        // However this ends, by a panic in Python's own code as well, nobody waits for this thread any more.
        let _abandon = Abandon(&watch);
        let begun = thread::Builder::new().spawn_scoped(scope, || {
            let _finish = Finish(&watch);
            work(&watch)
        });
        let worker = match begun {
            Ok(worker) => worker,
            Err(error) => return (Ok(None), Some(error.into())),
        };
        let mut raised = None;
        loop {
            let Heard { event, finished } = py.detach(|| watch.hear());
            let told = if raised.is_none() { reporter.tell(py, &watch, event) } else { Ok(()) };
            if let Err(error) = told {
                raised = Some(error);
                watch.stop.store(true, Ordering::Relaxed);
            }
            watch.go_on();
            if finished {
                return (py.detach(|| worker.join()).map(Some), raised);
            }
        }
    });
    if matches!(outcome, Ok(Some(Ok(_)))) && raised.is_none() {
        raised = reporter.complete(py).err();
    }
    match (outcome, raised) {
        (Err(panic), _) => resume_unwind(panic),
        (_, Some(error)) => Err(error),
        (Ok(Some(result)), None) => result.or_raise(py),
        // A thread that did not begin has raised.
        (Ok(None), None) => Err(PyRuntimeError::new_err("no thread")),
    }
}

/// What the thread that works says, and is told.
#[derive(Default)]
struct Watch {
    stop: AtomicBool,
    /// Bytes of the stage that is under way.
    done: AtomicU64,
    said: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    /// What waits to be told of; who said it waits as well.
    event: Option<Event>,
    /// Whether it was taken and is being told of.
    is_told: bool,
    /// Whether nobody hears any more.
    abandoned: bool,
    finished: bool,
}

enum Event {
    Begin { stage: String, total: u64 },
    Warning(String),
}

/// What the thread that tells has to tell of.
struct Heard {
    event: Option<Event>,
    finished: bool,
}

impl Watch {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(
        &self,
        said: MutexGuard<'a, Said>,
        until: impl Fn(&Said) -> bool,
    ) -> MutexGuard<'a, Said> {
        self.changed.wait_while(said, |said| !until(said)).unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something, waits until it was told, and says whether to go on.
    fn say(&self, event: Event) -> Result<(), Stop> {
        let idle = |said: &Said| said.abandoned || said.event.is_none() && !said.is_told;
        // Another thread may be saying something.
        let mut said = self.wait_while(self.said(), idle);
        if matches!(event, Event::Begin { .. }) {
            self.done.store(0, Ordering::Relaxed);
        }
        said.event = Some(event);
        self.changed.notify_all();
        drop(self.wait_while(said, idle));
        self.go_on_or_stop()
    }

    fn go_on_or_stop(&self) -> Result<(), Stop> {
        if self.stop.load(Ordering::Relaxed) { Err(Stop) } else { Ok(()) }
    }

    /// Waits until something is said, the work is finished, or for an interval.
    fn hear(&self) -> Heard {
        let quiet = |said: &mut Said| said.event.is_none() && !said.finished;
        let waited = self.changed.wait_timeout_while(self.said(), INTERVAL, quiet);
        let mut said = waited.unwrap_or_else(PoisonError::into_inner).0;
        said.is_told = said.event.is_some();
        Heard { event: said.event.take(), finished: said.finished }
    }

    /// Lets go on who has said what is told by now.
    fn go_on(&self) {
        self.said().is_told = false;
        self.changed.notify_all();
    }
}

impl Progress for Watch {
    fn begin(&self, stage: &str, total: u64) -> Result<(), Stop> {
        self.say(Event::Begin { stage: stage.to_owned(), total })
    }

    fn advance(&self, bytes: u64) -> Result<(), Stop> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.go_on_or_stop()
    }

    fn warn(&self, text: &str) -> Result<(), Stop> {
        self.say(Event::Warning(text.to_owned()))
    }
}

/// Says that the work is finished, also when it panics.
struct Finish<'a>(&'a Watch);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.said().finished = true;
        self.0.changed.notify_all();
    }
}

/// Says that nobody hears any more.
struct Abandon<'a>(&'a Watch);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.said().abandoned = true;
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
    fn tell(&mut self, py: Python<'_>, watch: &Watch, event: Option<Event>) -> PyResult<()> {
        py.check_signals()?;
        match event {
            Some(Event::Begin { stage, total }) => {
                self.complete(py)?;
                self.stage = Some((stage, total));
                return self.call(py, 0);
            }
            Some(Event::Warning(text)) => warn(py, &text)?,
            None => {}
        }
        let done = watch.done.load(Ordering::Relaxed);
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
