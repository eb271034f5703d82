//! `qstore inspect`.

use qstore::{FileInspection, Inspection, Store, TensorInspection, VariantInspection};

use crate::args::Inspect;
use crate::failure::Failure;
use crate::output::{Console, bytes, count, percent, remarks, shown_in_line, table};

pub(crate) fn run(arguments: &Inspect, console: &Console) -> Result<(), Failure> {
    let inspection = qstore::inspect(&Store::open(&arguments.store)?, arguments.tensors)?;
    if arguments.json.json {
        return console.json(&inspection);
    }
    let Inspection { raw_bytes, stored_bytes, manifest_bytes, variants, leftovers, foreign, .. } =
        &inspection;
    console.result(variants_table(variants))?;
    let all = variants.iter().fold(*manifest_bytes, |sum, variant| sum.saturating_add(variant.stored_bytes));
    // Where files of it are missing, it is as large as the manifest says.
    let all = all.max(*stored_bytes);
    let absent = match all - stored_bytes {
        0 => String::new(),
        absent => format!("; {} of it are here, {} are not", bytes(*stored_bytes), bytes(absent)),
    };
    let held = count(variants.len() as u64, "variant");
    let (raw, stored, share) = (bytes(*raw_bytes), bytes(all), percent(all, *raw_bytes));
    console.result(format_args!("\n{held}, {raw} of files in a store of {stored}: {share}{absent}"))?;
    if variants.iter().any(|variant| !variant.given.is_empty()) {
        console.result(format_args!("\n{}", chain(variants).join("\n")))?;
    }
    let remarks = remarks(&inspection);
    if !remarks.is_empty() {
        console.result(format_args!("\n{}", remarks.join("\n")))?;
    }
    let problem = |variant: &VariantInspection| {
        variant.problem.as_ref().map(|problem| format!("{} cannot be read: {problem}", variant.name))
    };
    let problems: Vec<_> = variants.iter().filter_map(problem).collect();
    if !problems.is_empty() {
        console.result(format_args!("\n{}", problems.join("\n")))?;
    }
    if !leftovers.is_empty() {
        console.result(format_args!(
            "Left by an interrupted command (or being written now): {}. The next add or remove cleans up.",
            leftovers.join(", ")
        ))?;
    }
    if !foreign.is_empty() {
        console.result(format_args!("Not of the store, and left alone: {}", shortened(foreign)))?;
    }
    for variant in variants {
        if let Some(tensors) = tensors_table(variant) {
            console.result(format_args!("\n{}\n\n{tensors}", variant.name))?;
        }
    }
    // Of a variant that is not all there it is known what it should take.
    if arguments.tensors && all == *stored_bytes {
        let parts = variants.iter().map(|variant| format!("{} of {}", variant.stored_bytes, variant.name));
        let parts: Vec<_> = parts.chain([format!("{manifest_bytes} of the manifest")]).collect();
        console.result(format_args!("\n{} = {stored_bytes} bytes", parts.join(" + ")))?;
    }
    Ok(())
}

/// The first of many names.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn variants_table(variants: &[VariantInspection]) -> String {
    let header = ["variant", "given", "scheme", "dtype", "files", "in the store", "share", "read to load"];
    let mut table = table(&header, 4);
    for variant in variants {
        let name = match (variant.verbatim, variant.archived) {
            (true, _) => format!("{} (verbatim)", variant.name),
            (false, true) => format!("{} (archived)", variant.name),
            (false, false) => variant.name.clone(),
        };
        let given = if variant.given.is_empty() { "-".to_owned() } else { variant.given.join(", ") };
        table.add_row([
            name,
            given,
            variant.scheme.clone(),
            variant.dtype.clone(),
            bytes(variant.raw_bytes),
            bytes(variant.stored_bytes),
            percent(variant.stored_bytes, variant.raw_bytes),
            variant.read_bytes.map_or("-".to_owned(), bytes),
        ]);
    }
    table.trim_fmt()
}

/// The variants as a tree: each below the highest one that it is stored given.
fn chain(variants: &[VariantInspection]) -> Vec<String> {
    let parent =
        |variant: &VariantInspection| variants.iter().rposition(|lower| variant.given.contains(&lower.name));
    let mut lines = Vec::new();
    // Last come first out: the variants that are yet to be drawn, each with what stands before its children and itself.
    let roots = (0..variants.len()).rev().filter(|&index| parent(&variants[index]).is_none());
    let mut rest: Vec<(usize, String, &str)> = roots.map(|root| (root, String::new(), "")).collect();
    while let Some((index, before, branch)) = rest.pop() {
        let variant = &variants[index];
        let above = parent(variant).map(|above| &variants[above].name);
        let others: Vec<_> = variant.given.iter().filter(|given| Some(*given) != above).cloned().collect();
        let others =
            if others.is_empty() { String::new() } else { format!(" (and given {})", others.join(", ")) };
        let reads = match (variant.reads, variant.read_bytes) {
            (2.., Some(read)) => format!(", reads {} of {} variants", bytes(read), variant.reads),
            _ => String::new(),
        };
        let own = bytes(variant.stored_bytes);
        let role = if variant.archived { " (archived)" } else { "" };
        lines.push(format!("{before}{branch}{}{role} + {own}{others}{reads}", variant.name));
        let below = match branch {
            "" => before,
            "└─ " => before + "   ",
            _ => before + "│  ",
        };
        let children = (0..variants.len()).rev().filter(|&child| parent(&variants[child]) == Some(index));
        for (nth, child) in children.enumerate() {
            rest.push((child, below.clone(), if nth == 0 { "└─ " } else { "├─ " }));
        }
    }
    lines
}

/// Every tensor and file, the overhead, and their sum, which is what the variant takes.
fn tensors_table(variant: &VariantInspection) -> Option<String> {
    let header =
        ["tensor or file", "dtype", "shape", "encoding", "given", "bytes", "in the store", "bits a weight"];
    let mut table = table(&header, 5);
    let none = || "-".to_owned();
    let mut sum = 0u64;
    for tensor in variant.tensors.as_ref()? {
        let TensorInspection { name, dtype, encoding, raw_bytes, stored_bytes, .. } = tensor;
        let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
        sum = sum.saturating_add(*stored_bytes);
        table.add_row([
            shown_in_line(name),
            dtype.clone(),
            if shape.is_empty() { "scalar".to_owned() } else { shape.join(" x ") },
            encoding.clone(),
            tensor.given.clone().unwrap_or_else(none),
            raw_bytes.to_string(),
            stored_bytes.to_string(),
            tensor.bits_per_weight.map_or_else(none, |bits| format!("{bits:.2}")),
        ]);
    }
    for FileInspection { path, bytes, encoding, given, stored_bytes, .. } in &variant.files {
        let given = given.clone().unwrap_or_else(none);
        sum = sum.saturating_add(*stored_bytes);
        table.add_row([
            shown_in_line(&format!("file {path}")),
            none(),
            none(),
            encoding.clone(),
            given,
            bytes.to_string(),
            stored_bytes.to_string(),
            none(),
        ]);
    }
    let overhead = variant.overhead_bytes?;
    let mut add = |what: &str, bytes: u64| {
        let [dtype, shape, encoding, given, raw, bits] = [(); 6].map(|()| none());
        table.add_row([what.to_owned(), dtype, shape, encoding, given, raw, bytes.to_string(), bits]);
    };
    add("headers, plans, lists of chunks", overhead);
    add("sum", sum.saturating_add(overhead));
    Some(table.trim_fmt())
}
