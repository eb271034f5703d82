//! The weight matrices of a source, by their names.

use std::collections::{HashMap, HashSet};

use qstore_checkpoint::FloatKind;
use qstore_container::ArrayKey;

use super::cut::PairedCut;
use super::endings::{Endings, untransposed};
use super::given::could_be;
use crate::formats::QuantGroup;
use crate::names::{ArrayInfo, canonical};

/// Ends of the names of output heads, and of the embeddings that they may be tied to.
const HEADS: [&str; 3] = ["lm_head.weight", "embed_out.weight", "output.weight"];
const EMBEDDINGS: [&str; 5] = [
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
];

/// The matrices of a source that may be given quantised ones.
pub(super) struct Matrices<'a> {
    /// By their canonical names: floats, and codes of the source's own quantised matrices. Two sets of weights have two
    /// of a name.
    by_name: HashMap<String, Vec<NamedMatrix<'a>>>,
    /// The names, in order.
    names: Vec<String>,
}

/// A weight matrix of a source.
#[derive(Clone, Copy)]
pub(super) struct NamedMatrix<'a> {
    pub(super) key: &'a ArrayKey,
    pub(super) folder: &'a str,
    pub(super) shape: [u64; 2],
    pub(super) is_codes: bool,
    /// Of a part of an array, which of its cuts it is of, and which part of that.
    pub(super) part: Option<(usize, usize)>,
}

impl NamedMatrix<'_> {
    pub(super) fn fits(&self, group: &QuantGroup) -> bool {
        let [rows, cols] = self.shape;
        // A part is cut either way, and tried.
        let may_be_transposed = !self.is_codes && self.part.is_none();
        could_be(self.shape, group.shape()) || may_be_transposed && could_be([cols, rows], group.shape())
    }
}

impl<'a> Matrices<'a> {
    /// Those of `arrays`, of which `own` are codes and `cuts` the ways to see arrays as several.
    pub(super) fn new(
        arrays: &'a [ArrayInfo],
        own: &'a HashMap<ArrayKey, QuantGroup>,
        cuts: &HashMap<ArrayKey, Vec<PairedCut>>,
    ) -> Self {
        let mut matrices = Self { by_name: HashMap::new(), names: Vec::new() };
        for array in arrays {
            let folder = array.folder();
            let matrix =
                |shape, is_codes, part| NamedMatrix { key: &array.key, folder, shape, is_codes, part };
            match (own.get(&array.key), &array.shape[..]) {
                (Some(group), _) => {
                    matrices.add(&canonical(&group.weight), matrix(group.shape(), true, None))
                }
                (None, &[rows, cols]) if FloatKind::of(array.dtype).is_some() => {
                    matrices.add(&canonical(&array.name), matrix([rows, cols], false, None));
                }
                _ => {}
            }
            for (index, cut) in cuts.get(&array.key).into_iter().flatten().enumerate() {
                for (at, part) in cut.parts.iter().enumerate() {
                    matrices.add(&part.name, matrix(part.shape, false, Some((index, at))));
                }
            }
        }
        matrices
    }

    fn add(&mut self, name: &str, matrix: NamedMatrix<'a>) {
        if !self.by_name.contains_key(name) {
            self.names.push(name.to_owned());
        }
        self.by_name.entry(name.to_owned()).or_default().push(matrix);
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &[NamedMatrix<'a>])> {
        self.names.iter().map(|name| (&name[..], &self.by_name[name][..]))
    }

    /// Those of the name of `group`: where several folders have one, of its folder.
    pub(super) fn named(&self, group: &QuantGroup) -> Vec<NamedMatrix<'a>> {
        let Some(named) = self.by_name.get(&*canonical(&group.weight)) else { return Vec::new() };
        let near: Vec<_> = named.iter().filter(|matrix| matrix.folder == group.folder).copied().collect();
        if !near.is_empty() {
            return near;
        }
        // Of several folders of which none is its own, the first.
        let first = named.first().map(|matrix| matrix.folder);
        named.iter().filter(|matrix| Some(matrix.folder) == first).copied().collect()
    }

    /// The endings of all names but those that are `taken`.
    pub(super) fn endings(&self, taken: &HashSet<String>) -> Endings<'_> {
        let mut endings = Endings::default();
        for (index, name) in self.names.iter().enumerate().filter(|(_, name)| !taken.contains(*name)) {
            let shapes: HashSet<_> = self.by_name[name].iter().map(|one| untransposed(one.shape)).collect();
            shapes.into_iter().for_each(|shape| endings.add(name, shape, index));
        }
        endings
    }

    /// Those whose names end most like that of `group`, or the embedding that it may be tied to.
    pub(super) fn likely(
        &self,
        group: &QuantGroup,
        endings: &Endings,
        taken: &HashSet<String>,
    ) -> Vec<NamedMatrix<'a>> {
        let found = endings.find(&canonical(&group.weight), group.shape()).map(|index| &self.names[index]);
        let found = found.or_else(|| self.tied(group).filter(|name| !taken.contains(*name)));
        let named = found.iter().flat_map(|name| &self.by_name[*name]);
        named.filter(|matrix| matrix.fits(group)).copied().collect()
    }

    /// The embedding that a quantised head without a counterpart may be of: where both are tied, a checkpoint of floats
    /// has it alone.
    fn tied(&self, group: &QuantGroup) -> Option<&String> {
        let is_one = |name: &str, ends: &[&str]| {
            ends.iter()
                .any(|end| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
        };
        let embedding = || self.names.iter().find(|name| is_one(name, &EMBEDDINGS));
        if is_one(&group.weight, &HEADS) { embedding() } else { None }
    }
}
