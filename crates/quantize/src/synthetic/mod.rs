//! Models to try the store on: random weights under the names, shapes and statistics of a trained Llama.
//!
//! What a store gains depends on how weights are spread, not on what they compute, so demonstrations and measurements
//! need no download. [`ModelSpec`] says what to make, `weights` draws it row by row, `write` puts it into files as
//! `save_pretrained` would.

mod config;
mod spec;
mod weights;
mod write;

pub use spec::ModelSpec;
pub use write::synthesise;
