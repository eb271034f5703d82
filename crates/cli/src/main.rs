//! The `qstore` command: one lossless store for one model in every precision that it ships in.

#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Without its path it is found again by its name.
    let program = env::current_exe().map_or_else(|_| "qstore".into(), Into::into);
    ExitCode::from(qstore_cli::run(env::args_os(), vec![program]))
}
