//! Which quantised matrices of the variants below stand for which weights.

use std::collections::{HashMap, HashSet};

use qstore_container::{ArrayKey, Dtype, Unshared, Why};

use super::endings::{Endings, untransposed};
use super::given::{Pair, could_be};
use super::lower::Lower;
use super::notes::Notes;
use crate::error::Result;
use crate::formats::{ArrayInfo, Checkpoint, Found, QuantGroup, find_all, is_known_method};
use crate::ingest::Source;
use crate::quant::FloatKind;

/// Ends of the names of output heads, and of the embeddings that they may be tied to.
const HEADS: [&str; 3] = ["lm_head.weight", "embed_out.weight", "output.weight"];
const EMBEDDINGS: [&str; 5] = [
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
];

/// The quantised matrices that each array of a source may be given.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    of_array: HashMap<ArrayKey, Vec<Pair>>,
    /// The source's own quantised matrices, by their codes.
    own: HashMap<ArrayKey, QuantGroup>,
    /// What says what the source's own codes stand for.
    values: HashSet<ArrayKey>,
    /// The source's tensors that hold all experts of a layer.
    fused: Vec<ArrayKey>,
    notes: Notes,
}

/// The matrices of a source that may be given quantised ones.
struct Matrices<'a> {
    /// By their names: floats, and codes of the source's own quantised matrices. Two sets of weights have two of a name.
    by_name: HashMap<&'a str, Vec<Matrix<'a>>>,
    names: Vec<&'a str>,
}

/// A weight matrix of a source.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    key: &'a ArrayKey,
    folder: &'a str,
    shape: [u64; 2],
    is_codes: bool,
}

impl Matrix<'_> {
    fn fits(&self, group: &QuantGroup) -> bool {
        let [rows, cols] = self.shape;
        could_be(self.shape, group.shape()) || !self.is_codes && could_be([cols, rows], group.shape())
    }
}

impl<'a> Matrices<'a> {
    fn new(arrays: &'a [ArrayInfo], own: &'a HashMap<ArrayKey, QuantGroup>) -> Self {
        let mut matrices = Self { by_name: HashMap::new(), names: Vec::new() };
        for array in arrays {
            let (name, shape, is_codes) = match (own.get(&array.key), &array.shape[..]) {
                (Some(group), _) => (group.weight.as_str(), group.shape(), true),
                (None, &[rows, cols]) if FloatKind::of(array.dtype).is_some() => {
                    (array.name.as_str(), [rows, cols], false)
                }
                _ => continue,
            };
            let of_name = matrices.by_name.entry(name).or_default();
            if of_name.is_empty() {
                matrices.names.push(name);
            }
            of_name.push(Matrix { key: &array.key, folder: array.folder(), shape, is_codes });
        }
        matrices
    }

    /// The embedding that a quantised head without a counterpart may be of: where both are tied, a checkpoint of floats has it alone.
    fn tied(&self, group: &QuantGroup) -> Option<&'a str> {
        let is_one = |name: &str, ends: &[&str]| {
            ends.iter()
                .any(|end| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
        };
        let embedding = || self.names.iter().find(|name| is_one(name, &EMBEDDINGS)).copied();
        if is_one(&group.weight, &HEADS) { embedding() } else { None }
    }

    /// Those of the name of `group`: where several folders have one, of its folder.
    fn named(&self, group: &QuantGroup) -> Vec<Matrix<'a>> {
        let Some(named) = self.by_name.get(group.weight.as_str()) else { return Vec::new() };
        let near: Vec<_> = named.iter().filter(|matrix| matrix.folder == group.folder).copied().collect();
        if !near.is_empty() {
            return near;
        }
        // Of several folders of which none is its own, the first.
        let first = named.first().map(|matrix| matrix.folder);
        named.iter().filter(|matrix| Some(matrix.folder) == first).copied().collect()
    }
}

impl Pairs {
    /// Matches the weights and codes of `source` with the quantised matrices of `lower`: by name, else by the end of their names and by shape.
    ///
    /// # Errors
    /// A `config.json` of a variant that cannot be read.
    pub(crate) fn find(source: &Source, lower: &[Lower]) -> Result<Self> {
        let checkpoint = source.checkpoint()?;
        let arrays = &checkpoint.tensors;
        let Found { groups, malformed, unknown } = find_all(&checkpoint);
        let values = groups.iter().flat_map(QuantGroup::value_arrays).cloned().collect();
        let own: HashMap<_, _> = groups.into_iter().map(|group| (group.codes().clone(), group)).collect();
        let matrices = Matrices::new(arrays, &own);
        let mut pairs = Self { values, ..Self::default() };
        let method = checkpoint.quant_method().map(str::to_owned);
        let is_other = method.as_deref().is_some_and(|method| !is_known_method(method));
        for one in malformed {
            let why = match &method {
                // Formats share names: AWQ has those of GPTQ.
                Some(method) if is_other => Why::UnknownFormat { method: Some(method.clone()) },
                _ => Why::Malformed { what: one.why.to_owned() },
            };
            pairs.notes.add(None, why, &one.name, 1);
        }
        for (key, name) in unknown {
            pairs.notes.expect(&key, None, Why::UnknownFormat { method: method.clone() }, &name);
        }
        let fused = arrays.iter().filter(|array| is_fused(array));
        pairs.fused = fused.map(|array| array.key.clone()).collect();
        for variant in lower {
            pairs.match_with(variant, arrays, &matrices)?;
        }
        pairs.note_casts(&matrices, arrays);
        Ok(Self { own, ..pairs })
    }

    /// Notes floats of which the source has others of the same name in the same folder, such as FP32 beside FP16.
    fn note_casts(&self, matrices: &Matrices, arrays: &[ArrayInfo]) {
        let dtypes: HashMap<&ArrayKey, Dtype> =
            arrays.iter().map(|array| (&array.key, array.dtype)).collect();
        for (name, named) in &matrices.by_name {
            let alone = named.iter().filter(|one| {
                !one.is_codes && !self.of_array.contains_key(one.key) && !self.says_value(one.key)
            });
            for matrix in alone {
                let others = named.iter().filter(|other| other.folder == matrix.folder && !other.is_codes);
                if others.into_iter().any(|other| dtypes[other.key] != dtypes[matrix.key]) {
                    self.notes.expect(matrix.key, None, Why::Floats, name);
                }
            }
        }
    }

    fn match_with(&mut self, variant: &Lower, arrays: &[ArrayInfo], matrices: &Matrices) -> Result<()> {
        let theirs: Checkpoint = variant.checkpoint()?;
        let mut seen = HashSet::new();
        // A second set of weights in a folder is the first one again.
        let groups = find_all(&theirs).groups.into_iter();
        let groups = groups.filter(|group| seen.insert((group.weight.clone(), group.folder.clone())));
        let (mut taken, mut others) = (HashSet::new(), Vec::new());
        for group in groups {
            let named = matrices.named(&group);
            let fitting: Vec<_> = named.iter().filter(|matrix| matrix.fits(&group)).collect();
            if fitting.is_empty() {
                match named.first() {
                    Some(other) => {
                        let why =
                            Why::OtherShape { here: other.shape.to_vec(), there: group.shape().to_vec() };
                        self.notes.add(Some(variant.name()), why, &group.weight, 1);
                        named.iter().for_each(|matrix| self.notes.explain(matrix.key));
                    }
                    None => others.push(group),
                }
                continue;
            }
            taken.insert(group.weight.clone());
            for matrix in fitting {
                self.add(matrix.key, variant, group.clone());
            }
        }
        let mut endings = Endings::default();
        if !others.is_empty() {
            for (index, name) in matrices.names.iter().enumerate().filter(|(_, name)| !taken.contains(**name))
            {
                let shapes: HashSet<_> =
                    matrices.by_name[name].iter().map(|one| untransposed(one.shape)).collect();
                shapes.into_iter().for_each(|shape| endings.add(name, shape, index));
            }
        }
        let fused_here = arrays.iter().any(is_fused);
        for group in others {
            let found = endings.find(&group.weight, group.shape()).map(|index| matrices.names[index]);
            let found = found.or_else(|| matrices.tied(&group).filter(|name| !taken.contains(*name)));
            let fitting =
                found.iter().flat_map(|name| &matrices.by_name[name]).filter(|matrix| matrix.fits(&group));
            let fitting: Vec<_> = fitting.collect();
            if fitting.is_empty() {
                let fused = fused_here && is_expert(&group.weight);
                let why = if fused { Why::FusedExperts } else { Why::NoCounterpart };
                self.notes.add(Some(variant.name()), why, &group.weight, 1);
            }
            for matrix in fitting {
                self.add(matrix.key, variant, group.clone());
            }
        }
        self.note_floats(variant, arrays, &theirs.tensors);
        Ok(())
    }

    /// Notes which of the source's floats the variant below has as floats as well, or as parts of fused ones. Equal ones will not count.
    fn note_floats(&self, variant: &Lower, arrays: &[ArrayInfo], theirs: &[ArrayInfo]) {
        let is_matrix = |array: &&ArrayInfo| FloatKind::of(array.dtype).is_some() && array.shape.len() >= 2;
        let shapes: HashMap<&str, &[u64]> =
            theirs.iter().filter(is_matrix).map(|array| (array.name.as_str(), &array.shape[..])).collect();
        let fused_there = theirs.iter().any(is_fused);
        let is_open =
            |array: &&ArrayInfo| !self.of_array.contains_key(&array.key) && !self.says_value(&array.key);
        for array in arrays.iter().filter(is_matrix).filter(is_open) {
            let why = match shapes.get(array.name.as_str()) {
                Some(shape) if **shape == array.shape => Why::Floats,
                Some(shape) => Why::OtherShape { here: array.shape.clone(), there: shape.to_vec() },
                None if fused_there && is_expert(&array.name) => Why::FusedExperts,
                None => continue,
            };
            self.notes.expect(&array.key, Some(variant.name()), why, &array.name);
        }
    }

    fn add(&mut self, key: &ArrayKey, variant: &Lower, group: QuantGroup) {
        self.of_array.entry(key.clone()).or_default().push(Pair { lower: variant.clone(), group });
    }

    /// What `key` may be given.
    pub(crate) fn of(&self, key: &ArrayKey) -> &[Pair] {
        self.of_array.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether `key` says what codes of the source stand for.
    pub(crate) fn says_value(&self, key: &ArrayKey) -> bool {
        self.values.contains(key)
    }

    /// The quantised matrix of the source whose codes are `key`.
    pub(crate) fn own(&self, key: &ArrayKey) -> Option<&QuantGroup> {
        self.own.get(key)
    }

    /// Whether an array may be given another, or another may be given it.
    pub(crate) fn is_paired(&self, key: &ArrayKey) -> bool {
        self.of_array.contains_key(key) || self.own.contains_key(key)
    }

    /// Notes that `key` is stored given another array, or as equal to one.
    pub(crate) fn shares(&self, key: &ArrayKey) {
        self.notes.share(key);
    }

    /// Notes why a quantised matrix of a lower variant is of no use to `key`.
    pub(super) fn refuse(&self, key: &ArrayKey, pair: &Pair, why: Why) {
        self.notes.explain(key);
        self.notes.add(Some(pair.lower.name()), why, &pair.group.weight, 1);
    }

    /// Notes why one of the source's own quantised matrices is not stored given another.
    pub(super) fn refuse_own(&self, group: &QuantGroup, why: &str) {
        self.notes.explain(group.codes());
        self.notes.add(None, Why::Malformed { what: why.to_owned() }, &group.weight, 1);
    }

    /// What shares less than one would expect, after all arrays were planned.
    pub(crate) fn unshared(&self) -> Vec<Unshared> {
        // The highest variant below comes last.
        let tried = self.of_array.iter().filter_map(|(key, pairs)| Some((key, pairs.last()?)));
        for (_, pair) in tried.filter(|(key, _)| self.notes.is_unexplained(key)) {
            self.notes.add(Some(pair.lower.name()), Why::NotMadeFrom, &pair.group.weight, 1);
        }
        let mut notes = self.notes.finish();
        // Shared as they are, it is no loss that parts of them are not.
        if !self.fused.is_empty() && self.fused.iter().all(|key| self.notes.is_shared(key)) {
            notes.retain(|note| note.why != Why::FusedExperts);
        }
        notes
    }
}

/// Whether a tensor holds all experts of a layer.
fn is_fused(array: &ArrayInfo) -> bool {
    array.shape.len() == 3 && array.name.contains("experts")
}

/// Whether a name is that of one expert's matrix.
fn is_expert(name: &str) -> bool {
    name.split_once("experts.").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}
