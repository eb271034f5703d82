//! A chain of 16, 8 and 4 bits in a store: what the coders of residuals take with all that a reader does around them.

use std::sync::Arc;

use qstore::{Options, Silent, Store, Tensor, TensorInfo, Variant, VariantName, VariantSpec, WriteOptions};
use qstore_quantize::{Gptq, GptqBits, GroupSize, ModelSpec, Precision, ZeroPoint};
use tempfile::TempDir;

use crate::error::{Error, Result};

/// What is timed: each variant with all that it is given.
pub(super) const ALL: [(&str, &str); 3] = [
    ("read a GPTQ chain: 4 bits", "gptq4"),
    ("read a GPTQ chain: 8 given 4 bits", "gptq8"),
    ("read a GPTQ chain: BF16 given 8 given 4 bits", "bf16"),
];

/// A store of the three variants, and memory to read matrices into.
pub(super) struct Chain {
    _folder: TempDir,
    variants: Vec<(VariantName, Arc<Variant>, Vec<TensorInfo>)>,
    weights: u64,
    room: Vec<u8>,
}

impl Chain {
    /// One layer of a model with 67 million weights in seven matrices, quantised by rounding.
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|source| Error::Io {
            path: std::env::temp_dir(),
            what: "cannot make a folder",
            source,
        })?;
        let root = folder.path();
        let options = Options::default();
        let spec = ModelSpec::llama(2048, 8192, 1, 256);
        qstore_quantize::synthesise(&spec, &root.join("bf16"), &WriteOptions::default(), &Silent)?;
        for (name, bits) in [("gptq8", GptqBits::Eight), ("gptq4", GptqBits::Four)] {
            let group_size = GroupSize::default();
            let gptq = Gptq { bits, group_size, zero_point: ZeroPoint::Symmetric };
            qstore_quantize::quantize(
                &root.join("bf16"),
                &root.join(name),
                Precision::Gptq(gptq),
                &options,
                &Silent,
            )?;
        }
        let names = ALL.map(|(_, name)| name.parse::<VariantName>());
        let names = names.into_iter().collect::<std::result::Result<Vec<_>, _>>();
        let names = names.map_err(|e| Error::Usage(e.to_string()))?;
        let specs = names.iter().map(|name| VariantSpec::new(name.clone(), root.join(name.as_str())));
        qstore::pack(&specs.collect::<Vec<_>>(), &root.join("store"), &WriteOptions::default(), &Silent)?;
        let store = Store::open(&root.join("store"))?;
        let mut variants = Vec::new();
        let (mut weights, mut most) = (0, 0);
        for name in names {
            let variant = store.variant(&name)?;
            let mut tensors = variant.tensors();
            tensors.retain(|tensor| {
                tensor.name.contains("_proj.weight") || tensor.name.contains("_proj.qweight")
            });
            // The last one is BF16.
            weights = tensors.iter().map(|tensor| tensor.bytes / 2).sum();
            most = tensors.iter().map(|tensor| tensor.bytes).max().unwrap_or(0).max(most);
            variants.push((name, variant, tensors));
        }
        let room = vec![0; usize::try_from(most).map_err(|e| Error::Usage(e.to_string()))?];
        let mut chain = Self { _folder: folder, variants, weights, room };
        // Once, so that what follows finds the files in the page cache.
        ALL.iter().try_for_each(|(_, name)| chain.read(name))?;
        Ok(chain)
    }

    /// Weights of the matrices.
    pub(super) fn weights(&self) -> u64 {
        self.weights
    }

    /// Reads all matrices of a variant, one after another, on one thread.
    pub(super) fn read(&mut self, name: &str) -> Result<()> {
        let found = self.variants.iter().find(|(known, ..)| known.as_str() == name);
        let (_, variant, tensors) = found.ok_or_else(|| Error::Usage(format!("no variant {name}")))?;
        let options = Options { threads: 1, ..Options::default() };
        for tensor in tensors {
            let bytes = usize::try_from(tensor.bytes).map_err(|e| Error::Usage(e.to_string()))?;
            Tensor::open(variant, &tensor.name)?.read_into(&mut self.room[..bytes], &options)?;
        }
        Ok(())
    }
}
