//! What people and programs read: results on standard output, everything else on standard error.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use humansize::{DECIMAL, format_size};
use qstore::{Inspection, Store, VariantInspection, WriteOptions};
use serde::Serialize;

use crate::failure::Failure;
use crate::progress::Bars;

/// What every command has at hand: the options for the library, and where to speak.
pub(crate) struct Console {
    pub(crate) options: WriteOptions,
    /// Receives the library's progress.
    pub(crate) bars: Bars,
    quiet: bool,
    /// Whether the reader of standard output has gone away, as `head` does. What is left to say is dropped then, and
    /// the exit status remains the truth about the work.
    unread: Cell<bool>,
}

impl Console {
    pub(crate) fn new(options: WriteOptions, quiet: bool) -> Self {
        Self { options, bars: Bars::new(quiet), quiet, unread: Cell::new(false) }
    }

    /// Prints what was asked for.
    pub(crate) fn result(&self, text: impl Display) -> Result<(), Failure> {
        self.bars.clear();
        if self.unread.get() {
            return Ok(());
        }
        // One write, as standard output would flush every line by itself.
        let text = format!("{}\n", shown(&text.to_string()));
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.unread.set(true),
            other => other?,
        }
        Ok(())
    }

    /// Prints something worth knowing about work that is done, unless the user wants quiet.
    pub(crate) fn note(&self, text: impl Display) -> Result<(), Failure> {
        if self.quiet { Ok(()) } else { self.result(text) }
    }

    /// Prints JSON for programs.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.result(serde_json::to_string_pretty(value).map_err(io::Error::from)?)
    }

    /// Prints what a store holds, after `done` to it.
    pub(crate) fn summary(&self, done: &str, store: &std::path::Path, began: Instant) -> Result<(), Failure> {
        let seconds = time(began.elapsed());
        if self.quiet {
            return Ok(());
        }
        let inspection = qstore::inspect(&Store::open(store)?, false)?;
        self.note(format_args!("{done} in {seconds}\n\n{}", variants_table(&inspection)))?;
        match &remarks(&inspection)[..] {
            [] => Ok(()),
            remarks => self.note(format_args!("\n{}", remarks.join("\n"))),
        }
    }
}

/// Says on standard error why a command failed.
pub(crate) fn complain(failure: &Failure) {
    // There is nobody left to tell if this fails.
    drop(writeln!(io::stderr(), "error: {}", shortened(&shown_in_line(&failure.to_string()))));
}

/// Characters of an error that are shown: no honest path or name has more, but names in a store may have millions.
const SHOWN: usize = 20_000;

/// A long text without its middle.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= SHOWN {
        return text.to_owned();
    }
    let ends = text.chars().take(SHOWN / 2).chain(" [...] ".chars());
    ends.chain(text.chars().skip(count - SHOWN / 2)).collect()
}

/// A table without lines; the columns from `numbers` on are aligned to the right.
pub(crate) fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= numbers {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Each variant's size as files and in the store, and both in all.
pub(crate) fn variants_table(inspection: &Inspection) -> String {
    let mut table = table(&["variant", "files", "in the store", "share"], 1);
    let row =
        |name: &dyn Display, raw, stored| [name.to_string(), bytes(raw), bytes(stored), percent(stored, raw)];
    for variant in &inspection.variants {
        table.add_row(row(&variant.name, variant.raw_bytes, variant.stored_bytes));
    }
    table.add_row(row(&"total", inspection.raw_bytes, inspection.stored_bytes));
    table.trim_fmt()
}

/// What of each variant shares less than one would expect and why, and what of its folder was left out.
pub(crate) fn remarks(inspection: &Inspection) -> Vec<String> {
    let of_variant = |variant: &VariantInspection| {
        let unshared = variant.unshared.iter().map(|unshared| format!("{}: {}", variant.name, unshared.text));
        let mut remarks: Vec<String> = unshared.collect();
        if !variant.excluded.is_empty() {
            remarks.push(format!("{}: left out: {}", variant.name, variant.excluded.join(", ")));
        }
        remarks
    };
    inspection.variants.iter().flat_map(of_variant).collect()
}

/// Text without what would steer a terminal: names in a store may hold anything.
pub(crate) fn shown(text: &str) -> String {
    escaped(text, |c| c != '\n' && steers(c))
}

/// The same in one line.
pub(crate) fn shown_in_line(text: &str) -> String {
    escaped(text, steers)
}

/// Whether a character does something to a terminal, or to the order in which others are shown.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool) -> String {
    let escape = |c: char| if is_bad(c) { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A size for people.
pub(crate) fn bytes(bytes: u64) -> String {
    format_size(bytes, DECIMAL)
}

/// `part` of `whole` in percent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * real(part) / real(whole)) }
}

/// A duration for people.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        0 if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        0..10 => format!("{seconds:.2} s"),
        10..60 => format!("{seconds:.1} s"),
        whole => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

/// A size and how fast it was worked on: `98 MB in 0.50 s (196 MB/s)`.
pub(crate) fn bytes_in_time(size: u64, duration: Duration) -> String {
    let rate = real(size) / duration.as_secs_f64().max(1e-9);
    format!("{} in {} ({}/s)", bytes(size), time(duration), humansize::format_size_i(rate, DECIMAL))
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn real(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_errors_lose_their_middle() {
        for length in [0, SHOWN / 2, SHOWN] {
            let text = "ä".repeat(length);
            assert_eq!(shortened(&text), text);
        }
        let text = format!("{}{}", "ä".repeat(SHOWN), "z".repeat(SHOWN));
        let short = shortened(&text);
        assert!(short.chars().count() < SHOWN + 10 && short.starts_with('ä') && short.ends_with('z'));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(98_100_000), "98.10 MB");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "-");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(time(Duration::from_micros(1500)), "1.5 ms");
        assert_eq!(time(Duration::from_millis(1500)), "1.50 s");
        assert_eq!(time(Duration::from_secs(125)), "2 min 05 s");
        assert_eq!(bytes_in_time(3_000_000, Duration::from_secs(2)), "3 MB in 2.00 s (1.50 MB/s)");
    }
}
