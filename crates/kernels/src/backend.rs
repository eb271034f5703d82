//! Which instructions the coders use. This is the one place that asks the processor.

use std::fmt;
use std::sync::OnceLock;

/// A set of instructions that this processor has. All backends read and write the same bytes.
///
/// A value exists only if the processor has the instructions: that is what makes calling a backend's functions sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Portable code, which is the definition.
    Scalar,
    /// AVX2 with BMI.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with byte permutations (VBMI) and 16-bit expansion (VBMI2): Ice Lake, Zen 4 and later.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Backend {
    /// Portable code.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest one of this processor.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Backend> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::SCALAR))
    }

    /// All that this processor has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut available = vec![Self::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            // What the functions of each backend enable; keep the lists alike.
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("avx512vbmi2");
            if avx2 {
                available.push(Self(Kind::Avx2));
            }
            if avx2 && avx512 {
                available.push(Self(Kind::Avx512));
            }
        }
        available
    }

    /// Which it is.
    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// `scalar`, `avx2` or `avx512`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self::best()
    }
}
