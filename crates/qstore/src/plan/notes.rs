//! What shares less than one would expect, gathered while arrays are planned.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::discriminant;
use std::sync::{Mutex, MutexGuard, PoisonError};

use qstore_container::limits::{MAX_NOTE_TEXT, MAX_NOTES};
use qstore_container::{ArrayKey, Unshared, VariantName, Why};

/// Notes on the arrays of one source. In whatever order they are made, they come out the same.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// For each variant and reason.
    notes: Vec<Unshared>,
    /// Arrays that share after all.
    shared: HashSet<ArrayKey>,
    /// Arrays of which a reason is noted.
    explained: HashSet<ArrayKey>,
    /// For arrays that are expected to share nothing with their like in another variant, or in their own: that variant,
    /// why, and their name.
    expected: HashMap<ArrayKey, (Option<VariantName>, Why, String)>,
}

impl Notes {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `matrices` more that are unshared for a reason.
    pub(super) fn add(&self, with: Option<&VariantName>, why: Why, first: &str, matrices: u64) {
        self.noted().add(with, why, first, matrices);
    }

    /// Notes why an array will share nothing with a variant that has its like, unless it turns out to. The lowest such
    /// variant counts.
    pub(super) fn expect(&self, key: &ArrayKey, with: Option<&VariantName>, why: Why, name: &str) {
        self.noted().expected.entry(key.clone()).or_insert_with(|| (with.cloned(), why, name.to_owned()));
    }

    pub(super) fn share(&self, key: &ArrayKey) {
        self.noted().shared.insert(key.clone());
    }

    pub(super) fn is_shared(&self, key: &ArrayKey) -> bool {
        self.noted().shared.contains(key)
    }

    pub(super) fn explain(&self, key: &ArrayKey) {
        self.noted().explained.insert(key.clone());
    }

    /// Whether an array shares nothing, and nothing says why.
    pub(super) fn is_unexplained(&self, key: &ArrayKey) -> bool {
        let noted = self.noted();
        !noted.shared.contains(key) && !noted.explained.contains(key)
    }

    /// All of them.
    pub(super) fn finish(&self) -> Vec<Unshared> {
        let mut noted = self.noted();
        let expected: BTreeMap<_, _> = std::mem::take(&mut noted.expected).into_iter().collect();
        for (key, (with, why, name)) in expected {
            if !noted.shared.contains(&key) && !noted.explained.contains(&key) {
                noted.add(with.as_ref(), why, &name, 1);
            }
        }
        let mut notes = noted.notes.clone();
        notes.sort_by(|a, b| (&a.with, &a.why).cmp(&(&b.with, &b.why)));
        notes.truncate(MAX_NOTES);
        notes
    }
}

impl Noted {
    fn add(&mut self, with: Option<&VariantName>, why: Why, first: &str, matrices: u64) {
        let is_same = |note: &&mut Unshared| {
            // The shapes that are told are those of the first.
            let same_why = match (&note.why, &why) {
                (Why::OtherShape { .. }, _) => discriminant(&note.why) == discriminant(&why),
                (one, other) => one == other,
            };
            same_why && note.with.as_ref() == with
        };
        let first = &first[..first.floor_char_boundary(MAX_NOTE_TEXT)];
        match self.notes.iter_mut().find(is_same) {
            Some(note) => {
                note.matrices = note.matrices.saturating_add(matrices);
                if *first < *note.first {
                    (note.first, note.why) = (first.to_owned(), why);
                }
            }
            None => self.notes.push(Unshared { with: with.cloned(), first: first.to_owned(), matrices, why }),
        }
    }
}
