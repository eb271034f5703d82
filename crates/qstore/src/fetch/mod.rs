//! Reading stored bytes: what is needed, what was read of it, and reading ahead of whoever decodes.

mod ahead;
mod fetched;
mod needs;
mod tasks;

pub(crate) use ahead::Ahead;
pub(crate) use fetched::{Fetched, fetch};
pub(crate) use needs::{Group, Needs, Place};
