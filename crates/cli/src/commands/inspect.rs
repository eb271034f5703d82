//! `qstore inspect`.

use qstore::{Inspection, Store, VariantInspection};

use crate::args::Inspect;
use crate::failure::Failure;
use crate::output::{Console, bytes, count, percent, table};

pub(crate) fn run(arguments: &Inspect, console: &Console) -> Result<(), Failure> {
    let inspection = qstore::inspect(&Store::open(&arguments.store)?, arguments.tensors)?;
    if arguments.json.json {
        return console.json(&inspection);
    }
    let Inspection { raw_bytes, stored_bytes, variants, leftovers, .. } = &inspection;
    console.result(variants_table(variants))?;
    let (held, share) = (count(variants.len() as u64, "variant"), percent(*stored_bytes, *raw_bytes));
    let (raw, stored) = (bytes(*raw_bytes), bytes(*stored_bytes));
    console.result(format_args!("\n{held}, {raw} of files in a store of {stored}: {share}"))?;
    if !leftovers.is_empty() {
        let files = count(leftovers.len() as u64, "file");
        let names = leftovers.join(", ");
        console.result(format_args!(
            "{files} of no variant, left by an interrupted command: {names}\n\
             The next `qstore add` or `qstore remove` cleans up; deleting by hand is safe too."
        ))?;
    }
    variants.iter().try_for_each(|variant| match tensors_table(variant) {
        Some(tensors) => console.result(format_args!("\n{}\n\n{tensors}", variant.name)),
        None => Ok(()),
    })
}

fn variants_table(variants: &[VariantInspection]) -> String {
    let header = ["variant", "given", "scheme", "dtype", "files", "in the store", "share", "read to load"];
    let mut table = table(&header, 4);
    for variant in variants {
        let name =
            if variant.verbatim { format!("{} (verbatim)", variant.name) } else { variant.name.to_string() };
        let given = if variant.given.is_empty() { "-".to_owned() } else { variant.given.join(", ") };
        table.add_row([
            name,
            given,
            variant.scheme.to_string(),
            variant.dtype.to_string(),
            bytes(variant.raw_bytes),
            bytes(variant.stored_bytes),
            percent(variant.stored_bytes, variant.raw_bytes),
            bytes(variant.read_bytes),
        ]);
    }
    table.trim_fmt()
}

fn tensors_table(variant: &VariantInspection) -> Option<String> {
    let header = ["tensor", "dtype", "shape", "encoding", "given", "bytes", "in the store", "bits a weight"];
    let mut table = table(&header, 5);
    for tensor in variant.tensors.as_ref()? {
        let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
        table.add_row([
            tensor.name.to_string(),
            tensor.dtype.to_string(),
            if shape.is_empty() { "scalar".to_owned() } else { shape.join(" x ") },
            tensor.encoding.to_string(),
            tensor.given.as_ref().map_or("-".to_owned(), ToString::to_string),
            bytes(tensor.raw_bytes),
            bytes(tensor.stored_bytes),
            tensor.bits_per_weight.map_or("-".to_owned(), |bits| format!("{bits:.2}")),
        ]);
    }
    Some(table.trim_fmt())
}
