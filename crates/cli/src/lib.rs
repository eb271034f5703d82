//! The `qstore` command as a library, for programs that have it built in.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod output;
mod progress;
mod values;

use std::ffi::OsString;

use clap::Parser as _;

/// Runs a command line, of which the first argument is the command's name, and returns its exit status. `program` is
/// the program, with its first arguments, that does the same with the command lines of its own processes: `bench`
/// measures in such.
pub fn run(arguments: impl IntoIterator<Item = OsString>, program: Vec<OsString>) -> u8 {
    let arguments = match args::Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output, complaints to standard error; nobody is left to tell if that fails.
            drop(error.print());
            return u8::try_from(error.exit_code()).unwrap_or(u8::MAX);
        }
    };
    match commands::run(arguments, program) {
        Ok(()) => 0,
        Err(failure) => {
            output::complain(&failure);
            failure.exit_status()
        }
    }
}
