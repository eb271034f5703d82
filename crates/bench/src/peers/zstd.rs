//! Zstandard: the reference library, through its Rust binding, at two levels.

use std::cell::RefCell;
use std::io;

use ::zstd::bulk::{Compressor, Decompressor};

use super::{Peer, Runner, Work, load_coded, save_coded};
use crate::compare::Loaded;
use crate::error::Result;
use crate::job::Job;
use crate::pieces::Coder;

/// One level of Zstandard.
pub(crate) struct Zstd {
    level: i32,
    name: &'static str,
    title: &'static str,
}

/// The fastest regular level.
pub(crate) static FAST: Zstd = Zstd { level: 1, name: "zstd-1", title: "Zstd, level 1" };

/// The level that everyone uses.
pub(crate) static USUAL: Zstd = Zstd { level: 3, name: "zstd", title: "Zstd" };

impl Peer for Zstd {
    fn name(&self) -> &'static str {
        self.name
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn method(&self) -> &'static str {
        if self.level == 1 {
            "As Zstd, at level 1."
        } else {
            "Every file in independent frames of 4 MiB at level 3, the library's default, coded and decoded by all threads."
        }
    }

    fn is_usual(&self) -> bool {
        self.level != 1
    }

    fn runs(&self) -> Runner<'_> {
        let version = ::zstd::zstd_safe::version_string();
        Runner::Here { work: self, version: format!("libzstd {version}") }
    }
}

impl Work for Zstd {
    fn save(&self, job: &Job) -> Result<()> {
        save_coded(job, ".zst", self)
    }

    fn load(&self, job: &Job) -> Result<Loaded> {
        load_coded(job, ".zst", self)
    }
}

thread_local! {
    // Making one for each piece would cost more than some pieces.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Coder for Zstd {
    fn code(&self, piece: &[u8]) -> io::Result<Vec<u8>> {
        COMPRESSOR.with_borrow_mut(|slot| {
            let compressor = match slot {
                Some(compressor) => compressor,
                None => slot.insert(Compressor::new(self.level)?),
            };
            compressor.set_compression_level(self.level)?;
            compressor.compress(piece)
        })
    }

    fn decode(&self, coded: &[u8], piece: &mut [u8]) -> io::Result<()> {
        DECOMPRESSOR.with_borrow_mut(|slot| {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(Decompressor::new()?),
            };
            let decoded = decompressor.decompress_to_buffer(coded, piece)?;
            if decoded == piece.len() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }
}
