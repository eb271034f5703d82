//! Changing folders on disk.
//!
//! Whatever a user keeps in a folder is not ours: nothing is removed, renamed or replaced that was not made here, which [`Staging`] knows from what it
//! has written down, and not from names. New files are made apart and moved into place together; after a failure or a crash the next run tells what is
//! left, and removes it.

mod calls;
mod durable;
#[cfg(test)]
pub(crate) mod faults;
mod journal;
mod lock;
mod new_folder;
mod space;
mod staging;

#[cfg(all(test, unix))]
pub(crate) use calls::Ability;
pub(crate) use calls::{create_dir_all, create_new, rename};
#[cfg(all(test, unix))]
pub(crate) use durable::tests::unsyncable;
pub(crate) use durable::{FileWriter, Syncs};
pub(crate) use new_folder::{NewFolder, NewFolders, check_apart, check_empty, check_free};
pub(crate) use space::{available, check_room, size};
pub(crate) use staging::{Move, Staging};
