//! LZ4: the reference library, through its Rust binding.

use std::io;

use super::{Peer, Runner, Work, load_coded, save_coded};
use crate::compare::Loaded;
use crate::error::Result;
use crate::job::Job;
use crate::pieces::Coder;

pub(crate) struct Lz4;

impl Peer for Lz4 {
    fn name(&self) -> &'static str {
        "lz4"
    }

    fn title(&self) -> &'static str {
        "LZ4"
    }

    fn method(&self) -> &'static str {
        "Every file in independent blocks of 4 MiB by the reference library's default compressor, coded and decoded by all threads; \
         a block that does not shrink is kept as it is, as LZ4's own frames do."
    }

    fn runs(&self) -> Runner<'_> {
        let version = ::lz4::version();
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        Runner::Here { work: self, version: format!("liblz4 {major}.{minor}.{patch}") }
    }
}

impl Work for Lz4 {
    fn save(&self, job: &Job) -> Result<()> {
        save_coded(job, ".lz4", self)
    }

    fn load(&self, job: &Job) -> Result<Loaded> {
        load_coded(job, ".lz4", self)
    }
}

impl Coder for Lz4 {
    fn code(&self, piece: &[u8]) -> io::Result<Vec<u8>> {
        ::lz4::block::compress(piece, None, false)
    }

    fn decode(&self, coded: &[u8], piece: &mut [u8]) -> io::Result<()> {
        let length = i32::try_from(piece.len()).map_err(io::Error::other)?;
        let decoded = ::lz4::block::decompress_to_buffer(coded, Some(length), piece)?;
        if decoded == piece.len() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}
