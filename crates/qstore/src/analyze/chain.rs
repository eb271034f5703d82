//! The variants from few bits to many, and the matrices that they share.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use qstore_checkpoint::{Error, FloatKind, Progress, Result, Scan, Source, scan_folder};
use qstore_container::{ArrayKey, VariantName};

use crate::formats::{QuantGroup, find_groups};
use crate::ingest::checkpoint_of;
use crate::plan::{Lower, Pairs, precisions};

/// All variants.
pub(super) struct Chain {
    /// Few bits first.
    pub(super) members: Vec<Member>,
    /// The matrices that are quantised in one of them at least.
    pub(super) rows: Vec<SharedMatrix>,
}

/// A variant.
pub(super) struct Member {
    pub(super) name: VariantName,
    pub(super) source: Arc<Source>,
    /// What its arrays are given if it is stored alone: nothing.
    pub(super) alone: Pairs,
    /// What its arrays may be given of each quantised variant below, by the index of that, none else being there.
    pub(super) given: Vec<(usize, Pairs)>,
    /// Scales, zero-points and groups of its quantised matrices.
    pub(super) values: HashSet<ArrayKey>,
    /// Its quantisation scheme.
    pub(super) scheme: Option<&'static str>,
}

/// A matrix in every variant that shares it.
pub(super) struct SharedMatrix {
    /// Its name in the lowest of them.
    pub(super) weight: String,
    /// Output features and input features.
    pub(super) shape: [u64; 2],
    /// Few bits first.
    pub(super) cells: Vec<Cell>,
}

/// A matrix in one variant.
pub(super) struct Cell {
    /// The variant's index.
    pub(super) member: usize,
    /// The index of its codes or weights among the variant's arrays.
    pub(super) array: usize,
    /// Its codes, if it is quantised.
    pub(super) own: Option<QuantGroup>,
}

impl SharedMatrix {
    pub(super) fn weights(&self) -> u64 {
        self.shape[0].saturating_mul(self.shape[1])
    }
}

impl Chain {
    /// Scans the folders and matches their matrices.
    ///
    /// # Errors
    /// A name given twice, a folder that cannot be read as a checkpoint, variants of different models.
    pub(super) fn open(variants: &[(VariantName, PathBuf)], progress: &dyn Progress) -> Result<Self> {
        if variants.is_empty() {
            return Err(Error::usage("no variant to analyse; give at least one NAME=DIR"));
        }
        let mut sources = Vec::with_capacity(variants.len());
        for (name, folder) in variants {
            if sources.iter().any(|(other, _)| *other == name) {
                return Err(Error::usage(format!("two variants are named {name}; names must differ")));
            }
            sources.push((name, Arc::new(scan_folder(folder, &Scan::default(), progress)?)));
        }
        let checkpoints =
            sources.iter().map(|(_, source)| checkpoint_of(source)).collect::<Result<Vec<_>>>()?;
        let mut sources: Vec<_> = sources.into_iter().zip(precisions(&checkpoints)).collect();
        sources.sort_by_key(|((name, _), precision)| (*precision, *name));
        let mut members: Vec<Member> = Vec::with_capacity(sources.len());
        for ((name, source), _) in sources {
            let below = members.iter().enumerate().filter(|(_, lower)| lower.scheme.is_some());
            let given = below.map(|(index, lower)| {
                let lower = Lower::Folder { name: lower.name.clone(), source: lower.source.clone() };
                Ok((index, Pairs::find(&source, &[lower], progress)?))
            });
            let given = given.collect::<Result<_>>()?;
            let groups = find_groups(&checkpoint_of(&source)?);
            members.push(Member {
                name: name.clone(),
                alone: Pairs::find(&source, &[], progress)?,
                given,
                scheme: groups.first().map(|group| group.format),
                values: groups.iter().flat_map(QuantGroup::value_arrays).cloned().collect(),
                source,
            });
        }
        let rows = rows(&members);
        Ok(Self { members, rows })
    }
}

fn rows(members: &[Member]) -> Vec<SharedMatrix> {
    let mut rows: Vec<SharedMatrix> = Vec::new();
    let mut row_of: HashMap<(usize, &ArrayKey), usize> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        for (array, source) in member.source.arrays.iter().enumerate() {
            let own = member.alone.own(&source.key);
            let below = member.given.iter().filter_map(|(lower, pairs)| {
                let pair = pairs.of(&source.key).first()?;
                row_of.get(&(*lower, pair.group.codes())).copied()
            });
            let row = match (below.min(), own) {
                (Some(row), _) if own.is_some() || FloatKind::of(source.dtype).is_some() => row,
                (None, Some(group)) => {
                    rows.push(SharedMatrix {
                        weight: group.weight.clone(),
                        shape: group.shape(),
                        cells: Vec::new(),
                    });
                    rows.len() - 1
                }
                _ => continue,
            };
            // Two matrices of one variant may look like the same one of another.
            if rows[row].cells.last().is_some_and(|cell| cell.member == index) {
                continue;
            }
            rows[row].cells.push(Cell { member: index, array, own: own.cloned() });
            row_of.insert((index, &source.key), row);
        }
    }
    rows
}
