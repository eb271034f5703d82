//! safetensors: what the weights come in, and its Python package to load them.

use super::{Peer, Runner};

pub(crate) struct Safetensors;

impl Peer for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn title(&self) -> &'static str {
        "safetensors"
    }

    fn method(&self) -> &'static str {
        "The Python package's `load_file` and `save_file`, in a Python process whose start and imports are not timed. `load_file` maps the file and \
         reads nothing until a tensor is used, so the load also reads one byte of every page; the bytes then stay in the page cache and are \
         not copied."
    }

    fn runs(&self) -> Runner<'_> {
        Runner::Python {
            script: include_str!("../../python/safetensors_peer.py"),
            install: "pip install safetensors torch (or, without torch: safetensors numpy ml_dtypes)",
        }
    }
}
