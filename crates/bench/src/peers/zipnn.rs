//! ZipNN: a compressor for weights, by its Python package.

use super::{Peer, Runner};

pub(crate) struct ZipNn;

impl Peer for ZipNn {
    fn name(&self) -> &'static str {
        "zipnn"
    }

    fn title(&self) -> &'static str {
        "ZipNN"
    }

    fn method(&self) -> &'static str {
        "Tensor by tensor into a safetensors file, as ZipNN's own scripts do, in a Python process whose start and imports are not timed. \
         ZipNN knows floats only and its scripts leave other tensors alone; here 8-bit integers are handed to it as 8-bit floats, which \
         shrinks them. What does not shrink is kept as it is."
    }

    fn runs(&self) -> Runner<'_> {
        Runner::Python { script: include_str!("../../python/zipnn_peer.py"), install: "pip install zipnn" }
    }
}
