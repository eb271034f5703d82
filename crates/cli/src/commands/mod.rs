//! What each command does.

mod analyze;
mod bench;
mod demo;
mod inspect;
mod load;
mod pack;
mod quantize;
mod unpack;
mod verify;

use std::ffi::OsString;

use qstore::WriteOptions;

use crate::args::{Arguments, Command, ShardSize};
use crate::failure::Failure;
use crate::output::Console;

/// Runs the command; `program` starts this program anew.
pub(crate) fn run(arguments: Arguments, program: Vec<OsString>) -> Result<(), Failure> {
    let Arguments { common, command } = arguments;
    let mut options = WriteOptions::default();
    // The library takes 0 for all cores.
    options.threads = common.threads.map_or(0, usize::from);
    options.memory = common.memory.unwrap_or(options.memory);
    let shard_size = match &command {
        Command::Pack(pack) => Some(&pack.shard_size),
        Command::Add(add) => Some(&add.shard_size),
        Command::Remove(remove) => Some(&remove.shard_size),
        Command::Demo(demo) => Some(&demo.shard_size),
        _ => None,
    };
    if let Some(ShardSize { shard_size: Some(size) }) = shard_size {
        options.shard_size = *size;
    }
    let console = Console::new(options, common.quiet);
    // Others have nothing to undo, or, as measurements, processes of their own that hear it as well.
    if !matches!(command, Command::Inspect(_) | Command::Bench(_) | Command::BenchWorker | Command::Demo(_)) {
        let reads = matches!(command, Command::Verify(_) | Command::Load(_));
        console.bars.heed_interrupts(!reads);
    }
    match command {
        Command::Pack(arguments) => pack::pack(arguments, &console),
        Command::Add(arguments) => pack::add(arguments, &console),
        Command::Remove(arguments) => pack::remove(&arguments, &console),
        Command::Unpack(arguments) => unpack::run(&arguments, &console),
        Command::Inspect(arguments) => inspect::run(&arguments, &console),
        Command::Verify(arguments) => verify::run(&arguments, &console),
        Command::Load(arguments) => load::run(&arguments, &console),
        Command::Quantize(arguments) => quantize::run(&arguments, &console),
        Command::Analyze(arguments) => analyze::run(&arguments, &console),
        Command::Bench(arguments) => bench::run(&arguments, program, &console),
        Command::BenchWorker => bench::work(),
        Command::Demo(arguments) => demo::run(&arguments, &console),
    }
}
