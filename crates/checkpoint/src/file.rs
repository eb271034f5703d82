//! Reading files by range.

use std::fs::File;
use std::io;
use std::path::Path;

use qstore_container::header_length;

use crate::error::{Error, IoContext as _, Result};

/// Fills `buffer` from byte `offset` on, leaving the file's own position out of it, so that threads can share a handle.
#[cfg(unix)]
pub fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from byte `offset` on.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// `length` bytes from byte `offset` on. The caller has checked that the file has them.
pub fn read_range(file: &File, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = zeroed(length).at(path, "cannot read")?;
    read_exact_at(file, &mut bytes, offset).at(path, "cannot read")?;
    Ok(bytes)
}

/// The JSON header of a safetensors file, after its length field; `describe` makes an error of what is wrong with it.
pub fn read_safetensors_header(
    file: &File,
    path: &Path,
    file_bytes: u64,
    describe: impl Fn(String) -> Error,
) -> Result<Vec<u8>> {
    let mut prefix = [0; 8];
    if file_bytes < 8 {
        return Err(describe(format!(
            "it has only {file_bytes} bytes; it is cut short or not a safetensors file"
        )));
    }
    read_exact_at(file, &mut prefix, 0).at(path, "cannot read")?;
    let length = header_length(prefix, file_bytes).map_err(|e| describe(e.to_string()))?;
    read_range(file, path, 8, length)
}

/// A buffer of zeros, or an error where memory does not suffice.
pub fn zeroed(length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(length, 0);
    Ok(bytes)
}
