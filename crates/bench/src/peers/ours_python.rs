//! QStore, through its Python package.

use super::{Peer, Runner};

pub(crate) struct OursInPython;

impl Peer for OursInPython {
    fn name(&self) -> &'static str {
        "ours-python"
    }

    fn title(&self) -> &'static str {
        "QStore, Python"
    }

    fn method(&self) -> &'static str {
        "The same as QStore through its Python package, `qstore.pack` and `get_tensors`, in a Python process whose start and imports are not timed."
    }

    /// It measures the binding, not another way to store.
    fn is_usual(&self) -> bool {
        false
    }

    fn runs(&self) -> Runner<'_> {
        Runner::Python {
            script: include_str!("../../python/ours_peer.py"),
            install: "pip install . (in a clone of the repository)",
        }
    }
}
