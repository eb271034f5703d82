//! The values of a tensor, row by row.
//!
//! Trained matrices are close to Gaussian, and what departs from that is what a coder must cope with: output features
//! (rows) differ in spread, some input features (columns) are much stronger than the rest, and tails are a little
//! heavy. Each is here in about the measure that published Llama checkpoints have it, so that the entropy of their INT8
//! codes is right (7 bits a weight); what the weights compute is not.

use half::{bf16, f16};
use qstore_container::Dtype;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, StandardNormal};
use twox_hash::XxHash3_64;

use super::spec::{Role, TensorSpec};

/// Standard deviation of a projection with `FAN_IN` input features; it falls with their square root.
const SIGMA: f32 = 0.02;
const FAN_IN: f32 = 2048.0;
/// Standard deviation of an embedding's elements.
const TOKEN_SIGMA: f32 = 0.015;
/// How far gains of norms stray from 1.
const NORM_SIGMA: f32 = 0.1;
/// Relative spread of sigma over matrices, over the rows of a projection, over the rows of an embedding (rare tokens
/// are short), and over columns.
const MATRIX_SPREAD: f32 = 0.1;
const ROW_SPREAD: f32 = 0.15;
const TOKEN_SPREAD: f32 = 0.25;
const COLUMN_SPREAD: f32 = 0.05;
/// One column in this many is an outlier, at least one a matrix, this many times as strong as the others.
const COLUMNS_PER_OUTLIER: usize = 1024;
const OUTLIER: std::ops::Range<f32> = 1.8..2.8;
/// Degrees of freedom of Student's t, which the weights follow (Gaussian: infinitely many).
const DEGREES_OF_FREEDOM: f32 = 40.0;

/// One tensor's distribution. Rows are drawn independently of each other, in any order, by any thread.
pub(super) struct Weights {
    role: Role,
    seed: u64,
    /// Standard deviation of each column in a row of average spread.
    column_sigmas: Vec<f32>,
}

impl Weights {
    /// The distribution of `tensor` in the model with this seed.
    pub(super) fn new(tensor: &TensorSpec, model_seed: u64) -> Self {
        let seed = XxHash3_64::oneshot_with_seed(model_seed, tensor.name.as_bytes());
        // Rows count from 0, so no row has this generator.
        let mut generator = row_generator(seed, u64::MAX);
        let mut normal = || -> f32 { StandardNormal.sample(&mut generator) };
        #[expect(clippy::cast_precision_loss, reason = "a width up to 2^20 is exact")]
        let fan_in = tensor.cols as f32;
        let sigma = match tensor.role {
            Role::Projection => SIGMA * (FAN_IN / fan_in).sqrt(),
            Role::Tokens => TOKEN_SIGMA,
            Role::Norm => NORM_SIGMA,
        };
        let sigma = sigma * lognormal(MATRIX_SPREAD, normal());
        let mut column_sigmas: Vec<f32> =
            (0..tensor.cols).map(|_| sigma * lognormal(COLUMN_SPREAD, normal())).collect();
        if tensor.role == Role::Projection {
            for _ in 0..(column_sigmas.len() / COLUMNS_PER_OUTLIER).max(1) {
                let column = generator.random_range(0..column_sigmas.len());
                column_sigmas[column] = sigma * generator.random_range(OUTLIER);
            }
        }
        Self { role: tensor.role, seed, column_sigmas }
    }

    /// Appends the bytes of row `row` as elements of type `dtype`.
    pub(super) fn append_row(&self, row: u64, dtype: Dtype, out: &mut Vec<u8>) {
        let values = self.row(row);
        match dtype {
            Dtype::BF16 => values.for_each(|v| out.extend_from_slice(&bf16::from_f32(v).to_le_bytes())),
            Dtype::F16 => values.for_each(|v| out.extend_from_slice(&f16::from_f32(v).to_le_bytes())),
            // The specification admits no type but these three.
            _ => values.for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        }
    }

    fn row(&self, row: u64) -> impl Iterator<Item = f32> {
        let mut generator = row_generator(self.seed, row);
        let (center, spread) = match self.role {
            Role::Projection => (0.0, ROW_SPREAD),
            Role::Tokens => (0.0, TOKEN_SPREAD),
            Role::Norm => (1.0, 0.0),
        };
        let scale = lognormal(spread, StandardNormal.sample(&mut generator));
        self.column_sigmas.iter().map(move |sigma| {
            let z: f32 = StandardNormal.sample(&mut generator);
            center + scale * sigma * student(z)
        })
    }
}

fn row_generator(tensor_seed: u64, row: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(XxHash3_64::oneshot_with_seed(tensor_seed, &row.to_le_bytes()))
}

/// A log-normal factor with median 1 from the normal `z`. `(1 + x / 8)^8` stands for `exp(x)`, because multiplications
/// give the same bits on every machine.
fn lognormal(spread: f32, z: f32) -> f32 {
    let root = (1.0 + spread * z / 8.0).max(0.5);
    let squared = root * root;
    let fourth = squared * squared;
    fourth * fourth
}

/// The Student's t deviate, with unit variance to first order, for the normal deviate `z`: the first term of the
/// Cornish-Fisher expansion, which is a few multiplications where an exact one takes a second random number and a
/// power.
fn student(z: f32) -> f32 {
    // The variance of t is n / (n - 2); its square root is 1 + 1 / n to first order.
    (z + (z * z * z + z) * (0.25 / DEGREES_OF_FREEDOM)) / (1.0 + 1.0 / DEGREES_OF_FREEDOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(role: Role, cols: usize) -> Weights {
        let tensor = TensorSpec { name: "x.weight".to_owned(), rows: 1000, cols: cols as u64, role };
        Weights::new(&tensor, 1)
    }

    fn sigma(values: &[f32]) -> f32 {
        (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
    }

    fn kurtosis(values: &[f32]) -> f32 {
        let variance = sigma(values).powi(2);
        values.iter().map(|v| (v * v / variance).powi(2)).sum::<f32>() / values.len() as f32
    }

    /// Mean and relative spread.
    fn spread(values: &[f32]) -> (f32, f32) {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (mean, sigma(&values.iter().map(|v| v - mean).collect::<Vec<_>>()) / mean)
    }

    #[test]
    fn projections_are_spread_like_trained_ones() {
        let cols = 2048;
        let weights = weights(Role::Projection, cols);
        let rows: Vec<Vec<f32>> = (0..1000).map(|r| weights.row(r).collect()).collect();
        let row_sigmas: Vec<f32> = rows.iter().map(|r| sigma(r)).collect();
        let (mean, relative) = spread(&row_sigmas);
        assert!((0.013..0.03).contains(&mean), "{mean}");
        assert!((0.12..0.18).contains(&relative), "{relative}");

        let column = |c: usize| sigma(&rows.iter().map(|r| r[c]).collect::<Vec<_>>());
        let outliers = (0..cols).filter(|&c| column(c) > 1.6 * mean).count();
        assert!((1..=cols / COLUMNS_PER_OUTLIER).contains(&outliers), "{outliers}");

        // Within a row of equal columns a t with 40 degrees has 3.2; unequal columns add to it.
        let ordinary: Vec<f32> = rows.iter().map(|r| kurtosis(r)).collect();
        let (mean, _) = spread(&ordinary);
        assert!((3.1..4.0).contains(&mean), "{mean}");
        let average = rows.iter().flatten().sum::<f32>() / (1000.0 * cols as f32);
        assert!(average.abs() < 1e-4, "{average}");
    }

    #[test]
    fn an_int8_row_has_about_seven_bits() {
        let weights = weights(Role::Projection, 4096);
        let mut counts = [0u32; 255];
        for row in 0..50 {
            let row: Vec<f32> = weights.row(row).collect();
            let most = row.iter().fold(0f32, |m, v| m.max(v.abs()));
            row.iter().for_each(|v| counts[((v / most * 127.0).round() + 127.0) as usize] += 1);
        }
        let total = f64::from(counts.iter().sum::<u32>());
        let entropy: f64 =
            counts.iter().filter(|&&c| c > 0).map(|&c| f64::from(c) / total).map(|p| -p * p.log2()).sum();
        assert!((6.7..7.1).contains(&entropy), "{entropy}");
    }

    #[test]
    fn token_norms_vary_and_gains_are_near_one() {
        let tokens = weights(Role::Tokens, 256);
        let norms: Vec<f32> = (0..1000).map(|r| sigma(&tokens.row(r).collect::<Vec<_>>())).collect();
        let (_, relative) = spread(&norms);
        assert!((0.2..0.32).contains(&relative), "{relative}");
        let gains: Vec<f32> = weights(Role::Norm, 4096).row(0).collect();
        let (mean, relative) = spread(&gains);
        assert!((0.98..1.02).contains(&mean) && (0.07..0.15).contains(&relative), "{mean} {relative}");
    }

    #[test]
    fn rows_differ_and_repeat() {
        let bytes = |row, dtype| {
            let mut out = Vec::new();
            weights(Role::Projection, 64).append_row(row, dtype, &mut out);
            out
        };
        assert_ne!(bytes(0, Dtype::BF16), bytes(1, Dtype::BF16));
        assert_eq!(bytes(5, Dtype::F32), bytes(5, Dtype::F32));
        assert_eq!([Dtype::BF16, Dtype::F16, Dtype::F32].map(|d| bytes(0, d).len()), [128, 128, 256]);
    }
}
