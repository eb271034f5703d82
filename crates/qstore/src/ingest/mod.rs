//! What is stored, as its producer wrote it: a folder, or a stored variant seen the same way.

mod described;
mod shared;
mod stored;

pub(crate) use described::checkpoint_of;
pub(crate) use shared::SharedArray;
pub(crate) use stored::source_of;
