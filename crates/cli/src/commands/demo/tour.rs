//! The demo's steps, each told in a line when it is done.

use std::path::{Path, PathBuf};
use std::time::Instant;

use qstore::{Store, VariantName, VariantSpec};
use qstore_quantize::{ModelSpec, Precision};

use super::compare::{Comparison, compare, total_bytes};
use super::workplace::{Workplace, name_of};
use crate::commands::load;
use crate::failure::Failure;
use crate::output::{Console, bytes, count, percent, time, variants_table};

pub(crate) struct Tour<'a> {
    workplace: &'a Workplace,
    console: &'a Console,
    store: PathBuf,
    step: u32,
    began: Instant,
}

impl<'a> Tour<'a> {
    pub(crate) fn new(workplace: &'a Workplace, console: &'a Console) -> Self {
        Self { workplace, console, store: workplace.path("store"), step: 1, began: Instant::now() }
    }

    /// Tells of the step that is done and how long it took, and begins the next.
    fn tell(&mut self, what: &str) -> Result<(), Failure> {
        let took = time(self.began.elapsed());
        self.tell_timed(&format!("{what} [{took}]"))
    }

    /// As [`tell`](Self::tell), for a line that has its own time.
    fn tell_timed(&mut self, what: &str) -> Result<(), Failure> {
        self.console.note(format_args!("{}. {what}", self.step))?;
        self.step += 1;
        self.began = Instant::now();
        Ok(())
    }

    /// Takes the user's own model.
    pub(crate) fn take(&mut self, folder: &Path) -> Result<VariantSpec, Failure> {
        if !folder.is_dir() {
            return Err(Failure::Usage(format!("--model {}: no such folder", folder.display())));
        }
        let name = name_of(folder);
        let size = bytes(total_bytes(folder)?);
        self.tell(&format!("Took the model in {}: {size}, named {name} here", folder.display()))?;
        Ok(VariantSpec::new(variant_name(name)?, folder))
    }

    pub(crate) fn make(&mut self, spec: &ModelSpec) -> Result<VariantSpec, Failure> {
        let folder = self.workplace.path("model");
        qstore_quantize::synthesise(spec, &folder, &self.console.options, &self.console.bars)?;
        let name = name_of(&folder);
        let size = bytes(total_bytes(&folder)?);
        self.tell(&format!("Made up a model like Llama: {}, {size} as {name}", weights(spec.weights())))?;
        Ok(VariantSpec::new(variant_name(name)?, folder))
    }

    pub(crate) fn quantize(&mut self, high: &VariantSpec) -> Result<VariantSpec, Failure> {
        let folder = self.workplace.path("model-int8");
        let Console { options, bars, .. } = self.console;
        let done =
            qstore_quantize::quantize(&high.folder, &folder, Precision::Int8, &options.machine(), bars)?;
        let size = bytes(total_bytes(&folder)?);
        let matrices = count(done.quantized, "tensor");
        self.tell(&format!("Quantized {matrices} of it to INT8, as bitsandbytes does: {size}"))?;
        Ok(VariantSpec::new(variant_name("int8")?, folder))
    }

    pub(crate) fn pack(&mut self, variants: &[VariantSpec]) -> Result<(), Failure> {
        qstore::pack(variants, &self.store, &self.console.options, &self.console.bars)?;
        let size = bytes(total_bytes(&self.store)?);
        self.tell(&format!("Packed both into one store: {size}"))
    }

    pub(crate) fn verify(&mut self) -> Result<(), Failure> {
        let store = Store::open(&self.store)?;
        let verification =
            qstore::verify(&store, None, false, &self.console.options.machine(), &self.console.bars)?;
        if !verification.is_sound() {
            let problems: Vec<_> =
                verification.variants.iter().flat_map(|v| &v.problems).map(ToString::to_string).collect();
            return Err(Failure::Check(format!("the store does not verify: {}", problems.join("; "))));
        }
        self.tell("Verified it: every file decodes to the SHA-256 that it was packed with")
    }

    /// Restores every variant and compares each file with the original, without trusting the library's own checks.
    pub(crate) fn restore(&mut self, variants: &[VariantSpec]) -> Result<(), Failure> {
        let store = Store::open(&self.store)?;
        for VariantSpec { name, folder, .. } in variants {
            let restored = self.workplace.path(&format!("restored-{name}"));
            qstore::unpack(&store, name, &restored, &self.console.options.machine(), &self.console.bars)?;
            let Comparison { equal, differences } = compare(folder, &restored)?;
            if !differences.is_empty() {
                let differences = differences.join("; ");
                return Err(Failure::Check(format!("restored {name} is not what was packed: {differences}")));
            }
            self.workplace.discard(&restored)?;
            self.tell(&format!(
                "Restored {name}; compared with the original, byte by byte: {} equal",
                count(equal, "file")
            ))?;
        }
        Ok(())
    }

    pub(crate) fn load(&mut self, variants: &[VariantSpec]) -> Result<(), Failure> {
        for VariantSpec { name, .. } in variants {
            let loaded = load::load(&self.store, name, self.console)?;
            let read = bytes(loaded.bytes_read);
            self.tell_timed(&format!("Loaded {name} into memory: {}, reading {read}", loaded.describe()))?;
        }
        Ok(())
    }

    /// The sizes, which are what all this is about.
    pub(crate) fn conclude(&self, variants: &[VariantSpec; 2]) -> Result<(), Failure> {
        let inspection = qstore::inspect(&Store::open(&self.store)?, false)?;
        self.console.note("")?;
        self.console.result(variants_table(&inspection))?;
        let high = &variants[1];
        let share = percent(inspection.stored_bytes, total_bytes(&high.folder)?);
        self.console.note(format_args!(
            "\nThe store with both takes {share} of what the {} files alone do.",
            high.name
        ))
    }
}

fn variant_name(name: &str) -> Result<VariantName, Failure> {
    name.parse().map_err(|e| Failure::Usage(format!("{e}")))
}

/// A number of weights for people: `49.0 M weights`.
fn weights(number: u64) -> String {
    let tenths_of_millions = (number + 50_000) / 100_000;
    format!("{}.{} M weights", tenths_of_millions / 10, tenths_of_millions % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_for_people() {
        assert_eq!(weights(48_967_680), "49.0 M weights");
        assert_eq!(weights(8_030_261_248), "8030.3 M weights");
    }
}
