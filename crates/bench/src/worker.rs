//! One measurement in a process of its own, so that its peak memory and its heap are its own.

use std::io::{Read, Write};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::job::{Job, Outcome, Task};
use crate::memory::peak_rss_bytes;
use crate::peers::{self, Runs, Work};

/// Does the job that comes as JSON from `input`, and writes its outcome as JSON to `output`. This is what the processes that [`run`](crate::run)
/// starts must call.
///
/// # Errors
/// The job cannot be understood, or the peer fails.
pub fn serve(mut input: impl Read, mut output: impl Write) -> Result<()> {
    let broken = |e: &dyn std::fmt::Display| Error::Peer(format!("a job for `qstore bench` is broken: {e}"));
    let mut text = String::new();
    input.read_to_string(&mut text).map_err(|e| broken(&e))?;
    let job: Job = serde_json::from_str(&text).map_err(|e| broken(&e))?;
    let Runs::Here { work, .. } = peers::find(&job.peer)?.runs() else {
        return Err(broken(&format!("{} runs elsewhere", job.peer)));
    };
    let outcome = perform(work, &job)?;
    serde_json::to_writer(&mut output, &outcome).map_err(|e| broken(&e))?;
    output.flush().map_err(|e| broken(&e))
}

/// Does the job, takes the time, then compares.
pub(crate) fn perform(work: &dyn Work, job: &Job) -> Result<Outcome> {
    let began = Instant::now();
    match job.task {
        Task::Load => {
            let loaded = work.load(job)?;
            let seconds = began.elapsed().as_secs_f64();
            let peak_rss_bytes = peak_rss_bytes();
            let different = loaded.difference(&job.variants)?;
            Ok(Outcome { seconds, bytes_read: loaded.bytes_read, peak_rss_bytes, different })
        }
        Task::Save => {
            work.save(job)?;
            let seconds = began.elapsed().as_secs_f64();
            Ok(Outcome { seconds, bytes_read: 0, peak_rss_bytes: peak_rss_bytes(), different: None })
        }
        Task::Describe => Err(Error::Peer(format!("{} needs no description", job.peer))),
    }
}
