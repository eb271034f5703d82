//! Making the INT8 twin of a model: LLM.int8() codes and scales as transformers and bitsandbytes write them, without either.
//!
//! The folder that comes out is the one that `from_pretrained(..., quantization_config=BitsAndBytesConfig(load_in_8bit=True))` and
//! `save_pretrained` make on a CPU, and the files that do not depend on the weights (tokenizer, generation settings) besides.

mod checkpoint;
mod classes;
mod config;
mod rule;
mod task;
#[cfg(test)]
mod tests;
mod tied;
mod values;
mod warnings;
mod write;

use std::path::Path;

use checkpoint::SourceTensor;
use config::Config;
use rule::{Choice, Model};
use task::{Recipe, Task};

use crate::error::{Error, Result};
use crate::ingest::{Source, scan_folder};
use crate::new_folder::NewFolder;
use crate::progress::Progress;
use crate::save::{MAX_SHARD_BYTES, NewTensor, lay_out, write_index};
use crate::scheme::FloatKind;
use crate::store::Options;

/// What [`quantize`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantized {
    /// Weight matrices that became INT8.
    pub quantized: u64,
    /// Tensors that did not.
    pub kept: u64,
    /// Bytes of the source's tensors.
    pub bytes_in: u64,
    /// Bytes of the new tensors.
    pub bytes_out: u64,
}

/// Makes the folder `target`, which must not exist or be empty, the INT8 twin of the Hugging Face model in folder `source`. It appears when it
/// is complete.
///
/// # Errors
/// A target that is taken, a folder that holds no model, or one that is quantised already or cannot be, or an I/O error. The target is then as
/// it was.
pub fn quantize(
    source: &Path,
    target: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Quantized> {
    quantize_in_shards(source, target, MAX_SHARD_BYTES, options, progress)
}

/// As [`quantize`], in files of at most `shard_bytes` of tensors.
fn quantize_in_shards(
    source: &Path,
    target: &Path,
    shard_bytes: u64,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Quantized> {
    let source = scan_folder(source)?;
    let config = checkpoint::config(&source)?;
    let tensors = checkpoint::tensors(&source)?;
    let model = config.model();
    let facts: Vec<_> = tensors.iter().map(facts).collect();
    let choices = rule::choose(model, &facts);
    check(&source, model, &tensors, &choices)?;
    let loaded = loaded_type(&source, &config, &tensors)?;
    let folder = NewFolder::begin(target)?;
    let dropped =
        if config.ties_embeddings() { tied::heads(&source, &tensors, &choices)? } else { Vec::new() };

    let (tasks, new_tensors) = tasks(model, loaded, &tensors, &choices, &dropped);
    let layout = lay_out(&new_tensors, shard_bytes)?;
    warnings::of_choices(model, &tensors, &choices, progress);
    warnings::of_conversions(&tasks, &tensors, &dropped, progress);

    write::tensors(&folder, &source, &tasks, &layout, options, progress)?;
    let floats = tasks.iter().filter(|t| FloatKind::of(t.source.array.dtype).is_some());
    let parameters = floats.map(|t| t.source.array.shape.iter().product::<u64>()).sum();
    write_index(&folder, &new_tensors, &layout, parameters)?;
    let skip = rule::skip_list(model, &facts, &choices);
    folder.write("config.json", &mut config.quantized(loaded, skip.as_deref()).as_bytes())?;
    write::other_files(&folder, &source, &tensors, progress)?;
    folder.commit()?;

    let quantized = tasks.iter().filter(|task| matches!(task.recipe, Recipe::Quantise { .. })).count() as u64;
    Ok(Quantized {
        quantized,
        kept: tasks.len() as u64 - quantized,
        bytes_in: tensors.iter().map(|t| t.array.bytes).sum(),
        bytes_out: new_tensors.iter().map(|t| t.bytes).sum(),
    })
}

fn facts<'a>(tensor: &'a SourceTensor<'_>) -> rule::Tensor<'a> {
    rule::Tensor { name: &tensor.name, dtype: tensor.array.dtype, shape: &tensor.array.shape }
}

/// Refuses models that are quantised already or have nothing to quantise.
fn check(source: &Source, model: Model<'_>, tensors: &[SourceTensor<'_>], choices: &[Choice]) -> Result<()> {
    let refuse = |what: String| Err(Error::input(source.path(), what));
    if classes::has_no_convertible_layers(model.model_type) {
        return refuse(format!(
            "transformers cannot quantize the layers of a {} model to INT8",
            model.model_type
        ));
    }
    let mut any = false;
    for (tensor, choice) in tensors.iter().zip(choices) {
        let (name, dtype) = (&tensor.name, tensor.array.dtype);
        let chosen = matches!(choice, Choice::Rows | Choice::Columns);
        let opaque =
            name.ends_with(".weight") && tensor.array.shape.len() == 2 && *choice == Choice::NoMatrix;
        let marks = [".SCB", ".qweight", ".weight_scale", ".weight_scale_inv"];
        if opaque || marks.iter().any(|end| name.ends_with(end)) {
            return refuse(format!(
                "the model is quantized already ({name} is {dtype}); give the folder that it was made from"
            ));
        }
        if chosen && FloatKind::of(dtype).is_none() {
            return refuse(format!("{name} is {dtype}; save the model in BF16, FP16 or FP32 first"));
        }
        any |= chosen;
    }
    if any {
        Ok(())
    } else {
        refuse("it has no weights of linear layers, so nothing would become INT8".to_owned())
    }
}

/// The type that transformers loads the model in: the one that the configuration says, else that of the first tensor of floats.
fn loaded_type(source: &Source, config: &Config, tensors: &[SourceTensor<'_>]) -> Result<FloatKind> {
    if let Some(kind) = config.dtype()? {
        return Ok(kind);
    }
    // The first by name in the first file by name; tensors are in the order of their names.
    let floats = tensors.iter().filter_map(|t| Some((FloatKind::of(t.array.dtype)?, t.array.file)));
    let first = floats.min_by_key(|(_, file)| source.files[*file].path.as_str());
    first.map(|(kind, _)| kind).ok_or_else(|| Error::input(source.path(), "it has no tensor of floats"))
}

/// What is made of each tensor that is not among `dropped`, and all that is made, in the same order.
fn tasks<'a>(
    model: Model<'_>,
    loaded: FloatKind,
    tensors: &'a [SourceTensor<'a>],
    choices: &[Choice],
    dropped: &[usize],
) -> (Vec<Task<'a>>, Vec<NewTensor>) {
    let (mut tasks, mut new_tensors) = (Vec::new(), Vec::new());
    for (index, (source, &choice)) in tensors.iter().zip(choices).enumerate() {
        if !dropped.contains(&index) {
            let recipe = recipe(model, loaded, source, choice);
            tasks.push(Task { source, recipe, first: new_tensors.len() });
            new_tensors.extend(recipe.outputs(source));
        }
    }
    (tasks, new_tensors)
}

fn recipe(model: Model<'_>, loaded: FloatKind, source: &SourceTensor<'_>, choice: Choice) -> Recipe {
    let Some(from) = FloatKind::of(source.array.dtype) else { return Recipe::Copy };
    let fp16 = loaded == FloatKind::F16;
    match (choice, &source.array.shape[..]) {
        (Choice::Rows, &[rows, cols]) => Recipe::Quantise { from, loaded, rows, cols, transposed: false },
        (Choice::Columns, &[cols, rows]) => Recipe::Quantise { from, loaded, rows, cols, transposed: true },
        // What transformers makes of the rest is known for the classes that were compared; any class converts when it loads.
        _ if !classes::is_verified(model.class) => Recipe::Copy,
        _ => {
            let fine =
                loaded != FloatKind::F32 && classes::is_loaded_as_fp32(model.class, &source.name, fp16);
            let to = if fine { FloatKind::F32 } else { loaded };
            if from == to { Recipe::Copy } else { Recipe::Cast { from, to } }
        }
    }
}
