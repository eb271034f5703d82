//! QStore measured against what people use instead: over the same bytes, in one run, by the real libraries.
//!
//! [`run`] stores variants of a model with each peer, loads them again, compares every loaded byte with the source, and
//! gives a [`Report`]. Each measurement is made in a process of its own; those of peers written in Rust call [`serve`],
//! the others are Python programs.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::float_cmp, reason = "what is compared is exact in binary"))]

mod cache;
mod checkpoint;
mod compare;
mod error;
mod job;
mod kernels;
mod machine;
mod memory;
mod options;
mod peers;
mod pieces;
mod process;
mod report;
mod run;
mod statistics;
mod worker;

pub use error::{Error, Result};
pub use kernels::{KernelFacts, KernelReport, MemcpyFacts, kernels};
pub use machine::Machine;
pub use memory::peak_rss_bytes;
pub use options::{Cache, Options, Progress};
pub use peers::peer_names;
pub use report::{
    AbsentPeer, LoadFacts, LoadMeasure, Measure, PeerFacts, Report, Settings, Table, VariantFacts,
    analysis_chart,
};
pub use run::run;
pub use statistics::Repeats;
pub use worker::serve;
