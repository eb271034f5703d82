//! What was measured, as data; as tables, Markdown and charts.

mod charts;
mod markdown;
mod tables;

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, IoContext as _, Result};
use crate::machine::{Machine, count};
use crate::options::Cache;
use crate::statistics::Repeats;

pub use charts::analysis_chart;
pub use tables::Table;

/// Everything that a run found out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this structure as JSON; grows when a field changes its meaning or goes.
    pub format_version: u32,
    /// When, in UTC.
    pub measured_utc: String,
    /// Version of this program.
    pub qstore_version: &'static str,
    /// Whether the compiler optimised this program. If not, no time means anything.
    pub optimised_build: bool,
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// Bytes of all files of all variants.
    pub raw_bytes: u64,
    /// What was stored, from few bytes to many.
    pub variants: Vec<VariantFacts>,
    /// What was loaded.
    pub loads: Vec<LoadFacts>,
    /// Each peer's figures.
    pub peers: Vec<PeerFacts>,
    /// Peers that were asked for and are not there.
    pub absent: Vec<AbsentPeer>,
    /// What was asked for and could not be measured.
    pub left_out: Vec<String>,
    /// What a reader must know to read the figures rightly.
    pub notes: Vec<String>,
}

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Threads of each peer.
    pub threads: usize,
    /// How often each measurement was made.
    pub repeats: u32,
    /// What the page cache held at loads.
    pub caches: Vec<Cache>,
    /// Speeds at which loads were measured too.
    pub bandwidths_mib_per_second: Vec<u32>,
}

/// A variant.
#[derive(Debug, Clone, Serialize)]
pub struct VariantFacts {
    /// As the user named it.
    pub name: String,
    /// Number of files.
    pub files: usize,
    /// Their bytes.
    pub raw_bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub tensor_bytes: u64,
}

/// What a load brings into memory.
#[derive(Debug, Clone, Serialize)]
pub struct LoadFacts {
    /// `low`, `high` or `both`.
    pub name: &'static str,
    /// The variants.
    pub variants: Vec<String>,
    /// Bytes in memory afterwards.
    pub tensor_bytes: u64,
}

/// A peer's figures.
#[derive(Debug, Clone, Serialize)]
pub struct PeerFacts {
    /// As in `--peers`.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Which library, in which version.
    pub version: String,
    /// What it was made to do.
    pub method: &'static str,
    /// Bytes of all that it stored.
    pub stored_bytes: u64,
    /// The same as a share of all that was given to it.
    pub stored_share: f64,
    /// Storing all variants, synced to the disk.
    pub save: Option<Measure>,
    /// Loading.
    pub loads: Vec<LoadMeasure>,
}

/// One measurement, repeated.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// Of the work alone.
    pub seconds: Repeats,
    /// Of the whole process: its start and the comparison with the source, too.
    pub process_seconds: Repeats,
    /// The most memory that the process ever had, before the comparison; the most of all repeats.
    pub peak_rss_bytes: Option<u64>,
}

/// A load under one condition.
#[derive(Debug, Clone, Serialize)]
pub struct LoadMeasure {
    /// The name of the load.
    pub load: &'static str,
    /// What the page cache held.
    pub cache: Cache,
    /// How fast stored bytes could be read; absent for as fast as they can.
    pub bandwidth_mib_per_second: Option<u32>,
    /// Stored bytes that were read.
    pub bytes_read: u64,
    /// Time and memory.
    #[serde(flatten)]
    pub measure: Measure,
}

/// A peer that is not there.
#[derive(Debug, Clone, Serialize)]
pub struct AbsentPeer {
    /// As in `--peers`.
    pub name: &'static str,
    /// What was found missing.
    pub why: String,
    /// How to get it.
    pub install: String,
}

impl VariantFacts {
    pub(crate) fn of(variant: &Checkpoint) -> Self {
        Self {
            name: variant.name.clone(),
            files: variant.files.len(),
            raw_bytes: variant.bytes(),
            tensors: variant.files.iter().map(|file| file.tensors.len()).sum(),
            tensor_bytes: variant.tensor_bytes(),
        }
    }
}

impl Report {
    /// The current `format_version`.
    pub const FORMAT_VERSION: u32 = 1;

    /// The figures as tables.
    #[must_use]
    pub fn tables(&self) -> Vec<Table> {
        tables::tables(self)
    }

    /// Where and how it was measured, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { machine, settings, .. } = self;
        let threads = count(settings.threads, "thread");
        format!("{}, {threads}, {}", machine.in_short(), count(settings.repeats as usize, "repeat"))
    }

    /// Writes `report.md`, `report.json` and the charts into `folder`, which must be there.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let charts = charts::charts(self)?;
        let write = |name: &str, content: &str| {
            let path = folder.join(name);
            fs::write(&path, content).at(&path, "cannot write")
        };
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Report(e.to_string()))?;
        let markdown = markdown::markdown(self, &charts).map_err(|e| Error::Report(e.to_string()))?;
        write("report.json", &format!("{json}\n"))?;
        write("report.md", &markdown)?;
        charts.iter().try_for_each(|chart| write(&chart.file, &chart.svg))
    }
}

impl PeerFacts {
    /// The measurement of a load under a condition.
    #[must_use]
    pub fn load(&self, load: &str, cache: Cache, bandwidth: Option<u32>) -> Option<&LoadMeasure> {
        let fits =
            |l: &&LoadMeasure| l.load == load && l.cache == cache && l.bandwidth_mib_per_second == bandwidth;
        self.loads.iter().find(fits)
    }
}

/// What a reader must know to read the figures rightly.
pub(crate) fn notes(machine: &Machine, settings: &Settings) -> Vec<String> {
    let mut notes = vec![
        "Times are medians with the lowest and the highest in brackets, of the work alone. Peers took turns, and each measurement was made in a \
         process of its own, which had used as much memory before as it would need."
            .to_owned(),
        "A save stores all variants from their folders, which were read once before, and ends when all is on the disk. A load ends when the bytes of every tensor are in memory; \
         all of them were then compared with the source, in every repeat."
            .to_owned(),
        "Peak memory is of the whole process. For peers that are Python packages it includes the interpreter and what they import, some hundred \
         MB; pages of mapped files count, too."
            .to_owned(),
    ];
    if settings.caches.contains(&Cache::Dropped) {
        notes.push(
            "\"Dropped\" means that this system's page cache had forgotten the stored files. Caches below it, of a disk or of a virtual \
             machine's host, may have held them."
                .to_owned(),
        );
    }
    if !settings.bandwidths_mib_per_second.is_empty() {
        notes.push(
            "At a limited bandwidth the files lie in the page cache, and readers wait until their bytes would have arrived. Peers that run here \
             read and decode at once on several threads. For Python peers a file arrives as a whole before it is loaded as always, so \
             the two times add up."
                .to_owned(),
        );
    }
    if cfg!(debug_assertions) {
        notes.push("This program was built without optimisation: no time here means anything.".to_owned());
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
    if let Some(load) = machine.load_average.filter(|load| *load > 0.5 * machine.cores as f64) {
        notes.push(format!(
            "The machine was busy with something else before (load average {load:.1} on {} cores), which shows in the times.",
            machine.cores
        ));
    }
    notes
}
