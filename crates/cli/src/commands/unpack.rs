//! `qstore unpack`.

use std::time::Instant;

use qstore::Store;

use crate::args::Unpack;
use crate::failure::Failure;
use crate::output::{Console, bytes_in_time, count};

pub(crate) fn run(arguments: &Unpack, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let Unpack { store, name, output } = arguments;
    let store = Store::open(store)?;
    qstore::unpack(&store, name, output, &console.options.machine(), &console.bars)?;
    let elapsed = began.elapsed();
    // The library knows the variant, since it restored it.
    let Some(entry) = store.manifest().variant(name) else { return Ok(()) };
    console.note(format_args!(
        "restored {name} to {}: {}, {}",
        output.display(),
        count(entry.files, "file"),
        bytes_in_time(entry.raw_bytes, elapsed)
    ))?;
    console.note("every file has the SHA-256 that it was packed with")
}
