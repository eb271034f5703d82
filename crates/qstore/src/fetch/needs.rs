//! Which bytes of a store's files are needed.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use qstore_checkpoint::Result;

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
    /// Places of which it was asked whether they are new.
    asked: HashSet<Place>,
    groups: Vec<Arc<[Place]>>,
    together: Option<Place>,
}

impl Needs {
    /// Says that requests which follow each other and say the same are best read together: what they need lies in turn.
    pub(crate) fn read_together(&mut self, name: &Place) {
        self.together = Some(name.clone());
    }

    /// Whether it is asked so of a place for the first time.
    pub(crate) fn is_new(&mut self, place: &Place) -> bool {
        self.asked.insert(place.clone())
    }

    pub(crate) fn add(&mut self, place: Place) {
        self.places.push(place);
    }

    /// Each place once, in the order of the files.
    pub(crate) fn sorted(self) -> Vec<Place> {
        let Self { mut places, groups, .. } = self;
        groups.iter().for_each(|group| places.extend_from_slice(group));
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The places of its own, sorted, those that it has in common with others, and what it is read together with.
    pub(super) fn into_parts(self) -> (Vec<Place>, Vec<Arc<[Place]>>, Option<Place>) {
        let Self { mut places, groups, together, .. } = self;
        places.sort_unstable();
        places.dedup();
        (places, groups, together)
    }
}

/// Places that very many requests need, all of them: they are listed once.
#[derive(Debug, Default)]
pub(crate) struct Group(OnceLock<Arc<[Place]>>);

impl Group {
    /// Adds the places, which `list` lists when they are first needed.
    ///
    /// # Errors
    /// What `list` returns.
    pub(crate) fn add_to(
        &self,
        needs: &mut Needs,
        list: impl FnOnce(&mut Needs) -> Result<()>,
    ) -> Result<()> {
        let group = match self.0.get() {
            Some(group) => group,
            None => {
                let mut listed = Needs::default();
                list(&mut listed)?;
                let listed = listed.sorted().into();
                self.0.get_or_init(|| listed)
            }
        };
        if !needs.groups.iter().any(|added| Arc::ptr_eq(added, group)) {
            needs.groups.push(group.clone());
        }
        Ok(())
    }
}
