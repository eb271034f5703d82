//! Which quantised matrices of the variants below stand for which weights.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qstore_container::ArrayKey;

use crate::decode::Variant;
use crate::error::{Error, Result};
use crate::ingest::{Source, SourceArray};
use crate::progress::Progress;
use crate::scheme::{FloatKind, QuantGroup, find_groups};

/// Trailing components that names with different prefixes must share, as in `layers.0.mlp.up_proj.weight`.
const SHARED_COMPONENTS: usize = 3;

/// A quantised matrix of a variant below.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) variant: Arc<Variant>,
    pub(crate) group: QuantGroup,
}

/// The quantised matrices that each array of a source may be given.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    of_array: HashMap<ArrayKey, Vec<Pair>>,
    used: HashSet<ArrayKey>,
    /// For each variant below that is quantised its name and how many of its matrices were found.
    found: Vec<(String, usize, usize)>,
}

impl Pairs {
    /// Matches the weights of `source` with the quantised matrices of `lower`: by name, else by the end of their names and by shape, as classes
    /// of one model differ in prefixes (`model.layers.0` and `layers.0`).
    ///
    /// # Errors
    /// Weights and codes of one name but different shapes: they belong to different models.
    pub(crate) fn find(source: &Source, lower: &[Arc<Variant>]) -> Result<Self> {
        let mut pairs = Self::default();
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

    fn add(&mut self, key: &ArrayKey, variant: &Arc<Variant>, group: QuantGroup) {
        self.of_array.entry(key.clone()).or_default().push(Pair { variant: variant.clone(), group });
    }

    /// What `key` may be given.
    pub(crate) fn of(&self, key: &ArrayKey) -> &[Pair] {
        self.of_array.get(key).map_or(&[], Vec::as_slice)
    }

    /// Notes that `key` is stored given one of its pairs.
    pub(crate) fn used(&mut self, key: &ArrayKey) {
        self.used.insert(key.clone());
    }

    /// Tells the user where quantised matrices did not help.
    pub(crate) fn report(&self, name: &str, progress: &dyn Progress) {
        for (lower, matched, total) in &self.found {
            if matched < total {
                progress.warn(&format!(
                    "{} of the {total} quantised matrices of {lower} have no counterpart of the same shape in {name}; their weights are stored by themselves",
                    total - matched
                ));
            }
        }
        let useless = self.of_array.keys().filter(|key| !self.used.contains(key)).count();
        if useless > 0 {
            progress.warn(&format!(
                "{useless} of {} matrices of {name} are not what the quantised ones were made from, and are stored by themselves; is it the same model?",
                self.of_array.len()
            ));
        }
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
