//! The figures as tables, for a terminal and for Markdown alike.

use humansize::{DECIMAL, format_size};

use super::{LoadFacts, Measure, PeerFacts, Report};
use crate::options::Cache;

/// A table of text. The first column is of names, the others are of figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The columns.
    pub header: Vec<String>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<String>>,
}

pub(super) fn tables(report: &Report) -> Vec<Table> {
    let mut tables = vec![sizes(report)];
    tables.extend(report.settings.caches.iter().map(|cache| loads(report, *cache)));
    if !report.settings.bandwidths_mib_per_second.is_empty() {
        tables.extend(report.loads.iter().map(|load| bandwidths(report, load)));
    }
    tables
}

fn sizes(report: &Report) -> Table {
    let raw = format_size(report.raw_bytes, DECIMAL);
    let row = |peer: &PeerFacts| {
        vec![
            peer.title.to_owned(),
            format_size(peer.stored_bytes, DECIMAL),
            format!("{:.1} %", 100.0 * peer.stored_share),
            measure(peer.save.as_ref()),
            peak(peer.save.as_ref()),
        ]
    };
    Table {
        title: format!("Storing all variants, {raw}"),
        header: ["peer", "stored", "share", "save time", "peak memory"].map(str::to_owned).to_vec(),
        rows: report.peers.iter().map(row).collect(),
    }
}

fn loads(report: &Report, cache: Cache) -> Table {
    let found = |peer: &PeerFacts, load: &LoadFacts| {
        peer.load(load.name, cache, None).map(|load| load.measure.clone())
    };
    let mut header = vec!["peer".to_owned()];
    for load in &report.loads {
        header.extend([column(load), "times none".to_owned()]);
    }
    header.push("peak memory".to_owned());
    let row = |peer: &PeerFacts| {
        let mut row = vec![peer.title.to_owned()];
        for load in &report.loads {
            let own = found(peer, load);
            let plain = report.peers.iter().find(|peer| peer.name == "none");
            let plain = plain.and_then(|plain| found(plain, load));
            let ratio = own.as_ref().zip(plain).map(|(own, plain)| own.seconds.median / plain.seconds.median);
            row.extend([measure(own.as_ref()), ratio.map_or(dash(), |ratio| format!("{ratio:.2}"))]);
        }
        let peaks = report.loads.iter().filter_map(|load| found(peer, load)?.peak_rss_bytes);
        row.push(peaks.max().map_or(dash(), |peak| format_size(peak, DECIMAL)));
        row
    };
    Table {
        title: format!("Loading, page cache {}", cache.name()),
        header,
        rows: report.peers.iter().map(row).collect(),
    }
}

fn bandwidths(report: &Report, load: &LoadFacts) -> Table {
    let rates = &report.settings.bandwidths_mib_per_second;
    let mut header = vec!["peer".to_owned()];
    header.extend(rates.iter().map(|rate| format!("{rate} MiB/s")));
    let unlimited = report.settings.caches.contains(&Cache::Warm);
    header.extend(unlimited.then(|| "unlimited".to_owned()));
    let row = |peer: &PeerFacts| {
        let limits = rates.iter().copied().map(Some).chain(unlimited.then_some(None));
        let cells = limits.map(|limit| {
            let found = peer.load(load.name, Cache::Warm, limit);
            found.map_or(dash(), |found| seconds(found.measure.seconds.median))
        });
        std::iter::once(peer.title.to_owned()).chain(cells).collect()
    };
    Table {
        title: format!("Loading {} by how fast stored bytes arrive, medians", column(load)),
        header,
        rows: report.peers.iter().map(row).collect(),
    }
}

/// `low (int8)`.
pub(super) fn column(load: &LoadFacts) -> String {
    format!("{} ({})", load.name, load.variants.join(" + "))
}

fn dash() -> String {
    "-".to_owned()
}

fn measure(measure: Option<&Measure>) -> String {
    measure.map_or(dash(), |measure| {
        let repeats = &measure.seconds;
        let text = seconds(repeats.median);
        if repeats.all.len() < 2 {
            return text;
        }
        // In the unit of the median.
        let (low, high) = (number(repeats.lowest, repeats.median), number(repeats.highest, repeats.median));
        format!("{text} ({low}-{high})")
    })
}

fn peak(measure: Option<&Measure>) -> String {
    let peak = measure.and_then(|measure| measure.peak_rss_bytes);
    peak.map_or(dash(), |peak| format_size(peak, DECIMAL))
}

/// A time with three digits or more.
fn seconds(time: f64) -> String {
    format!("{} {}", number(time, time), if time < 1.0 { "ms" } else { "s" })
}

/// `time` in the unit in which `like` is shown.
fn number(time: f64, like: f64) -> String {
    let (time, like) = if like < 1.0 { (time * 1e3, like * 1e3) } else { (time, like) };
    match like {
        100.0.. => format!("{time:.0}"),
        10.0.. => format!("{time:.1}"),
        _ => format!("{time:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Repeats;

    #[test]
    fn times_have_three_digits() {
        let shown = [(0.001_234, "1.23 ms"), (0.0123, "12.3 ms"), (0.123, "123 ms"), (1.234, "1.23 s")];
        for (time, text) in shown {
            assert_eq!(seconds(time), text);
        }
        assert_eq!(seconds(123.4), "123 s");
    }

    #[test]
    fn the_spread_is_in_the_unit_of_the_median() {
        let of = |all: &[f64]| {
            let seconds = Repeats::of(all.to_vec()).unwrap();
            measure(Some(&Measure { process_seconds: seconds.clone(), seconds, peak_rss_bytes: None }))
        };
        assert_eq!(of(&[0.9, 0.95, 1.1]), "950 ms (900-1100)");
        assert_eq!(of(&[0.5]), "500 ms");
        assert_eq!(measure(None), "-");
    }
}
