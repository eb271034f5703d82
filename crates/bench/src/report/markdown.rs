//! The report as Markdown.

use std::fmt::Write as _;

use humansize::{BINARY, DECIMAL, format_size};

use super::charts::Chart;
use super::{Report, Table};

pub(super) fn markdown(report: &Report, charts: &[Chart]) -> Result<String, std::fmt::Error> {
    let mut text = "# QStore and its peers\n\n".to_owned();
    preamble(&mut text, report)?;
    for table in report.tables() {
        write!(text, "\n## {}\n\n{}", table.title, rows(&table))?;
    }
    for chart in charts {
        write!(text, "\n## {}\n\n![{0}]({})\n", chart.title, chart.file)?;
    }
    methods(&mut text, report)?;
    Ok(text)
}

fn preamble(text: &mut String, report: &Report) -> std::fmt::Result {
    let Report { machine, settings, .. } = report;
    let of = |part: &Option<String>| part.clone().unwrap_or_else(|| "unknown".to_owned());
    let memory = machine.memory_bytes.map_or("unknown".to_owned(), |bytes| format_size(bytes, BINARY));
    let version = report.qstore_version;
    writeln!(text, "Measured on {} UTC with qstore {version} by `qstore bench`.\n", report.measured_utc)?;
    writeln!(text, "- Processor: {}, {} cores; memory: {memory}", of(&machine.cpu), machine.cores)?;
    let (system, kernel, files) = (of(&machine.system), of(&machine.kernel), of(&machine.file_system));
    writeln!(text, "- System: {system}, kernel {kernel}; file system: {files}")?;
    let load = machine.load_average.map_or("unknown".to_owned(), |load| format!("{load:.2}"));
    let (threads, repeats) = (settings.threads, settings.repeats);
    writeln!(text, "- Threads of each peer: {threads}; repeats: {repeats}; load average before: {load}")?;
    for variant in &report.variants {
        let (files, tensors) = (format_size(variant.raw_bytes, DECIMAL), variant.tensors);
        let held = format_size(variant.tensor_bytes, DECIMAL);
        writeln!(
            text,
            "- Variant {}: {files} in {} files, of it {held} in {tensors} tensors",
            variant.name, variant.files
        )?;
    }
    for peer in &report.absent {
        writeln!(text, "- **Absent: {}** ({}). To have it: {}", peer.name, peer.why, peer.install)?;
    }
    report.left_out.iter().try_for_each(|what| writeln!(text, "- **Left out:** {what}"))
}

fn methods(text: &mut String, report: &Report) -> std::fmt::Result {
    text.push_str("\n## How to read this\n\n");
    report.notes.iter().try_for_each(|note| writeln!(text, "- {note}"))?;
    text.push_str("\n## What each peer does\n\n");
    report
        .peers
        .iter()
        .try_for_each(|peer| writeln!(text, "- **{}** ({}): {}", peer.title, peer.version, peer.method))
}

fn rows(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|---|{}\n", "---:|".repeat(table.header.len().saturating_sub(1)));
    let rows = table.rows.iter().map(|row| line(row));
    [line(&table.header), rule].into_iter().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        let cells = |row: &[&str]| row.iter().map(|cell| (*cell).to_owned()).collect();
        let table =
            Table { title: "t".to_owned(), header: cells(&["peer", "x"]), rows: vec![cells(&["a", "1"])] };
        assert_eq!(rows(&table), "| peer | x |\n|---|---:|\n| a | 1 |\n");
    }
}
