//! Which quantised matrices of the variants below stand for which weights.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use qstore_container::ArrayKey;

use super::given::Pair;
use super::lower::Lower;
use crate::error::{Error, Result};
use crate::ingest::{Source, SourceArray};
use crate::progress::{Progress, Stop};
use crate::scheme::{FloatKind, QuantGroup, find_groups, find_strangers};

/// Trailing components that names with different prefixes must share, as in `layers.0.mlp.up_proj.weight`.
const SHARED_COMPONENTS: usize = 3;

/// The quantised matrices that each array of a source may be given.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    of_array: HashMap<ArrayKey, Vec<Pair>>,
    /// The source's own quantised matrices, by their codes.
    own: HashMap<ArrayKey, QuantGroup>,
    /// What the source's own grids are made of.
    of_grids: HashSet<ArrayKey>,
    /// For each variant below that is quantised its name and how many of its matrices were found.
    found: Vec<(String, usize, usize)>,
    noted: Mutex<Noted>,
}

/// What became of pairs as arrays were planned, in any order.
#[derive(Debug, Default)]
struct Noted {
    used: HashSet<ArrayKey>,
    /// For each reason the first quantised matrix that is of no use for it, and how many are not.
    refused: BTreeMap<String, (String, usize)>,
}

impl Pairs {
    /// Matches the weights and codes of `source` with the quantised matrices of `lower`: by name, else by the end of their names and by shape, as classes
    /// of one model differ in prefixes (`model.layers.0` and `layers.0`).
    ///
    /// # Errors
    /// Weights and codes of one name but different shapes: they belong to different models.
    pub(crate) fn find(source: &Source, lower: &[Lower]) -> Result<Self> {
        let arrays = source.array_infos();
        let own = find_groups(&arrays);
        let of_grids = own.iter().flat_map(|group| group.grid.parts()).cloned().collect();
        let own = own.into_iter().map(|group| (group.codes.clone(), group)).collect();
        let mut pairs = Self { own, of_grids, ..Self::default() };
        for (name, why) in find_strangers(&arrays) {
            pairs.refused(name, why);
        }
        let weights: Vec<&SourceArray> = source
            .arrays
            .iter()
            .filter(|a| a.key.tensor().is_some() && FloatKind::of(a.dtype).is_some() && a.shape.len() == 2)
            .collect();
        let by_name: HashMap<&str, &SourceArray> =
            weights.iter().filter_map(|a| Some((a.key.tensor()?, *a))).collect();
        for variant in lower {
            let groups = find_groups(&variant.array_infos());
            let (total, mut matched) = (groups.len(), 0);
            let groups = pairs.take_codes(variant, groups, &mut matched);
            let (named, others): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|group| by_name.contains_key(group.weight.as_str()));
            let mut taken = HashSet::new();
            for group in named {
                let weight = by_name[group.weight.as_str()];
                if has_shape_of(weight, &group) {
                    taken.insert(&weight.key);
                    matched += 1;
                    pairs.add(&weight.key, variant, group);
                } else {
                    let what = format!(
                        "{}: its shape is {:?}, but variant {} has {:?} quantised under that name; are these the same model?",
                        group.weight,
                        weight.shape,
                        variant.name(),
                        group.shape
                    );
                    return Err(Error::input(source.path_of(weight), what));
                }
            }
            let free: Vec<&SourceArray> =
                weights.iter().filter(|w| !taken.contains(&w.key)).copied().collect();
            for group in others {
                if let Some(weight) = same_ending(&group, &free) {
                    matched += 1;
                    pairs.add(&weight.key, variant, group);
                }
            }
            if total > 0 {
                pairs.found.push((variant.name().to_string(), matched, total));
            }
        }
        Ok(pairs)
    }

    /// Pairs the source's own quantised matrices with those of a lower variant that have their name and shape; returns the others.
    fn take_codes(
        &mut self,
        variant: &Lower,
        groups: Vec<QuantGroup>,
        matched: &mut usize,
    ) -> Vec<QuantGroup> {
        let by_weight: HashMap<String, (ArrayKey, [u64; 2])> =
            self.own.values().map(|own| (own.weight.clone(), (own.codes.clone(), own.shape))).collect();
        let mut others = Vec::new();
        for group in groups {
            match by_weight.get(&group.weight) {
                Some((codes, shape)) if *shape == group.shape => {
                    *matched += 1;
                    self.add(&codes.clone(), variant, group);
                }
                _ => others.push(group),
            }
        }
        others
    }

    fn add(&mut self, key: &ArrayKey, variant: &Lower, group: QuantGroup) {
        self.of_array.entry(key.clone()).or_default().push(Pair { lower: variant.clone(), group });
    }

    /// What `key` may be given.
    pub(crate) fn of(&self, key: &ArrayKey) -> &[Pair] {
        self.of_array.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a grid of the source is made of `key`.
    pub(crate) fn is_of_grid(&self, key: &ArrayKey) -> bool {
        self.of_grids.contains(key)
    }

    /// The quantised matrix of the source whose codes are `key`.
    pub(crate) fn own(&self, key: &ArrayKey) -> Option<&QuantGroup> {
        self.own.get(key)
    }

    /// Notes that `key` is stored given one of its pairs.
    pub(super) fn used(&self, key: &ArrayKey) {
        self.note(|noted| {
            noted.used.insert(key.clone());
        });
    }

    /// Notes why a quantised matrix of a lower variant is of no use.
    pub(super) fn refuse(&self, pair: &Pair, why: &str) {
        self.refused(format!("{} of {}", pair.group.weight, pair.lower.name()), why);
    }

    /// Notes why one of the source's own quantised matrices is not stored given another.
    pub(super) fn refuse_own(&self, group: &QuantGroup, why: &str) {
        self.refused(group.weight.clone(), why);
    }

    fn refused(&self, name: String, why: &str) {
        self.note(|noted| noted.refused.entry(why.to_owned()).or_insert((name, 0)).1 += 1);
    }

    fn note(&self, note: impl FnOnce(&mut Noted)) {
        note(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Tells the user where quantised matrices did not help.
    pub(crate) fn report(&self, name: &str, progress: &dyn Progress) -> Result<(), Stop> {
        for (lower, matched, total) in &self.found {
            if matched < total {
                progress.warn(&format!(
                    "{} of the {total} quantised matrices of {lower} have no counterpart of the same shape in {name}; their weights are stored by themselves",
                    total - matched
                ))?;
            }
        }
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        for (why, (first, count)) in &noted.refused {
            let others =
                if *count > 1 { format!(" (and {} more like it)", count - 1) } else { String::new() };
            progress.warn(&format!("{first}{others}: {why}; it is stored, but not as a quantised matrix"))?;
        }
        let useless = self.of_array.keys().filter(|key| !noted.used.contains(key)).count();
        if useless > 0 {
            progress.warn(&format!(
                "{useless} of {} matrices of {name} are not what the quantised ones were made from, and are stored by themselves; is it the same model?",
                self.of_array.len()
            ))?;
        }
        Ok(())
    }
}

/// Whether a matrix has the shape of a quantised one, or that of its transposed: `Conv1D` of GPT-2 is quantised transposed.
fn has_shape_of(weight: &SourceArray, group: &QuantGroup) -> bool {
    let [rows, cols] = group.shape;
    weight.shape == [rows, cols] || weight.shape == [cols, rows]
}

/// The weights whose name ends most like the group's, if they are the only ones to do so and have its shape.
fn same_ending<'a>(group: &QuantGroup, weights: &[&'a SourceArray]) -> Option<&'a SourceArray> {
    let mut best: Option<(usize, &SourceArray)> = None;
    let mut alone = true;
    for weight in weights.iter().filter(|w| has_shape_of(w, group)) {
        let ours = group.weight.rsplit('.');
        let theirs = weight.key.tensor()?.rsplit('.');
        let shared = ours.zip(theirs).take_while(|(a, b)| a == b).count();
        match best {
            Some((most, _)) if shared < most => {}
            Some((most, _)) if shared == most => alone = false,
            _ => {
                best = Some((shared, weight));
                alone = true;
            }
        }
    }
    best.filter(|(shared, _)| alone && *shared >= SHARED_COMPONENTS).map(|(_, weight)| weight)
}
