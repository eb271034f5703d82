//! The binary, and a small model to run it on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qstore_quantize::{ModelSpec, Silent, WriteOptions, synthesise};
use serde_json::Value;
use tempfile::TempDir;

/// What a run said and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qstore"));
    command.args(arguments);
    command
}

pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Run {
    let output = command(arguments).output().unwrap();
    Run {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command that must succeed; its standard output.
#[track_caller]
pub(crate) fn succeed<A: AsRef<OsStr>>(arguments: &[A]) -> String {
    let run = run(arguments);
    assert_eq!(run.status, 0, "{run:?}");
    run.stdout
}

/// Runs a command that must succeed and print JSON alone.
#[track_caller]
pub(crate) fn json<A: AsRef<OsStr>>(arguments: &[A]) -> Value {
    serde_json::from_str(&succeed(arguments)).unwrap()
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(
                files(&path)
                    .into_iter()
                    .map(|(f, bytes)| (Path::new(path.file_name().unwrap()).join(f), bytes)),
            );
        } else {
            found.insert(path.file_name().unwrap().into(), fs::read(path).unwrap());
        }
    }
    found
}

/// A folder with a BF16 model, its INT8 variant, and room for more.
pub(crate) struct Pair {
    dir: TempDir,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let pair = Self { dir: tempfile::tempdir().unwrap() };
        // Large enough that a residual is the best encoding of its matrices.
        let spec = ModelSpec::llama(128, 256, 2, 500);
        synthesise(&spec, pair.path("bf16").as_ref(), &WriteOptions::default(), &Silent).unwrap();
        succeed(&["quantize", &pair.path("bf16"), "--to", "int8", "-o", &pair.path("int8")]);
        pair
    }

    /// A path in the folder, as an argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// `NAME=DIR` for the folder of that name.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{name}={}", self.path(name))
    }

    /// Packs both variants into `store`; the path of it.
    pub(crate) fn pack(&self) -> String {
        let store = self.path("store");
        succeed(&["pack", &self.named("bf16"), &self.named("int8"), "-o", &store, "-q"]);
        store
    }
}
