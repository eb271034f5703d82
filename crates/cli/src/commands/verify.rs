//! `qstore verify`.

use std::time::Instant;

use qstore::{Store, Verification};
use serde::Serialize;

use crate::args::Verify;
use crate::failure::Failure;
use crate::output::{Console, bytes, count, shown_in_line, time};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    sound: bool,
    quick: bool,
    #[serde(flatten)]
    verification: &'a Verification,
}

pub(crate) fn run(arguments: &Verify, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let Verify { store, name, quick, json } = arguments;
    let verification = qstore::verify(
        &Store::open(store)?,
        name.as_ref(),
        *quick,
        &console.options.machine(),
        &console.bars,
    )?;
    let elapsed = began.elapsed();
    let sound = verification.is_sound();
    if json.json {
        console.json(&Report { sound, quick: *quick, verification: &verification })?;
    } else {
        for variant in &verification.variants {
            let what =
                format!("{}: {}, {}", variant.name, count(variant.files, "file"), bytes(variant.bytes));
            if variant.problems.is_empty() && !variant.given_damaged.is_empty() {
                let given = variant.given_damaged.join(", ");
                console
                    .result(format_args!("{what}: as it was written, but given {given}, which is damaged"))?;
            } else if variant.problems.is_empty() {
                let found = if *quick { "as it was written" } else { "all come back as they were packed" };
                console.note(format_args!("{what}: {found}"))?;
            } else {
                console.result(format_args!("{what}: DAMAGED"))?;
                variant.problems.iter().try_for_each(|problem| {
                    console.result(format_args!("  {}", shown_in_line(&problem.text)))
                })?;
            }
        }
        if sound {
            console.note(format_args!("the store is sound ({})", time(elapsed)))?;
        }
    }
    if sound {
        return Ok(());
    }
    let damaged: Vec<_> =
        verification.variants.iter().filter(|v| !v.problems.is_empty()).map(|v| v.name.as_str()).collect();
    Err(Failure::Check(format!("{}: damaged: {}", store.display(), damaged.join(", "))))
}
