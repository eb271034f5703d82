//! About the level of a code that its quantiser has moved: between which distances from it weights are told apart.
//!
//! Within a stretch all weights are taken for equally likely. Edges are those of the histogram of few steps that takes
//! least bits, found by dynamic programming over finer steps; it is the same on both sides.

/// Fine steps; what is farther off belongs to the last.
const STEPS: usize = 128;
/// How many of them there are from one level to the next. Floats of few bits are not told apart by finer ones.
const FINE: [f32; 2] = [16.0, 8.0];
/// Stretches on either side of the level; the middle one is on both.
const SIDES: [usize; 4] = [2, 3, 4, 6];
/// Middles that are wider than what suits weights alone, as other matrices tell what lies within.
const WIDER: [f32; 2] = [1.0, 1.25];
/// Cuts of a middle, which is wide: weights nearer to the level may be likelier.
const MIDDLE: [f32; 3] = [-0.25, 0.0, 0.25];

/// Edges that may suit, for weights that lie so far off the levels of their codes, in distances between levels.
pub(super) fn edges(off: &[f32]) -> Vec<Vec<f32>> {
    let off = || off.iter().map(|off| off.abs()).filter(|off| off.is_finite());
    let most = (off().fold(1.0, f32::max) * 1.5).min(f32::MAX);
    let mut all: Vec<Vec<f32>> = Vec::new();
    for fine in FINE {
        let mut counts = [0u32; STEPS];
        for off in off() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of steps")]
            let step = (off * fine).min(1e6) as usize;
            counts[step.min(STEPS - 1)] += 1;
        }
        for side in SIDES {
            for wider in WIDER {
                #[expect(clippy::cast_precision_loss, reason = "a number of steps")]
                let right = cut(&counts, side).into_iter().map(|end| end as f32 / fine * wider);
                let mut right: Vec<f32> = right.filter(|end| *end < most).collect();
                right.push(most);
                all.push(right.iter().rev().map(|edge| -edge).chain(right.iter().copied()).collect());
            }
        }
    }
    let middles = |edges: &Vec<f32>| {
        let mut edges: Vec<f32> = edges.iter().copied().chain(MIDDLE).collect();
        edges.sort_by(f32::total_cmp);
        edges
    };
    all.extend(
        all.iter().take(SIDES.len() * WIDER.len()).step_by(WIDER.len()).map(middles).collect::<Vec<_>>(),
    );
    all.retain(|edges: &Vec<f32>| (4..=17).contains(&edges.len()));
    all
}

/// Where so many stretches end that take least bits together.
fn cut(counts: &[u32; STEPS], stretches: usize) -> Vec<usize> {
    let mut before = [0u64; STEPS + 1];
    for (index, count) in counts.iter().enumerate() {
        before[index + 1] = before[index] + u64::from(*count);
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let bits = |from: usize, to: usize| {
        let count = (before[to] - before[from]) as f64;
        if count > 0.0 { count * ((to - from) as f64 / count).log2() } else { 0.0 }
    };
    // The least bits of the first steps in so many stretches, and where the last of these begins.
    let mut least: Vec<(f64, usize)> = (0..=STEPS).map(|to| (bits(0, to), 0)).collect();
    let mut begins = vec![vec![0; STEPS + 1]];
    for _ in 1..stretches {
        let best = |to: usize| {
            let ways = (1..to).map(|from| (least[from].0 + bits(from, to), from));
            ways.min_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap_or((f64::INFINITY, 0))
        };
        let next: Vec<(f64, usize)> = (0..=STEPS).map(best).collect();
        begins.push(next.iter().map(|(_, from)| *from).collect());
        least = next;
    }
    let mut ends = vec![STEPS];
    for begins in begins[1..].iter().rev() {
        ends.push(begins[ends[ends.len() - 1]]);
    }
    ends.reverse();
    ends.retain(|end| *end > 0);
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_where_the_density_changes() {
        // Nine in ten within half a step, the rest evenly within two.
        let off = (0..9000u16).map(|i| f32::from(i) / 18_000.0);
        let off: Vec<f32> = off.chain((0..1000u16).map(|i| -0.5 - f32::from(i) / 666.7)).collect();
        let found = edges(&off);
        assert!(found.iter().all(|edges| edges.is_sorted() && (4..=17).contains(&edges.len())));
        let two = &found[0];
        assert_eq!(two.len(), 4);
        assert!((two[2] - 0.5).abs() < 0.07 && two[3] >= 2.0, "{two:?}");
        assert!((two[1] + two[2]).abs() < 1e-6);
        for odd in [&[][..], &[f32::NAN, f32::INFINITY, 1e30], &[f32::MAX]] {
            let sound = |edges: &Vec<f32>| {
                edges.is_sorted() && edges.len() >= 4 && edges.iter().all(|e| e.is_finite())
            };
            assert!(edges(odd).iter().all(sound));
        }
    }
}
