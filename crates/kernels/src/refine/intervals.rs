//! What codes say of their weights.

use super::levels::{EdgeKind, Edges, Levels, RoundedFloats};
use super::row::{Each, Scaled};
use super::{WIDEST, greater, lesser};
use crate::backend::{Backend, Kind};
use crate::error::DecodeError;
use crate::stream::LANES;

/// The intervals of some weights of a row.
#[derive(Debug, Clone, Copy)]
pub struct Intervals<'a> {
    /// Lower ends, from -2^120 on.
    pub lo: &'a [f32],
    /// Upper ends, not below these, up to 2^120.
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

/// The bins of the codes of some weights of a row.
#[derive(Debug, Clone, Copy)]
pub struct Bins<'a> {
    /// Where the bins of ranks end.
    pub edges: &'a Edges,
    /// The levels at which the outermost bins end, which are finite.
    pub ends: [f32; 2],
    /// The rank of each weight. One that there is not tells nothing.
    pub ranks: &'a [u8],
    /// What they stand for.
    pub scaled: Scaled<'a>,
}

impl Bins<'_> {
    /// Makes the intervals of weights of which nothing else is known: their bins.
    ///
    /// # Errors
    /// As many ranks, scales and ends as there are not weights.
    pub fn begin(&self, backend: Backend, lo: &mut [f32], hi: &mut [f32]) -> Result<(), DecodeError> {
        self.make::<true>(backend, lo, hi)
    }

    /// Makes of each interval what it has in common with the bin; where that is nothing, it stays as it is.
    ///
    /// # Errors
    /// As of [`begin`](Self::begin).
    pub fn narrow(&self, backend: Backend, lo: &mut [f32], hi: &mut [f32]) -> Result<(), DecodeError> {
        self.make::<false>(backend, lo, hi)
    }

    #[allow(unsafe_code, reason = "calls functions that need instructions")]
    fn make<const FIRST: bool>(
        &self,
        backend: Backend,
        lo: &mut [f32],
        hi: &mut [f32],
    ) -> Result<(), DecodeError> {
        let weights = self.ranks.len();
        if !self.scaled.is_for(weights) || lo.len() != weights || hi.len() != weights {
            return Err(DecodeError::Corrupt("intervals of another number than the codes"));
        }
        match backend.kind() {
            Kind::Scalar => portable::<FIRST>(*self, lo, hi),
            // SAFETY: a backend of this kind exists only where the processor has its instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::<FIRST>(*self, lo, hi) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { super::avx512::narrow::<FIRST>(*self, lo, hi) },
        }
        Ok(())
    }

    /// The bins of weights behind so many blocks.
    pub(super) fn after_blocks(self, number: usize) -> Self {
        let ranks = &self.ranks[number * LANES..];
        Self { ranks, scaled: self.scaled.after_blocks(number), ..self }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn avx2<const FIRST: bool>(bins: Bins, lo: &mut [f32], hi: &mut [f32]) {
    portable::<FIRST>(bins, lo, hi);
}

/// The definition. All are of as many weights.
#[inline(always)]
pub(super) fn portable<const FIRST: bool>(bins: Bins, lo: &mut [f32], hi: &mut [f32]) {
    match &bins.edges.kind {
        EdgeKind::Integers => by_kind::<FIRST>(bins.edges.as_integers(), bins, lo, hi),
        EdgeKind::Floats(floats) => by_kind::<FIRST>(*floats, bins, lo, hi),
        EdgeKind::RoundedIntegers(rounded) => {
            by_kind::<FIRST>(bins.edges.as_rounded(*rounded), bins, lo, hi);
        }
        EdgeKind::RoundedFloats(floats, rounded) => {
            by_kind::<FIRST>(RoundedFloats(*floats, *rounded), bins, lo, hi);
        }
        EdgeKind::Table(table) => by_kind::<FIRST>(bins.edges.as_table(table), bins, lo, hi),
    }
}

#[inline(always)]
fn by_kind<const FIRST: bool>(levels: impl Levels, bins: Bins, lo: &mut [f32], hi: &mut [f32]) {
    let Bins { ends, ranks, scaled, .. } = bins;
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
    let len = ranks_rest.len();
    if len == 0 {
        return;
    }
    let (mut all_ranks, mut all_lo, mut all_hi) = ([0; 16], [0.0; 16], [0.0; 16]);
    all_ranks[..len].copy_from_slice(ranks_rest);
    all_lo[..len].copy_from_slice(lo_rest);
    all_hi[..len].copy_from_slice(hi_rest);
    let (mut scales, mut zeros) = ([1.0; 16], [0.0; 16]);
    for (lane, (scale, zero)) in scales.iter_mut().zip(&mut zeros).take(len).enumerate() {
        [*scale, *zero] = scaled.of(16 * ranks.len() + lane);
    }
    of_weights::<FIRST>(levels, ends, &all_ranks, [&scales, &zeros], &mut all_lo, &mut all_hi);
    lo_rest.copy_from_slice(&all_lo[..len]);
    hi_rest.copy_from_slice(&all_hi[..len]);
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
        let meets = (least <= most) & (rank <= levels.last());
        lo[lane] = if meets { least } else { from };
        hi[lane] = if meets { most } else { to };
    }
}
