//! What `analyze` returns.

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::bits::Bits;
use super::chain::{Chain, Member, SharedMatrix};
use super::matrix::{CellBits, Measure};
use super::rest::{RestBits, RestMeasure};

/// Bits per weight of every variant, alone and given each quantised one below.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Analysis {
    /// The variants, few bits first.
    pub variants: Vec<VariantAnalysis>,
    /// The matrices that are quantised in one variant at least.
    pub matrices: Vec<MatrixAnalysis>,
}

/// A variant.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct VariantAnalysis {
    /// Its name.
    pub name: String,
    /// How its weights are quantised, or `none`.
    pub scheme: String,
    /// Bytes of its tensors in their files.
    pub tensor_bytes: u64,
    /// Alone, then given each quantised variant below.
    pub measures: Vec<VariantMeasure>,
}

/// A variant, alone or given one below.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct VariantMeasure {
    /// The variant that it is given.
    pub given: Option<String>,
    /// How many matrices are counted: those that the other has quantised, too.
    pub matrices: u64,
    /// Their codes or weights.
    pub quantised: Measured,
    /// Its scales, zero-points and groups; `weights` are all its quantised ones.
    pub scales: Measured,
    /// All other tensors.
    pub other: Measured,
}

/// A matrix.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct MatrixAnalysis {
    /// Its name.
    pub name: String,
    /// Output features and input features.
    pub shape: [u64; 2],
    /// In every variant that shares it.
    pub variants: Vec<MatrixVariant>,
}

/// A matrix in one variant.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct MatrixVariant {
    /// The variant.
    pub name: String,
    /// The tensor that holds its codes or weights.
    pub tensor: String,
    /// Alone, then given each variant below that has it quantised.
    pub measures: Vec<MatrixMeasure>,
}

/// A matrix in one variant, alone or given one below.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct MatrixMeasure {
    /// The variant that it is given.
    pub given: Option<String>,
    /// How a store would keep it.
    pub encoding: String,
    /// Bits.
    #[serde(flatten)]
    pub measured: Measured,
}

/// Bits in all; in JSON along with the same for each weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured(pub Bits);

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Bits { weights, raw, entropy, huffman, zstd, zipnn, ours } = self.0;
        let bits = serde_json::json!({
            "raw": raw, "entropy": entropy, "huffman": huffman, "zstd": zstd, "zipnn": zipnn, "ours": ours,
        });
        let mut both = serializer.serialize_struct("Measured", 3)?;
        both.serialize_field("weights", &weights)?;
        both.serialize_field("bits", &bits)?;
        both.serialize_field("bits_per_weight", &self.0.per_weight())?;
        both.end()
    }
}

/// Puts results together; those of rows and members are in their order.
pub(super) fn report(chain: &Chain, rows: &[Vec<CellBits>], rests: &[RestBits]) -> Analysis {
    let name = |index: usize| chain.members[index].name.to_string();
    let of_member = |(index, member): (usize, &Member)| VariantAnalysis {
        name: name(index),
        scheme: member.scheme.unwrap_or("none").to_owned(),
        tensor_bytes: member.source.tensor_bytes(),
        measures: rests[index].measures.iter().map(|rest| total(chain, index, rows, rest)).collect(),
    };
    let of_row = |(row, cells): (&SharedMatrix, &Vec<CellBits>)| {
        let of_cell = |(cell, bits): (&super::chain::Cell, &CellBits)| {
            let measure = |measure: &Measure| MatrixMeasure {
                given: measure.given.map(name),
                encoding: measure.encoding.clone(),
                measured: Measured(measure.bits),
            };
            let array = &chain.members[cell.member].source.arrays[cell.array];
            MatrixVariant {
                name: name(cell.member),
                tensor: array.key.tensor().unwrap_or_default().to_owned(),
                measures: bits.measures.iter().map(measure).collect(),
            }
        };
        MatrixAnalysis {
            name: row.weight.clone(),
            shape: row.shape,
            variants: row.cells.iter().zip(cells).map(of_cell).collect(),
        }
    };
    Analysis {
        variants: chain.members.iter().enumerate().map(of_member).collect(),
        matrices: chain.rows.iter().zip(rows).map(of_row).collect(),
    }
}

/// One variant's sums.
fn total(chain: &Chain, member: usize, rows: &[Vec<CellBits>], rest: &RestMeasure) -> VariantMeasure {
    let cells = chain.rows.iter().zip(rows).flat_map(|(row, bits)| row.cells.iter().zip(bits));
    let own = cells.filter(|(cell, _)| cell.member == member);
    let weights =
        own.clone().filter_map(|(_, bits)| bits.measures.first()).map(|alone| alone.bits.weights).sum();
    let found = own.filter_map(|(_, bits)| bits.measures.iter().find(|measure| measure.given == rest.given));
    let (matrices, sum) =
        found.fold((0, Bits::default()), |(count, sum), measure| (count + 1, sum.plus(measure.bits)));
    VariantMeasure {
        given: rest.given.map(|lower| chain.members[lower].name.to_string()),
        matrices,
        quantised: Measured(sum),
        scales: Measured(Bits { weights, ..rest.scales }),
        other: Measured(rest.other),
    }
}
