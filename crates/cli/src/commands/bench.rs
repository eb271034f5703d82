//! `qstore bench`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qstore::VariantSpec;
use qstore_bench::{Cache, Options, Report, Table};

use crate::args::{Bench, CacheState};
use crate::failure::Failure;
use crate::output::{Console, table};

pub(crate) fn run(arguments: &Bench, program: Vec<OsString>, console: &Console) -> Result<(), Failure> {
    if arguments.kernels {
        return kernels(arguments, console);
    }
    let output = arguments.output.as_deref().map(NewFolder::make).transpose()?;
    let report = qstore_bench::run(&options(arguments, program, console), &console.bars)?;
    if let Some(folder) = &output {
        report.write(&folder.path)?;
    }
    if arguments.json.json {
        console.json(&report)?;
    } else {
        print(&report, console)?;
    }
    // With --json, standard output is for that alone.
    match &output {
        Some(folder) if !arguments.json.json => console.note(format_args!(
            "\nThe report with its charts is {}",
            folder.path.join("report.md").display()
        )),
        _ => Ok(()),
    }
}

/// The coders by themselves.
fn kernels(arguments: &Bench, console: &Console) -> Result<(), Failure> {
    let report = qstore_bench::kernels(arguments.repeats, &console.bars)?;
    if arguments.json.json {
        return console.json(&report);
    }
    console.result(report.summary())?;
    print_table(&report.table(), console)
}

fn print_table(figures: &Table, console: &Console) -> Result<(), Failure> {
    let header: Vec<_> = figures.header.iter().map(String::as_str).collect();
    let mut table = table(&header, 1);
    for row in &figures.rows {
        table.add_row(row);
    }
    console.result(format_args!("\n{}\n\n{}", figures.title, table.trim_fmt()))
}

/// One measurement, for the process that measures all.
pub(crate) fn work() -> Result<(), Failure> {
    Ok(qstore_bench::serve(io::stdin().lock(), io::stdout().lock())?)
}

fn options(arguments: &Bench, program: Vec<OsString>, console: &Console) -> Options {
    let variants =
        arguments.variants.iter().map(|named| VariantSpec::new(named.name.clone(), named.folder.clone()));
    Options {
        variants: variants.collect(),
        peers: arguments.peers.clone(),
        repeats: arguments.repeats,
        bandwidths: arguments.bandwidth.clone(),
        caches: match arguments.cache {
            CacheState::Warm => vec![Cache::Warm],
            CacheState::Dropped => vec![Cache::Dropped],
            CacheState::Both => vec![Cache::Warm, Cache::Dropped],
        },
        scratch: scratch(arguments),
        python: arguments.python.clone(),
        worker: program.into_iter().chain(["bench-worker".into()]).collect(),
        threads: console.options.threads,
        memory: console.options.memory,
    }
}

/// The folder for the temporary one. Beside the report there is probably room, and a disk.
fn scratch(arguments: &Bench) -> PathBuf {
    let beside = || {
        let parent = arguments.output.as_deref()?.parent()?;
        Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
    };
    arguments.dir.clone().or_else(beside).unwrap_or_else(std::env::temp_dir)
}

fn print(report: &Report, console: &Console) -> Result<(), Failure> {
    console.result(report.summary())?;
    for figures in report.tables() {
        print_table(&figures, console)?;
    }
    for peer in &report.absent {
        console
            .result(format_args!("\nabsent: {} ({}); to have it: {}", peer.name, peer.why, peer.install))?;
    }
    for what in &report.left_out {
        console.result(format_args!("\nleft out: {what}"))?;
    }
    console.note("")?;
    report.notes.iter().try_for_each(|note| console.note(format_args!("- {note}")))
}

/// The report's folder, made before hours of work could be for nothing. Dropped empty, it is gone.
struct NewFolder {
    path: PathBuf,
    made: bool,
}

impl NewFolder {
    fn make(path: &Path) -> Result<Self, Failure> {
        let failed =
            |source| Failure::File { path: path.to_owned(), what: "cannot create the folder", source };
        let made = !path.exists();
        fs::create_dir_all(path).map_err(failed)?;
        if fs::read_dir(path).map_err(failed)?.next().is_some() {
            let text = format!("--output {}: the folder is not empty; name a new one", path.display());
            return Err(Failure::Usage(text));
        }
        Ok(Self { path: path.to_owned(), made })
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.made {
            // One with something in it is not removed, and is wanted.
            drop(fs::remove_dir(&self.path));
        }
    }
}
