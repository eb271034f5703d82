//! What a synthetic model looks like.

use qstore_checkpoint::{Error, Result};
use qstore_container::Dtype;

/// Widths, heads and vocabulary may not exceed this, nor may a model have more layers than [`MAX_LAYERS`]; then no
/// product of them overflows.
const MAX_WIDTH: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1 << 12;

/// A model with the architecture of Llama and random weights. [`Default`] is a small one, of about 100 MB in BF16.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Width of the residual stream (`hidden_size`).
    pub hidden: u32,
    /// Width inside the feed-forward blocks (`intermediate_size`).
    pub intermediate: u32,
    /// Decoder layers (`num_hidden_layers`).
    pub layers: u32,
    /// Attention heads (`num_attention_heads`); they share `hidden` evenly.
    pub heads: u32,
    /// Key and value heads (`num_key_value_heads`); each serves the same number of attention heads.
    pub kv_heads: u32,
    /// Tokens (`vocab_size`).
    pub vocab: u32,
    /// Whether the output head is the token embedding itself (`tie_word_embeddings`), as in small models, or a matrix
    /// of its own.
    pub tied: bool,
    /// Element type of every tensor: BF16, F16 or F32.
    pub dtype: Dtype,
    /// The same seed gives the same weights, however many threads draw them.
    pub seed: u64,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self::llama(1024, 3584, 3, 4096)
    }
}

/// What a tensor is for, which decides how its values are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The embedding or the output head: a row for each token.
    Tokens,
    /// A projection: output features by input features.
    Projection,
    /// The gain of a normalisation layer.
    Norm,
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorSpec {
    pub(super) name: String,
    /// `[rows, columns]`; a norm has a single row and its shape only the columns.
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) role: Role,
}

impl TensorSpec {
    pub(super) fn shape(&self) -> Vec<u64> {
        match self.role {
            Role::Norm => vec![self.cols],
            Role::Tokens | Role::Projection => vec![self.rows, self.cols],
        }
    }

    pub(super) fn weights(&self) -> u64 {
        self.rows * self.cols
    }
}

impl ModelSpec {
    /// A BF16 model of these widths with an output head of its own, whose heads are as wide as Llama's (128, or 64 in
    /// small models) where that divides `hidden`, and four of which share a key and value head where that comes out
    /// even.
    #[must_use]
    pub fn llama(hidden: u32, intermediate: u32, layers: u32, vocab: u32) -> Self {
        let widths: &[u32] =
            if hidden >= 2048 { &[128, 64, 32, 16, 8, 4, 2] } else { &[64, 32, 16, 8, 4, 2] };
        let heads = widths.iter().find(|&&w| hidden.is_multiple_of(w)).map_or(1, |w| hidden / w);
        let kv_heads = if heads.is_multiple_of(4) { heads / 4 } else { heads };
        Self {
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            vocab,
            tied: false,
            dtype: Dtype::BF16,
            seed: 0,
        }
    }

    /// Whether the numbers describe a model that transformers would build.
    ///
    /// # Errors
    /// [`Error::Usage`] that says which number is wrong and what it may be.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("hidden", self.hidden, 2, MAX_WIDTH),
            ("intermediate", self.intermediate, 1, MAX_WIDTH),
            ("layers", self.layers, 1, MAX_LAYERS),
            ("heads", self.heads, 1, MAX_WIDTH),
            ("kv_heads", self.kv_heads, 1, MAX_WIDTH),
            // The configuration names a first and a last token, 1 and 2.
            ("vocab", self.vocab, 3, MAX_WIDTH),
        ];
        for (name, size, least, most) in sizes {
            if !(least..=most).contains(&size) {
                return Err(Error::usage(format!(
                    "a model's {name} must be from {least} to {most}, not {size}"
                )));
            }
        }
        let Self { hidden, heads, kv_heads, .. } = self;
        if !hidden.is_multiple_of(*heads) {
            return Err(Error::usage(format!(
                "hidden ({hidden}) must be a multiple of the number of heads ({heads})"
            )));
        }
        if !(hidden / heads).is_multiple_of(2) {
            let width = hidden / heads;
            return Err(Error::usage(format!(
                "hidden / heads ({hidden} / {heads} = {width}) must be even, as rotary positions turn pairs of values; \
                 try a hidden that is a multiple of 64"
            )));
        }
        if !heads.is_multiple_of(*kv_heads) {
            return Err(Error::usage(format!("heads ({heads}) must be a multiple of kv_heads ({kv_heads})")));
        }
        if !matches!(self.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
            return Err(Error::usage(format!("weights can be BF16, F16 or F32, not {:?}", self.dtype)));
        }
        Ok(())
    }

    /// Number of weights, norms included, if the specification passes [`check`](Self::check).
    #[must_use]
    pub fn weights(&self) -> u64 {
        let [hidden, intermediate, kv] =
            [self.hidden, self.intermediate, self.head_width().saturating_mul(self.kv_heads)].map(u64::from);
        let layer = 2 * hidden * hidden + 2 * kv * hidden + 3 * intermediate * hidden + 2 * hidden;
        let tokens = u64::from(self.vocab) * hidden * if self.tied { 1 } else { 2 };
        u64::from(self.layers) * layer + tokens + hidden
    }

    pub(super) fn head_width(&self) -> u32 {
        self.hidden.checked_div(self.heads).unwrap_or(0)
    }

    pub(super) fn element_bytes(&self) -> u64 {
        if self.dtype == Dtype::F32 { 4 } else { 2 }
    }

    /// Every tensor in the order of the model's modules, in which `save_pretrained` fills shards.
    pub(super) fn tensors(&self) -> Vec<TensorSpec> {
        let [hidden, intermediate, vocab] = [self.hidden, self.intermediate, self.vocab].map(u64::from);
        let kv = u64::from(self.head_width()) * u64::from(self.kv_heads);
        let tensor =
            |name: &str, rows, cols, role| TensorSpec { name: format!("{name}.weight"), rows, cols, role };

        let mut tensors = vec![tensor("model.embed_tokens", vocab, hidden, Role::Tokens)];
        for layer in 0..self.layers {
            let projections = [
                ("self_attn.q_proj", hidden, hidden),
                ("self_attn.k_proj", kv, hidden),
                ("self_attn.v_proj", kv, hidden),
                ("self_attn.o_proj", hidden, hidden),
                ("mlp.gate_proj", intermediate, hidden),
                ("mlp.up_proj", intermediate, hidden),
                ("mlp.down_proj", hidden, intermediate),
            ];
            let full = |name: &str| format!("model.layers.{layer}.{name}");
            let projection = |(name, rows, cols)| tensor(&full(name), rows, cols, Role::Projection);
            tensors.extend(projections.map(projection));
            let norm = |name| tensor(&full(name), 1, hidden, Role::Norm);
            tensors.extend(["input_layernorm", "post_attention_layernorm"].map(norm));
        }
        tensors.push(tensor("model.norm", 1, hidden, Role::Norm));
        if !self.tied {
            tensors.push(tensor("lm_head", vocab, hidden, Role::Tokens));
        }
        tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_small_and_valid() {
        let spec = ModelSpec::default();
        spec.check().unwrap();
        let bytes = spec.weights() * spec.element_bytes();
        assert!((90_000_000..110_000_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn weights_are_the_sum_over_tensors() {
        for spec in [
            ModelSpec::default(),
            ModelSpec { tied: true, ..ModelSpec::llama(96, 200, 2, 50) },
            ModelSpec { kv_heads: 1, ..ModelSpec::llama(64, 10, 1, 3) },
        ] {
            spec.check().unwrap();
            assert_eq!(spec.weights(), spec.tensors().iter().map(TensorSpec::weights).sum::<u64>());
        }
    }

    #[test]
    fn even_widths_get_heads_that_fit() {
        for hidden in [2, 6, 10, 64, 100, 1024, 2048, 4096] {
            ModelSpec::llama(hidden, 7, 1, 10).check().unwrap();
        }
        assert_eq!(ModelSpec::llama(4096, 14336, 32, 128_256).weights(), 8_030_261_248, "Llama 3 8B");
    }

    #[test]
    fn refuses_what_cannot_be_a_model() {
        let good = ModelSpec::llama(64, 100, 1, 100);
        let cases = [
            (ModelSpec { hidden: 0, ..good.clone() }, "hidden must be from 2"),
            (ModelSpec { hidden: u32::MAX, ..good.clone() }, "hidden must be from 2"),
            (ModelSpec { layers: 0, ..good.clone() }, "layers"),
            (ModelSpec { vocab: 2, ..good.clone() }, "vocab must be from 3"),
            (ModelSpec { heads: 3, kv_heads: 3, ..good.clone() }, "multiple of the number of heads"),
            (ModelSpec { heads: 64, kv_heads: 64, ..good.clone() }, "must be even"),
            (ModelSpec { heads: 4, kv_heads: 3, ..good.clone() }, "kv_heads (3)"),
            (ModelSpec { dtype: Dtype::I8, ..good.clone() }, "BF16, F16 or F32, not I8"),
        ];
        for (spec, part) in cases {
            let error = spec.check().unwrap_err();
            assert!(matches!(&error, Error::Usage(text) if text.contains(part)), "{error}");
        }
    }
}
