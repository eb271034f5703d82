//! Making the INT8 twin of a model: LLM.int8() codes and scales as transformers and bitsandbytes write them, without either.
//!
//! The folder that comes out is the one that `from_pretrained(..., quantization_config=BitsAndBytesConfig(load_in_8bit=True))` and
//! `save_pretrained` make on a CPU, and the files that do not depend on the weights (tokenizer, generation settings) besides.

mod checkpoint;
mod classes;
mod config;
mod json;
mod layout;
mod new_folder;
mod rule;
mod task;
mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use checkpoint::{Fate, SourceTensor};
use config::Config;
use layout::{Layout, NewTensor};
use new_folder::NewFolder;
use rule::{Choice, Model};
use task::{BLOCK_MEMORY, Done, Recipe, Task};

use crate::error::{Error, IoContext as _, Result};
use crate::ingest::{Source, scan_folder};
use crate::pipeline;
use crate::progress::Progress;
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
    let source = scan_folder(source)?;
    let config = checkpoint::config(&source)?;
    let all = checkpoint::tensors(&source)?;
    let tied = tied_heads(&source, &config, &all)?;
    let (tensors, dropped): (Vec<_>, Vec<_>) = all.iter().partition(|t| !tied.contains(&t.name.as_str()));
    let facts: Vec<_> = tensors.iter().map(|tensor| facts(tensor)).collect();
    let choices = rule::choose(config.model(), &facts);
    check(&source, config.model(), &tensors, &choices)?;
    let loaded = loaded_type(&source, &config, &all)?;

    let (tasks, new_tensors) = tasks(config.model(), loaded, &tensors, &choices);
    let layout = layout::lay_out(&new_tensors, layout::MAX_SHARD_BYTES)
        .map_err(|what| Error::usage(format!("{}: {what}", target.display())))?;
    let skip = rule::skip_list(config.model(), &facts, &choices);
    warn_of_choices(config.model(), &facts, &choices, progress);
    warn_of_tensors(&tasks, &dropped, progress);

    let folder = NewFolder::begin(target)?;
    write_tensors(&folder, &source, &tasks, &layout, options, progress)?;
    if layout.files.len() > 1 {
        let parameters = tensors.iter().filter(|t| FloatKind::of(t.array.dtype).is_some());
        let parameters = parameters.map(|t| t.array.shape.iter().product::<u64>()).sum();
        let index = layout::index(&new_tensors, &layout, parameters);
        folder.write("model.safetensors.index.json", &mut index.as_bytes())?;
    }
    folder.write("config.json", &mut config.quantized(loaded, skip.as_deref()).as_bytes())?;
    copy_other_files(&folder, &source, &all, progress)?;
    folder.commit()?;

    let quantized = tasks.iter().filter(|task| matches!(task.recipe, Recipe::Quantise { .. })).count() as u64;
    Ok(Quantized {
        quantized,
        kept: tasks.len() as u64 - quantized,
        bytes_in: all.iter().map(|t| t.array.bytes).sum(),
        bytes_out: new_tensors.iter().map(|t| t.bytes).sum(),
    })
}

fn facts<'a>(tensor: &'a SourceTensor<'_>) -> rule::Tensor<'a> {
    rule::Tensor { name: &tensor.name, dtype: tensor.array.dtype, shape: &tensor.array.shape }
}

/// What is made of each tensor, and all that is made, in the same order.
fn tasks<'a>(
    model: Model<'_>,
    loaded: FloatKind,
    tensors: &[(&'a SourceTensor<'a>, Choice)],
) -> (Vec<Task<'a>>, Vec<NewTensor>) {
    let (mut tasks, mut new_tensors) = (Vec::new(), Vec::new());
    for &(source, choice) in tensors {
        let recipe = recipe(model, loaded, source, choice);
        tasks.push(Task { source, recipe, first: new_tensors.len() });
        new_tensors.extend(recipe.outputs(source));
    }
    (tasks, new_tensors)
}

fn recipe(model: Model<'_>, loaded: FloatKind, source: &SourceTensor<'_>, choice: Choice) -> Recipe {
    let (dtype, shape) = (source.array.dtype, &source.array.shape[..]);
    let Some(from) = FloatKind::of(dtype) else { return Recipe::Copy };
    let fp16 = loaded == FloatKind::F16;
    match (choice, shape) {
        (Choice::Rows, &[rows, cols]) => Recipe::Quantise { from, loaded, rows, cols, transposed: false },
        (Choice::Columns, &[cols, rows]) => Recipe::Quantise { from, loaded, rows, cols, transposed: true },
        // What transformers does with the rest is only known for the classes that were looked at; it converts on loading if need be.
        _ if !classes::is_verified(model.class) => Recipe::Copy,
        _ => {
            let fp32 = loaded != FloatKind::F32 && classes::is_loaded_as_fp32(model.class, &source.name, fp16);
            let to = if fp32 { FloatKind::F32 } else { loaded };
            if from == to { Recipe::Copy } else { Recipe::Cast { from, to } }
        }
    }
}

/// Refuses models that have nothing to quantise or are quantised already.
fn check(source: &Source, model: Model<'_>, tensors: &[(&SourceTensor<'_>, Choice)]) -> Result<()> {
    let refuse = |what: String| Err(Error::input(source.path(), what));
    if classes::has_no_convertible_layers(model.model_type) {
        let what = format!("transformers cannot quantize the layers of a {} model to INT8", model.model_type);
        return refuse(what);
    }
    for (tensor, choice) in tensors {
        let (name, dtype) = (&tensor.name, tensor.array.dtype);
        let quantised = [".SCB", ".qweight", ".weight_scale", ".weight_scale_inv"];
        let opaque = name.ends_with(".weight") && tensor.array.shape.len() == 2 && *choice == Choice::NoMatrix;
        if opaque || quantised.iter().any(|end| name.ends_with(end)) {
            return refuse(format!(
                "the model is quantized already ({name} is {dtype}); give the folder that it was made from"
            ));
        }
        if matches!(choice, Choice::Rows | Choice::Columns) && FloatKind::of(dtype).is_none() {
            return refuse(format!("{name} is {dtype}; save the model in BF16, FP16 or FP32 first"));
        }
    }
    if !tensors.iter().any(|(_, choice)| matches!(choice, Choice::Rows | Choice::Columns)) {
        return refuse("no tensor in it is the weight of a linear layer, so nothing would become INT8".to_owned());
    }
    Ok(())
}

/// The type that transformers loads the model in: the one that the configuration says, else that of the first tensor of floats.
fn loaded_type(source: &Source, config: &Config, tensors: &[SourceTensor<'_>]) -> Result<FloatKind> {
    if let Some(kind) = config.dtype()? {
        return Ok(kind);
    }
    let floats = tensors.iter().filter_map(|t| Some((FloatKind::of(t.array.dtype)?, t.array.file)));
    // Tensors are in the order of their names, and the first of the shards counts.
    let first = floats.min_by_key(|(_, file)| source.files[*file].path.as_str());
    first.map(|(kind, _)| kind).ok_or_else(|| Error::input(source.path(), "it has no tensor of floats"))
}

/// Which tensors are left out because they repeat the input embeddings: where the configuration ties the output head to them, transformers
/// saves one of the two.
fn tied_heads(
    source: &Source,
    config: &Config,
    tensors: &[SourceTensor<'_>],
    choices: &[Choice],
) -> Result<Vec<bool>> {
    let of = |reason| {
        let kept = move |(_, choice): &(&SourceTensor<'_>, &Choice)| **choice == Choice::Kept(reason);
        tensors.iter().zip(choices).filter(kept).map(|(tensor, _)| tensor)
    };
    let mut tied = vec![false; tensors.len()];
    if !config.ties_embeddings() {
        return Ok(tied);
    }
    for (head, tied) in tensors.iter().zip(&mut tied).filter(|(t, _)| of(Reason::Head).any(|h| h.name == t.name)) {
        for embedding in of(Reason::Embedding) {
            *tied |= same(source, head, embedding)?;
        }
    }
    Ok(tied)
}

/// Whether two tensors have the same type, shape and bytes.
fn same(source: &Source, a: &SourceTensor<'_>, b: &SourceTensor<'_>) -> Result<bool> {
    const BLOCK: u64 = 1 << 20;
    let (a, b) = (a.array, b.array);
    if (a.dtype, &a.shape) != (b.dtype, &b.shape) {
        return Ok(false);
    }
    for start in (0..a.bytes).step_by(1 << 20) {
        let length = (a.bytes - start).min(BLOCK);
        let mut blocks = [zeroed(length), zeroed(length)];
        for (block, array) in blocks.iter_mut().zip([a, b]) {
            match block {
                Ok(bytes) => source.read(array, start, bytes)?,
                Err(_) => {}
            }
        }
        let [a, b] = blocks;
        if a.at(source.path(), "cannot read")? != b.at(source.path(), "cannot read")? {
            return Ok(false);
        }
    }
    Ok(true)
}
