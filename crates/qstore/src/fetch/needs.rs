//! Which bytes of a store's files are needed.

use std::sync::Arc;

/// Bytes of a file: a chunk as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Place {
    /// First byte after it.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// All that a request needs. It follows from plans and lists of chunks alone.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    places: Vec<Place>,
    together: Option<Place>,
}

impl Needs {
    /// Says that requests which follow each other and say the same are best read together: what they need lies in turn.
    pub(crate) fn read_together(&mut self, name: &Place) {
        self.together = Some(name.clone());
    }

    /// What it is read together with.
    pub(super) fn together(&self) -> Option<&Place> {
        self.together.as_ref()
    }

    pub(crate) fn add(&mut self, place: Place) {
        self.places.push(place);
    }

    /// Each place once, in the order of the files.
    pub(crate) fn sorted(mut self) -> Vec<Place> {
        self.places.sort_unstable();
        self.places.dedup();
        self.places
    }
}
