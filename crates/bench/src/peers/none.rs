//! No compression: the files as they are.

use super::{Peer, Runner, Work, each_file, load_files};
use crate::compare::Loaded;
use crate::error::Result;
use crate::job::Job;
use crate::pieces::{self, pool};

pub(crate) struct NoCompression;

impl Peer for NoCompression {
    fn name(&self) -> &'static str {
        "none"
    }

    fn title(&self) -> &'static str {
        "no compression"
    }

    fn method(&self) -> &'static str {
        "The files as they are, copied through memory; read whole into fresh memory, in pieces of 4 MiB by all threads. \
         Memory is in huge pages where the system has them, as it is for LZ4, Zstd and QStore."
    }

    fn runs(&self) -> Runner<'_> {
        Runner::Here { work: self, version: "pread".to_owned() }
    }
}

impl Work for NoCompression {
    fn save(&self, job: &Job) -> Result<()> {
        pool(job.threads)?.install(|| {
            each_file(job).try_for_each(|(variant, file)| {
                pieces::copy(&variant.folder.join(&file.path), &job.folder(variant).join(&file.path))
            })
        })
    }

    fn load(&self, job: &Job) -> Result<Loaded> {
        load_files(job, pieces::read_whole, "")
    }
}
