//! `qstore inspect STORE --tensors | head` once ended in a panic in many a tool: Rust ignores SIGPIPE, and `println!`
//! panics when its write fails.

use std::process::Stdio;

use crate::support::{Pair, command};

#[test]
fn a_reader_that_leaves_is_no_error() {
    let pair = Pair::new();
    let store = pair.pack();
    let unpacked = pair.path("unpacked");
    let commands: [&[&str]; 7] = [
        &["inspect", &store, "--tensors"],
        &["inspect", &store, "--json"],
        &["verify", &store],
        &["load", &store, "int8", "--json"],
        &["unpack", &store, "bf16", "-o", &unpacked],
        &["--help"],
        &["--version"],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn errors_need_no_reader_either() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&["inspect", "/no/such/store"]).stderr(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
