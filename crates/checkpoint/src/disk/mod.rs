//! Changing folders on disk.
//!
//! Whatever a user keeps in a folder is not ours: nothing is removed, renamed or replaced that was not made here, which
//! [`Staging`] knows from what it has written down, and not from names. New files are made apart and moved into place
//! together; after a failure or a crash the next run tells what is left, and removes it.

mod calls;
mod durable;
#[cfg(any(test, feature = "faults"))]
mod faults;
mod journal;
mod lock;
mod new_folder;
mod space;
mod staging;

#[cfg(any(test, feature = "faults"))]
pub use calls::Ability;
pub use calls::{create_dir_all, create_new, rename};
pub use durable::{FileWriter, Syncs};
#[cfg(all(unix, any(test, feature = "faults")))]
pub use faults::unsyncable;
#[cfg(any(test, feature = "faults"))]
pub use faults::{Fault, lacking, with_fault};
pub use new_folder::{NewFolder, NewFolders, check_apart, check_empty, check_free};
pub use space::{available, check_room, size_text};
pub use staging::{Move, Staging};
