//! Results of a run that may be cut short, in a file: a line for each matrix, after one that says of what.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use qstore_checkpoint::{Error, IoContext as _, Result, SourceContent};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::chain::{Chain, Member};
use super::matrix::CellBits;
use super::rest::RestBits;

/// Changes with the meaning of a line.
const VERSION: u32 = 1;

/// A piece of work that is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Done {
    /// A row of the chain, by its index.
    Matrix { row: usize, cells: Vec<CellBits> },
    /// What else a variant has, by its index.
    Rest { member: usize, rest: RestBits },
}

/// The first line: the results are of these inputs, and made by a program that measures the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    qstore_analyze: u32,
    program: String,
    inputs: Vec<Input>,
}

/// A variant's folder: sizes and times of all files, and the headers of those that hold tensors.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Input {
    name: String,
    files: usize,
    bytes: u64,
    hash: String,
}

impl Input {
    fn of(member: &Member) -> Self {
        let mut hasher = XxHash3_128::new();
        for file in &member.source.files {
            let since = file.modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            hasher.write(file.path.as_str().as_bytes());
            hasher.write(&[0]);
            hasher.write(&file.bytes.to_le_bytes());
            hasher.write(&since.as_nanos().to_le_bytes());
            if let SourceContent::Safetensors { header, .. } = &file.content {
                hasher.write(header.as_bytes());
            }
        }
        Self {
            name: member.name.to_string(),
            files: member.source.files.len(),
            bytes: member.source.raw_bytes(),
            hash: format!("{:032x}", hasher.finish_128()),
        }
    }
}

/// The file, open for more lines.
pub(super) struct Resume {
    path: PathBuf,
    file: File,
}

impl Resume {
    /// Opens or makes the file, and returns what is done already. A last line that was cut short is dropped.
    ///
    /// # Errors
    /// [`Error::Usage`] for a file of other inputs, or of something else altogether; it is left as it is.
    pub(super) fn open(path: &Path, chain: &Chain) -> Result<(Self, Vec<Done>)> {
        let header = Header {
            qstore_analyze: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            inputs: chain.members.iter().map(Input::of).collect(),
        };
        let first = line(&header, path)?;
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.at(path, "cannot open")?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::usage(format!("{}: another run is writing to it", path.display())));
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io { path: path.to_owned(), what: "cannot lock", source });
            }
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).at(path, "cannot read")?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let mut lines = text[..whole].split_inclusive(|byte| *byte == b'\n');
        let mut keep = whole as u64;
        match lines.next() {
            Some(found) => check_header(found, &header, path)?,
            // Nothing, or the beginning of our own first line.
            None if first.starts_with(&text) => keep = 0,
            None => return Err(no_results(path)),
        }
        let done = lines.zip(2u64..).map(|(line, number)| {
            serde_json::from_slice(line).map_err(|e| {
                Error::damaged(path, format!("line {number} is damaged ({e}); delete the file to start anew"))
            })
        });
        let done = done.collect::<Result<Vec<Done>>>()?;
        file.set_len(keep).at(path, "cannot write")?;
        file.seek(SeekFrom::Start(keep)).at(path, "cannot write")?;
        let mut resume = Self { path: path.to_owned(), file };
        if keep == 0 {
            resume.write(&first)?;
        }
        Ok((resume, done))
    }

    /// Appends a result.
    pub(super) fn add(&mut self, done: &Done) -> Result<()> {
        let line = line(done, &self.path)?;
        self.write(&line)
    }

    fn write(&mut self, line: &[u8]) -> Result<()> {
        self.file.write_all(line).at(&self.path, "cannot write")
    }
}

fn line(value: &impl Serialize, path: &Path) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(std::io::Error::from).at(path, "cannot write")?;
    line.push(b'\n');
    Ok(line)
}

fn no_results(path: &Path) -> Error {
    Error::usage(format!("{}: it holds no results of `qstore analyze`; name another file", path.display()))
}

fn check_header(line: &[u8], ours: &Header, path: &Path) -> Result<()> {
    let Ok(found) = serde_json::from_slice::<Header>(line) else { return Err(no_results(path)) };
    let what = if found == *ours {
        return Ok(());
    } else if (found.qstore_analyze, &found.program) != (ours.qstore_analyze, &ours.program) {
        format!("it holds results of qstore {}, which may measure otherwise", found.program)
    } else {
        let names = |header: &Header| {
            header.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let changed = ours.inputs.iter().find(|input| !found.inputs.contains(input));
        match changed {
            Some(input) if names(&found) == names(ours) => {
                format!(
                    "it holds results of another folder as {}, or of files that have changed since",
                    input.name
                )
            }
            _ => format!("it holds results of {}, and not of {}", names(&found), names(ours)),
        }
    };
    Err(Error::usage(format!("{}: {what}; name another file, or delete this one", path.display())))
}
