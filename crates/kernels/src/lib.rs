//! The entropy coders of QStore: symbols (quantisation codes, float exponents), floats without a twin, and the residual
//! that turns quantisation codes back into the floats they came from.
//!
//! Everything here is a pure function of slices of numbers. The layouts are normative and written down in
//! `docs/format.md`; the scalar code in this crate is their
//! definition, which faster backends must equal bit for bit.
//!
//! A *chunk* is a run of whole rows of one tensor, coded on its own. Each coder has an `encode` that returns a chunk's
//! bytes and a `decode` that fills a slice whose length the caller knows.

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "test data is made with casts"
    )
)]

mod alias;
mod backend;
mod bins;
mod bits;
mod classes;
mod codes;
mod cost;
mod error;
mod floats;
mod predict;
mod refine;
mod residual;
mod rows;
mod scratch;
mod slots;
mod split;
mod stream;
mod symbols;
mod table;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use backend::Backend;
pub use bins::BinTable;
pub use bits::{pack_plane, plane_bytes, unpack_plane};
pub use classes::{BUCKETS, ClassFit, Classifier, Histograms};
pub use codes::{CodesCoder, code_bucket};
pub use cost::log2_q16;
pub use error::{DecodeError, EncodeError};
pub use predict::{
    CodeRange, ExpectRun, LevelOf, RoundRun, ZeroRun, add_expected, add_multiples, add_rounded, nearest_byte,
};
pub use refine::{
    Bins, CodeInputs, CodeRefiner, CodeStream, Each, Edges, FloatGrid, FloatInputs, FloatRefiner, Intervals,
    LEAST_SCALE, PART, Scaled, WIDEST,
};
pub use residual::{ResidualCoder, zero_symbols};
pub use rows::Rows;
pub use scratch::Scratch;
pub use split::{SplitCoder, SplitWindow, split_bucket, split_histogram};
pub use stream::Layout;
pub use table::{SymbolTable, TABLE_BITS};

/// The bytes of a 16-bit float, little-endian, as tensors have them; no alignment is asked for.
pub type Half = [u8; 2];
