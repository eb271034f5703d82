//! `qstore demo`: the whole thing in one command, on a model that is made up or the user's own.

mod compare;
mod workplace;

use std::path::{Path, PathBuf};
use std::time::Instant;

use qstore::{Dtype, ModelSpec, Store, VariantName, VariantSpec};

use self::compare::compare;
use self::workplace::Workplace;
use super::load::load;
use crate::args::{Demo, FloatType, MadeUp};
use crate::failure::Failure;
use crate::output::{Console, bytes, count, percent, time, variants_table};

pub(crate) fn run(arguments: &Demo, console: &Console) -> Result<(), Failure> {
    let spec = match arguments.model {
        Some(_) => None,
        None => Some(model_spec(&arguments.made_up)),
    };
    if let Some(spec) = &spec {
        // Before there is a folder to be left behind.
        spec.check()?;
    }
    let workplace = Workplace::new(arguments.keep.as_deref())?;
    let demo = Tour { console, workplace: &workplace };
    console.note("One model in two precisions, in one store\n")?;

    let high = match (&arguments.model, &spec) {
        (Some(folder), _) => variant(workplace::name_of(folder), folder.clone())?,
        (None, Some(spec)) => demo.make(spec)?,
        (None, None) => return Ok(()),
    };
    let low = demo.quantize(&high.folder)?;
    let variants = [low, high];
    let store = demo.pack(&variants)?;
    demo.verify(&store)?;
    demo.restore(&store, &variants)?;
    demo.load(&store, &variants)?;
    demo.conclude(&store, arguments)
}

fn model_spec(made_up: &MadeUp) -> ModelSpec {
    let default = ModelSpec::default();
    let mut spec = ModelSpec::llama(
        made_up.hidden.unwrap_or(default.hidden),
        made_up.intermediate.unwrap_or(default.intermediate),
        made_up.layers.unwrap_or(default.layers),
        made_up.vocab.unwrap_or(default.vocab),
    );
    spec.tied = made_up.tied;
    spec.seed = made_up.seed.unwrap_or(default.seed);
    spec.dtype = match made_up.dtype {
        None | Some(FloatType::Bf16) => Dtype::BF16,
        Some(FloatType::Fp16) => Dtype::F16,
        Some(FloatType::Fp32) => Dtype::F32,
    };
    spec
}
