//! Writing the files of the quantised model.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use qstore_checkpoint::{
    Error, IoContext as _, NewFolder, Options, Progress, Result, Source, SourceFile, Window, ordered,
};

use super::checkpoint::{self, Fate, SourceTensor};
use super::task::{BLOCK_MEMORY, Done, Part, Task};
use super::warnings;
use crate::save::{Layout, TensorFiles};

/// Makes all new tensors and writes them to their places, a bounded number of blocks at a time.
pub(super) fn tensors(
    folder: &NewFolder,
    source: &Source,
    tasks: &[Task<'_>],
    layout: &Layout,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let memory = options.memory.max(BLOCK_MEMORY);
    let widest = tasks.iter().max_by_key(|task| task.line_memory());
    if let Some(task) = widest.filter(|task| task.line_memory() > memory) {
        let (name, need) = (&task.source.name, task.line_memory());
        let what = format!(
            "the smallest block of {name} takes {need} bytes of memory to quantize; allow more (--memory)"
        );
        return Err(Error::usage(format!("{}: {what}", source.path().display())));
    }
    let mut files = TensorFiles::create(folder, layout)?;
    let pool = options.pool()?;
    let each = widest.map_or(0, Task::line_memory).max(BLOCK_MEMORY);
    let window = Window { jobs: pool.current_num_threads() * 4, bytes: memory };
    progress.begin("quantizing", tasks.iter().map(|task| task.source.array.bytes).sum())?;
    let mut infinite: BTreeMap<&str, u64> = BTreeMap::new();
    let blocks = tasks.iter().flat_map(Task::blocks).map(Ok);
    ordered(
        &pool,
        window,
        blocks,
        |_| each,
        |block| block.run(source),
        |done: Done<'_>| {
            for (tensor, offset, bytes) in done.parts.iter().flat_map(Part::pieces) {
                files.write(done.task.first + tensor, offset, bytes)?;
            }
            if done.infinite_rows > 0 {
                *infinite.entry(done.task.source.name.as_str()).or_default() += done.infinite_rows;
            }
            Ok(progress.advance(done.read)?)
        },
    )?;
    files.finish(folder)?;
    Ok(warnings::of_infinite_rows(&infinite, progress)?)
}

/// The files that are copied.
pub(super) fn copied<'a>(
    source: &'a Source,
    tensors: &'a [SourceTensor<'a>],
) -> impl Iterator<Item = &'a SourceFile> {
    let files = source.files.iter().enumerate();
    let is_copied = |(index, file): &(usize, &SourceFile)| {
        matches!(checkpoint::fate(*index, file.path.as_str(), tensors), Fate::Copied)
    };
    files.filter(move |file| is_copied(file)).map(|(_, file)| file)
}

/// Copies what belongs to the model besides its weights and configuration.
pub(super) fn other_files(
    folder: &NewFolder,
    source: &Source,
    tensors: &[SourceTensor<'_>],
    progress: &dyn Progress,
) -> Result<()> {
    let mut left_out = Vec::new();
    for (index, file) in source.files.iter().enumerate() {
        let path: PathBuf = source.path().join(file.path.as_str());
        match checkpoint::fate(index, file.path.as_str(), tensors) {
            Fate::Copied => {
                let mut content = File::open(&path).at(&path, "cannot open")?;
                folder.write(file.path.as_str(), &mut content)?;
            }
            Fate::LeftOut => left_out.push(file.path.as_str()),
            Fate::Replaced => {}
        }
    }
    Ok(warnings::of_files(&left_out, progress)?)
}
