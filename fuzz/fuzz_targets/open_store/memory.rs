//! A store in memory.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use qstore::{Error, Result, Storage};

/// Files by name.
#[derive(Debug, Default)]
pub struct Memory(HashMap<String, Vec<u8>>);

impl Memory {
    pub fn put(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.0.insert(name.to_owned(), bytes.into());
    }

    fn file(&self, name: &str) -> Result<&[u8]> {
        let found = self.0.get(name).map(Vec::as_slice);
        found.ok_or_else(|| failed(name, io::ErrorKind::NotFound))
    }
}

impl Storage for Memory {
    fn location(&self) -> &Path {
        Path::new("memory")
    }

    fn read_all(&self, name: &str, _most: u64) -> Result<Vec<u8>> {
        self.file(name).map(<[u8]>::to_vec)
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.file(name).ok()?.get(offset..));
        let bytes = from.and_then(|from| from.get(..out.len()));
        out.copy_from_slice(bytes.ok_or_else(|| failed(name, io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        self.file(name).map(|bytes| Some(bytes.len() as u64))
    }
}

fn failed(name: &str, kind: io::ErrorKind) -> Error {
    Error::Io { path: name.into(), what: "cannot read", source: kind.into() }
}
