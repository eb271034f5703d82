//! What codes say of their weights.

use super::levels::{EdgeKind, Edges, Levels};
use super::row::{Each, Scaled};
use super::{WIDEST, greater, lesser};
use crate::backend::{Backend, Kind};
use crate::stream::LANES;

/// The intervals of some weights of a row.
#[derive(Debug, Clone, Copy)]
pub struct Intervals<'a> {
    /// Lower ends, from -2^126 on.
    pub lo: &'a [f32],
    /// Upper ends, not below these, up to 2^126.
    pub hi: &'a [f32],
}

impl Intervals<'_> {
    /// Whether they are of so many weights.
    pub(super) fn are_of(self, weights: usize) -> bool {
        self.lo.len() == weights && self.hi.len() == weights
    }

    /// The ends of the intervals from weight `start` on, of which there are fewer than 64, and then of one float, 1.0.
    pub(super) fn rest(self, start: usize) -> [[f32; LANES]; 2] {
        [self.lo, self.hi].map(|ends| {
            let mut all = [1.0; LANES];
            let rest = &ends[start..];
            all[..rest.len()].copy_from_slice(rest);
            all
        })
    }
}

/// Makes the intervals of weights of which only these codes are known: the bins of their ranks. The outermost bins end
/// at the levels `ends`. All are of as many weights; where any ends, so does the work.
pub fn begin(
    backend: Backend,
    edges: &Edges,
    ends: [f32; 2],
    ranks: &[u8],
    scaled: Scaled,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    dispatch::<true>(backend, edges, ends, ranks, scaled, lo, hi);
}

/// Makes of each interval what it has in common with the bin of its code; where that is nothing, it stays as it is. See
/// [`begin`].
pub fn narrow(
    backend: Backend,
    edges: &Edges,
    ends: [f32; 2],
    ranks: &[u8],
    scaled: Scaled,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    dispatch::<false>(backend, edges, ends, ranks, scaled, lo, hi);
}

#[allow(unsafe_code, reason = "calls functions that need instructions")]
fn dispatch<const FIRST: bool>(
    backend: Backend,
    edges: &Edges,
    ends: [f32; 2],
    ranks: &[u8],
    scaled: Scaled,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    match backend.kind() {
        Kind::Scalar => portable::<FIRST>(edges, ends, ranks, scaled, lo, hi),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::<FIRST>(edges, ends, ranks, scaled, lo, hi) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { super::avx512::narrow::<FIRST>(edges, ends, ranks, scaled, lo, hi) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn avx2<const FIRST: bool>(
    edges: &Edges,
    ends: [f32; 2],
    ranks: &[u8],
    scaled: Scaled,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    portable::<FIRST>(edges, ends, ranks, scaled, lo, hi);
}

/// The definition.
#[inline(always)]
pub(super) fn portable<const FIRST: bool>(
    edges: &Edges,
    ends: [f32; 2],
    ranks: &[u8],
    scaled: Scaled,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    match &edges.kind {
        EdgeKind::Integers => by_kind::<FIRST>(edges.as_integers(), ends, ranks, scaled, lo, hi),
        EdgeKind::Floats(floats) => by_kind::<FIRST>(*floats, ends, ranks, scaled, lo, hi),
        EdgeKind::Table(table) => by_kind::<FIRST>(edges.as_table(table), ends, ranks, scaled, lo, hi),
    }
}

#[inline(always)]
fn by_kind<const FIRST: bool>(
    levels: impl Levels,
    ends: [f32; 2],
    ranks: &[u8],
    scaled: Scaled,
    lo: &mut [f32],
    hi: &mut [f32],
) {
    let whole = ranks.len().min(lo.len()).min(hi.len()) / 16;
    let ((ranks, ranks_rest), (lo, lo_rest), (hi, hi_rest)) =
        (ranks.as_chunks(), lo.as_chunks_mut(), hi.as_chunks_mut());
    let sixteens = ranks.iter().zip(lo.iter_mut().zip(hi.iter_mut()));
    match scaled.each {
        Each::Sixteen => {
            let numbers = scaled.scales.iter().zip(scaled.zeros);
            for ((ranks, (lo, hi)), (scale, zero)) in sixteens.zip(numbers) {
                let scaled = [&[*scale; 16], &[*zero; 16]];
                of_weights::<FIRST>(levels, ends, ranks, scaled, lo, hi);
            }
        }
        Each::Weight => {
            let numbers = scaled.scales.as_chunks().0.iter().zip(scaled.zeros.as_chunks().0);
            for ((ranks, (lo, hi)), (scales, zeros)) in sixteens.zip(numbers) {
                of_weights::<FIRST>(levels, ends, ranks, [scales, zeros], lo, hi);
            }
        }
    }
    let len = ranks_rest.len().min(lo_rest.len()).min(hi_rest.len());
    if len == 0 {
        return;
    }
    let numbers = [scaled.scales, scaled.zeros].map(|of| {
        let mut all = [0.0; 16];
        match scaled.each {
            Each::Sixteen => all = [of.get(whole).copied().unwrap_or_default(); 16],
            Each::Weight => all.iter_mut().zip(of.iter().skip(16 * whole)).for_each(|(to, of)| *to = *of),
        }
        all
    });
    let (mut all_ranks, mut all_lo, mut all_hi) = ([0; 16], [0.0; 16], [0.0; 16]);
    all_ranks[..len].copy_from_slice(&ranks_rest[..len]);
    all_lo[..len].copy_from_slice(&lo_rest[..len]);
    all_hi[..len].copy_from_slice(&hi_rest[..len]);
    let [scales, zeros] = &numbers;
    of_weights::<FIRST>(levels, ends, &all_ranks, [scales, zeros], &mut all_lo, &mut all_hi);
    lo_rest[..len].copy_from_slice(&all_lo[..len]);
    hi_rest[..len].copy_from_slice(&all_hi[..len]);
}

#[inline(always)]
fn of_weights<const FIRST: bool>(
    levels: impl Levels,
    ends: [f32; 2],
    ranks: &[u8; 16],
    [scales, zeros]: [&[f32; 16]; 2],
    lo: &mut [f32; 16],
    hi: &mut [f32; 16],
) {
    for lane in 0..16 {
        let rank = f32::from(ranks[lane]);
        let [below, above] = levels.around(rank);
        let below = if rank > 0.0 { below } else { ends[0] };
        let above = if rank < levels.last() { above } else { ends[1] };
        let (from, to) = if FIRST { (-WIDEST, WIDEST) } else { (lo[lane], hi[lane]) };
        let least = greater((below - zeros[lane]) * scales[lane], from);
        let most = lesser((above - zeros[lane]) * scales[lane], to);
        let meets = least <= most;
        lo[lane] = if meets { least } else { from };
        hi[lane] = if meets { most } else { to };
    }
}
