//! Bits per weight: of each variant alone and given each quantised one below, in every way that one would measure them.
//!
//! What each figure means is in `docs/analyze.md`. Nothing is stored. A matrix is one piece of work, in all variants at
//! once; what else a variant has is another. What a store would take comes from its own planner and coders, applied to
//! a pair of folders.

mod bits;
mod chain;
mod counts;
mod matrix;
mod prefix;
mod published;
mod raw;
mod report;
mod rest;
mod resume;
mod store;

use std::path::{Path, PathBuf};

use qstore_checkpoint::{CHUNK_MEMORY, Error, Options, Progress, Result, Window, ordered};
use qstore_container::VariantName;

use chain::Chain;
use matrix::{CellBits, measure_row};
use rest::{RestBits, measure_rest};
use resume::{Done, Resume};

pub use bits::{Bits, PerWeight};
pub use report::{
    Analysis, MatrixAnalysis, MatrixMeasure, MatrixVariant, Measured, VariantAnalysis, VariantMeasure,
};
pub use store::{
    BitsPerWeight, StoreAnalysis, StoreBytes, StoredVariantAnalysis, Weighed, WeightEntropy, analyze_store,
};

/// A piece of work.
#[derive(Debug, Clone, Copy)]
enum Unit {
    /// A matrix in all variants.
    SharedMatrix(usize),
    /// What else a variant has.
    Rest(usize),
}

/// Measures variants, given as names and folders, which are only read. With `resume`, results are added to that file as
/// they come, and those that are there are not measured again.
///
/// # Errors
/// [`Error::Usage`] for no variant, a name given twice, or a `resume` file of other inputs; [`Error::Input`] for a
/// folder that could not be packed.
pub fn analyze(
    variants: &[(VariantName, PathBuf)],
    resume: Option<&Path>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Analysis> {
    let chain = Chain::open(variants, progress)?;
    let (mut resume, done) = match resume.map(|path| Resume::open(path, &chain)).transpose()? {
        Some((resume, done)) => (Some(resume), done),
        None => (None, Vec::new()),
    };
    let mut rows: Vec<Option<Vec<CellBits>>> = vec![None; chain.rows.len()];
    let mut rests: Vec<Option<RestBits>> = vec![None; chain.members.len()];
    let total = chain.members.iter().map(|member| member.source.tensor_bytes()).sum();
    progress.begin("analysing", total)?;
    let keep = |done: Done, rows: &mut [Option<Vec<CellBits>>], rests: &mut [Option<RestBits>]| {
        let unit = match done {
            Done::Matrix { row, cells } => match (rows.get_mut(row), chain.rows.get(row)) {
                (Some(place), Some(of)) if of.cells.len() == cells.len() => {
                    *place = Some(cells);
                    Unit::SharedMatrix(row)
                }
                _ => return Ok(()),
            },
            Done::Rest { member, rest } => match rests.get_mut(member) {
                Some(place) => {
                    *place = Some(rest);
                    Unit::Rest(member)
                }
                None => return Ok(()),
            },
        };
        Ok(progress.advance(bytes_of(&chain, unit))?)
    };
    done.into_iter().try_for_each(|done| keep(done, &mut rows, &mut rests))?;

    let left_rows =
        rows.iter().enumerate().filter(|(_, done)| done.is_none()).map(|(row, _)| Unit::SharedMatrix(row));
    let left_rests =
        rests.iter().enumerate().filter(|(_, done)| done.is_none()).map(|(at, _)| Unit::Rest(at));
    let units: Vec<Unit> = left_rows.chain(left_rests).collect();
    let pool = options.pool()?;
    let window = Window { jobs: pool.current_num_threads(), bytes: options.memory };
    let holds = |unit: &Unit| match unit {
        Unit::SharedMatrix(row) => matrix::memory(&chain, &chain.rows[*row]),
        Unit::Rest(_) => CHUNK_MEMORY,
    };
    let work = |unit| match unit {
        Unit::SharedMatrix(row) => Ok(Done::Matrix { row, cells: measure_row(&chain, &chain.rows[row])? }),
        Unit::Rest(member) => Ok(Done::Rest { member, rest: measure_rest(&chain, member)? }),
    };
    ordered(&pool, window, units.into_iter().map(Ok), holds, work, |done| {
        if let Some(resume) = &mut resume {
            resume.add(&done)?;
        }
        keep(done, &mut rows, &mut rests)
    })?;
    for member in &chain.members {
        member.source.files.iter().try_for_each(|file| member.source.check_unchanged(file))?;
    }
    let missing = || Error::internal("a result is missing");
    let rows = rows.into_iter().collect::<Option<Vec<_>>>().ok_or_else(missing)?;
    let rests = rests.into_iter().collect::<Option<Vec<_>>>().ok_or_else(missing)?;
    Ok(report::report(&chain, &rows, &rests))
}

/// Bytes of the tensors of a piece of work.
fn bytes_of(chain: &Chain, unit: Unit) -> u64 {
    let of_cell = |cell: &chain::Cell| chain.members[cell.member].source.arrays[cell.array].bytes;
    let cells = chain.rows.iter().flat_map(|row| &row.cells);
    match unit {
        Unit::SharedMatrix(row) => chain.rows[row].cells.iter().map(of_cell).sum(),
        Unit::Rest(member) => {
            let in_rows: u64 = cells.filter(|cell| cell.member == member).map(of_cell).sum();
            chain.members[member].source.tensor_bytes().saturating_sub(in_rows)
        }
    }
}
