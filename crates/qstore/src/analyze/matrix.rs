//! Measuring one matrix: in each variant alone, and given each one below.

use std::sync::Arc;

use qstore_checkpoint::{Error, IoContext as _, Result, Source, SourceArray, transpose, zeroed};
use qstore_container::{ArrayKey, VariantName};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::chain::{Cell, Chain, SharedMatrix};
use super::counts::{Counter, Symbols, counts_given, entropy_bits, whole};
use super::prefix::{DENSE, huffman_bits};
use super::published::grouped_bits;
use super::raw::raw_bits;
use crate::decode::MatrixReader;
use crate::encode::measure;
use crate::ingest::SharedArray;
use crate::plan::{Action, Chooser, Pairs, Planned, USUAL_LEVELS, Unusable};

/// A matrix in one variant, measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CellBits {
    /// Alone, then given each variant below that has it quantised.
    pub(super) measures: Vec<Measure>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Measure {
    /// The index of the variant that it is given.
    pub(super) given: Option<usize>,
    pub(super) bits: Bits,
    /// What is coded.
    pub(super) encoding: String,
}

/// Bytes that measuring a matrix holds, about: every variant's symbols, and as much again to work in; more where
/// symbols have to be sorted.
pub(super) fn memory(chain: &Chain, row: &SharedMatrix) -> u64 {
    let of_cell = |cell: &Cell| {
        let array = &chain.members[cell.member].source.arrays[cell.array];
        match &cell.own {
            Some(_) => (row.weights() + array.bytes).saturating_mul(2),
            None if array.dtype.bitsize() == 32 => array.bytes.saturating_mul(4),
            None => array.bytes.saturating_mul(2),
        }
    };
    row.cells.iter().map(of_cell).fold(0u64, u64::saturating_add)
}

/// Measures a matrix in all variants.
pub(super) fn measure_row(chain: &Chain, row: &SharedMatrix) -> Result<Vec<CellBits>> {
    let symbols = row.cells.par_iter().map(|cell| symbols(chain, row, cell)).collect::<Result<Vec<_>>>()?;
    let of_cell = |(index, cell): (usize, &Cell)| {
        let member = &chain.members[cell.member];
        let mut measures = vec![alone(chain, row, cell, &symbols[index])?];
        for (lower, pairs) in &member.given {
            let below = row.cells[..index].iter().position(|below| below.member == *lower);
            if let Some(below) = below.filter(|below| row.cells[*below].own.is_some()) {
                measures.extend(given(chain, row, cell, (*lower, pairs), &symbols[index], &symbols[below])?);
            }
        }
        Ok(CellBits { measures })
    };
    row.cells.par_iter().enumerate().map(of_cell).collect()
}

/// The codes of a matrix one a byte, or its floats as they are stored.
fn symbols(chain: &Chain, row: &SharedMatrix, cell: &Cell) -> Result<Symbols> {
    let source = &chain.members[cell.member].source;
    let array = &source.arrays[cell.array];
    let hold = "cannot hold a matrix";
    let Some(own) = &cell.own else {
        let mut bytes = zeroed(array.bytes).at(source.path(), hold)?;
        source.read(array, 0, &mut bytes)?;
        return Ok(Symbols { bytes, width: array.dtype.bitsize() / 8 });
    };
    let mut bytes = zeroed(row.weights()).at(source.path(), hold)?;
    let codes = (array.dtype, &array.shape[..]);
    let field = &own.matrix().codes;
    let reader =
        MatrixReader::codes(Arc::new(SharedArray::find(source, &array.key)?), field, codes, own.shape());
    let reader = reader.map_err(|e| Error::input(source.path_of(array), format!("{}: {e}", array.key)))?;
    reader.read(0, 0..row.shape[1], 0, &mut bytes)?;
    Ok(Symbols { bytes, width: 1 })
}

fn alone(chain: &Chain, row: &SharedMatrix, cell: &Cell, symbols: &Symbols) -> Result<Measure> {
    let member = &chain.members[cell.member];
    let array = &member.source.arrays[cell.array];
    let raw = raw_bits(&member.source, array, |_| {})?;
    let mut counter = Counter::new(symbols.width);
    counter.add(&symbols.bytes);
    let counts = counter.finish();
    let planned = plan(&member.source, &member.name, &member.alone, cell)?;
    let ours = measure(&member.source, planned)?;
    let bits = Bits {
        weights: row.weights(),
        raw: array.bytes * 8,
        entropy: Some(whole(entropy_bits(&counts))),
        huffman: Some(huffman_bits(&counts, DENSE)),
        zstd: Some(raw.zstd),
        zipnn: Some(raw.zipnn),
        ours: ours.bytes * 8,
    };
    Ok(Measure { given: None, bits, encoding: ours.encoding.to_owned() })
}

fn given(
    chain: &Chain,
    row: &SharedMatrix,
    cell: &Cell,
    (lower, pairs): (usize, &Pairs),
    high: &Symbols,
    low: &Symbols,
) -> Result<Option<Measure>> {
    let member = &chain.members[cell.member];
    let array = &member.source.arrays[cell.array];
    let Some(pair) = pairs.of(&array.key).first() else { return Ok(None) };
    let planned = plan(&member.source, &member.name, pairs, cell)?;
    let transposed = cell.own.is_none() && is_transposed(&planned, &array.shape, row.shape);
    let ours = measure(&member.source, planned)?;
    let transposed = if transposed { Some(transposed_matrix(&member.source, array, high)?) } else { None };
    let high = transposed.as_ref().unwrap_or(high);
    let counts = counts_given(high, &low.bytes);
    let grouped =
        Unusable::skip(pair.open(row.shape))?.map(|given| grouped_bits(high, &low.bytes, &given.values));
    let bits = Bits {
        weights: row.weights(),
        raw: array.bytes * 8,
        entropy: Some(whole(counts.iter().map(|counts| entropy_bits(counts)).sum())),
        huffman: grouped,
        zstd: None,
        zipnn: None,
        ours: ours.bytes * 8,
    };
    Ok(Some(Measure { given: Some(lower), bits, encoding: ours.encoding.to_owned() }))
}

fn plan(source: &Source, name: &VariantName, pairs: &Pairs, cell: &Cell) -> Result<Planned> {
    Chooser { source, name, pairs, levels: USUAL_LEVELS.into() }.plan(cell.array)
}

/// The transposed of a matrix.
fn transposed_matrix(source: &Source, array: &SourceArray, matrix: &Symbols) -> Result<Symbols> {
    let mut bytes = zeroed(array.bytes).at(source.path(), "cannot hold a matrix")?;
    let cols = array.shape.last().copied().unwrap_or(1);
    transpose(&matrix.bytes, cols, matrix.width as u64, &mut bytes);
    Ok(Symbols { bytes, width: matrix.width })
}

/// Whether floats lie transposed against the codes: as the residual says where there is one, as a square matrix may be
/// either.
fn is_transposed(planned: &Planned, shape: &[u64], codes: [u64; 2]) -> bool {
    if let Planned::Now(planned) = planned
        && let Action::Code(coding) = &planned.action
        && coding.encoding.is_given()
    {
        return coding.encoding.is_transposed();
    }
    shape != codes
}

/// The keys of all arrays that rows are made of, for each variant.
pub(super) fn keys_of_rows(chain: &Chain, member: usize) -> std::collections::HashSet<&ArrayKey> {
    let cells = chain.rows.iter().flat_map(|row| &row.cells).filter(|cell| cell.member == member);
    cells.map(|cell| &chain.members[member].source.arrays[cell.array].key).collect()
}
