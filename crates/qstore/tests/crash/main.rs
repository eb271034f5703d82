//! What is left when a change does not come to its end.
//!
//! The promise: a store that was there before still is, whole; leftovers are known as such; the same command, run
//! again, succeeds and leaves nothing behind. It is kept for processes killed at any moment ([`kills`], [`steps`]),
//! disks that are full or read-only ([`disk`]), and several processes at once ([`together`]).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(unreachable_pub, missing_docs, reason = "one crate of tests")]
#![cfg(unix)]

mod child;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod kills;
mod scene;
mod steps;
mod together;
