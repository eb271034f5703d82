//! Logarithms that are the same on every machine, so that a plan is too.

/// log2(`x`) in units of 2^-16, rounded down, from integer arithmetic alone; 0 for 0.
#[must_use]
pub fn log2_q16(x: u64) -> u64 {
    if x == 0 {
        return 0;
    }
    let whole = u64::from(x.ilog2());
    // The mantissa in 1.31 fixed point; squaring it yields one bit of the logarithm at a time.
    let mut mantissa = if whole >= 31 { x >> (whole - 31) } else { x << (31 - whole) };
    let mut fraction = 0;
    for _ in 0..16 {
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (whole << 16) | fraction
}

/// Cost in bits (rounded up) of coding `histogram` with its own order-0 statistics.
pub(crate) fn entropy_bits(histogram: &[u64; 256]) -> u64 {
    let total: u64 = histogram.iter().sum();
    let log_total = u128::from(log2_q16(total));
    let sum: u128 = histogram
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| u128::from(count) * (log_total - u128::from(log2_q16(count))))
        .sum();
    u64::try_from(sum.div_ceil(1 << 16)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log2_matches_floating_point() {
        for x in [1, 2, 3, 5, 7, 1000, 65_535, 65_536, 1 << 40, u64::MAX] {
            #[expect(clippy::cast_precision_loss)]
            let (got, want) = (log2_q16(x) as f64 / 65536.0, (x as f64).log2());
            assert!((want - got).abs() < 1e-4, "log2({x}): {got} against {want}");
        }
    }

    #[test]
    fn entropy_of_a_fair_coin() {
        let mut histogram = [0; 256];
        histogram[3] = 500;
        histogram[9] = 500;
        assert_eq!(entropy_bits(&histogram), 1000);
    }
}
