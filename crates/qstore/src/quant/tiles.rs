//! Tiles of a matrix, each of which has numbers of its own, and reading these.

use qstore_checkpoint::size;
use qstore_container::limits::{MAX_CHUNK_GROUPS, MAX_SCALES};
use qstore_container::{Dequantization, Factor, FormatError, Numbers, Scale, Zero, ZeroCodes};

use super::columns::Columns;
use super::levels::LevelTable;
use super::numbers::{self, Arrays, NumberMatrix};
use super::open_error::OpenError;

/// What all numbers of a matrix are wanted for: the groups of columns of tiles of rows.
pub(super) struct Tiles {
    count: u64,
    /// Rows of a tile.
    tile_rows: u64,
    /// Rows and columns of the matrix.
    rows: u64,
    cols: u64,
    /// The first column of each group; none where a list says of which group a column is.
    starts: Option<Vec<u64>>,
    columns: Columns,
}

impl Tiles {
    /// The tiles of a matrix of this shape.
    pub(super) fn of<A>(
        values: &Dequantization<A>,
        [rows, cols]: [u64; 2],
        arrays: &impl Arrays<A>,
    ) -> Result<Self, OpenError> {
        let (tile_rows, starts) = tiling(values, [rows, cols])?;
        let (starts, columns) = match &values.column_groups {
            None => {
                let first =
                    starts.iter().map(|start| size_in_memory(*start)).collect::<Result<Vec<_>, _>>()?;
                let columns = Columns::from_starts(&first, size_in_memory(cols)?);
                (Some(starts), columns)
            }
            Some(groups) if groups.count > cols.saturating_mul(2) => {
                return Err(FormatError::new("column_groups: more groups than columns").into());
            }
            Some(groups) => {
                let of_column = numbers::indices(arrays, &groups.field, cols);
                let mut of_column = of_column.map_err(|e| e.named("column_groups"))?;
                of_column.truncate(size_in_memory(cols)?);
                (None, Columns::new(size_in_memory(groups.count)?, of_column)?)
            }
        };
        let tiles = Self { count: rows.div_ceil(tile_rows), tile_rows, rows, cols, starts, columns };
        if tiles.count.checked_mul(tiles.groups()).is_none_or(|all| all > MAX_SCALES) {
            return Err(FormatError::new("scales: more of them than a reader accepts").into());
        }
        Ok(tiles)
    }

    /// Tiles of rows.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Rows of a tile.
    pub(super) fn tile_rows(&self) -> u64 {
        self.tile_rows
    }

    /// The groups of the columns.
    pub(super) fn into_columns(self) -> Columns {
        self.columns
    }

    fn groups(&self) -> u64 {
        self.columns.groups() as u64
    }

    /// The scale of each group of each tile, before it is divided by the last factor where that is a constant; and that
    /// constant, or 1.
    pub(super) fn scales<A>(
        &self,
        values: &Dequantization<A>,
        arrays: &impl Arrays<A>,
    ) -> Result<(Vec<f32>, f32), OpenError> {
        let mut scales = vec![1.0; size_in_memory(self.count * self.groups())?];
        let mut over = 1.0;
        for (index, scale) in values.scales.iter().enumerate() {
            let is_last = index > 0 && index + 1 == values.scales.len();
            match (scale, scale.factor()) {
                (Scale::Over(_), Factor::Constant(constant)) if is_last => over = constant.get(),
                (_, Factor::Constant(constant)) => {
                    scales.iter_mut().for_each(|all| apply(scale, all, constant.get()))
                }
                (_, Factor::Numbers(numbers)) => {
                    let found = self.numbers(numbers, arrays, "scales")?;
                    scales.iter_mut().zip(found).for_each(|(all, factor)| apply(scale, all, factor));
                }
                (_, Factor::Nested(nested)) => {
                    let found = numbers::nested(arrays, nested, self.shape_of(nested.codes.tile));
                    let found = self.spread(found.map_err(|e| e.named("scales"))?, nested.codes.tile);
                    scales.iter_mut().zip(found).for_each(|(all, factor)| apply(scale, all, factor));
                }
            }
        }
        Ok((scales, over))
    }

    /// A number for each group of each tile.
    pub(super) fn numbers<A>(
        &self,
        numbers: &Numbers<A>,
        arrays: &impl Arrays<A>,
        name: &str,
    ) -> Result<Vec<f32>, OpenError> {
        let found = numbers::numbers(arrays, &numbers.field, numbers.number, self.shape_of(numbers.tile));
        Ok(self.spread(found.map_err(|e| e.named(name))?, numbers.tile))
    }

    /// A level that stands for 0 for each group of each tile.
    pub(super) fn zero_codes<A>(
        &self,
        codes: &ZeroCodes<A>,
        arrays: &impl Arrays<A>,
    ) -> Result<Vec<i16>, OpenError> {
        let found = numbers::codes(arrays, &codes.field, self.shape_of(codes.tile));
        let found = found.map_err(|e| e.named("zero"))?;
        let bits = codes.field.packing.as_ref().map_or(8, |packing| packing.bits);
        let levels = LevelTable::new(&codes.levels, bits);
        let level = |code: u8| {
            let code = code.wrapping_add(codes.add) & (u8::MAX >> (8 - bits));
            #[expect(clippy::cast_possible_truncation, reason = "an integer of a byte")]
            let level = levels.value(code) as i16;
            level
        };
        let level_of: Vec<i16> = (0..=u8::MAX).map(level).collect();
        let found = self.spread(found, codes.tile);
        Ok(found.into_iter().map(|code| level_of[usize::from(code)]).collect())
    }

    /// Rows and columns of numbers of this tile.
    fn shape_of(&self, tile: [u64; 2]) -> [u64; 2] {
        let cols = if self.starts.is_some() { self.cols.div_ceil(tile[1]) } else { self.groups() };
        [self.rows.div_ceil(tile[0]), cols]
    }

    /// All numbers of a field of such a tile, one for each group of each tile.
    fn spread<T: Copy>(&self, found: NumberMatrix<T>, tile: [u64; 2]) -> Vec<T> {
        let columns: Vec<usize> = match &self.starts {
            Some(starts) => starts.iter().map(|start| size(start / tile[1])).collect(),
            None => (0..self.columns.groups()).collect(),
        };
        let row_of = |at: u64| at * self.tile_rows / tile[0];
        let is_each = columns.iter().enumerate().all(|(group, column)| group == *column);
        if is_each && found.cols() == self.groups() && (0..self.count).all(|at| row_of(at) == at) {
            let mut all = found.into_all();
            all.truncate(size(self.count * self.groups()));
            return all;
        }
        let mut all = Vec::with_capacity(size(self.count * self.groups()));
        for at in 0..self.count {
            // There are as many as were asked for.
            let row = found.row(row_of(at)).unwrap_or_default();
            all.extend(columns.iter().filter_map(|column| row.get(*column)));
        }
        all
    }
}

pub(super) fn too_large() -> FormatError {
    FormatError::new("shape: a matrix that is too large")
}

/// A size in memory.
pub(super) fn size_in_memory(number: u64) -> Result<usize, FormatError> {
    usize::try_from(number).map_err(|_| too_large())
}

fn apply<A>(scale: &Scale<A>, all: &mut f32, factor: f32) {
    match scale {
        Scale::Times(_) => *all *= factor,
        Scale::Over(_) => *all /= factor,
    }
}

/// The tiles that all numbers of a matrix have in common: rows of each, and the first column of each.
fn tiling<A>(values: &Dequantization<A>, [rows, cols]: [u64; 2]) -> Result<(u64, Vec<u64>), FormatError> {
    let of_scales = values.scales.iter().filter_map(|scale| Some(scale.factor().numbers()?.tile));
    let of_zero = match &values.zero {
        Zero::None | Zero::Constant(_) => None,
        Zero::Codes(codes) => Some(codes.tile),
        Zero::Bias(numbers) => Some(numbers.tile),
    };
    let tiles: Vec<_> = of_scales.chain(of_zero).collect();
    // A tile of all rows ends where any other does.
    let high = tiles.iter().map(|tile| tile[0]).filter(|high| *high < rows).fold(0, greatest_common_divisor);
    let mut starts = vec![0];
    for tile in &tiles {
        if values.column_groups.is_none() && tile[1] < cols {
            if cols.div_ceil(tile[1]) > MAX_CHUNK_GROUPS {
                return Err(FormatError::new("scales.tile: more groups in a row than a reader accepts"));
            }
            starts.extend((0..cols).step_by(usize::try_from(tile[1]).unwrap_or(usize::MAX)));
        }
    }
    starts.sort_unstable();
    starts.dedup();
    Ok((if high == 0 { rows } else { high }, starts))
}

pub(crate) fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
