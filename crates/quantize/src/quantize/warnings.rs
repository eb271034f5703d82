//! Saying what a user may not expect of the quantised model.

use std::collections::BTreeMap;

use qstore_checkpoint::{Progress, Stop};

use super::checkpoint::SourceTensor;
use super::classes;
use super::int8::Int8;
use super::rule::{Choice, Model};
use super::task::{Recipe, Task, dtype_of};

/// What is warned of, by what is said of it.
type Groups<'a> = BTreeMap<String, Vec<&'a str>>;

fn tell(groups: &Groups<'_>, progress: &dyn Progress) -> Result<(), Stop> {
    groups.iter().try_for_each(|(what, names)| {
        let first = names.first().copied().unwrap_or_default();
        progress.warn(&match names.len() {
            1 => format!("{what}: {first}"),
            count => format!("{what}: {first} and {} more", count - 1),
        })
    })
}

/// Matrices that stay as they are for a reason that is no matter of course, and classes of which little is known.
pub(super) fn of_choices(
    model: Model<'_>,
    tensors: &[SourceTensor<'_>],
    choices: &[Choice],
    progress: &dyn Progress,
) -> Result<(), Stop> {
    let mut groups = Groups::new();
    for (tensor, choice) in tensors.iter().zip(choices) {
        if let Choice::Kept(reason) = choice
            && let Some(why) = reason.unusual()
        {
            groups.entry(format!("not quantized, being {why}")).or_default().push(&tensor.name);
        }
    }
    tell(&groups, progress)?;
    if !classes::is_verified(model.class) {
        let class = if model.class.is_empty() { "no model class" } else { model.class };
        progress.warn(&format!(
            "config.json names {class}, for which the choice of layers was not compared with that of transformers; config.json lists the \
             layers that were left alone, but see whether the result loads"
        ))?;
    }
    Ok(())
}

/// A model in which readers of GPTQ find nothing to load.
pub(super) fn of_no_blocks(progress: &dyn Progress) -> Result<(), Stop> {
    progress.warn(
        "no layer has the name of one in a list of blocks in which readers of GPTQ look (such as model.layers.0); all linear layers are \
         quantized, but see whether the result loads",
    )
}

/// Tensors that come out as another type, and those that do not come out.
pub(super) fn of_conversions(
    tasks: &[Task<'_>],
    tensors: &[SourceTensor<'_>],
    dropped: &[usize],
    progress: &dyn Progress,
) -> Result<(), Stop> {
    let mut groups = Groups::new();
    for task in tasks {
        let (from, to) = match task.recipe {
            Recipe::Cast { from, to } => (from, to),
            Recipe::Int8(Int8 { matrix, loaded }) if matrix.kind != loaded => (matrix.kind, loaded),
            _ => continue,
        };
        let what = format!(
            "converted from {} to {}, as transformers does on loading the model",
            dtype_of(from),
            dtype_of(to)
        );
        groups.entry(what).or_default().push(&task.source.name);
    }
    for &index in dropped {
        let what = "left out, being the input embeddings once more".to_owned();
        groups.entry(what).or_default().push(&tensors[index].name);
    }
    tell(&groups, progress)
}

/// Rows that INT8 cannot stand for: how many in which matrix.
pub(super) fn of_infinite_rows(matrices: &BTreeMap<&str, u64>, progress: &dyn Progress) -> Result<(), Stop> {
    let rows: u64 = matrices.values().sum();
    if let Some((first, _)) = matrices.first_key_value() {
        progress.warn(&format!(
            "{rows} rows have a weight beyond the range of FP16 (65504), so that their scale is infinite and their codes are 0, as with \
             bitsandbytes: {first}{}",
            if matrices.len() > 1 { ", ..." } else { "" }
        ))?;
    }
    Ok(())
}

/// Files that hold the weights in another form.
pub(super) fn of_files(left_out: &[&str], progress: &dyn Progress) -> Result<(), Stop> {
    if !left_out.is_empty() {
        let what = "not copied, being the weights in other files or left by training".to_owned();
        tell(&Groups::from([(what, left_out.to_vec())]), progress)?;
    }
    Ok(())
}
