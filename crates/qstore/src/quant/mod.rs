//! Quantised matrices, opened: what the descriptions in plans say, as numbers in memory.
//!
//! [`Dequantizer`] has the scale and zero-point of every group of a row, [`LevelTable`] what codes stand for, and
//! [`Quantizer`] which floats become which code, and [`Ranking`] between which edges. None of them knows a producer; all they know comes from a
//! [`QuantMatrix`](qstore_container::QuantMatrix).

mod code_field;
mod columns;
mod dequantizer;
mod edges;
mod levels;
mod numbers;
mod open_error;
mod pack;
mod quantizer;
mod ranking;
mod rounder;
mod tiles;

pub(crate) use code_field::check_codes;
pub(crate) use columns::{ColumnRun, Columns};
pub(crate) use dequantizer::Dequantizer;
pub(crate) use levels::{LevelKind, LevelTable};
pub(crate) use numbers::Arrays;
#[cfg(test)]
pub(crate) use numbers::HeldArray;
pub(crate) use open_error::OpenError;
pub(crate) use pack::{codes_of_words, unpack, words_of_codes};
pub(crate) use quantizer::Quantizer;
pub(crate) use ranking::{Ranking, Scaling};
pub(crate) use rounder::Rounder;
pub(crate) use tiles::greatest_common_divisor;
