//! Making the low-precision twin of a model, without the libraries that do it otherwise.
//!
//! For LLM.int8() the folder that comes out is the one that `from_pretrained(...,
//! quantization_config=BitsAndBytesConfig(load_in_8bit=True))` and `save_pretrained` make on a CPU. For GPTQ it is laid
//! out as gptqmodel's are, with codes rounded to nearest. The files that do not depend on the weights (tokenizer,
//! generation settings) come along.

mod blocks;
mod checkpoint;
mod classes;
mod config;
mod gptq;
mod int8;
mod matrix;
mod precision;
mod row;
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
use gptq::GptqMatrix;
use int8::Int8;
use matrix::Matrix;
use qstore_checkpoint::{
    Error, FloatKind, NewFolder, Options, Progress, Result, Scan, Source, check_apart, check_free,
    scan_folder,
};
use rule::{Choice, Model};
use task::{Recipe, Task};

use crate::save::{MAX_SHARD_BYTES, NewTensor, lay_out, python_json, write_index};

pub use precision::{Gptq, GptqBits, GroupSize, Precision, ZeroPoint};

/// What [`quantize`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantized {
    /// Weight matrices that were quantised.
    pub quantized: u64,
    /// Tensors that did not.
    pub kept: u64,
    /// Bytes of the source's tensors.
    pub bytes_in: u64,
    /// Bytes of the new tensors.
    pub bytes_out: u64,
}

/// Makes the folder `target`, which must not exist or be empty, the twin in `precision` of the Hugging Face model in
/// folder `source`. It appears when it is complete.
///
/// # Errors
/// A target that is taken, a folder that holds no model, or one that is quantised already or cannot be, or an I/O
/// error. The target is then as it was.
pub fn quantize(
    source: &Path,
    target: &Path,
    precision: Precision,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Quantized> {
    quantize_in_shards(source, target, precision, MAX_SHARD_BYTES, options, progress)
}

/// As [`quantize`], in files of at most `shard_bytes` of tensors.
fn quantize_in_shards(
    source: &Path,
    target: &Path,
    precision: Precision,
    shard_bytes: u64,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Quantized> {
    check_free(target)?;
    check_apart(source, target)?;
    let source = scan_folder(source, &Scan::default(), progress)?;
    let config = checkpoint::config(&source)?;
    let tensors = checkpoint::tensors(&source)?;
    let model = config.model();
    let facts: Vec<_> = tensors.iter().map(facts).collect();
    let mut choices = rule::choose(model, &facts);
    check(&source, model, precision, &tensors, &choices)?;
    let quantization = match precision {
        Precision::Int8 => int8::quantization_config(rule::skip_list(model, &facts, &choices).as_deref()),
        Precision::Gptq(gptq) => {
            let list = blocks::find(&facts, &choices);
            match list {
                Some(list) => blocks::keep_outside(list, &facts, &mut choices),
                None => warnings::of_no_blocks(progress)?,
            }
            let kept = list.map(|list| blocks::kept_within(list, &facts, &choices));
            gptq::quantization_config(&gptq, &kept.unwrap_or_default())
        }
    };
    let loaded = loaded_type(&source, &config, &tensors)?;
    let folder = NewFolder::begin(target)?;
    let dropped =
        if config.ties_embeddings() { tied::heads(&source, &tensors, &choices)? } else { Vec::new() };

    let making = Making { precision, model, loaded };
    let (tasks, new_tensors) = making.tasks(&source, &tensors, &choices, &dropped)?;
    let layout = lay_out(&new_tensors, shard_bytes)?;
    let beside = write::copied(&source, &tensors).map(|file| file.bytes);
    folder.check_room(layout.files.iter().map(|file| file.bytes).chain(beside))?;
    warnings::of_choices(model, &tensors, &choices, progress)?;
    warnings::of_conversions(&tasks, &tensors, &dropped, progress)?;

    write::tensors(&folder, &source, &tasks, &layout, options, progress)?;
    let floats = tasks.iter().filter(|t| FloatKind::of(t.source.array.dtype).is_some());
    let parameters = floats.map(|t| t.source.array.shape.iter().product::<u64>()).sum();
    write_index(&folder, &new_tensors, &layout, parameters)?;
    if matches!(precision, Precision::Gptq(_)) {
        folder.write(gptq::FILE, &mut python_json::print(quantization.clone()).as_bytes())?;
    }
    folder.write("config.json", &mut config.quantized(loaded, quantization).as_bytes())?;
    write::other_files(&folder, &source, &tensors, progress)?;
    folder.commit(progress)?;

    let quantized = tasks.iter().filter(|task| task.recipe.matrix().is_some()).count() as u64;
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
fn check(
    source: &Source,
    model: Model<'_>,
    precision: Precision,
    tensors: &[SourceTensor<'_>],
    choices: &[Choice],
) -> Result<()> {
    let refuse = |what: String| Err(Error::input(source.path(), what));
    if classes::has_no_convertible_layers(model.model_type) {
        return refuse(format!(
            "transformers cannot use the layers of a {} model in {precision}",
            model.model_type
        ));
    }
    let mut any = false;
    for (tensor, choice) in tensors.iter().zip(choices) {
        let (name, dtype) = (&tensor.name, tensor.array.dtype);
        let chosen = choice.is_quantised();
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
        refuse(format!("it has no weights of linear layers, so nothing would become {precision}"))
    }
}

/// The type that transformers loads the model in: the one that the configuration says, else that of the first tensor of
/// floats.
fn loaded_type(source: &Source, config: &Config, tensors: &[SourceTensor<'_>]) -> Result<FloatKind> {
    if let Some(kind) = config.dtype()? {
        return Ok(kind);
    }
    // The first by name in the first file by name; tensors are in the order of their names.
    let floats = tensors.iter().filter_map(|t| Some((FloatKind::of(t.array.dtype)?, t.array.file)));
    let first = floats.min_by_key(|(_, file)| source.files[*file].path.as_str());
    first.map(|(kind, _)| kind).ok_or_else(|| Error::input(source.path(), "it has no tensor of floats"))
}

/// What decides how tensors are made.
struct Making<'a> {
    precision: Precision,
    model: Model<'a>,
    loaded: FloatKind,
}

impl Making<'_> {
    /// What is made of each tensor that is not among `dropped`, and all that is made, in the same order.
    fn tasks<'t>(
        &self,
        source: &Source,
        tensors: &'t [SourceTensor<'t>],
        choices: &[Choice],
        dropped: &[usize],
    ) -> Result<(Vec<Task<'t>>, Vec<NewTensor>)> {
        let (mut tasks, mut new_tensors) = (Vec::new(), Vec::new());
        for (index, (tensor, &choice)) in tensors.iter().zip(choices).enumerate() {
            if !dropped.contains(&index) {
                let recipe = self.recipe(tensor, choice);
                if let Recipe::Gptq(gptq) = recipe
                    && let Some(misfit) = gptq.misfit()
                {
                    let what = format!("{} {misfit}", tensor.name);
                    return Err(Error::input(source.path_of(tensor.array), what));
                }
                tasks.push(Task { source: tensor, recipe, first: new_tensors.len() });
                new_tensors.extend(recipe.outputs(tensor));
            }
        }
        Ok((tasks, new_tensors))
    }

    fn recipe(&self, tensor: &SourceTensor<'_>, choice: Choice) -> Recipe {
        let Some(kind) = FloatKind::of(tensor.array.dtype) else { return Recipe::Copy };
        match (choice, &tensor.array.shape[..]) {
            (Choice::Rows, &[rows, cols]) => self.quantised(Matrix { kind, rows, cols, transposed: false }),
            (Choice::Columns, &[cols, rows]) => self.quantised(Matrix { kind, rows, cols, transposed: true }),
            _ => self.kept(tensor, kind),
        }
    }

    fn quantised(&self, matrix: Matrix) -> Recipe {
        match self.precision {
            Precision::Int8 => Recipe::Int8(Int8 { matrix, loaded: self.loaded }),
            Precision::Gptq(gptq) => Recipe::Gptq(GptqMatrix { matrix, gptq }),
        }
    }

    fn kept(&self, tensor: &SourceTensor<'_>, from: FloatKind) -> Recipe {
        // What transformers makes of the rest on its way to LLM.int8() is known for the classes that were compared; any
        // class converts when it loads. GPTQ folders keep what they do not quantise.
        if self.precision != Precision::Int8 || !classes::is_verified(self.model.class) {
            return Recipe::Copy;
        }
        let fp16 = self.loaded == FloatKind::F16;
        let fine =
            self.loaded != FloatKind::F32 && classes::is_loaded_as_fp32(self.model.class, &tensor.name, fp16);
        let to = if fine { FloatKind::F32 } else { self.loaded };
        if from == to { Recipe::Copy } else { Recipe::Cast { from, to } }
    }
}
