//! Progress bars on a terminal, and warnings everywhere.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qstore::{Progress, Stop};

use crate::failure::INTERRUPTED;
use crate::output::shown;

/// One bar on standard error, for the stage that is under way; no bar at all where standard error is no terminal.
pub(crate) struct Bars {
    quiet: bool,
    bar: Mutex<ProgressBar>,
    /// Whether the user has pressed Ctrl-C.
    interrupted: Arc<AtomicBool>,
    /// What was warned of; many tensors or threads can have the same complaint.
    warned: Mutex<HashSet<String>>,
}

impl Bars {
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            bar: Mutex::new(ProgressBar::hidden()),
            interrupted: Arc::default(),
            warned: Mutex::default(),
        }
    }

    /// Has Ctrl-C, or a request to terminate, stop the work under way at its next report if it writes, so that it
    /// leaves nothing behind. The second one, or the first where there is nothing to leave, ends the program at once.
    pub(crate) fn heed_interrupts(&self, writes: bool) {
        let interrupted = self.interrupted.clone();
        let heard = move || {
            if !writes || interrupted.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED.into());
            }
        };
        // Where it cannot be heard, it ends the program, which leaves no half store either, but files that the next
        // change deletes.
        drop(ctrlc::set_handler(heard));
    }

    fn go_on(&self) -> Result<(), Stop> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Stop) } else { Ok(()) }
    }

    /// Takes the bar off the screen, as before printing something else.
    pub(crate) fn clear(&self) {
        self.current().finish_and_clear();
    }

    /// Warns of something, once.
    pub(crate) fn say(&self, text: &str) {
        let new = self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned());
        if new {
            // A standard error that nobody reads any more is no reason to stop.
            self.current().suspend(|| drop(writeln!(std::io::stderr(), "warning: {}", shown(text))));
        }
    }

    /// Puts a new bar in the place of the current one.
    fn replace(&self, total: u64, template: &str) {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        let mut current = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        current.finish_and_clear();
        *current = bar;
    }

    /// A handle to the current bar, which threads share.
    fn current(&self) -> ProgressBar {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Bars {
    fn begin(&self, stage: &str, total: u64) -> Result<(), Stop> {
        let template = "{msg:18} {wide_bar:.cyan/blue} {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>11} {eta:>4}";
        self.replace(total, template);
        self.current().set_message(stage.to_owned());
        self.go_on()
    }

    fn advance(&self, bytes: u64) -> Result<(), Stop> {
        self.current().inc(bytes);
        self.go_on()
    }

    fn warn(&self, text: &str) -> Result<(), Stop> {
        self.say(text);
        self.go_on()
    }

    fn remark(&self, text: &str) -> Result<(), Stop> {
        // Else the summary has it.
        if self.quiet { Progress::warn(self, text) } else { self.go_on() }
    }
}

impl qstore_bench::Progress for Bars {
    fn begin(&self, steps: u64) {
        // No guess at the time that is left: steps differ too much.
        self.replace(steps, "{msg:30!} {wide_bar:.cyan/blue} {pos}/{len} {elapsed:>4}");
        self.current().enable_steady_tick(Duration::from_millis(250));
    }

    fn step(&self, what: &str) {
        let bar = self.current();
        // The first one is under way, not done.
        if !bar.message().is_empty() {
            bar.inc(1);
        }
        bar.set_message(what.to_owned());
    }

    fn warn(&self, text: &str) {
        // Measurements end by themselves.
        let _: Result<(), Stop> = Progress::warn(self, text);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}
