//! Starting the processes that measure.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::job::{Job, Outcome, Task};
use crate::peers::{Peer, Runner};

/// What every Python peer's program begins with.
const FRAME: &str = include_str!("../python/frame.py");

/// Lines of a failed process's standard error that are shown.
const SHOWN_LINES: usize = 12;

/// How processes are started.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) worker: Vec<OsString>,
    pub(crate) python: PathBuf,
}

/// A measurement as seen from outside.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    /// From the start of the process to its end, comparison and all.
    pub(crate) process_seconds: f64,
}

/// Why a peer cannot be measured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Absence {
    pub(crate) why: String,
    pub(crate) install: String,
}

#[derive(Deserialize)]
struct Description {
    version: String,
}

impl Processes {
    /// The version of a peer, or why it is absent.
    pub(crate) fn describe(&self, peer: &dyn Peer) -> Result<String, Absence> {
        let install = match peer.runs() {
            Runner::Here { version, .. } => return Ok(version),
            Runner::Python { install, .. } => install,
        };
        let python = self.python.display();
        let absent = |why: String| Absence {
            why,
            install: format!("{install}; --python PATH names another interpreter than {python}"),
        };
        let job = Job {
            peer: peer.name().to_owned(),
            task: Task::Describe,
            variants: Vec::new(),
            stored: PathBuf::new(),
            threads: 1,
            memory: 0,
            bytes_per_second: None,
            settle_bytes: 0,
        };
        let output = self.output(peer, &job).map_err(|e| absent(format!("{python} does not start: {e}")))?;
        if !output.status.success() {
            // The last line of a traceback says what is missing.
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(absent(error.trim().lines().next_back().unwrap_or("it failed").to_owned()));
        }
        let description: Description = serde_json::from_slice(&output.stdout)
            .map_err(|e| absent(format!("it answers strangely: {e}")))?;
        Ok(description.version)
    }

    /// Has a peer do a job.
    pub(crate) fn measure(&self, peer: &dyn Peer, job: &Job) -> Result<Measured> {
        let failed = |why: String| Error::Peer(format!("the peer {} failed: {why}", peer.name()));
        let began = Instant::now();
        let output = self.output(peer, job).map_err(|e| failed(format!("it does not start: {e}")))?;
        let process_seconds = began.elapsed().as_secs_f64();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<_> = error.trim().lines().collect();
            let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
            return Err(failed(format!("{}\n{shown}", output.status)));
        }
        let outcome: Outcome = serde_json::from_slice(&output.stdout)
            .map_err(|e| failed(format!("its answer is broken: {e}")))?;
        if let Some(difference) = &outcome.different {
            let text =
                format!("the peer {} gave back something else than it was given: {difference}", peer.name());
            return Err(Error::Peer(text));
        }
        Ok(Measured { outcome, process_seconds })
    }

    fn output(&self, peer: &dyn Peer, job: &Job) -> std::io::Result<Output> {
        let mut command = self.command(peer)?;
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // A process that fails before it has read all says why on its standard error.
            drop(input.write_all(&serde_json::to_vec(job)?));
        }
        child.wait_with_output()
    }

    fn command(&self, peer: &dyn Peer) -> std::io::Result<Command> {
        match peer.runs() {
            Runner::Here { .. } => {
                let (program, arguments) = self
                    .worker
                    .split_first()
                    .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "no worker is named"))?;
                let mut command = Command::new(program);
                command.args(arguments);
                Ok(command)
            }
            Runner::Python { script, .. } => {
                let mut command = Command::new(&self.python);
                command.arg("-c").arg(format!("{FRAME}\n\n{script}"));
                Ok(command)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::find;

    fn processes(python: &str) -> Processes {
        Processes { worker: Vec::new(), python: python.into() }
    }

    #[test]
    fn what_runs_here_is_there() {
        for name in ["none", "lz4", "zstd", "ours"] {
            let version = processes("python3").describe(find(name).unwrap()).unwrap();
            assert!(!version.is_empty(), "{name}");
        }
    }

    #[test]
    fn absent_peers_say_how_to_get_them() {
        let absent = processes("/no/such/python").describe(find("zipnn").unwrap()).unwrap_err();
        assert!(absent.why.contains("/no/such/python does not start"), "{absent:?}");
        assert!(absent.install.contains("pip install zipnn"), "{absent:?}");
    }

    #[test]
    #[cfg(unix)]
    fn a_process_that_fails_is_named_with_what_it_said() {
        let job = Job {
            peer: "none".to_owned(),
            task: Task::Save,
            variants: Vec::new(),
            stored: PathBuf::new(),
            threads: 1,
            memory: 0,
            bytes_per_second: None,
            settle_bytes: 0,
        };
        let run = |script: &str| {
            let worker = ["sh", "-c", script].map(OsString::from).to_vec();
            let measured = Processes { worker, python: PathBuf::new() }.measure(find("none").unwrap(), &job);
            measured.unwrap_err().to_string()
        };
        let message = run("echo no room >&2; exit 3");
        assert!(message.contains("none failed") && message.contains("no room"), "{message}");
        assert!(run("echo hello").contains("answer is broken"));
        let lie = r#"echo '{"seconds":1,"bytes_read":1,"peak_rss_bytes":null,"different":"bf16: x"}'"#;
        assert!(run(lie).contains("something else than it was given: bf16: x"));
    }
}
