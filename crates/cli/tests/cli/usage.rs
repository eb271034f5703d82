//! What people are told when something is wrong, and the exit status that scripts see.

use std::fs;

use crate::support::{Pair, run, succeed};

#[test]
fn wrong_use_exits_with_2_and_says_what_is_wrong() {
    let pair = Pair::new();
    let store = pair.pack();
    let (bf16, int8, new) = (pair.named("bf16"), pair.named("int8"), pair.path("new"));
    let (folder, none) = (pair.path("bf16"), pair.path("none"));
    let missing = format!("x={none}");
    let twice = format!("bf16={}", pair.path("int8"));
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage: qstore"),
        (&["pick"], "unrecognized subcommand"),
        (&["pack", "-o", &new], "NAME=DIR"),
        (&["pack", &bf16], "--output"),
        (&["pack", &folder, "-o", &new], "write NAME=DIR"),
        (&["pack", "=x", "-o", &new], "no name before the '='"),
        (&["pack", "x=", "-o", &new], "no folder after the '='"),
        (&["pack", "my model=x", "-o", &new], "cannot name a variant"),
        (&["pack", &missing, "-o", &new], "no such folder"),
        (&["pack", &bf16, &twice, "-o", &new], "bf16"),
        (&["pack", &bf16, "-o", &store], "qstore add"),
        (&["pack", &bf16, "-o", &folder], "not an empty folder"),
        (&["pack", &bf16, "-o", &new, "--verbatim", "int8"], "--verbatim int8: no variant of that name"),
        (&["pack", &bf16, "-o", &new, "--memory", "1G"], "1GB (1000s) or 1GiB (1024s)"),
        (&["pack", &bf16, "-o", &new, "--shard-size", "huge"], "size"),
        (&["pack", &bf16, "-o", &new, "--threads", "0"], "1..=1024"),
        (&["add", &store, &int8], "already"),
        (&["add", &none, &int8], "no store"),
        (&["remove", &store, "fp16"], "no variant fp16"),
        (&["unpack", &store, "fp16", "-o", &new], "bf16"),
        (&["unpack", &store, "bf16", "-o", &folder], "not an empty folder"),
        (&["inspect", &folder], "no store"),
        (&["verify", &store, "fp16"], "fp16"),
        (&["load", &store, "fp16", "--json"], "fp16"),
        (&["quantize", &folder, "--to", "int7", "-o", &new], "int8"),
        (&["quantize", &none, "--to", "int8", "-o", &new], "none"),
        (&["quantize", &folder, "--to", "gptq8", "--group-size", "100", "-o", &new], "16, 32, 64"),
        (&["quantize", &folder, "--to", "int8", "--group-size", "64", "-o", &new], "--group-size is for"),
        (&["quantize", &folder, "--to", "int8", "--asymmetric", "-o", &new], "--asymmetric is for"),
        (&["bench"], "NAME=DIR"),
        (&["bench", &missing, "-o", &new], "no such folder"),
        (&["bench", &bf16, &twice, "-o", &new], "two folders are named bf16"),
        (&["bench", &bf16, "--peers", "none,gzip", "-o", &new], "[possible values: none, lz4"),
        (&["bench", &bf16, "--bandwidth", "20,fast", "-o", &new], "invalid digit"),
        (&["bench", &bf16, "--bandwidth", "0", "-o", &new], "1..=1000000"),
        (&["bench", &bf16, "--repeats", "0", "-o", &new], "1..=1000"),
        (&["bench", &bf16, "--cache", "cold", "-o", &new], "warm, dropped, both"),
        (&["bench", &bf16, "--dir", &none, "-o", &new], "name another with --dir"),
        (&["bench", &bf16, "-o", &folder], "not empty"),
        (&["bench", &bf16, "--peers", "zipnn", "--python", &none, "-o", &new], "pip install zipnn"),
        (&["demo", "--model", &folder, "--hidden", "64"], "cannot be used with"),
        (&["demo", "--hidden", "65"], "must be even"),
        (&["demo", "--keep", &folder], "not empty"),
    ];
    for (arguments, part) in cases {
        let done = run(arguments);
        assert_eq!(done.status, 2, "{arguments:?}: {done:?}");
        assert!(done.stderr.contains(part), "{arguments:?}: {done:?}");
        assert_eq!(done.stdout, "", "{arguments:?}: standard output is for results");
        assert!(!fs::exists(&new).unwrap(), "{arguments:?} left something");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_stored_exits_with_1() {
    let pair = Pair::new();
    let path = pair.path("bf16/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let done = run(&["pack", &pair.named("bf16"), "-o", &pair.path("store")]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.stderr.contains("model.safetensors") && done.stderr.contains("cut short"), "{done:?}");
    assert!(!fs::exists(pair.path("store")).unwrap());
}

#[test]
fn help_shows_how() {
    let help = succeed(&["--help"]);
    for command in
        ["pack", "add", "remove", "unpack", "inspect", "verify", "load", "quantize", "bench", "demo"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in the list");
        let help = succeed(&[command, "--help"]);
        assert!(help.contains(&format!("\n  qstore {command} ")), "{command} has no example: {help}");
        assert!(help.contains("--threads"), "{command}: {help}");
    }
    assert!(help.contains("Exit status"));
    assert!(!help.contains("bench-worker"), "that is for `bench` alone");
    assert!(succeed(&["--version"]).starts_with("qstore "));
}
