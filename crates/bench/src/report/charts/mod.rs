//! The figures as charts, in SVG.

mod analysis;
mod bars;
mod lines;

use std::fmt::Display;

use plotters::style::RGBColor;

pub use self::analysis::analysis_chart;
use self::bars::{Bar, Group, bars};
use self::lines::{Line, lines};
use super::tables::column;
use super::{LoadFacts, PeerFacts, Report};
use crate::error::{Error, Result};
use crate::options::Cache;
use crate::statistics::real;

/// A chart.
#[derive(Debug)]
pub(crate) struct Chart {
    /// The file's name.
    pub(crate) file: String,
    pub(crate) title: String,
    pub(crate) svg: String,
}

/// Pixels. Many bars make a chart wider.
const SIZE: (u32, u32) = (1000, 480);

const FONT: &str = "sans-serif";

/// Okabe and Ito's colours, which people tell apart whatever colours they see. Ours is the strongest.
fn colour(peer: &PeerFacts) -> RGBColor {
    match peer.name {
        "none" => RGBColor(120, 120, 120),
        "lz4" => RGBColor(230, 159, 0),
        "zstd-1" => RGBColor(240, 200, 60),
        "zstd" => RGBColor(86, 180, 233),
        "safetensors" => RGBColor(204, 121, 167),
        "zipnn" => RGBColor(0, 158, 115),
        _ => RGBColor(213, 60, 0),
    }
}

pub(super) fn charts(report: &Report) -> Result<Vec<Chart>> {
    let mut charts = vec![sizes(report)?];
    for cache in &report.settings.caches {
        charts.push(loads(report, *cache)?);
    }
    if !report.settings.bandwidths_mib_per_second.is_empty() {
        for load in &report.loads {
            charts.push(bandwidths(report, load.name, &column(load))?);
        }
    }
    Ok(charts)
}

fn sizes(report: &Report) -> Result<Chart> {
    let (unit, name) = if report.raw_bytes < 2_000_000_000 { (1e6, "MB") } else { (1e9, "GB") };
    let bar = |peer: &PeerFacts| {
        let value = real(peer.stored_bytes) / unit;
        Bar { series: peer.title, colour: colour(peer), value, spread: (value, value) }
    };
    let raw = real(report.raw_bytes) / unit;
    let group = Group {
        label: format!("all variants, {} {name} of files", digits(raw)),
        bars: report.peers.iter().map(bar).collect(),
    };
    let title = "Stored size".to_owned();
    Ok(Chart { file: "sizes.svg".to_owned(), svg: bars(&title, name, &[group]).map_err(failed)?, title })
}

fn loads(report: &Report, cache: Cache) -> Result<Chart> {
    let found = |load: &LoadFacts, peer: &PeerFacts| {
        peer.load(load.name, cache, None).map(|load| load.measure.seconds.clone())
    };
    let all = report.loads.iter().flat_map(|load| report.peers.iter().filter_map(|peer| found(load, peer)));
    let longest = all.map(|seconds| seconds.median).fold(0.0, f64::max);
    let (unit, name) = if longest < 1.0 { (1e-3, "milliseconds") } else { (1.0, "seconds") };
    let group = |load: &LoadFacts| {
        let bar = |peer: &PeerFacts| {
            let seconds = found(load, peer)?;
            let spread = (seconds.lowest / unit, seconds.highest / unit);
            Some(Bar { series: peer.title, colour: colour(peer), value: seconds.median / unit, spread })
        };
        Group { label: column(load), bars: report.peers.iter().filter_map(bar).collect() }
    };
    let groups: Vec<_> = report.loads.iter().map(group).collect();
    let title = format!("Load time, page cache {}", cache.name());
    let file = format!("load-{}.svg", cache.name());
    Ok(Chart { file, svg: bars(&title, name, &groups).map_err(failed)?, title })
}

fn bandwidths(report: &Report, load: &str, label: &str) -> Result<Chart> {
    let rates = &report.settings.bandwidths_mib_per_second;
    let line = |peer: &PeerFacts| {
        let seconds = |rate| Some(peer.load(load, Cache::Warm, rate)?.measure.seconds.median);
        Line {
            series: peer.title,
            colour: colour(peer),
            points: rates.iter().filter_map(|rate| Some((f64::from(*rate), seconds(Some(*rate))?))).collect(),
            unlimited: seconds(None),
        }
    };
    let title = format!("Load time by read bandwidth, {label}");
    let svg = lines(&title, rates, &report.peers.iter().map(line).collect::<Vec<_>>()).map_err(failed)?;
    Ok(Chart { file: format!("bandwidth-{load}.svg"), title, svg })
}

/// A number with three digits or so.
fn digits(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A number on an axis, without zeros that say nothing.
fn tick(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn failed(error: impl Display) -> Error {
    Error::Report(format!("a chart cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)], unlimited: Option<f64>) -> Line<'static> {
        Line { series: "a", colour: RGBColor(0, 0, 0), points: points.to_vec(), unlimited }
    }

    #[test]
    fn charts_say_what_they_show() {
        let bar = |series, value| Bar { series, colour: RGBColor(1, 2, 3), value, spread: (value, value) };
        let group = Group { label: "both".to_owned(), bars: vec![bar("QStore", 1.5), bar("none", 4.0)] };
        let svg = bars("Load time", "seconds", &[group]).unwrap();
        for part in ["<svg", "Load time", "seconds", "QStore", "none", "both", "1.50"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        let svg =
            lines("By bandwidth", &[20, 100], &[line(&[(20.0, 5.0), (100.0, 1.0)], Some(0.5))]).unwrap();
        for part in ["By bandwidth", "MiB/s", "seconds", "20", "100", "no limit"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }

    #[test]
    fn charts_of_little_or_nothing_can_be_drawn() {
        assert!(bars("t", "u", &[]).is_ok());
        let flat = Bar { series: "a", colour: RGBColor(0, 0, 0), value: 0.0, spread: (0.0, 0.0) };
        assert!(bars("t", "u", &[Group { label: String::new(), bars: vec![flat] }]).is_ok());
        assert!(lines("t", &[], &[]).is_ok());
        assert!(lines("t", &[5], &[line(&[(5.0, 1.0)], None)]).is_ok());
        assert!(lines("t", &[5], &[line(&[(5.0, 0.0)], Some(0.0))]).is_ok());
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!(
            (tick(0.050_000), tick(10.0), tick(0.000_5)),
            ("0.05".into(), "10".into(), "0.0005".into())
        );
    }
}
