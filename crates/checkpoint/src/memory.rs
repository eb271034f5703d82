//! Memory for decoded tensors.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::file::zeroed;

/// Bytes from which memory is mapped in huge pages: fewer fill none.
const LEAST_MAPPED: u64 = 2 << 20;

/// A number of things in memory. Of more than memory can address it is the most that there could be, which nothing has
/// and no allocation gets.
pub fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The bytes of a tensor. Large ones lie in huge pages where the system has them: to be handed fresh memory page by
/// page of 4 KiB takes longer than decoding into it does.
pub struct TensorBytes(Memory);

enum Memory {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl TensorBytes {
    /// `length` zeros.
    ///
    /// # Errors
    /// Memory does not suffice.
    pub fn zeroed(length: u64) -> io::Result<Self> {
        if length < LEAST_MAPPED {
            return zeroed(length).map(Memory::Heap).map(Self);
        }
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mapped = MmapMut::map_anon(length)?;
        // Only a wish: a system without huge pages has the memory nonetheless.
        #[cfg(target_os = "linux")]
        drop(mapped.advise(memmap2::Advice::HugePage));
        Ok(Self(Memory::Mapped(mapped)))
    }
}

impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(bytes) => bytes,
        }
    }
}

impl DerefMut for TensorBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(bytes) => bytes,
        }
    }
}

impl fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl PartialEq for TensorBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for TensorBytes {}

impl PartialEq<Vec<u8>> for TensorBytes {
    fn eq(&self, other: &Vec<u8>) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_are_zeros_of_their_length() {
        for length in [0, 1, LEAST_MAPPED - 1, LEAST_MAPPED, LEAST_MAPPED + 5] {
            let mut bytes = TensorBytes::zeroed(length).unwrap();
            assert_eq!(bytes.len() as u64, length);
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(7);
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
        assert!(TensorBytes::zeroed(u64::MAX / 2).is_err());
    }
}
