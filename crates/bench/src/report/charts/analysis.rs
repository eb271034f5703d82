//! Bits per weight, as `qstore::analyze` measures them.

use plotters::style::RGBColor;
use qstore::{Analysis, PerWeight, VariantMeasure};

use super::bars::{Bar, Group, bars};
use super::failed;
use crate::error::Result;

/// A way of measuring: its entry in the legend, its colour, and its figure.
type Way = (&'static str, RGBColor, fn(&PerWeight) -> Option<f64>);

const WAYS: [Way; 6] = [
    ("as stored", RGBColor(120, 120, 120), |bits| bits.raw),
    ("entropy", RGBColor(240, 200, 60), |bits| bits.entropy),
    ("Huffman", RGBColor(230, 159, 0), |bits| bits.huffman),
    ("Zstd", RGBColor(86, 180, 233), |bits| bits.zstd),
    ("ZipNN-style", RGBColor(0, 158, 115), |bits| bits.zipnn),
    ("QStore", RGBColor(213, 60, 0), |bits| bits.ours),
];

/// An SVG of the quantised weights' bits: every variant alone, and given each one below.
///
/// # Errors
/// The chart cannot be drawn.
pub fn analysis_chart(analysis: &Analysis) -> Result<String> {
    let group = |name: &str, measure: &VariantMeasure| {
        let bits = measure.quantised.0.per_weight();
        let bar = |(series, colour, value): &Way| {
            let value = value(&bits)?;
            Some(Bar { series, colour: *colour, value, spread: (value, value) })
        };
        let label = match &measure.given {
            Some(given) => format!("{name} given {given}"),
            None => name.to_owned(),
        };
        Group { label, bars: WAYS.iter().filter_map(bar).collect() }
    };
    // All of them alone come first.
    let pick = |alone: bool| {
        analysis.variants.iter().flat_map(move |variant| {
            let measures = variant.measures.iter().filter(move |measure| measure.given.is_none() == alone);
            measures.map(|measure| (variant.name.as_str(), measure))
        })
    };
    let groups = pick(true).chain(pick(false)).map(|(name, measure)| group(name, measure));
    let groups: Vec<_> = groups.filter(|group| !group.bars.is_empty()).collect();
    bars("Quantised weights", "bits a weight", &groups).map_err(failed)
}
