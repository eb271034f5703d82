//! `qstore analyze`.

use std::fs;
use std::path::Path;

use qstore::{Analysis, Measured, Store, StoreAnalysis, VariantAnalysis, Weighed};
use serde::Serialize;

use super::pack::specs;
use crate::args::{Analyze, Contents};
use crate::failure::Failure;
use crate::output::{Console, bytes, table};
use crate::values::{Analyzed, NamedFolder};

const HEADER: [&str; 6] = ["stored", "entropy", "Huffman", "Zstd", "ZipNN-style", "ours"];

/// What is printed as JSON of folders: what was measured of each, and of all in one store.
#[derive(Serialize)]
struct OfFolders<'a> {
    #[serde(flatten)]
    each: &'a Analysis,
    store: &'a StoreAnalysis,
}

pub(crate) fn run(arguments: &Analyze, console: &Console) -> Result<(), Failure> {
    let stores = arguments.inputs.iter().filter(|input| matches!(input, Analyzed::Store(_))).count();
    match (&arguments.inputs[..], stores) {
        ([Analyzed::Store(store)], _) => of_store(store, arguments, console),
        (_, 0) => of_folders(arguments, console),
        _ => Err(Failure::Usage("give one store, or variants as NAME=DIR".to_owned())),
    }
}

fn of_store(path: &Path, arguments: &Analyze, console: &Console) -> Result<(), Failure> {
    if arguments.tensors || arguments.chart.is_some() || arguments.resume.is_some() {
        let text =
            "--tensors, --chart and --resume are for folders; `qstore inspect --tensors` shows a store's";
        return Err(Failure::Usage(text.to_owned()));
    }
    let analysis = qstore::analyze_store(&Store::open(path)?, &console.options.machine(), &console.bars)?;
    if arguments.json.json {
        return console.json(&analysis);
    }
    console.result(together(&analysis))
}

fn of_folders(arguments: &Analyze, console: &Console) -> Result<(), Failure> {
    // Hours of work could be for nothing.
    if let Some(folder) = arguments.chart.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Failure::Usage(format!("--chart: there is no folder {}", folder.display())));
    }
    let folders = arguments.inputs.iter().filter_map(|input| match input {
        Analyzed::Variant(named) => Some(named.clone()),
        Analyzed::Store(_) => None,
    });
    let folders: Vec<NamedFolder> = folders.collect();
    let specs = specs(&folders, &[], &arguments.given, &Contents::default())?;
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let failed = |source| Failure::File { path: parent.clone(), what: "cannot make a folder in", source };
    let place = tempfile::Builder::new().prefix("qstore-analyze-").tempdir_in(&parent).map_err(failed)?;
    let variants: Vec<_> = folders.into_iter().map(|named| (named.name, named.folder)).collect();
    let machine = console.options.machine();
    let each = qstore::analyze(&variants, arguments.resume.as_deref(), &machine, &console.bars)?;
    if let Some(path) = &arguments.chart {
        let svg = qstore_bench::analysis_chart(&each)?;
        let failed = |source| Failure::File { path: path.clone(), what: "cannot write", source };
        fs::write(path, svg).map_err(failed)?;
    }
    let store = place.path().join("store");
    qstore::pack(&specs, &store, &console.options, &console.bars)?;
    let store = qstore::analyze_store(&Store::open(&store)?, &machine, &console.bars)?;
    if arguments.json.json {
        return console.json(&OfFolders { each: &each, store: &store });
    }
    console.result(format_args!("Bits a weight of quantised matrices\n\n{}", totals(&each)))?;
    if arguments.tensors {
        console.result(format_args!("\nEach matrix\n\n{}", matrices(&each)))?;
    }
    console.result(format_args!("\nAll in one store\n\n{}", together(&store)))
}

/// A row for each variant of a store, and their sum.
fn together(analysis: &StoreAnalysis) -> String {
    if analysis.weights == 0 {
        return "no variant has quantised matrices: there are no bits to tell apart; `qstore inspect` has sizes"
            .to_owned();
    }
    let header =
        ["variant", "given", "weights", "stored", "codes", "scales", "exceptions", "overhead", "sum"];
    let mut table = table(&header, 2);
    let mut add = |name: String, given: String, weights: u64, weighed: &Weighed| {
        let bits = weighed.bits_per_weight.map(|bits| {
            [bits.raw, bits.codes, bits.scales, bits.exceptions, bits.overhead, bits.sum]
                .map(|bits| format!("{bits:.3}"))
        });
        let bits = bits.unwrap_or_else(|| std::array::from_fn(|_| "-".to_owned()));
        table.add_row([name, given, weights.to_string()].into_iter().chain(bits));
    };
    for variant in &analysis.variants {
        let role = if variant.archived { " (archived)" } else { "" };
        let given = if variant.given.is_empty() { "-".to_owned() } else { variant.given.join(", ") };
        add(format!("{}{role}", variant.name), given, variant.weights, &variant.weighed);
    }
    add("all".to_owned(), "-".to_owned(), analysis.weights, &analysis.sum);
    let entropy = analysis.entropy.as_ref().map(|entropy| {
        format!("\n{:.3} is the entropy of the weights of {}", entropy.bits_per_weight, entropy.variant)
    });
    let other = format!("\n{} of other tensors and files are not counted", bytes(analysis.sum.bytes.other));
    format!("{}\n{}{other}", table.trim_fmt(), entropy.unwrap_or_default())
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
