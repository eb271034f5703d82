//! `qstore demo`: the whole thing in one command, on a model that is made up or the user's own.

mod compare;
mod tour;
mod workplace;

use qstore::Dtype;
use qstore_quantize::ModelSpec;

use self::tour::Tour;
use self::workplace::Workplace;
use crate::args::{Demo, FloatType, MadeUp};
use crate::failure::Failure;
use crate::output::Console;

pub(crate) fn run(arguments: &Demo, console: &Console) -> Result<(), Failure> {
    let spec = model_spec(&arguments.made_up);
    // Before there is a folder to be left behind.
    spec.check()?;
    let workplace = Workplace::new(arguments.keep.as_deref())?;
    let mut tour = Tour::new(&workplace, console);
    console.note("One model in two precisions, in one store\n")?;
    let high = match &arguments.model {
        Some(folder) => tour.take(folder)?,
        None => tour.make(&spec)?,
    };
    let low = tour.quantize(&high)?;
    let variants = [low, high];
    tour.pack(&variants)?;
    tour.verify()?;
    tour.restore(&variants)?;
    tour.load(&variants)?;
    tour.conclude(&variants)?;
    if arguments.keep.is_some() {
        console.note(format_args!(
            "\nEverything is in {}. Try: qstore inspect {} --tensors",
            workplace.folder().display(),
            workplace.path("store").display()
        ))?;
    }
    Ok(())
}

fn model_spec(made_up: &MadeUp) -> ModelSpec {
    let default = ModelSpec::default();
    let dtype = match made_up.dtype {
        None | Some(FloatType::Bf16) => Dtype::BF16,
        Some(FloatType::Fp16) => Dtype::F16,
        Some(FloatType::Fp32) => Dtype::F32,
    };
    let widths = ModelSpec::llama(
        made_up.hidden.unwrap_or(default.hidden),
        made_up.intermediate.unwrap_or(default.intermediate),
        made_up.layers.unwrap_or(default.layers),
        made_up.vocab.unwrap_or(default.vocab),
    );
    ModelSpec { tied: made_up.tied, seed: made_up.seed.unwrap_or(default.seed), dtype, ..widths }
}
