//! Attacks on the reader and on the writer.
//!
//! A store comes from the network, and so may a checkpoint. Whatever is wrong with either, by accident ([`damage`]) or
//! on purpose, with every checksum made to fit ([`forged_manifest`], [`forged_plan`], [`forged_bundles`],
//! [`forged_chains`], [`forged_chunks`], [`bombs`]; [`checkpoints`] for the writer's input), the answer is an error or
//! exactly the bytes that were packed: never a panic, never other bytes, never half a folder, never an allocation out
//! of proportion, never a wait without end. [`judge`] checks all of that for each case.
#![allow(clippy::type_complexity, reason = "tables of cases")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "test data is made with casts"
)]
#![allow(unreachable_pub, missing_docs, reason = "one crate of tests")]

mod bombs;
mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod described;
mod forge;
mod forged_bundles;
mod forged_chains;
mod forged_chunks;
mod forged_known;
mod forged_manifest;
mod forged_parts;
mod forged_plan;
mod judge;
mod links;
mod stores;
mod towers;

/// Counts what the tests' process allocates.
#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
