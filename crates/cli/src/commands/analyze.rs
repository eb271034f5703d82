//! `qstore analyze`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use qstore::{Analysis, Measured, Store, StoreAnalysis, VariantAnalysis, VariantSpec, Weighed};
use serde::Serialize;

use super::pack::specs;
use crate::args::{Analyze, Contents, GivenOnly};
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
    let Analyze { tensors, chart, resume, dir, given, roles, .. } = arguments;
    let GivenOnly { given, independent, levels } = given;
    let is_of_folders = *tensors || chart.is_some() || resume.is_some() || dir.is_some();
    let is_of_storing = !given.is_empty() || !independent.is_empty() || levels.is_some();
    if is_of_folders || is_of_storing || !roles.archive.is_empty() || !roles.served.is_empty() {
        let text = "of a store there are no other options than --json: it is analysed as it is stored; \
                    `qstore inspect --tensors` shows its tensors";
        return Err(Failure::Usage(text.to_owned()));
    }
    let analysis = qstore::analyze_store(&Store::open(path)?, &console.options.machine(), &console.bars)?;
    if arguments.json.json {
        return console.json(&analysis);
    }
    console.result(together(&analysis))
}

fn of_folders(arguments: &Analyze, console: &Console) -> Result<(), Failure> {
    let folders = arguments.inputs.iter().filter_map(|input| match input {
        Analyzed::Variant(named) => Some(named.clone()),
        Analyzed::Store(_) => None,
    });
    let folders: Vec<NamedFolder> = folders.collect();
    // Hours of work could be for nothing.
    if let Some(chart) = &arguments.chart {
        check_chart(chart, &folders)?;
    }
    let specs = specs(&folders, &[], &arguments.given, &arguments.roles, &Contents::default())?;
    // First what would show that these cannot be stored.
    let store = stored(&specs, arguments, console)?;
    let variants: Vec<_> = folders.into_iter().map(|named| (named.name, named.folder)).collect();
    let machine = console.options.machine();
    let each = qstore::analyze(&variants, arguments.resume.as_deref(), &machine, &console.bars)?;
    if let Some(path) = &arguments.chart {
        let svg = qstore_bench::analysis_chart(&each)?;
        let failed = |source| Failure::File { path: path.clone(), what: "cannot write", source };
        fs::write(path, svg).map_err(failed)?;
    }
    if arguments.json.json {
        return console.json(&OfFolders { each: &each, store: &store });
    }
    console.result(format_args!("Bits a weight of quantised matrices\n\n{}", totals(&each)))?;
    if arguments.tensors {
        console.result(format_args!("\nEach matrix\n\n{}", matrices(&each)))?;
    }
    console.result(format_args!("\nAll in one store\n\n{}", together(&store)))
}

/// What these take in one store, which is made in a temporary folder.
fn stored(specs: &[VariantSpec], arguments: &Analyze, console: &Console) -> Result<StoreAnalysis, Failure> {
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    if !parent.is_dir() {
        return Err(Failure::Usage(format!("--dir: there is no folder {}", parent.display())));
    }
    let failed = |source| Failure::File { path: parent.clone(), what: "cannot make a folder in", source };
    let place = tempfile::Builder::new().prefix("qstore-analyze-").tempdir_in(&parent).map_err(failed)?;
    let store = place.path().join("store");
    qstore::pack(specs, &store, &console.options, &console.bars)?;
    Ok(qstore::analyze_store(&Store::open(&store)?, &console.options.machine(), &console.bars)?)
}

/// Whether a chart may be written there: over nothing but another one.
fn check_chart(path: &Path, folders: &[NamedFolder]) -> Result<(), Failure> {
    let refused = |what: &str| Err(Failure::Usage(format!("--chart: {}: {what}", path.display())));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(folder) = folder.canonicalize() else {
        return Err(Failure::Usage(format!("--chart: there is no folder {}", folder.display())));
    };
    let is_within = |named: &NamedFolder| named.folder.canonicalize().is_ok_and(|of| folder.starts_with(of));
    if let Some(named) = folders.iter().find(|named| is_within(named)) {
        return refused(&format!("it would be in the folder of {}, which is only read", named.name));
    }
    let is_chart = |file: &File| {
        let mut start = Vec::new();
        file.take(4).read_to_end(&mut start).is_ok() && start == b"<svg"
    };
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(file) if is_chart(&file) => Ok(()),
        _ => refused("something is there, which is no chart; name another"),
    }
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
