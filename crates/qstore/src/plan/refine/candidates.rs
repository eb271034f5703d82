//! The matrices below that an array may be given, and in what ways their codes tell something of its weights.

use qstore_checkpoint::FloatKind;
use qstore_container::limits::MAX_GIVEN;
use qstore_container::{ArrayRef, Finite, KnownMatrix};

use super::super::given::GivenGroup;
use super::super::matrix::{CodedMatrix, Part};
use super::super::unusable::Unusable;
use super::{Refined, stretches};
use crate::codec::{Factors, KnownBins, values};

/// How many steps beyond the outermost levels their bins may end: where another level would begin, or a little farther,
/// as the greatest weight was to lie there and scales are rounded, or at the levels themselves, as it became the
/// greatest level, or far beyond, as weights were cut off.
const STEPS_BEYOND: [f32; 4] = [0.5, 0.5625, 0.0, FARTHEST];
const FARTHEST: f32 = 8.0;

/// Steps off the level of its code at which a weight lies in no bin of it, however it was rounded.
const BESIDE: f32 = 0.75;
/// A share of weights outside of their bins from which on codes may have been moved.
const MOVED_SHARE: usize = 64;

/// How many steps farther than the sample's outermost weights bins end.
const SLACK: f32 = 1.0 / 64.0;

/// A matrix below that may be among those that an array is given.
pub(super) struct Candidate<'a> {
    pub(super) group: &'a GivenGroup<'a>,
    bins: KnownBins,
    /// In what ways its codes may tell something of weights. Of those by bins the one that others take, since readers
    /// can then decode the codes of both in step.
    ways: Vec<Told>,
    /// The candidates that its codes are given, which come before it.
    needs: Vec<usize>,
    /// What weights were multiplied with before they were rounded to codes that were moved.
    pub(super) factors: Option<Factors>,
}

/// What codes tell of weights.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    /// In which bin they lie, the outermost of which end at these levels.
    Bins([f32; 2]),
    /// About which level: between which of these distances from it is stored for each.
    Around(Vec<f32>),
}

impl Told {
    pub(super) fn is_around(&self) -> bool {
        matches!(self, Self::Around(_))
    }
}

/// Those of some candidates that are chosen, by their indices, each with what it tells, if anything.
pub(super) type Chosen = Vec<(usize, Option<Told>)>;

impl<'a> Candidate<'a> {
    /// Those of `groups` of which readers accept that `matrix` is given them.
    pub(super) fn all(
        matrix: &CodedMatrix,
        refined: &Refined,
        groups: &'a [GivenGroup],
    ) -> Result<Vec<Self>, Unusable> {
        let mut found: Vec<(ArrayRef, Self)> = Vec::new();
        for group in groups {
            let (lower, key) = (&group.pair.lower, &group.matrix.codes.array);
            let (source, given) = lower.source_and_given(key)?;
            let place = |array: &ArrayRef| found.iter().position(|(known, _)| known == array);
            let needs: Option<Vec<usize>> = given.iter().map(|(array, _)| place(array)).collect();
            let Some(needs) = needs.filter(|_| place(&source).is_none()) else { continue };
            for (index, (_, ends)) in needs.iter().zip(&given) {
                if let Some(ends) = ends {
                    found[*index].1.ways = vec![Told::Bins(ends.map(Finite::get))];
                }
            }
            let as_stored = matrix.as_stored(refined.chunk(matrix), &refined.encoding(matrix, Vec::new()));
            if matches!(refined, Refined::Codes(..)) && !lower.chunks_align(key, &as_stored)? {
                continue;
            }
            let bins = KnownBins::new(group.values.clone(), group.matrix.shape, [0.0; 2]);
            let Some(bins) = bins else { continue };
            let rounds = group.values.rule().is_some();
            let beyond = STEPS_BEYOND.iter().filter(|_| rounds).map(|steps| Told::Bins(bins.beyond(*steps)));
            found.push((source, Self { ways: beyond.collect(), group, bins, needs, factors: None }));
        }
        Ok(found.into_iter().map(|(_, candidate)| candidate).collect())
    }

    /// Finds the ways in which its codes, the `index`th of `of` matrices', tell something of floats: if they were
    /// moved, or if their outermost bins end elsewhere. Returns whether integers were moved.
    pub(super) fn look_at(&mut self, parts: &[Part], float: FloatKind, (index, of): (usize, usize)) -> bool {
        let given = &self.group.values;
        let (mut off, mut ends) = (Vec::new(), [f32::INFINITY, f32::NEG_INFINITY]);
        self.each_off(parts, float, (index, of), None, |code, of_code| {
            off.push(of_code);
            if of_code.is_finite() {
                let level = given.levels().value(code) + of_code;
                ends = [ends[0].min(level), ends[1].max(level)];
            }
        });
        let moved = off.iter().filter(|off| off.abs() > BESIDE).count();
        if given.rule().is_none() {
            self.ways.clear();
        } else if self.ways.len() > 1 {
            // No others have chosen where they end. Beyond the farthest place that is tried lies what has no bin.
            let (outer, beyond, far) =
                (self.bins.beyond(0.0), self.bins.beyond(SLACK), self.bins.beyond(FARTHEST));
            let least = (ends[0] - (outer[0] - beyond[0])).clamp(far[0], outer[0]);
            let most = (ends[1] + (beyond[1] - outer[1])).clamp(outer[1], far[1]);
            self.ways.push(Told::Bins([least, most]));
        }
        let is_moved = given.is_integer() && moved > off.len() / MOVED_SHARE;
        if given.rule().is_none() || is_moved {
            self.ways.extend(stretches::edges(&off).into_iter().map(Told::Around));
        }
        is_moved
    }

    /// Gives it factors that weights were multiplied with.
    pub(super) fn multiply(
        &mut self,
        factors: Factors,
        parts: &[Part],
        float: FloatKind,
        (index, of): (usize, usize),
    ) {
        let mut off = Vec::new();
        self.each_off(parts, float, (index, of), Some(&factors), |_, of_code| off.push(of_code));
        self.ways.retain(|told| !told.is_around());
        self.ways.extend(stretches::edges(&off).into_iter().map(Told::Around));
        self.factors = Some(factors);
    }

    /// Calls `each` with the code of each weight and how far that lies off its level, multiplied with factors before.
    fn each_off(
        &self,
        parts: &[Part],
        float: FloatKind,
        (index, of): (usize, usize),
        factors: Option<&Factors>,
        mut each: impl FnMut(u8, f32),
    ) {
        let given = &self.group.values;
        for part in parts {
            let codes = part.codes_of(&[index], of);
            let mut weights = vec![0.0; codes.len()];
            values(float, &part.raw, &mut weights);
            let cols = given.cols().max(1);
            let lines = codes.chunks(cols).zip(weights.chunks_mut(cols));
            for (row, (codes, weights)) in (part.rows.start..).zip(lines) {
                if let Some((of_columns, of_row)) = factors.map(|factors| factors.of_row(row, 0)) {
                    weights
                        .iter_mut()
                        .zip(of_columns)
                        .for_each(|(weight, factor)| *weight /= factor * of_row);
                }
                let off = given.off_levels(row, codes, weights);
                codes.iter().zip(off).for_each(|(code, off)| each(*code, off));
            }
        }
    }

    /// Whether its codes may tell something.
    pub(super) fn tells(&self) -> bool {
        !self.ways.is_empty()
    }

    /// What is known from it that tells so.
    pub(super) fn known(&self, told: &Told) -> Option<KnownBins> {
        match told {
            Told::Bins(ends) => Some(self.bins.ending(*ends)),
            Told::Around(around) => self.bins.moved(around),
        }
    }

    /// What plans say of that.
    pub(super) fn in_plan(&self, told: Option<&Told>) -> KnownMatrix {
        let finite = |number: &f32| Finite::try_from(*number).ok();
        KnownMatrix {
            matrix: self.group.in_plan(),
            ends: match told {
                Some(Told::Bins([least, most])) => finite(least).zip(finite(most)).map(<[Finite; 2]>::from),
                _ => None,
            },
            around: match told {
                Some(Told::Around(around)) => around.iter().map(finite).collect(),
                _ => None,
            },
            factors: self.factors.as_ref().filter(|_| told.is_some_and(Told::is_around)).map(Factors::of),
        }
    }
}

/// Every way to choose candidate `index` beside those that are `chosen`, together with what its codes need: at most
/// `most` in all, beside what others need.
pub(super) fn extended(
    candidates: &[Candidate],
    chosen: Option<&Chosen>,
    index: usize,
    most: usize,
) -> Vec<Chosen> {
    let chosen = chosen.cloned().unwrap_or_default();
    let is_around = |(_, told): &(usize, Option<Told>)| told.as_ref().is_some_and(Told::is_around);
    let has_around = chosen.iter().any(is_around);
    if chosen.iter().any(|(known, told)| *known == index && told.is_some()) {
        return Vec::new();
    }
    let mut with: Chosen = chosen.into_iter().filter(|(known, _)| *known != index).collect();
    let mut left = candidates[index].needs.clone();
    while let Some(needed) = left.pop() {
        if with.iter().all(|(known, _)| *known != needed) {
            // What has to be decoded anyway may as well tell what it knows.
            let told = candidates[needed].ways.first().filter(|told| !told.is_around());
            with.push((needed, told.cloned()));
            left.extend(&candidates[needed].needs);
        }
    }
    // What others need is read anyway.
    let is_needed = |one: usize| with.iter().any(|(other, _)| candidates[*other].needs.contains(&one));
    let needs = &candidates[index].needs;
    let beside = with.iter().filter(|(one, _)| !needs.contains(one) && !is_needed(*one)).count();
    if beside >= most || with.len() >= MAX_GIVEN {
        return Vec::new();
    }
    let ways = candidates[index].ways.iter().filter(|told| !(has_around && told.is_around()));
    let telling = ways.map(|told| {
        let mut all = with.clone();
        all.push((index, Some(told.clone())));
        all.sort_unstable_by_key(|(index, _)| *index);
        // Moved codes behind all others, if none of these needs them: those can then be decoded in step.
        if let Some(at) = all.iter().position(is_around) {
            let needs = |(later, _): &(usize, Option<Told>)| candidates[*later].needs.contains(&all[at].0);
            if !all[at + 1..].iter().any(needs) {
                let moved = all.remove(at);
                all.push(moved);
            }
        }
        all
    });
    telling.collect()
}
