//! Progress bars on a terminal, and warnings everywhere.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qstore::{Progress, Stop};

/// One bar on standard error, for the stage that is under way; no bar at all where standard error is no terminal.
pub(crate) struct Bars {
    quiet: bool,
    bar: Mutex<ProgressBar>,
    /// What was warned of; many tensors or threads can have the same complaint.
    warned: Mutex<HashSet<String>>,
}

impl Bars {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, bar: Mutex::new(ProgressBar::hidden()), warned: Mutex::default() }
    }

    /// Takes the bar off the screen, as before printing something else.
    pub(crate) fn clear(&self) {
        self.current().finish_and_clear();
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
        Ok(())
    }

    fn advance(&self, bytes: u64) -> Result<(), Stop> {
        self.current().inc(bytes);
        Ok(())
    }

    fn warn(&self, text: &str) -> Result<(), Stop> {
        let new = self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned());
        if new {
            // A standard error that nobody reads any more is no reason to stop.
            self.current().suspend(|| drop(writeln!(std::io::stderr(), "warning: {text}")));
        }
        Ok(())
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
        // Bars never say to stop.
        let _: Result<(), Stop> = Progress::warn(self, text);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}
