//! `qstore analyze`.

use std::fs;
use std::path::Path;

use qstore::{Analysis, Measured, VariantAnalysis};

use crate::args::Analyze;
use crate::failure::Failure;
use crate::output::{Console, table};

const HEADER: [&str; 6] = ["stored", "entropy", "Huffman", "Zstd", "ZipNN-style", "ours"];

pub(crate) fn run(arguments: &Analyze, console: &Console) -> Result<(), Failure> {
    // Hours of work could be for nothing.
    if let Some(folder) = arguments.chart.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Failure::Usage(format!("--chart: there is no folder {}", folder.display())));
    }
    let variants: Vec<_> =
        arguments.variants.iter().map(|named| (named.name.clone(), named.folder.clone())).collect();
    let analysis =
        qstore::analyze(&variants, arguments.resume.as_deref(), &console.options.machine(), &console.bars)?;
    if let Some(path) = &arguments.chart {
        let svg = qstore_bench::analysis_chart(&analysis)?;
        let failed = |source| Failure::File { path: path.clone(), what: "cannot write", source };
        fs::write(path, svg).map_err(failed)?;
    }
    if arguments.json.json {
        return console.json(&analysis);
    }
    console.result(format_args!("Bits a weight of quantised matrices\n\n{}", totals(&analysis)))?;
    if arguments.tensors {
        console.result(format_args!("\nEach matrix\n\n{}", matrices(&analysis)))?;
    }
    Ok(())
}

/// A row for each variant, alone and given each one below, and what else these have.
fn totals(analysis: &Analysis) -> String {
    let header: Vec<_> = ["variant", "given", "of", "weights"].into_iter().chain(HEADER).collect();
    let mut table = table(&header, 3);
    for VariantAnalysis { name, measures, .. } in &analysis.variants {
        for measure in measures {
            let parts = [
                ("matrices", measure.quantised),
                ("scales", measure.scales),
                ("other tensors", measure.other),
            ];
            // A variant that is not quantised has no scales, and given another only what that shares counts.
            for (what, measured) in parts.into_iter().filter(|(_, measured)| measured.0.raw > 0) {
                let given = measure.given.as_deref().unwrap_or("-");
                let start = [name.as_str(), given, what].map(str::to_owned);
                let weights = [measured.0.weights.to_string()];
                table.add_row(start.into_iter().chain(weights).chain(figures(&measured)));
            }
        }
    }
    table.trim_fmt()
}

fn matrices(analysis: &Analysis) -> String {
    let header: Vec<_> =
        ["matrix", "shape", "variant", "given", "encoding"].into_iter().chain(HEADER).collect();
    let mut table = table(&header, 5);
    for matrix in &analysis.matrices {
        let [rows, cols] = matrix.shape;
        for variant in &matrix.variants {
            for measure in &variant.measures {
                let given = measure.given.as_deref().unwrap_or("-");
                let start =
                    [&matrix.name, &format!("{rows} x {cols}"), &variant.name, given, &measure.encoding];
                let start = start.map(str::to_owned).into_iter();
                table.add_row(start.chain(figures(&measure.measured)));
            }
        }
    }
    table.trim_fmt()
}

fn figures(measured: &Measured) -> [String; 6] {
    let bits = measured.0.per_weight();
    [bits.raw, bits.entropy, bits.huffman, bits.zstd, bits.zipnn, bits.ours]
        .map(|bits| bits.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.3}")))
}
