//! A quantised matrix.

use serde::{Deserialize, Serialize};

use super::{Field, Finite, Levels, Number, Rule};
use crate::FormatError;
use crate::limits::{MAX_CHUNK_BYTES, MAX_RESIDUAL_ROWS};

/// Factors that a scale may have.
const MOST_SCALES: usize = 4;

/// A quantised weight matrix: rows are output features, columns input features.
///
/// `A` is what names an array: an [`ArrayKey`](crate::ArrayKey) within one variant, an [`ArrayRef`](crate::ArrayRef) in
/// plans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantMatrix<A> {
    /// Rows and columns.
    pub shape: [u64; 2],
    /// Its codes. There may be more than the shape has; those do not count.
    pub codes: Field<A>,
    /// What they stand for.
    pub values: Dequantization<A>,
}

/// What the codes of a matrix stand for: `scale * (level - zero)`, or `scale * level + bias`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dequantization<A> {
    /// What a code stands for before it is scaled.
    pub levels: Levels,
    /// The factors of a scale, applied in order to 1.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<Scale<A>>,
    /// What level stands for 0.
    #[serde(default = "Zero::none", skip_serializing_if = "Zero::is_none")]
    pub zero: Zero<A>,
    /// The group of each column, where the columns of a group do not follow each other (act-order).
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub column_groups: Option<ColumnGroups<A>>,
    /// How floats became codes, where that is known; else they were moved in ways that depend on more than themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
}

/// A step on the way to a scale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale<A> {
    /// Multiplies by a factor.
    Times(Factor<A>),
    /// Divides by one.
    Over(Factor<A>),
}

/// A factor of a scale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Factor<A> {
    /// One for the whole matrix, which the format fixes.
    Constant(Finite),
    /// One for each tile of the matrix.
    Numbers(Numbers<A>),
    /// The same, which are themselves quantised.
    Nested(Box<Nested<A>>),
}

/// Numbers that are quantised: each is the entry of a table that its code says, times the scale of its block, plus an
/// offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nested<A> {
    /// Their codes, of type [`Number::Unsigned`].
    pub codes: Numbers<A>,
    /// The table: a column of F32.
    pub table: Field<A>,
    /// The scales: a column of F32.
    pub scales: Field<A>,
    /// How many codes have a scale together, in the order of their rows.
    pub block: u64,
    /// What is added.
    pub offset: Finite,
}

/// A number for each tile of a matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers<A> {
    /// Where they lie: a row for each row of tiles.
    pub field: Field<A>,
    /// What they are.
    pub number: Number,
    /// Rows and columns of a tile; tiles at the edges may have fewer. With column groups a tile has the columns of one
    /// group, whatever the second number says.
    pub tile: [u64; 2],
}

/// Zero-points of a matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zero<A> {
    /// Level 0 stands for 0.
    None,
    /// This level does.
    Constant(i16),
    /// For each tile a level, packed as codes are.
    Codes(ZeroCodes<A>),
    /// No level does; for each tile there is what is added to `scale * level`.
    Bias(Numbers<A>),
}

impl<A> Zero<A> {
    fn none() -> Self {
        Self::None
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// Zero-points as codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroCodes<A> {
    /// Where they lie: a row for each row of tiles.
    pub field: Field<A>,
    /// What they are: integers.
    pub levels: Levels,
    /// What is added to a stored one, modulo `2^bits`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub add: u8,
    /// Rows and columns of a tile, as of scales.
    pub tile: [u64; 2],
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// Which group each column is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnGroups<A> {
    /// I32, a row with one for each column.
    pub field: Field<A>,
    /// How many groups there are.
    pub count: u64,
}

impl<A> Dequantization<A> {
    /// The fields that it is made of, each with what plans call it.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &Field<A>)> {
        let scales = self.scales.iter().flat_map(|scale| scale.factor().fields());
        let scales = scales.map(|field| ("scales", field));
        let zero = match &self.zero {
            Zero::None | Zero::Constant(_) => None,
            Zero::Codes(codes) => Some(("zero", &codes.field)),
            Zero::Bias(numbers) => Some(("zero", &numbers.field)),
        };
        let groups = self.column_groups.as_ref().map(|groups| ("column_groups", &groups.field));
        scales.chain(zero).chain(groups)
    }

    /// The arrays that it is made of.
    pub fn arrays(&self) -> impl Iterator<Item = &A> {
        self.fields().map(|(_, field)| &field.array)
    }

    /// The same in other terms of arrays.
    pub fn map<B>(&self, map: &mut impl FnMut(&A) -> B) -> Dequantization<B> {
        Dequantization {
            levels: self.levels.clone(),
            scales: self.scales.iter().map(|scale| scale.map(map)).collect(),
            zero: match &self.zero {
                Zero::None => Zero::None,
                Zero::Constant(level) => Zero::Constant(*level),
                Zero::Codes(codes) => Zero::Codes(ZeroCodes {
                    field: codes.field.map(map),
                    levels: codes.levels.clone(),
                    add: codes.add,
                    tile: codes.tile,
                }),
                Zero::Bias(numbers) => Zero::Bias(numbers.map(map)),
            },
            column_groups: self
                .column_groups
                .as_ref()
                .map(|groups| ColumnGroups { field: groups.field.map(map), count: groups.count }),
            rule: self.rule,
        }
    }

    /// Whether codes of so many bits can stand for that, as far as one can tell without the arrays.
    ///
    /// # Errors
    /// What of it cannot be; the text begins with the field.
    pub fn check(&self, bits: u8) -> Result<(), FormatError> {
        self.levels.check(bits)?;
        if self.scales.len() > MOST_SCALES {
            return Err(FormatError::new("scales: more factors than a reader accepts"));
        }
        for factor in self.scales.iter().map(Scale::factor) {
            match factor {
                Factor::Constant(number) if number.get() == 0.0 => {
                    return Err(FormatError::new("scales: a constant factor of 0"));
                }
                Factor::Constant(_) => {}
                Factor::Numbers(numbers) => numbers.check("scales")?,
                Factor::Nested(nested) => nested.check()?,
            }
        }
        match &self.zero {
            Zero::None | Zero::Constant(_) => {}
            Zero::Codes(codes) => {
                let named = |e: FormatError| FormatError::new(format!("zero.{e}"));
                codes.field.check().map_err(named)?;
                check_tile(codes.tile).map_err(named)?;
                if !matches!(codes.levels, Levels::Unsigned | Levels::Signed | Levels::Offset) {
                    return Err(FormatError::new("zero.levels: zero-points that are no integers"));
                }
            }
            Zero::Bias(numbers) => numbers.check("zero")?,
        }
        if let Some(groups) = &self.column_groups {
            groups.field.check().map_err(|e| FormatError::new(format!("column_groups.{e}")))?;
            if groups.field.packing.is_some() || groups.count == 0 {
                return Err(FormatError::new("column_groups: packed, or none at all"));
            }
        }
        Ok(())
    }
}

impl<A> Scale<A> {
    /// What it multiplies or divides by.
    pub fn factor(&self) -> &Factor<A> {
        match self {
            Self::Times(factor) | Self::Over(factor) => factor,
        }
    }

    fn map<B>(&self, map: &mut impl FnMut(&A) -> B) -> Scale<B> {
        let factor = match self.factor() {
            Factor::Constant(number) => Factor::Constant(*number),
            Factor::Numbers(numbers) => Factor::Numbers(numbers.map(map)),
            Factor::Nested(nested) => Factor::Nested(Box::new(nested.map(map))),
        };
        match self {
            Self::Times(_) => Scale::Times(factor),
            Self::Over(_) => Scale::Over(factor),
        }
    }
}

impl<A> Factor<A> {
    /// The fields that it is made of.
    fn fields(&self) -> impl Iterator<Item = &Field<A>> {
        let fields = match self {
            Self::Constant(_) => [None; 3],
            Self::Numbers(numbers) => [Some(&numbers.field), None, None],
            Self::Nested(nested) => [Some(&nested.codes.field), Some(&nested.table), Some(&nested.scales)],
        };
        fields.into_iter().flatten()
    }

    /// The numbers of tiles that it has, be they codes.
    pub fn numbers(&self) -> Option<&Numbers<A>> {
        match self {
            Self::Constant(_) => None,
            Self::Numbers(numbers) => Some(numbers),
            Self::Nested(nested) => Some(&nested.codes),
        }
    }
}

impl<A> Nested<A> {
    fn map<B>(&self, map: &mut impl FnMut(&A) -> B) -> Nested<B> {
        Nested {
            codes: self.codes.map(map),
            table: self.table.map(map),
            scales: self.scales.map(map),
            block: self.block,
            offset: self.offset,
        }
    }

    fn check(&self) -> Result<(), FormatError> {
        self.codes.check("scales")?;
        let named = |e: FormatError| FormatError::new(format!("scales.{e}"));
        for field in [&self.table, &self.scales] {
            field.check().map_err(named)?;
            if field.packing.is_some() {
                return Err(named(FormatError::new("packing: floats are not packed")));
            }
        }
        if self.codes.number != Number::Unsigned || self.block == 0 {
            return Err(named(FormatError::new("nested: codes that are no integers, or blocks of none")));
        }
        Ok(())
    }
}

impl<A> Numbers<A> {
    fn map<B>(&self, map: &mut impl FnMut(&A) -> B) -> Numbers<B> {
        Numbers { field: self.field.map(map), number: self.number, tile: self.tile }
    }

    fn check(&self, name: &str) -> Result<(), FormatError> {
        let named = |e: FormatError| FormatError::new(format!("{name}.{e}"));
        self.field.check().map_err(named)?;
        check_tile(self.tile).map_err(named)?;
        match (self.number.bits(), &self.field.packing) {
            (Some(_), Some(_)) => Err(named(FormatError::new("packing: floats are not packed"))),
            _ => Ok(()),
        }
    }
}

fn check_tile(tile: [u64; 2]) -> Result<(), FormatError> {
    if tile.contains(&0) {
        return Err(FormatError::new("tile: one without rows or columns"));
    }
    Ok(())
}

impl<A> QuantMatrix<A> {
    /// Bits of a code.
    pub fn bits(&self) -> u8 {
        self.codes.packing.as_ref().map_or(8, |packing| packing.bits)
    }

    /// The arrays that it is made of, its codes first.
    pub fn arrays(&self) -> impl Iterator<Item = &A> {
        std::iter::once(&self.codes.array).chain(self.values.arrays())
    }

    /// The same in other terms of arrays.
    pub fn map<B>(&self, mut map: impl FnMut(&A) -> B) -> QuantMatrix<B> {
        QuantMatrix { shape: self.shape, codes: self.codes.map(&mut map), values: self.values.map(&mut map) }
    }

    /// Whether there can be such a matrix, as far as one can tell without the arrays.
    ///
    /// # Errors
    /// What of it cannot be; the text begins with the field.
    pub fn check(&self) -> Result<(), FormatError> {
        let [rows, cols] = self.shape;
        if rows == 0 || cols == 0 || rows > MAX_RESIDUAL_ROWS || cols > MAX_CHUNK_BYTES {
            return Err(FormatError::new("shape: none, or larger than a reader accepts"));
        }
        self.codes.check().map_err(|e| FormatError::new(format!("codes.{e}")))?;
        self.values.check(self.bits())
    }
}
