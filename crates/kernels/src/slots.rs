//! The slots of a table, as decoders look them up in memory.

use crate::table::TABLE_BITS;

/// Slots of a table.
pub(crate) const SLOTS: usize = 1 << TABLE_BITS;

/// The entries of slots, with room before and behind: so that four entries can be loaded wherever one of them is
/// wanted, in any of four places.
#[derive(Debug, Clone)]
#[repr(C)]
pub(crate) struct Framed {
    before: [u32; 3],
    pub(crate) slots: [u32; SLOTS],
    after: [u32; 3],
}

impl Framed {
    /// How many entries there are before the first slot's.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const BEFORE: usize = 3;

    /// The entries in the order of their slots.
    pub(crate) fn new(entries: impl Iterator<Item = u32>) -> Box<Self> {
        let mut framed = Box::new(Self { before: [0; 3], slots: [0; SLOTS], after: [0; 3] });
        for (slot, entry) in framed.slots.iter_mut().zip(entries) {
            *slot = entry;
        }
        framed
    }
}
