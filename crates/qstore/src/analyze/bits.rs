//! Bits of some weights in every way in which they are measured.

use serde::{Deserialize, Serialize};

use super::counts::real;

/// Bits that some weights take in all. `None` where a way does not apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bits {
    /// How many weights.
    pub weights: u64,
    /// As they lie in their file.
    pub raw: u64,
    /// Order-0 entropy of each matrix; given a lower variant the conditional one.
    pub entropy: Option<u64>,
    /// Huffman with its table; given a lower variant one code for each scale and code, which is the published method.
    pub huffman: Option<u64>,
    /// Zstandard of the bytes in the file.
    pub zstd: Option<u64>,
    /// ZipNN's way: exponents by Huffman, the rest as it is.
    pub zipnn: Option<u64>,
    /// What a store takes.
    pub ours: u64,
}

impl Bits {
    /// Of these weights and those. A way that was not measured for one is not measured for both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        if self.weights == 0 {
            return other;
        }
        if other.weights == 0 {
            return self;
        }
        Self {
            weights: self.weights.saturating_add(other.weights),
            raw: self.raw.saturating_add(other.raw),
            entropy: both(self.entropy, other.entropy),
            huffman: both(self.huffman, other.huffman),
            zstd: both(self.zstd, other.zstd),
            zipnn: both(self.zipnn, other.zipnn),
            ours: self.ours.saturating_add(other.ours),
        }
    }

    /// The same for each weight.
    #[must_use]
    pub fn per_weight(&self) -> PerWeight {
        let each = |bits: u64| (self.weights > 0).then(|| real(bits) / real(self.weights));
        PerWeight {
            raw: each(self.raw),
            entropy: self.entropy.and_then(each),
            huffman: self.huffman.and_then(each),
            zstd: self.zstd.and_then(each),
            zipnn: self.zipnn.and_then(each),
            ours: each(self.ours),
        }
    }
}

/// Bits for each weight; see [`Bits`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PerWeight {
    /// As they lie in their file.
    pub raw: Option<f64>,
    /// Order-0 entropy.
    pub entropy: Option<f64>,
    /// Huffman.
    pub huffman: Option<f64>,
    /// Zstandard.
    pub zstd: Option<f64>,
    /// ZipNN's way.
    pub zipnn: Option<f64>,
    /// What a store takes.
    pub ours: Option<f64>,
}
