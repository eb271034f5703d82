//! What is measured: QStore and what people use instead. A closed list, each entry in a file of the same shape.

mod lz4;
mod none;
mod ours;
mod ours_python;
mod safetensors;
mod zipnn;
mod zstd;

use std::path::PathBuf;

use qstore::{TensorBytes, Throttle};

use crate::checkpoint::{Checkpoint, SourceFile};
use crate::compare::{Loaded, Part, What};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::pieces::{self, Coder, pool};

/// All peers, in the order of reports. The first is what the others are compared with.
pub(crate) static ALL: [&dyn Peer; 8] = [
    &none::NoCompression,
    &lz4::Lz4,
    &zstd::FAST,
    &zstd::USUAL,
    &safetensors::Safetensors,
    &zipnn::ZipNn,
    &ours::Ours,
    &ours_python::OursInPython,
];

/// One way to store models.
pub(crate) trait Peer: Sync {
    /// As in `--peers`.
    fn name(&self) -> &'static str;
    /// In tables and charts.
    fn title(&self) -> &'static str;
    /// What is measured, in sentences for the report.
    fn method(&self) -> &'static str;
    /// Whether it is measured when no peers are named.
    fn is_usual(&self) -> bool {
        true
    }
    /// What does the work.
    fn runs(&self) -> Runner<'_>;
}

/// What does a peer's work.
pub(crate) enum Runner<'a> {
    /// A process of this program.
    Here { work: &'a dyn Work, version: String },
    /// A Python interpreter.
    Python {
        /// What is run, after `frame.py`.
        script: &'static str,
        /// How to get what the script imports.
        install: &'static str,
    },
}

/// The work of a peer that runs here.
pub(crate) trait Work: Sync {
    /// Stores the job's variants in its folder; all is on the disk at the end.
    fn save(&self, job: &Job) -> Result<()>;
    /// Brings the tensors of the job's variants into memory.
    fn load(&self, job: &Job) -> Result<Loaded>;
}

/// The names of all peers.
pub fn peer_names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|peer| peer.name())
}

/// The peer of that name.
pub(crate) fn find(name: &str) -> Result<&'static dyn Peer> {
    ALL.iter().copied().find(|peer| peer.name() == name).ok_or_else(|| {
        let known: Vec<_> = peer_names().collect();
        Error::Usage(format!("there is no peer {name}; there are {}", known.join(", ")))
    })
}

/// Stores every file of the job's variants by itself, coded.
fn save_coded(job: &Job, suffix: &str, coder: &dyn Coder) -> Result<()> {
    pool(job.threads)?.install(|| {
        each_file(job).try_for_each(|(variant, file)| {
            let source = variant.folder.join(&file.path);
            pieces::code(&source, &coded_path(job, variant, file, suffix), coder)
        })
    })
}

/// Loads what [`save_coded`] stored.
fn load_coded(job: &Job, suffix: &str, coder: &dyn Coder) -> Result<Loaded> {
    load_files(job, |path, limit| pieces::decode(path, coder, limit), suffix)
}

/// Loads the files with tensors, one after another, each with all threads.
fn load_files(
    job: &Job,
    read: impl Fn(&std::path::Path, Option<&Throttle>) -> Result<TensorBytes> + Sync,
    suffix: &str,
) -> Result<Loaded> {
    let limit = job.bytes_per_second.map(Throttle::new);
    let load = || {
        let mut loaded = Loaded::default();
        for (variant, file) in each_file(job).filter(|(_, file)| !file.tensors.is_empty()) {
            let path = coded_path(job, variant, file, suffix);
            let data = read(&path, limit.as_ref())?;
            loaded.bytes_read += path.metadata().map_or(0, |data| data.len());
            let what = What::File(file.path.clone());
            loaded.parts.push(Part { variant: variant.name.clone(), what, data });
        }
        Ok(loaded)
    };
    pool(job.threads)?.install(load)
}

fn each_file(job: &Job) -> impl Iterator<Item = (&Checkpoint, &SourceFile)> {
    job.variants.iter().flat_map(|variant| variant.files.iter().map(move |file| (variant, file)))
}

fn coded_path(job: &Job, variant: &Checkpoint, file: &SourceFile, suffix: &str) -> PathBuf {
    job.folder(variant).join(format!("{}{suffix}", file.path))
}
