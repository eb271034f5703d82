//! What an array would take in a store, found by coding all of it.

use qstore_checkpoint::{Result, Source};
use rayon::prelude::*;

use super::jobs::{Chunks, Job};
use super::spare::Spare;
use super::{Done, Stored, code_bundle, work};
use crate::plan::{Action, Bundle, Planned, PlannedArray};

/// The stored form of an array.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Bytes of its tables and chunks.
    pub(crate) bytes: u64,
    /// The name of its encoding.
    pub(crate) encoding: &'static str,
}

/// Codes every chunk of an array of `source`, and checks that it decodes.
pub(crate) fn measure(source: &Source, planned: Planned) -> Result<Measured> {
    let spare = Spare::new(2 * rayon::current_num_threads());
    match planned {
        Planned::Later { index, chunk } => match work(source, &spare, Job::Whole { index, chunk })? {
            Done::Whole { plan, raw, stored } => Ok(measured(&plan, stored.bytes(raw.len()))),
            _ => Ok(Measured { bytes: 0, encoding: "none" }),
        },
        Planned::Now(plan) => {
            let chunks: Vec<Job> = Chunks::of(&plan, &plan.array).collect();
            let code = |step| match work(source, &spare, step)? {
                Done::Chunk { raw, stored } => {
                    let bytes = stored.bytes(raw.len());
                    spare.give(raw);
                    Ok(bytes)
                }
                _ => Ok(0),
            };
            let sizes = chunks.into_par_iter().map(code).collect::<Result<Vec<u64>>>()?;
            Ok(measured(&plan, sizes.iter().sum()))
        }
    }
}

fn measured(plan: &PlannedArray, chunks: u64) -> Measured {
    let Action::Code(coding) = &plan.action else { return Measured { bytes: 0, encoding: "reference" } };
    let head = coding.codec.head().map_or(0, |head| head.len() as u64);
    Measured { bytes: head + chunks, encoding: coding.encoding.name() }
}

/// Bytes of a bundle's table and chunk.
pub(crate) fn measure_bundle(source: &Source, bundle: Bundle) -> Result<u64> {
    let coded = code_bundle(source, bundle)?;
    let head = coded.head.map_or(0, |head| head.len());
    Ok((head + coded.chunk.map_or(0, |(_, stored)| stored.len())) as u64)
}

impl Stored {
    /// Bytes of the chunks that hold `raw` bytes.
    fn bytes(&self, raw: usize) -> u64 {
        let bytes = match self {
            Self::Raw => raw,
            Self::Coded(coded) => coded.len(),
            Self::Transposed(chunks) => chunks.iter().map(|(_, stored)| stored.len()).sum(),
        };
        bytes as u64
    }
}
