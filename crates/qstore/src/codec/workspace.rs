//! Memory that threads keep from chunk to chunk. Fresh memory costs page faults, which take longer than coding does.

use std::cell::RefCell;

use qstore_kernels::{Half, Scratch};

/// Buffers of one piece of work. What they hold never matters.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// What coders work in.
    pub(crate) scratch: Scratch,
    /// The high halves of a chunk of 32-bit floats.
    pub(crate) high: Vec<Half>,
    /// The codes that a chunk is given.
    pub(crate) codes: Vec<u8>,
    /// Codes, or multiples of steps, of a chunk.
    pub(crate) fine: Vec<u8>,
    /// A chunk as it is stored.
    pub(crate) stored: Vec<u8>,
    /// A chunk decoded.
    pub(crate) decoded: Vec<u8>,
}

/// Bytes of a workspace that is kept.
const MOST_KEPT: usize = 16 << 20;

impl Workspace {
    fn bytes(&self) -> usize {
        let own =
            self.codes.capacity() + self.fine.capacity() + self.stored.capacity() + self.decoded.capacity();
        own + self.high.capacity() * size_of::<Half>() + self.scratch.bytes()
    }
}

thread_local! {
    /// As many as work is nested: reading a chunk may read the codes that it is given.
    static IDLE: RefCell<Vec<Workspace>> = const { RefCell::new(Vec::new()) };
}

/// Does `work` in a workspace of this thread.
pub(crate) fn with_workspace<R>(work: impl FnOnce(&mut Workspace) -> R) -> R {
    let mut workspace = IDLE.with(|idle| idle.borrow_mut().pop()).unwrap_or_default();
    let result = work(&mut workspace);
    // Ours are chunks of half a million elements; others may write larger ones, whose memory is given back.
    if workspace.bytes() <= MOST_KEPT {
        IDLE.with(|idle| idle.borrow_mut().push(workspace));
    }
    result
}

/// The first `length` elements of `buffer`, holding anything.
pub(crate) fn at_least<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}
