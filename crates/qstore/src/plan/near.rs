//! Floats given proportional ones of a variant below: scales given the scales of the same matrix.

use qstore_checkpoint::{FloatKind, Result, SourceArray};
use qstore_container::{Encoding, Finite};
use qstore_kernels::Classifier;

use super::fit::Fit;
use super::matrix::CodedMatrix;
use super::rounded::FloatPair;
use super::{Coding, Pairs};
use crate::codec::{Codec, Expected, GivenNear, Near, values};
use crate::decode::{GivenReader, Meaning};

/// Fewer floats save less than an array of their own costs.
const LEAST_FLOATS: u64 = 1024;
/// They are read along with others for each matrix, so they must be at most so many tenths of what they take alone.
const MOST_TENTHS: u128 = 9;

/// Whether an array of so many floats may be worth being given others.
pub(super) fn is_worthwhile(pairs: &Pairs, array: &SourceArray) -> bool {
    let floats = array.shape.iter().fold(1u64, |product, d| product.saturating_mul(*d));
    floats >= LEAST_FLOATS && !pairs.scales(&array.key).is_empty()
}

/// The better of `best` and being given one of these, by at least a tenth.
pub(super) fn or_near(best: Fit, matrix: &CodedMatrix, others: &[FloatPair]) -> Result<Fit> {
    let Some(float) = FloatKind::of(matrix.dtype()) else { return Ok(best) };
    let mut nearest: Option<Fit> = None;
    for pair in others {
        let Some(fit) = fit(matrix, float, pair)? else { continue };
        if nearest.as_ref().is_none_or(|nearest| fit.better_than(nearest)) {
            nearest = Some(fit);
        }
    }
    let saves = |near: &Fit| {
        u128::from(near.stored) * u128::from(best.of) * 10
            <= u128::from(best.stored) * u128::from(near.of) * MOST_TENTHS
    };
    Ok(match nearest {
        Some(near) if saves(&near) => near,
        _ => best,
    })
}

/// Floats that lie so given these.
fn fit(matrix: &CodedMatrix, float: FloatKind, pair: &FloatPair) -> Result<Option<Fit>> {
    let Some((others, of_others)) = pair.reader(matrix.shape())? else { return Ok(None) };
    let parts = FloatPair::parts(matrix, &others, of_others.width())?;
    let mut ratios = Vec::new();
    for part in &parts {
        let read = |float: FloatKind, raw: &[u8]| {
            let mut numbers = vec![0.0; raw.len() / float.width()];
            values(float, raw, &mut numbers);
            numbers
        };
        let (own, others) = (read(float, &part.raw), read(of_others, &part.codes));
        ratios.extend(
            own.iter().zip(&others).map(|(own, other)| own / other).filter(|ratio| ratio.is_finite()),
        );
    }
    ratios.sort_by(f32::total_cmp);
    // The middle one: most of what two quantisers of a kind make of a group differs by little.
    let Some(times) = ratios.get(ratios.len() / 2).copied() else { return Ok(None) };
    let Ok(number) = Finite::try_from(times) else { return Ok(None) };
    let times = number.get();
    let near = Near::new(float);
    let (mut stored, mut of) = (0, 0);
    for part in &parts {
        let given = Expected::Floats(GivenNear { raw: &part.codes, float: of_others, times });
        stored += near.encode(&part.raw, given).map_or(part.raw.len(), |coded| coded.len()) as u64;
        of += part.raw.len() as u64;
    }
    let reader = GivenReader::new(vec![others], Meaning::Near(of_others, times), Vec::new());
    let coding = Coding {
        encoding: Encoding::Near { floats: pair.field(), times: number },
        codec: Codec::Near(near),
        classifier: Classifier::single(),
        given: Some(reader),
        chunk: Some(matrix.chunk),
    };
    Ok(Some(Fit { coding, stored, of }))
}
