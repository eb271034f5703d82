//! A change in a process of its own: this test binary again, told by its environment what to do.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use qstore::{Error, Progress, Store, VariantSpec, WriteOptions, add, pack, remove, unpack};

use crate::common::{spec, write_options};

const TASK: &str = "QSTORE_CRASH_TASK";
const ROOT: &str = "QSTORE_CRASH_ROOT";
const STOP: &str = "QSTORE_CRASH_STOP";

/// Exit status for [`Error::Busy`].
pub const BUSY: i32 = 3;

/// What a child does in a folder that holds `bf16`, `int8` and `store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Packs `bf16` and `int8` into `store`.
    Pack,
    /// The same, with `int8` kept as it is.
    PackKept,
    /// Adds `int8`; `bf16` is stored anew given it.
    Add,
    /// Adds `int8`, kept as it is.
    AddKept,
    /// Removes `int8`; `bf16` is stored anew without it.
    Remove,
    /// Restores `bf16` to `out`.
    Unpack,
}

impl Task {
    pub const CHANGES: [Self; 5] = [Self::Pack, Self::PackKept, Self::Add, Self::AddKept, Self::Remove];

    /// Does it here.
    pub fn run(self, root: &Path, progress: &dyn Progress) -> qstore::Result<()> {
        let (store, options) = (root.join("store"), small_shards());
        let kept = VariantSpec { verbatim: true, ..spec(root, "int8") };
        match self {
            Self::Pack => pack(&[spec(root, "bf16"), spec(root, "int8")], &store, &options, progress),
            Self::PackKept => pack(&[spec(root, "bf16"), kept], &store, &options, progress),
            Self::Add => add(&store, &spec(root, "int8"), &options, progress),
            Self::AddKept => add(&store, &kept, &options, progress),
            Self::Remove => remove(&store, &"int8".parse().unwrap(), &options, progress),
            Self::Unpack => unpack(
                &Store::open(&store)?,
                &"bf16".parse().unwrap(),
                &root.join("out"),
                &options.machine(),
                progress,
            ),
        }
    }

    /// A process that does it.
    pub fn command(self, root: &Path) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(Self::arguments());
        self.tell(&mut command, root);
        command
    }

    /// As arguments of a wrapper: the program and what it is called with.
    pub fn wrapped(self, root: &Path, wrapper: &mut Command) {
        wrapper.arg(env::current_exe().unwrap()).args(Self::arguments());
        self.tell(wrapper, root);
    }

    fn arguments() -> [&'static str; 4] {
        ["--exact", "child::child", "--nocapture", "--test-threads=1"]
    }

    fn tell(self, command: &mut Command, root: &Path) {
        command.env(TASK, format!("{self:?}")).env(ROOT, root).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// A process that does it and aborts at its `stop`-th report of progress.
    pub fn command_until(self, root: &Path, stop: u64) -> Command {
        let mut command = self.command(root);
        command.env(STOP, stop.to_string());
        command
    }
}

/// Several shards to a variant, so that a change consists of many steps.
pub fn small_shards() -> WriteOptions {
    WriteOptions { shard_size: 40_000, ..write_options() }
}

/// Not a test: the other end of [`Task::command`]. It does nothing unless told to.
#[test]
fn child() {
    let Ok(task) = env::var(TASK) else { return };
    let root = PathBuf::from(env::var_os(ROOT).unwrap());
    let stop = env::var(STOP).map_or(u64::MAX, |stop| stop.parse().unwrap());
    let all = [&Task::CHANGES[..], &[Task::Unpack]].concat();
    let task = all.into_iter().find(|known| format!("{known:?}") == task).unwrap();
    let result = task.run(&root, &Stop { left: AtomicU64::new(stop) });
    let status = match &result {
        Ok(()) => 0,
        Err(Error::Busy(_)) => BUSY,
        Err(_) => 1,
    };
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    std::process::exit(status);
}

/// The text of the error that a child ended with.
pub fn error_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or(&text).to_owned()
}

/// Aborts the process after so many reports.
struct Stop {
    left: AtomicU64,
}

impl Stop {
    fn count(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            std::process::abort();
        }
    }
}

impl Progress for Stop {
    fn begin(&self, _: &str, _: u64) -> Result<(), qstore::Stop> {
        self.count();
        Ok(())
    }

    fn advance(&self, _: u64) -> Result<(), qstore::Stop> {
        self.count();
        Ok(())
    }

    fn warn(&self, _: &str) -> Result<(), qstore::Stop> {
        Ok(())
    }
}
