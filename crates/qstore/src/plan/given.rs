//! A quantised matrix of a variant below, and what its codes stand for.

use qstore_container::{ArrayKey, ArrayRef, QuantGrid, Quantised, VariantName};

use super::lower::Lower;
use crate::decode::CodeReader;
use crate::error::{Error, IoContext as _, Result};
use crate::file::zeroed;
use crate::ingest::Source;
use crate::scheme::{GridArray, GroupGrid, QuantGroup, Steps};

/// Codes whose mean tells how zero-points are stored.
const CODES_OF_MEAN: u64 = 1 << 18;

/// A quantised matrix of a variant below.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) lower: Lower,
    pub(crate) group: QuantGroup,
}

/// The same with what its codes stand for.
pub(crate) struct GivenGroup<'a> {
    pub(super) pair: &'a Pair,
    pub(crate) steps: Steps,
    grid: QuantGrid,
}

impl Pair {
    /// What plans call one of the variant's arrays.
    pub(super) fn refer(&self, array: &ArrayKey) -> ArrayRef {
        ArrayRef { variant: self.lower.name().clone(), array: array.clone() }
    }

    /// A reader of the codes; `None` if they equal, by chance, floats that are stored as a residual, which readers refuse to be given.
    pub(crate) fn code_reader(&self) -> Result<Option<CodeReader>> {
        let bits = match self.group.grid {
            GroupGrid::LlmInt8 { .. } => None,
            GroupGrid::Gptq { bits, .. } => Some(bits),
        };
        self.lower.codes(&self.group.codes, self.group.shape[1], bits)
    }

    /// Reads what the codes stand for. The inner error says why they are of no use.
    pub(crate) fn open(&self) -> Result<Result<GivenGroup<'_>, String>> {
        let Some(codes) = self.code_reader()? else {
            return Ok(Err("its codes are floats elsewhere".to_owned()));
        };
        if codes.is_too_large() {
            return Ok(Err("its codes are kept as they are, and are too many to be read by rows".to_owned()));
        }
        let fetch = |array: &ArrayRef| self.lower.fetch(&array.array);
        let [rows, cols] = self.group.shape;
        let rows = rows.min(CODES_OF_MEAN / cols.max(1)).max(1);
        let mut sample = vec![0; usize::try_from(rows.saturating_mul(cols)).unwrap_or(0)];
        codes.read_rows(0, &mut sample)?;
        Ok(open_grid(&self.group, self.lower.name(), &sample, fetch)?.map(|(grid, steps)| GivenGroup {
            pair: self,
            steps,
            grid,
        }))
    }
}

impl GivenGroup<'_> {
    /// What plans say of it.
    pub(super) fn in_plan(&self) -> Quantised {
        Quantised { codes: self.pair.refer(&self.pair.group.codes), grid: self.grid.clone() }
    }

    /// A reader of the codes.
    pub(super) fn codes(&self) -> Result<CodeReader> {
        let codes = self.pair.code_reader()?;
        codes.ok_or_else(|| Error::usage("codes that were there are gone"))
    }
}

/// What the codes of a matrix of `source`, which will be variant `name`, stand for; `sample` are those of its first rows.
pub(super) fn open_own(
    source: &Source,
    name: &VariantName,
    group: &QuantGroup,
    sample: &[u8],
) -> Result<Result<(QuantGrid, Steps), String>> {
    open_grid(group, name, sample, |array| {
        let array = source.find(&array.array);
        let array = array.ok_or_else(|| Error::usage("a grid that is not there"))?;
        let mut bytes = zeroed(array.bytes).at(source.path(), "cannot hold a grid")?;
        source.read(array, 0, &mut bytes)?;
        Ok(GridArray { dtype: array.dtype, shape: array.shape.clone(), bytes })
    })
}

/// Opens a grid, whose zero-points may be stored as they are or less one: what is more in the middle of the codes.
fn open_grid(
    group: &QuantGroup,
    name: &VariantName,
    sample: &[u8],
    fetch: impl Fn(&ArrayRef) -> Result<GridArray>,
) -> Result<Result<(QuantGrid, Steps), String>> {
    let open = |zero_offset| {
        let grid = group.grid.of_variant(name, zero_offset);
        Ok::<_, Error>(Steps::open(&grid, group.shape, &fetch)?.map(|steps| (grid, steps)))
    };
    let less_one = match open(1)? {
        Ok(found) => found,
        Err(why) => return Ok(Err(why.to_owned())),
    };
    if less_one.1.mean_off(sample) >= -0.5 {
        return Ok(Ok(less_one));
    }
    Ok(open(0)?.map_err(str::to_owned))
}
