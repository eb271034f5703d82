//! One measurement in a process of its own, so that its peak memory and its heap are its own.

use std::io::{Read, Write};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::job::{Job, Outcome, Task};
use crate::memory::{peak_rss_bytes, settle};
use crate::peers::{self, Runner, Work};

/// Does the job that comes as JSON from `input`, and writes its outcome as JSON to `output`. This is what the processes
/// that [`run`](crate::run) starts must call.
///
/// # Errors
/// The job cannot be understood, or the peer fails.
pub fn serve(mut input: impl Read, mut output: impl Write) -> Result<()> {
    let broken = |e: &dyn std::fmt::Display| Error::Peer(format!("a job for `qstore bench` is broken: {e}"));
    let mut text = String::new();
    input.read_to_string(&mut text).map_err(|e| broken(&e))?;
    let job: Job = serde_json::from_str(&text).map_err(|e| broken(&e))?;
    let Runner::Here { work, .. } = peers::find(&job.peer)?.runs() else {
        return Err(broken(&format!("{} runs elsewhere", job.peer)));
    };
    let outcome = perform(work, &job)?;
    serde_json::to_writer(&mut output, &outcome).map_err(|e| broken(&e))?;
    output.flush().map_err(|e| broken(&e))
}

/// Does the job, takes the time, then compares.
pub(crate) fn perform(work: &dyn Work, job: &Job) -> Result<Outcome> {
    settle(job.settle_bytes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    use qstore::VariantSpec;

    use crate::checkpoint::Checkpoint;
    use crate::compare::Loaded;

    /// Stores properly, and loads with one bit wrong.
    struct Liar(&'static dyn Work);

    impl Work for Liar {
        fn save(&self, job: &Job) -> Result<()> {
            self.0.save(job)
        }

        fn load(&self, job: &Job) -> Result<Loaded> {
            let mut loaded = self.0.load(job)?;
            if let Some(byte) = loaded.parts.last_mut().and_then(|part| part.data.last_mut()) {
                *byte ^= 1;
            }
            Ok(loaded)
        }
    }

    fn work(name: &str) -> &'static dyn Work {
        let Runner::Here { work, .. } = peers::find(name).unwrap().runs() else { panic!("{name}") };
        work
    }

    /// A model of two files, one of them with tensors that shrink and tensors that do not.
    fn variant(folder: &Path) -> Checkpoint {
        let noise: Vec<u8> =
            (0..50_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[100000],"data_offsets":[0,100000]}},"b":{{"dtype":"U8","shape":[{0}],"data_offsets":[100000,{1}]}}}}"#,
            noise.len(),
            100_000 + noise.len()
        );
        let length = (header.len() as u64).to_le_bytes();
        let file = [&length[..], header.as_bytes(), &[3; 100_000], &noise].concat();
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("model.safetensors"), file).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        let spec = VariantSpec::new("v".parse().unwrap(), folder.to_owned());
        Checkpoint::scan(&spec).unwrap()
    }

    fn job(task: Task, stored: &Path, variant: &Checkpoint) -> Job {
        Job {
            peer: "test".to_owned(),
            task,
            variants: vec![variant.clone()],
            stored: stored.to_owned(),
            threads: 2,
            memory: 1 << 28,
            bytes_per_second: None,
            settle_bytes: 0,
        }
    }

    #[test]
    fn what_is_loaded_is_what_was_saved_and_a_lie_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let variant = variant(&dir.path().join("model"));
        for name in ["none", "lz4", "zstd-1", "zstd", "ours"] {
            let stored = dir.path().join(name);
            fs::create_dir(&stored).unwrap();
            perform(work(name), &job(Task::Save, &stored, &variant)).unwrap();
            let mut load = job(Task::Load, &stored, &variant);
            for bytes_per_second in [None, Some(1 << 30)] {
                load.bytes_per_second = bytes_per_second;
                let outcome = perform(work(name), &load).unwrap();
                assert_eq!(outcome.different, None, "{name}");
                assert!(outcome.bytes_read > 150_000 && outcome.seconds > 0.0, "{name}: {outcome:?}");
            }
            let difference = perform(&Liar(work(name)), &load).unwrap().different.unwrap();
            assert!(difference.contains("v: ") && difference.contains("differ"), "{name}: {difference}");
        }
    }

    #[test]
    fn jobs_come_and_outcomes_go_as_json() {
        let dir = tempfile::tempdir().unwrap();
        let variant = variant(&dir.path().join("model"));
        let mut job = job(Task::Save, &dir.path().join("stored"), &variant);
        job.peer = "none".to_owned();
        let mut answer = Vec::new();
        serve(&serde_json::to_vec(&job).unwrap()[..], &mut answer).unwrap();
        let outcome: Outcome = serde_json::from_slice(&answer).unwrap();
        assert_eq!(outcome.different, None);
        assert!(dir.path().join("stored/v/config.json").is_file());

        job.peer = "zipnn".to_owned();
        assert!(serve(&serde_json::to_vec(&job).unwrap()[..], Vec::new()).is_err());
        assert!(serve(&b"{}"[..], Vec::new()).unwrap_err().to_string().contains("broken"));
    }
}
