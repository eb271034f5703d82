//! The order of measurements.
//!
//! All peers take turns at each measurement, and all measurements are made before any is repeated, so that whatever
//! else the machine does hits all peers alike.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{self, Means};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, IoContext as _, Result};
use crate::job::{Job, Task};
use crate::machine::{Machine, free_bytes, free_memory_bytes, now};
use crate::options::{Cache, Options, Progress};
use crate::peers::{self, Peer};
use crate::process::{Absence, Measured, Processes};
use crate::report::{
    AbsentPeer, LoadFacts, LoadMeasure, Measure, PeerFacts, Report, Settings, VariantFacts, notes,
};
use crate::statistics::{Repeats, ratio};

/// What a load brings into memory, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Condition {
    /// The index of the load.
    load: usize,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Warm,
    Dropped,
    /// Warm, and read at so many MiB a second.
    Paced(u32),
}

/// A peer that is there, and what was measured of it.
struct Contender {
    peer: &'static dyn Peer,
    version: String,
    /// The folder of all that it stores.
    stored: PathBuf,
    stored_bytes: u64,
    saves: Vec<Measured>,
    loads: BTreeMap<Condition, Vec<Measured>>,
}

/// Measures.
///
/// # Errors
/// [`Error::Usage`] for a request that makes no sense, [`Error::Peer`] if a peer fails or gives back something else
/// than it was given, others if files cannot be read or written.
pub fn run(options: &Options, progress: &dyn Progress) -> Result<Report> {
    let variants = scan(options)?;
    let loads = loads(&variants);
    let processes = Processes { worker: options.worker.clone(), python: options.python.clone() };
    let (found, absent) = find_peers(options, &processes)?;
    for AbsentPeer { name, why, install } in &absent {
        progress.warn(&format!("the peer {name} is absent ({why}); to have it: {install}"));
    }
    let raw_bytes = variants.iter().map(Checkpoint::bytes).sum();
    check_room(&options.scratch, raw_bytes, found.len())?;
    let scratch = tempfile::Builder::new().prefix("qstore-bench-").tempdir_in(&options.scratch);
    let scratch = scratch.at(&options.scratch, "cannot create a folder in")?;
    let machine = Machine::look(scratch.path());
    let mut left_out = Vec::new();
    let means = dropping(options, scratch.path(), &mut left_out)?;
    for text in &left_out {
        progress.warn(text);
    }

    let mut bench = Bench { options, processes, variants, loads, means };
    let mut contenders: Vec<_> = found
        .into_iter()
        .map(|(peer, version)| Contender {
            stored: scratch.path().join(peer.name()),
            peer,
            version,
            stored_bytes: 0,
            saves: Vec::new(),
            loads: BTreeMap::new(),
        })
        .collect();
    bench.measure(&mut contenders, progress)?;
    contenders
        .sort_by_key(|contender| peers::ALL.iter().position(|peer| peer.name() == contender.peer.name()));
    scratch.close().at(&options.scratch, "cannot remove the temporary folder in")?;
    let settings = Settings {
        threads: bench.threads(),
        repeats: options.repeats,
        caches: bench.caches(),
        bandwidths_mib_per_second: bench.bandwidths(),
    };
    Ok(Report {
        format_version: Report::FORMAT_VERSION,
        measured_utc: now(),
        qstore_version: env!("CARGO_PKG_VERSION"),
        optimised_build: !cfg!(debug_assertions),
        raw_bytes,
        variants: bench.variants.iter().map(VariantFacts::of).collect(),
        loads: bench.load_facts(),
        peers: contenders.iter().map(|contender| bench.facts(contender, raw_bytes)).collect(),
        absent,
        left_out,
        notes: notes(&machine, &settings),
        machine,
        settings,
    })
}

/// The variants, from few bytes to many.
fn scan(options: &Options) -> Result<Vec<Checkpoint>> {
    let mut variants = options.variants.iter().map(Checkpoint::scan).collect::<Result<Vec<_>>>()?;
    if variants.is_empty() || options.repeats == 0 {
        return Err(Error::Usage("there is nothing to measure".to_owned()));
    }
    variants.sort_by_key(Checkpoint::tensor_bytes);
    let names: Vec<_> = variants.iter().map(|variant| &variant.name).collect();
    if let Some(twice) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        return Err(Error::Usage(format!("two folders are named {}; give each its own name", twice.1)));
    }
    Ok(variants)
}

/// The loads that are measured, each with the indices of its variants: the lowest, the highest, and all.
fn loads(variants: &[Checkpoint]) -> Vec<(&'static str, Vec<usize>)> {
    match variants.len() {
        0 | 1 => vec![("high", vec![0])],
        number => {
            vec![("low", vec![0]), ("high", vec![number - 1]), ("both", (0..number).collect())]
        }
    }
}

type Found = Vec<(&'static dyn Peer, String)>;

fn find_peers(options: &Options, processes: &Processes) -> Result<(Found, Vec<AbsentPeer>)> {
    let wanted: Vec<&dyn Peer> = if options.peers.is_empty() {
        peers::ALL.iter().copied().filter(|peer| peer.is_usual()).collect()
    } else {
        // Each once and in the order of reports, however they were named.
        let named = options.peers.iter().map(|name| peers::find(name)).collect::<Result<Vec<_>>>()?;
        peers::ALL.iter().copied().filter(|peer| named.iter().any(|n| n.name() == peer.name())).collect()
    };
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for peer in wanted {
        match processes.describe(peer) {
            Ok(version) => found.push((peer, version)),
            Err(Absence { why, install }) => {
                absent.push(AbsentPeer { name: peer.name(), why, install });
            }
        }
    }
    if let (true, Some(AbsentPeer { name, why, install })) = (found.is_empty(), absent.first()) {
        let text = format!("no peer is there; {name} is absent ({why}), to have it: {install}");
        return Err(Error::Usage(text));
    }
    Ok((found, absent))
}

/// Every peer stores everything once, and little more than it is.
fn check_room(scratch: &Path, raw_bytes: u64, peers: usize) -> Result<()> {
    if !scratch.is_dir() {
        let text =
            format!("{}: there is no such folder to work in; name another with --dir", scratch.display());
        return Err(Error::Usage(text));
    }
    let needed = raw_bytes.saturating_mul(peers as u64);
    match free_bytes(scratch) {
        Some(free) if free < needed => Err(Error::Usage(format!(
            "{}: there are {} free for up to {} that the peers store; name another folder with --dir, or fewer peers with --peers",
            scratch.display(),
            humansize::format_size(free, humansize::DECIMAL),
            humansize::format_size(needed, humansize::DECIMAL)
        ))),
        _ => Ok(()),
    }
}

/// How the page cache is dropped, if that is wanted and can be done; what is left out otherwise.
fn dropping(options: &Options, scratch: &Path, left_out: &mut Vec<String>) -> Result<Option<Means>> {
    if !options.caches.contains(&Cache::Dropped) {
        return Ok(None);
    }
    match cache::means(scratch) {
        Ok(means) => Ok(Some(means)),
        Err(why) if options.caches == [Cache::Dropped] => Err(Error::Usage(format!(
            "the page cache cannot be dropped here ({why}); measure with --cache warm"
        ))),
        Err(why) => {
            left_out.push(format!("loads with the page cache dropped: it cannot be dropped here ({why})"));
            Ok(None)
        }
    }
}

/// What stays the same throughout.
struct Bench<'a> {
    options: &'a Options,
    processes: Processes,
    variants: Vec<Checkpoint>,
    loads: Vec<(&'static str, Vec<usize>)>,
    means: Option<Means>,
}

impl Bench<'_> {
    fn measure(&mut self, contenders: &mut [Contender], progress: &dyn Progress) -> Result<()> {
        let conditions = self.conditions();
        let steps = contenders.len() as u64 * (1 + conditions.len() as u64) * u64::from(self.options.repeats);
        progress.begin(steps);
        for repeat in 0..self.options.repeats {
            // Nobody always comes first.
            let number = contenders.len().max(1);
            contenders.rotate_left(usize::from(repeat > 0) % number);
            for contender in &mut *contenders {
                progress.step(&format!("{}: save", contender.peer.name()));
                self.save(contender)?;
            }
            for condition in &conditions {
                for contender in &mut *contenders {
                    progress.step(&format!("{}: {}", contender.peer.name(), self.describe(*condition)));
                    self.load(contender, *condition)?;
                }
            }
        }
        Ok(())
    }

    /// All that a load is measured under.
    fn conditions(&self) -> Vec<Condition> {
        let caches = self.caches().into_iter().map(|cache| match cache {
            Cache::Warm => Source::Warm,
            Cache::Dropped => Source::Dropped,
        });
        let sources = caches.chain(self.bandwidths().into_iter().map(Source::Paced));
        sources.flat_map(|source| (0..self.loads.len()).map(move |load| Condition { load, source })).collect()
    }

    fn caches(&self) -> Vec<Cache> {
        let wanted = |cache| self.options.caches.contains(&cache);
        let mut caches = Vec::new();
        caches.extend(wanted(Cache::Warm).then_some(Cache::Warm));
        caches.extend(self.means.map(|_| Cache::Dropped));
        caches
    }

    fn bandwidths(&self) -> Vec<u32> {
        let mut bandwidths: Vec<_> = self.options.bandwidths.iter().copied().filter(|b| *b > 0).collect();
        bandwidths.sort_unstable();
        bandwidths.dedup();
        bandwidths
    }

    fn threads(&self) -> usize {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    fn describe(&self, condition: Condition) -> String {
        let load = self.loads[condition.load].0;
        match condition.source {
            Source::Warm => format!("load {load}, warm"),
            Source::Dropped => format!("load {load}, dropped"),
            Source::Paced(rate) => format!("load {load}, {rate} MiB/s"),
        }
    }

    fn job(&self, contender: &Contender, task: Task, variants: Vec<Checkpoint>) -> Job {
        // What is loaded, and as much for the page cache and buffers; but no more than is free, as all else is there.
        let needed = 2 * variants.iter().map(Checkpoint::tensor_bytes).sum::<u64>();
        let settle_bytes = needed.min(free_memory_bytes().unwrap_or(0) / 8 * 7);
        Job {
            settle_bytes,
            peer: contender.peer.name().to_owned(),
            task,
            variants,
            stored: contender.stored.clone(),
            threads: self.threads(),
            memory: self.options.memory,
            bytes_per_second: None,
        }
    }

    fn save(&self, contender: &mut Contender) -> Result<()> {
        let stored = &contender.stored;
        if stored.exists() {
            fs::remove_dir_all(stored).at(stored, "cannot remove")?;
        }
        fs::create_dir(stored).at(stored, "cannot create")?;
        // Else whoever comes first would read the folders from the disk for all others.
        self.variants.iter().try_for_each(|variant| cache::warm(&variant.folder))?;
        let job = self.job(contender, Task::Save, self.variants.clone());
        contender.saves.push(self.processes.measure(contender.peer, &job)?);
        contender.stored_bytes = folder_bytes(&contender.stored)?;
        Ok(())
    }

    fn load(&self, contender: &mut Contender, condition: Condition) -> Result<()> {
        match (condition.source, self.means) {
            (Source::Dropped, Some(means)) => cache::forget(&contender.stored, means)?,
            _ => cache::warm(&contender.stored)?,
        }
        let variants = self.loads[condition.load].1.iter().map(|index| self.variants[*index].clone());
        let mut job = self.job(contender, Task::Load, variants.collect());
        if let Source::Paced(rate) = condition.source {
            job.bytes_per_second = Some(u64::from(rate) << 20);
        }
        let measured = self.processes.measure(contender.peer, &job)?;
        contender.loads.entry(condition).or_default().push(measured);
        Ok(())
    }

    fn load_facts(&self) -> Vec<LoadFacts> {
        let facts = |(name, indices): &(&'static str, Vec<usize>)| LoadFacts {
            name,
            variants: indices.iter().map(|index| self.variants[*index].name.clone()).collect(),
            tensor_bytes: indices.iter().map(|index| self.variants[*index].tensor_bytes()).sum(),
        };
        self.loads.iter().map(facts).collect()
    }

    fn facts(&self, contender: &Contender, raw_bytes: u64) -> PeerFacts {
        let load = |(condition, measured): (&Condition, &Vec<Measured>)| {
            let (cache, rate) = match condition.source {
                Source::Warm => (Cache::Warm, None),
                Source::Dropped => (Cache::Dropped, None),
                Source::Paced(rate) => (Cache::Warm, Some(rate)),
            };
            Some(LoadMeasure {
                load: self.loads[condition.load].0,
                cache,
                bandwidth_mib_per_second: rate,
                bytes_read: measured.first()?.outcome.bytes_read,
                measure: sum_up(measured)?,
            })
        };
        PeerFacts {
            name: contender.peer.name(),
            title: contender.peer.title(),
            version: contender.version.clone(),
            method: contender.peer.method(),
            stored_bytes: contender.stored_bytes,
            stored_share: ratio(contender.stored_bytes, raw_bytes),
            save: sum_up(&contender.saves),
            loads: contender.loads.iter().filter_map(load).collect(),
        }
    }
}

fn sum_up(measured: &[Measured]) -> Option<Measure> {
    Some(Measure {
        seconds: Repeats::of(measured.iter().map(|m| m.outcome.seconds).collect())?,
        process_seconds: Repeats::of(measured.iter().map(|m| m.process_seconds).collect())?,
        peak_rss_bytes: measured.iter().filter_map(|m| m.outcome.peak_rss_bytes).max(),
    })
}

/// Bytes of all files below a folder.
fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.map_err(std::io::Error::from).at(folder, "cannot list")?;
        if entry.file_type().is_file() {
            sum += entry.metadata().map_err(std::io::Error::from).at(entry.path(), "cannot read")?.len();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoints(names: &[&str]) -> Vec<Checkpoint> {
        let of =
            |name: &&str| Checkpoint { name: (*name).to_owned(), folder: PathBuf::new(), files: Vec::new() };
        names.iter().map(of).collect()
    }

    fn options(peers: &[&str]) -> Options {
        Options {
            variants: Vec::new(),
            peers: peers.iter().map(|name| (*name).to_owned()).collect(),
            repeats: 1,
            bandwidths: vec![100, 20, 0, 100],
            caches: vec![Cache::Warm, Cache::Dropped],
            scratch: std::env::temp_dir(),
            python: "/no/such/python".into(),
            worker: Vec::new(),
            threads: 1,
            memory: 1,
        }
    }

    #[test]
    fn the_lowest_the_highest_and_all_are_loaded() {
        assert_eq!(loads(&checkpoints(&["a"])), [("high", vec![0])]);
        let three = [("low", vec![0]), ("high", vec![2]), ("both", vec![0, 1, 2])];
        assert_eq!(loads(&checkpoints(&["a", "b", "c"])), three);
    }

    #[test]
    fn peers_are_found_once_and_in_order() {
        let find = |peers: &[&str]| {
            let options = options(peers);
            let processes = Processes { worker: Vec::new(), python: options.python.clone() };
            find_peers(&options, &processes)
        };
        let (found, absent) = find(&["ours", "zipnn", "none", "ours"]).unwrap();
        assert_eq!(found.iter().map(|(peer, _)| peer.name()).collect::<Vec<_>>(), ["none", "ours"]);
        assert_eq!(absent.iter().map(|peer| peer.name).collect::<Vec<_>>(), ["zipnn"]);
        let (found, absent) = find(&[]).unwrap();
        assert_eq!(
            found.len() + absent.len(),
            peers::ALL.len() - 2,
            "all but the second level of zstd and the Python package"
        );
        let unknown = find(&["gzip"]).err().unwrap();
        assert!(unknown.is_usage() && unknown.to_string().contains("no peer gzip; there are none, lz4"));
        assert!(find(&["zipnn"]).err().unwrap().is_usage(), "nothing would be measured");
    }

    #[test]
    fn every_load_is_measured_under_every_condition() {
        let options = options(&[]);
        let variants = checkpoints(&["a", "b"]);
        let mut bench = Bench {
            options: &options,
            processes: Processes { worker: Vec::new(), python: PathBuf::new() },
            loads: loads(&variants),
            variants,
            means: Some(Means::Advice),
        };
        assert_eq!(bench.bandwidths(), [20, 100]);
        let described = |bench: &Bench<'_>| -> Vec<_> {
            bench.conditions().into_iter().map(|condition| bench.describe(condition)).collect()
        };
        let all = described(&bench);
        assert_eq!(all.len(), 3 * 4);
        assert_eq!(
            (&*all[0], &*all[5], &*all[6]),
            ("load low, warm", "load both, dropped", "load low, 20 MiB/s")
        );
        bench.means = None;
        assert_eq!(described(&bench).len(), 3 * 3, "what cannot be dropped is left out");
    }

    #[test]
    fn room_is_looked_for_first() {
        let folder = std::env::temp_dir();
        assert!(check_room(&folder, 1, 6).is_ok());
        #[cfg(target_os = "linux")]
        assert!(check_room(&folder, u64::MAX, 2).unwrap_err().to_string().contains("--dir"));
        assert!(check_room(Path::new("/no/such/folder"), 1, 1).unwrap_err().is_usage());
    }
}
