//! Which quantised matrices of the variants below stand for which weights.

use std::collections::{HashMap, HashSet};

use qstore_checkpoint::{FloatKind, Progress, Result, Source};
use qstore_container::{ArrayKey, Dtype, Unshared, Why};

use super::by_values::match_values;
use super::cut::PairedCut;
use super::endings::Endings;
use super::given::Pair;
use super::lower::Lower;
use super::matrices::{Matrices, NamedMatrix};
use super::notes::Notes;
use super::rounded::FloatPair;
use super::twins::{Floats, Twin};
use crate::formats::{Checkpoint, Found, QuantGroup, find_all, is_known_method};
use crate::ingest::checkpoint_of;
use crate::names::{ArrayInfo, canonical, cuts};

/// The quantised matrices that each array of a source may be given, and the floats that it may equal a part of.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    of_array: HashMap<ArrayKey, Vec<Pair>>,
    /// Ways to cut arrays into matrices of which some may be given others.
    cuts: HashMap<ArrayKey, Vec<PairedCut>>,
    /// Matrices of other arrays that an array may equal.
    twins: HashMap<ArrayKey, Vec<Twin>>,
    /// The source's own quantised matrices, by their codes.
    own: HashMap<ArrayKey, QuantGroup>,
    /// Floats that the source's own codes may be given.
    floats: HashMap<ArrayKey, Vec<FloatPair>>,
    /// What says what the source's own codes stand for.
    values: HashSet<ArrayKey>,
    /// Scales of the same matrices in variants below, by the source's own.
    scales: HashMap<ArrayKey, Vec<FloatPair>>,
    /// The source's tensors that hold all experts of a layer.
    fused: Vec<ArrayKey>,
    notes: Notes,
}

impl Pairs {
    /// Matches the weights and codes of `source` with the quantised matrices of `lower`: by name, else by the end of
    /// their names and by shape.
    ///
    /// # Errors
    /// A `config.json` of a variant that cannot be read.
    pub(crate) fn find(source: &Source, lower: &[Lower], progress: &dyn Progress) -> Result<Self> {
        let checkpoint = checkpoint_of(source)?;
        let arrays = &checkpoint.tensors;
        let Found { groups, malformed, unknown } = find_all(&checkpoint);
        let values = groups.iter().flat_map(QuantGroup::value_arrays).cloned().collect();
        let own: HashMap<_, _> = groups.into_iter().map(|group| (group.codes().clone(), group)).collect();
        let mut pairs = Self { values, cuts: paired_cuts(&checkpoint), ..Self::default() };
        let matrices = Matrices::new(arrays, &own, &pairs.cuts);
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
            let theirs = variant.checkpoint()?;
            let groups = find_all(&theirs).groups;
            pairs.find_floats(variant, &own, &theirs);
            pairs.find_scales(variant, &own, (arrays, &groups))?;
            pairs.match_with(source, (variant, &theirs, groups), &matrices, arrays, progress)?;
        }
        pairs.note_casts(&matrices, arrays);
        pairs.cuts.values_mut().for_each(|cuts| cuts.retain(PairedCut::is_of_use));
        pairs.cuts.retain(|_, cuts| !cuts.is_empty());
        Ok(Self { own, ..pairs })
    }

    /// Notes floats of which the source has others of the same name in the same folder, such as FP32 beside FP16.
    fn note_casts(&self, matrices: &Matrices, arrays: &[ArrayInfo]) {
        let dtypes: HashMap<&ArrayKey, Dtype> =
            arrays.iter().map(|array| (&array.key, array.dtype)).collect();
        for (name, named) in matrices.all() {
            let whole = |one: &&NamedMatrix| !one.is_codes && one.part.is_none();
            let alone = named
                .iter()
                .filter(whole)
                .filter(|one| !self.of_array.contains_key(one.key) && !self.says_value(one.key));
            for matrix in alone {
                let others = named.iter().filter(whole).filter(|other| other.folder == matrix.folder);
                if others.into_iter().any(|other| dtypes[other.key] != dtypes[matrix.key]) {
                    self.notes.expect(matrix.key, None, Why::Floats, name);
                }
            }
        }
    }

    fn match_with(
        &mut self,
        source: &Source,
        (variant, theirs, groups): (&Lower, &Checkpoint, Vec<QuantGroup>),
        matrices: &Matrices,
        arrays: &[ArrayInfo],
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        // A second set of weights in a folder is the first one again.
        let groups =
            groups.into_iter().filter(|group| seen.insert((group.weight.clone(), group.folder.clone())));
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
            taken.insert(canonical(&group.weight).into_owned());
            for matrix in fitting {
                self.add(matrix, variant, group.clone());
            }
        }
        let endings = if others.is_empty() { Endings::default() } else { matrices.endings(&taken) };
        let fused_here = arrays.iter().any(is_fused);
        let mut unnamed = Vec::new();
        for group in others {
            let fitting = matrices.likely(&group, &endings, &taken);
            if fitting.is_empty() {
                unnamed.push(Pair { lower: variant.clone(), group });
                continue;
            }
            for matrix in fitting {
                self.add(&matrix, variant, group.clone());
            }
        }
        let found = if unnamed.is_empty() {
            Vec::new()
        } else {
            self.match_values(source, matrices, &unnamed, progress)?
        };
        for (Pair { group, .. }, found) in unnamed.into_iter().zip(found) {
            let Some(matrix) = found else {
                let fused = fused_here && is_expert(&group.weight);
                let why = if fused { Why::FusedExperts } else { Why::NoCounterpart };
                self.notes.add(Some(variant.name()), why, &group.weight, 1);
                continue;
            };
            self.add(&matrix, variant, group);
        }
        self.find_twins(variant, arrays, theirs);
        self.note_floats(variant, arrays, &theirs.tensors);
        Ok(())
    }

    /// For each of `unnamed` the float matrix of the source that is not given any yet and has its values.
    fn match_values<'m>(
        &self,
        source: &Source,
        matrices: &Matrices<'m>,
        unnamed: &[Pair],
        progress: &dyn Progress,
    ) -> Result<Vec<Option<NamedMatrix<'m>>>> {
        let variant = unnamed.first().map(|pair| pair.lower.name());
        let has_one = |key: &ArrayKey| self.of(key).iter().any(|pair| Some(pair.lower.name()) == variant);
        let is_open = |one: &&NamedMatrix| {
            !one.is_codes && one.part.is_none() && !has_one(one.key) && !self.says_value(one.key)
        };
        let open: Vec<NamedMatrix> =
            matrices.all().flat_map(|(_, named)| named).filter(is_open).copied().collect();
        let found = match_values(source, &open, unnamed, progress)?;
        Ok(found.into_iter().map(|found| found.map(|index| open[index])).collect())
    }

    /// Finds the floats of the variant below that the source's own codes may have been made from.
    fn find_floats(&mut self, variant: &Lower, own: &HashMap<ArrayKey, QuantGroup>, theirs: &Checkpoint) {
        let Lower::Stored(stored) = variant else { return };
        if own.is_empty() {
            return;
        }
        let floats = Floats::new(theirs);
        let named = |group: &QuantGroup| (canonical(&group.weight).into_owned(), group.shape());
        let taken = own.values().map(named).filter(|(name, shape)| floats.has(name, *shape));
        let taken: HashSet<String> = taken.map(|(name, _)| name).collect();
        let names = floats.names(&taken);
        let endings = floats.endings(&names);
        for (key, group) in own {
            let (name, shape) = named(group);
            // By name, else by the end of it.
            let is_named = floats.has(&name, shape);
            let name = if is_named { Some(&*name) } else { endings.find(&name, shape).map(|at| names[at]) };
            let found = name.map(|name| floats.of_codes(stored, name, shape));
            self.floats.entry(key.clone()).or_default().extend(found.into_iter().flatten());
        }
        self.floats.retain(|_, floats| !floats.is_empty());
    }

    /// Finds the scales of the variant below that the source's own may be near.
    fn find_scales(
        &mut self,
        variant: &Lower,
        own: &HashMap<ArrayKey, QuantGroup>,
        (arrays, theirs): (&[ArrayInfo], &[QuantGroup]),
    ) -> Result<()> {
        let Lower::Stored(stored) = variant else { return Ok(()) };
        if own.is_empty() {
            return Ok(());
        }
        let matrices = arrays.iter().filter(|array| is_float_matrix(array));
        let shapes: HashMap<&ArrayKey, &[u64]> =
            matrices.map(|array| (&array.key, &array.shape[..])).collect();
        let theirs: HashMap<String, &QuantGroup> =
            theirs.iter().map(|group| (canonical(&group.weight).into_owned(), group)).collect();
        for group in own.values() {
            let Some(other) = theirs.get(&*canonical(&group.weight)) else { continue };
            let (Some(own), Some(other)) = (scale_array(group), scale_array(other)) else { continue };
            let Some(shape) = shapes.get(own) else { continue };
            self.scales.entry(own.clone()).or_default().extend(FloatPair::alone(stored, other, shape)?);
        }
        self.scales.retain(|_, scales| !scales.is_empty());
        Ok(())
    }

    /// The scales that the scales `key` may be near.
    pub(super) fn scales(&self, key: &ArrayKey) -> &[FloatPair] {
        self.scales.get(key).map_or(&[], Vec::as_slice)
    }

    /// The floats that the codes `key` may be given.
    pub(super) fn floats(&self, key: &ArrayKey) -> &[FloatPair] {
        self.floats.get(key).map_or(&[], Vec::as_slice)
    }

    /// Notes which of the source's own codes, which are archived, have no floats to be given.
    pub(crate) fn expect_floats(&self) {
        for (key, group) in self.own.iter().filter(|(key, _)| self.floats(key).is_empty()) {
            self.notes.expect(key, None, Why::NothingHigher, &group.weight);
        }
    }

    /// Finds which floats of the source may equal matrices of the variant below, where one of the two is a part of a
    /// tensor.
    fn find_twins(&mut self, variant: &Lower, arrays: &[ArrayInfo], theirs: &Checkpoint) {
        let Lower::Stored(stored) = variant else { return };
        let floats = Floats::new(theirs);
        for array in arrays.iter().filter(|array| is_float_matrix(array)) {
            if let &[rows, cols] = &array.shape[..] {
                let twins = floats.twins(stored, &canonical(&array.name), array.dtype, [rows, cols]);
                let parts = twins.filter(|twin| !twin.view.is_whole());
                self.twins.entry(array.key.clone()).or_default().extend(parts);
            }
            for part in self.cuts.get_mut(&array.key).into_iter().flatten().flat_map(|cut| &mut cut.parts) {
                part.twins.extend(floats.twins(stored, &part.name, array.dtype, part.shape));
            }
        }
        self.twins.retain(|_, twins| !twins.is_empty());
    }

    /// Notes which of the source's floats the variant below has as floats as well, or as parts of fused ones. Equal
    /// ones will not count.
    fn note_floats(&self, variant: &Lower, arrays: &[ArrayInfo], theirs: &[ArrayInfo]) {
        let shapes: HashMap<&str, &[u64]> = theirs
            .iter()
            .filter(|array| is_float_matrix(array))
            .map(|array| (array.name.as_str(), &array.shape[..]))
            .collect();
        let fused_there = theirs.iter().any(is_fused);
        let has_pairs = |array: &ArrayInfo| {
            let cuts = self.cuts.get(&array.key).into_iter().flatten();
            self.of_array.contains_key(&array.key)
                || cuts.flat_map(|cut| &cut.parts).any(|part| !part.pairs.is_empty())
        };
        let is_open = |array: &&ArrayInfo| !has_pairs(array) && !self.says_value(&array.key);
        for array in arrays.iter().filter(|array| is_float_matrix(array)).filter(is_open) {
            let why = match shapes.get(array.name.as_str()) {
                Some(shape) if **shape == array.shape => Why::Floats,
                Some(shape) => Why::OtherShape { here: array.shape.clone(), there: shape.to_vec() },
                None if self.twins.contains_key(&array.key) => Why::Floats,
                None if fused_there && is_expert(&array.name) => Why::FusedExperts,
                None => continue,
            };
            self.notes.expect(&array.key, Some(variant.name()), why, &array.name);
        }
    }

    fn add(&mut self, matrix: &NamedMatrix, variant: &Lower, group: QuantGroup) {
        let pair = Pair { lower: variant.clone(), group };
        let Some((cut, part)) = matrix.part else {
            self.of_array.entry(matrix.key.clone()).or_default().push(pair);
            return;
        };
        let cut = self.cuts.get_mut(matrix.key).and_then(|cuts| cuts.get_mut(cut));
        if let Some(part) = cut.and_then(|cut| cut.parts.get_mut(part)) {
            part.pairs.push(pair);
        }
    }

    /// What `key` may be given.
    pub(crate) fn of(&self, key: &ArrayKey) -> &[Pair] {
        self.of_array.get(key).map_or(&[], Vec::as_slice)
    }

    /// Ways to cut `key` into matrices of which some may be given others, or equal some.
    pub(crate) fn cuts(&self, key: &ArrayKey) -> &[PairedCut] {
        self.cuts.get(key).map_or(&[], Vec::as_slice)
    }

    /// How many parts `key` is stored by at most.
    pub(crate) fn most_parts(&self, key: &ArrayKey) -> usize {
        self.cuts(key).iter().map(PairedCut::len).max().unwrap_or(0)
    }

    /// Matrices of other arrays that `key` may equal.
    pub(crate) fn twins(&self, key: &ArrayKey) -> &[Twin] {
        self.twins.get(key).map_or(&[], Vec::as_slice)
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
        self.of_array.contains_key(key)
            || self.own.contains_key(key)
            || self.cuts.contains_key(key)
            || self.twins.contains_key(key)
            || self.scales.contains_key(key)
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
        let parts = |cuts: &[PairedCut]| {
            let pairs = cuts.iter().flat_map(|cut| &cut.parts).flat_map(|part| &part.pairs);
            pairs.last().cloned()
        };
        let whole = self.of_array.iter().filter_map(|(key, pairs)| Some((key, pairs.last()?.clone())));
        let cut = self.cuts.iter().filter_map(|(key, cuts)| Some((key, parts(cuts)?)));
        let tried = whole.chain(cut);
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

/// The ways to cut a checkpoint's tensors, with nothing that they may be given yet.
fn paired_cuts(checkpoint: &Checkpoint) -> HashMap<ArrayKey, Vec<PairedCut>> {
    let floats = checkpoint.tensors.iter().filter(|array| is_float_matrix(array));
    let cuts = floats.map(|array| (array.key.clone(), cuts(array, &checkpoint.config)));
    let some = cuts.filter(|(_, cuts)| !cuts.is_empty());
    some.map(|(key, cuts)| (key, cuts.into_iter().map(PairedCut::from).collect())).collect()
}

/// The array of the first scales of a matrix that are numbers of one.
fn scale_array(group: &QuantGroup) -> Option<&ArrayKey> {
    let numbers = group.matrix().values.scales.iter().find_map(|scale| scale.factor().numbers());
    Some(&numbers?.field.array)
}

/// Whether a tensor of floats has several dimensions.
fn is_float_matrix(array: &ArrayInfo) -> bool {
    FloatKind::of(array.dtype).is_some() && array.shape.len() >= 2
}

/// Whether a tensor holds all experts of a layer.
fn is_fused(array: &ArrayInfo) -> bool {
    array.shape.len() == 3 && array.name.contains("experts")
}

/// Whether a name is that of one expert's matrix.
fn is_expert(name: &str) -> bool {
    name.split_once("experts.").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}
