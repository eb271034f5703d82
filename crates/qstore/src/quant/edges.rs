//! The floats that a quantiser maps to each code, found from the quantiser itself.

use qstore_checkpoint::FloatKind;
use qstore_kernels::BinTable;

/// The bins of a quantiser that maps magnitude `m` to `code(m)`, which never falls: bin `k` from the first magnitude
/// whose code is `k` or more, up to `last`. About there lies the value `edge(k)`. The last bin ends before the first
/// magnitude of a code above `beyond`.
#[inline(always)]
pub(super) fn bins_of(
    float: FloatKind,
    last: u8,
    edge: impl Fn(f32) -> f32,
    code: impl Fn(u32) -> f32,
    beyond: f32,
) -> BinTable {
    let end = float.infinity();
    // first[k] is the least magnitude with a code of k or more; the one after the last ends its bin.
    let mut first = [0u32; 129];
    // The edge lies where it should, or is the next magnitude, or the one below. For all codes at once and without
    // branches, so that compilers make vector code of it.
    let mut found = [false; 128];
    for (k, (first, found)) in first.iter_mut().zip(&mut found).enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "at most 127")]
        let k = k as f32;
        let guess = float.magnitude_of(edge(k).abs()).clamp(1, end - 1);
        let (below, at, above) = (code(guess - 1) >= k, code(guess) >= k, code(guess + 1) >= k);
        *first = if at { guess } else { guess + 1 };
        *found = !below & above;
    }
    let last = usize::from(last.min(127));
    for (k, (first, found)) in first.iter_mut().zip(found).enumerate().take(last + 1).skip(1) {
        if !found {
            #[expect(clippy::cast_precision_loss, reason = "at most 127")]
            let k = k as f32;
            *first = first_where(end, float.magnitude_near(edge(k)), |m| code(m) >= k);
        }
    }
    let near = float.magnitude_near(edge(beyond + 1.0));
    first[last + 1] = first_where(end, near, |m| code(m) > beyond).max(first[last]);
    let (mut lo, mut width) = ([0u16; 128], [1u16; 128]);
    for (k, edges) in first[..last + 2].windows(2).enumerate().skip(1) {
        lo[k] = float.high(edges[0]);
        width[k] = float.high(edges[1].saturating_sub(1)).max(lo[k]) - lo[k] + 1;
    }
    BinTable::new(&lo, &width)
}

/// `value` rounded half to even if it is below 2^22, as codes are; of others a number that is no code either, and a NaN
/// of a NaN.
// Q: why not `round_ties_even`? Where the processor may lack the instruction that is a call, and keeps compilers from
// making vector code.
#[inline(always)]
pub(super) fn rounded(value: f32) -> f32 {
    // Between 2^23 and 2^24, values of FP32 are whole numbers.
    const WHOLE: f32 = 12_582_912.0;
    (value + WHOLE) - WHOLE
}

/// The least of `0..=last` for which `holds`, which is false below some point and true from there on; `last + 1` if it
/// never holds. Searches outward from `guess`.
fn first_where(last: u32, guess: u32, holds: impl Fn(u32) -> bool) -> u32 {
    let guess = guess.min(last);
    // `holds` is false below `low` and true from `high` on.
    let (mut low, mut high) = (0, last + 1);
    let mut step = 1;
    if holds(guess) {
        high = guess;
        while low < high {
            let probe = high.saturating_sub(step);
            if !holds(probe) {
                low = probe + 1;
                break;
            }
            high = probe;
            step = step.saturating_mul(2);
        }
    } else {
        low = guess + 1;
        while low < high {
            let probe = low.saturating_add(step - 1).min(last);
            if holds(probe) {
                high = probe;
                break;
            }
            low = probe + 1;
            step = step.saturating_mul(2);
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_the_processor_does() {
        for sixteenth in 0..=200 * 16u16 {
            for value in [f32::from(sixteenth) / 16.0, (f32::from(sixteenth) / 16.0).next_up()] {
                assert_eq!(rounded(value).to_bits(), value.round_ties_even().to_bits(), "{value}");
            }
        }
        let mut last = 0.0;
        for bits in (0x4000_0000..0x7f80_0000).step_by(77) {
            let value = f32::from_bits(bits);
            assert!(rounded(value) >= last, "{value}");
            assert!(value < 256.0 || rounded(value) >= 256.0, "{value}");
            last = rounded(value);
        }
        assert_eq!(rounded(f32::INFINITY), f32::INFINITY);
        assert!(rounded(f32::NAN).is_nan());
    }

    #[test]
    fn searches_find_the_first() {
        for last in [0, 1, 2, 7, 100] {
            for guess in 0..=last + 1 {
                for first in 0..=last + 1 {
                    assert_eq!(first_where(last, guess, |x| x >= first), first, "{last} {guess}");
                }
            }
        }
    }
}
