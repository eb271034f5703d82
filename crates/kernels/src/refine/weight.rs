//! How the codes of one weight share the slots of its interval.

use super::levels::Levels;
use super::{NARROWEST, SLOTS, greater, integer, lesser};

/// What is known of one weight, and how its codes are scaled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    lo: f32,
    /// Slots for each unit of the interval's width.
    density: f32,
    scale: f32,
    zero: f32,
}

impl Weight {
    #[inline(always)]
    pub(super) fn new([lo, hi]: [f32; 2], scale: f32, zero: f32) -> Self {
        Self { lo, density: SLOTS / greater(hi - lo, NARROWEST), scale, zero }
    }

    /// The first slot behind an edge.
    #[inline(always)]
    fn slot(self, edge: f32) -> f32 {
        let edge = (edge - self.zero) * self.scale;
        let from_lo = greater(edge - self.lo, 0.0);
        integer(lesser(from_lo * self.density, SLOTS))
    }

    /// The slots of a rank: the first one, and the first that is not.
    #[inline(always)]
    pub(super) fn slots(self, levels: impl Levels, rank: f32) -> [f32; 2] {
        let [below, above] = levels.around(rank).map(|edge| self.slot(edge));
        [if rank > 0.0 { below } else { 0.0 }, if rank < levels.last() { above } else { SLOTS }]
    }

    /// The slots of the rank that the middle of the interval has.
    #[cold]
    pub(super) fn middle_slots(self, levels: impl Levels) -> [f32; 2] {
        self.slots(levels, self.rank_of(levels, 0.0, SLOTS / 2.0))
    }

    /// The rank that has a slot, which is looked for beside another one first: as first slots ascend with ranks, the
    /// greatest whose first slot is not behind it.
    pub(super) fn rank_of(self, levels: impl Levels, near: f32, slot: f32) -> f32 {
        let has = |rank: f32| {
            let [first, end] = self.slots(levels, rank);
            first <= slot && slot < end
        };
        let beside = [greater(near - 1.0, 0.0), lesser(near + 1.0, levels.last())];
        if let Some(rank) = beside.into_iter().find(|rank| has(*rank)) {
            return rank;
        }
        let (mut least, mut most) = (0.0, levels.last());
        while least < most {
            let middle = lesser(integer((least + most + 1.0) * 0.5), most);
            if self.slots(levels, middle)[0] <= slot {
                least = middle;
            } else {
                most = middle - 1.0;
            }
        }
        least
    }
}
