//! `qstore load`.

use std::path::Path;
use std::time::{Duration, Instant};

use qstore::{Store, VariantName};
use qstore_bench::peak_rss_bytes;
use serde::Serialize;

use crate::args::Load;
use crate::failure::Failure;
use crate::output::{Console, bytes, bytes_in_time, count};

/// What loading a variant took; what `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Loaded {
    variant: VariantName,
    tensors: u64,
    tensor_bytes: u64,
    pub(crate) bytes_read: u64,
    seconds: f64,
    peak_rss_bytes: Option<u64>,
}

pub(crate) fn run(arguments: &Load, console: &Console) -> Result<(), Failure> {
    let loaded = load(&arguments.store, &arguments.name, console)?;
    if arguments.json.json {
        return console.json(&loaded);
    }
    console.result(format_args!("loaded {}: {}", loaded.variant, loaded.describe()))?;
    let peak = loaded.peak_rss_bytes.map_or(String::new(), |peak| format!("; peak memory {}", bytes(peak)));
    console.result(format_args!("read {} from the store{peak}", bytes(loaded.bytes_read)))
}

/// Decodes every tensor of a variant, and lets them go. The time includes opening the store.
pub(crate) fn load(store: &Path, name: &VariantName, console: &Console) -> Result<Loaded, Failure> {
    let began = Instant::now();
    let variant = Store::open(store)?.variant(name)?;
    let tensors = qstore::load(&variant, &console.options.machine(), &console.bars)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Loaded {
        variant: name.clone(),
        tensors: tensors.len() as u64,
        tensor_bytes: tensors.iter().map(|t| t.data.len() as u64).sum(),
        bytes_read: variant.bytes_read(),
        seconds,
        peak_rss_bytes: peak_rss_bytes(),
    })
}

impl Loaded {
    /// How much, how long and how fast.
    pub(crate) fn describe(&self) -> String {
        let time = Duration::from_secs_f64(self.seconds);
        format!("{}, {}", count(self.tensors, "tensor"), bytes_in_time(self.tensor_bytes, time))
    }
}
