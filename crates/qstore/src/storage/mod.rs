//! Where the files of a store lie: a folder, or whatever else can be read by range.

mod counted;
mod folder;
mod overlay;
mod throttle;

use std::fmt::Debug;
use std::path::Path;

use qstore_checkpoint::Result;

pub(crate) use counted::Counted;
pub use folder::Folder;
pub(crate) use overlay::Overlay;
pub use throttle::{Throttle, Throttled};

/// Files that are read by range. Names are paths in the store, their components joined by `/`.
///
/// What is read is checked by whoever reads it; a storage need not.
///
/// [`Folder`] is the local file system, and [`Throttled`] another storage behind a slow link. One in memory:
///
/// ```
/// use std::{collections::HashMap, io, path::Path, sync::Arc};
///
/// use qstore::{Error, Result, Storage, Store};
///
/// #[derive(Debug)]
/// struct Memory(HashMap<String, Vec<u8>>);
///
/// fn failed(name: &str, kind: io::ErrorKind) -> Error {
///     Error::Io { path: name.into(), what: "cannot read", source: kind.into() }
/// }
///
/// impl Storage for Memory {
///     fn location(&self) -> &Path {
///         Path::new("memory")
///     }
///     fn read_all(&self, name: &str, _most: u64) -> Result<Vec<u8>> {
///         self.0.get(name).cloned().ok_or_else(|| failed(name, io::ErrorKind::NotFound))
///     }
///     fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
///         let file = self.0.get(name).ok_or_else(|| failed(name, io::ErrorKind::NotFound))?;
///         let bytes = file.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
///         out.copy_from_slice(bytes.ok_or_else(|| failed(name, io::ErrorKind::UnexpectedEof))?);
///         Ok(())
///     }
///     fn size(&self, name: &str) -> Result<Option<u64>> {
///         Ok(self.0.get(name).map(|file| file.len() as u64))
///     }
/// }
///
/// assert!(Store::open_in(Arc::new(Memory(HashMap::new()))).is_err()); // it has no manifest
/// ```
pub trait Storage: Debug + Send + Sync {
    /// What errors call it.
    fn location(&self) -> &Path;

    /// All of a file, if it has at most `most` bytes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), or [`Error::Damaged`](crate::Error::Damaged) for a file that is larger or leads
    /// out of the store.
    fn read_all(&self, name: &str, most: u64) -> Result<Vec<u8>>;

    /// Fills `out` with the bytes of a file from byte `offset` on.
    ///
    /// # Errors
    /// As [`read_all`](Self::read_all); of kind [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) where the file has
    /// fewer.
    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()>;

    /// The size of a file, where asking costs next to nothing.
    ///
    /// # Errors
    /// As [`read_all`](Self::read_all).
    fn size(&self, name: &str) -> Result<Option<u64>>;

    /// How it is best read.
    fn hints(&self) -> Hints {
        Hints::default()
    }
}

/// How a storage is best read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hints {
    /// Bytes between two ranges that are rather read than asked for apart.
    pub gap: u64,
    /// Most bytes of a request.
    pub most: u64,
    /// Bytes that are worth having in memory, those that are being decoded among them, if memory is allowed for them and
    /// they are more than a piece for each thread.
    pub ahead: u64,
}

impl Default for Hints {
    /// Of a local disk. What is read far ahead has left the cores' caches by the time that it is decoded.
    fn default() -> Self {
        Self { gap: 0, most: 8 << 20, ahead: 0 }
    }
}
