//! Factors that columns and rows of weights were multiplied with before they were rounded.

use half::f16;
use qstore_container::FactorsOf;
use qstore_kernels::DecodeError;

/// What the scales of codes are multiplied with to be those of weights: the reciprocals of such factors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Factors {
    columns: Vec<f16>,
    /// None at all, or one for each row.
    rows: Vec<f16>,
}

fn is_usable(factor: &f16) -> bool {
    factor.is_normal() && factor.is_sign_positive()
}

impl Factors {
    /// Rounded to FP16. `None` if one of them is none that a reader takes.
    pub(crate) fn new(columns: &[f32], rows: Option<&[f32]>) -> Option<Self> {
        let round = |factors: &[f32]| factors.iter().copied().map(f16::from_f32).collect();
        Self { columns: round(columns), rows: rows.map(round).unwrap_or_default() }.checked()
    }

    fn checked(self) -> Option<Self> {
        self.columns.iter().chain(&self.rows).all(is_usable).then_some(self)
    }

    /// What of a matrix has them.
    pub(crate) fn of(&self) -> FactorsOf {
        if self.rows.is_empty() { FactorsOf::Columns } else { FactorsOf::Both }
    }

    /// Those at the front of a head, of a matrix of so many rows and columns.
    pub(crate) fn read(
        of: FactorsOf,
        [rows, columns]: [usize; 2],
        head: &mut &[u8],
    ) -> Result<Self, DecodeError> {
        let mut take = |count: usize| {
            let (factors, rest) =
                head.split_at_checked(count.saturating_mul(2)).ok_or(DecodeError::Truncated)?;
            *head = rest;
            Ok(factors.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect::<Vec<_>>())
        };
        let columns = take(columns)?;
        let rows = if of == FactorsOf::Both { take(rows)? } else { Vec::new() };
        Self { columns, rows }.checked().ok_or(DecodeError::Corrupt("a factor that is none"))
    }

    pub(crate) fn write(&self, head: &mut Vec<u8>) {
        head.extend(self.columns.iter().chain(&self.rows).flat_map(|factor| factor.to_le_bytes()));
    }

    /// Those of each column from one on, and that of a row.
    pub(crate) fn of_row(&self, row: usize, from: usize) -> (impl Iterator<Item = f32>, f32) {
        let columns = self.columns.get(from..).unwrap_or_default();
        (
            columns.iter().map(|factor| factor.to_f32()),
            self.rows.get(row).map_or(1.0, |factor| factor.to_f32()),
        )
    }
}
