//! Arrays that are stored as several matrices, each in the way that suits it.

use std::ops::Range;

use qstore_checkpoint::{Error, Result, Source, SourceArray, SourcePart};
use qstore_container::{ArrayKey, Part, View};

use super::choose::{Chooser, Offers};
use super::fit::Fit;
use super::given::Pair;
use super::twins::Twin;
use super::{Action, Original, PlannedArray, chunk_of, element_bytes};
use crate::names::{Cut, CutPart};

/// A [`Cut`] with what its parts may be given.
#[derive(Debug, Clone)]
pub(crate) struct PairedCut {
    pub(super) parts: Vec<PairedPart>,
}

/// A part of a [`PairedCut`].
#[derive(Debug, Clone)]
pub(crate) struct PairedPart {
    pub(super) name: String,
    view: View,
    pub(super) shape: [u64; 2],
    pub(super) pairs: Vec<Pair>,
    /// Matrices that it may equal.
    pub(super) twins: Vec<Twin>,
}

impl From<Cut> for PairedCut {
    fn from(cut: Cut) -> Self {
        let part = |CutPart { name, view, shape }| PairedPart {
            name,
            view,
            shape,
            pairs: Vec::new(),
            twins: Vec::new(),
        };
        Self { parts: cut.parts.into_iter().map(part).collect() }
    }
}

impl PairedCut {
    /// Whether a part may be given something.
    pub(super) fn is_of_use(&self) -> bool {
        self.parts.iter().any(|part| !part.pairs.is_empty() || !part.twins.is_empty())
    }

    /// How many matrices there are.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }
}

/// An array that is to be stored by parts.
#[derive(Debug)]
pub(crate) struct PlannedCut {
    /// The array's index in the source.
    pub(crate) index: usize,
    cut: PairedCut,
    /// The number of its first part.
    first: u32,
}

impl PlannedCut {
    /// What the plan says of its parts.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let part = |(number, part): (u32, &PairedPart)| Part {
            array: ArrayKey::Part(number),
            view: part.view.clone(),
        };
        (self.first..).zip(&self.cut.parts).map(part).collect()
    }

    /// How many parts there are.
    pub(crate) fn len(&self) -> usize {
        self.cut.parts.len()
    }

    /// The bytes of `array`, which is the one, that hold part `at`, and others if it does not lie by itself.
    pub(crate) fn bytes(&self, at: usize, array: &SourceArray) -> Range<u64> {
        let width = element_bytes(array);
        let placed = self.cut.parts.get(at).and_then(|part| part.view.place(&array.shape).ok());
        placed.map_or(0..0, |placed| {
            let lines = placed.lines();
            lines.start * placed.pitch * width..lines.end * placed.pitch * width
        })
    }
}

fn part_array(array: &SourceArray, part: &PairedPart, number: u32, source: &Source) -> Result<SourceArray> {
    let key = ArrayKey::Part(number);
    let of = SourcePart::array(array, &part.view, key);
    of.map_err(|e| Error::input(source.path_of(array), format!("{}: {e}", array.key)))
}

impl Chooser<'_> {
    /// How to cut array `index`, if that helps; its parts get numbers from `first` on.
    pub(super) fn cut(&self, index: usize, first: u32) -> Result<Option<PlannedCut>> {
        let array = &self.source.arrays[index];
        let mut best: Option<(Fit, &PairedCut)> = None;
        for cut in self.pairs.cuts(&array.key) {
            // All parts are alike: the first one that has a counterpart tells.
            let Some(part) = cut.parts.iter().find(|part| !part.pairs.is_empty() || !part.twins.is_empty())
            else {
                continue;
            };
            let of_part = part_array(array, part, first, self.source)?;
            if self.twin(&of_part, &part.twins)?.is_some() {
                return Ok(Some(PlannedCut { index, cut: cut.clone(), first }));
            }
            let fit = self.fit(&of_part, chunk_of(&of_part), &offers(array, part))?;
            let helps = fit.coding.encoding.is_given() && fit.helps();
            if helps && best.as_ref().is_none_or(|(best, _)| fit.better_than(best)) {
                best = Some((fit, cut));
            }
        }
        Ok(best.map(|(_, cut)| PlannedCut { index, cut: cut.clone(), first }))
    }

    /// Plans part `at` of a cut.
    pub(super) fn plan_part(&self, planned: &PlannedCut, at: usize) -> Result<PlannedArray> {
        let (array, part) = (&self.source.arrays[planned.index], &planned.cut.parts[at]);
        let number = planned.first.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
        let of_part = part_array(array, part, number, self.source)?;
        let chunk = chunk_of(&of_part);
        if let Some(action) = self.twin(&of_part, &part.twins)? {
            self.pairs.shares(&array.key);
            return Ok(PlannedArray { array: of_part, chunk, action });
        }
        let fit = self.fit(&of_part, chunk, &offers(array, part))?;
        let coding = Box::new(fit.coding);
        if coding.encoding.is_given() {
            self.pairs.shares(&array.key);
        }
        let chunk = coding.chunk.unwrap_or(chunk);
        Ok(PlannedArray { array: of_part, chunk, action: Action::Code(coding) })
    }

    /// A reference to one of `twins` that `array` equals.
    pub(super) fn twin(&self, array: &SourceArray, twins: &[Twin]) -> Result<Option<Action>> {
        for twin in twins {
            if let Some(((to, view), rows)) = twin.matches(self.source, array)? {
                return Ok(Some(Action::Refer { to, view, original: Original::Rows(Box::new(rows)) }));
            }
        }
        Ok(None)
    }
}

fn offers<'a>(array: &'a SourceArray, part: &'a PairedPart) -> Offers<'a> {
    Offers { key: &array.key, pairs: &part.pairs, floats: &[], own: None }
}
