//! The first command that a newcomer runs.

use std::fs;
use std::path::Path;

use crate::support::{Pair, command, files, run, succeed};

const TINY: [&str; 9] =
    ["demo", "--hidden", "128", "--intermediate", "256", "--layers", "2", "--vocab", "500"];

#[test]
fn tells_its_steps_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let output = command(&TINY).env("TMPDIR", temporary.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in
        ["1. Made up", "INT8", "Packed", "Verified", "Restored int8", "Restored bf16", "Loaded bf16", "total"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn keeps_what_it_made_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let keep = dir.path().join("demo");
    let keep = keep.to_str().unwrap();
    let text = succeed(&[&TINY[..], &["--dtype", "fp16", "--tied", "--seed", "3", "--keep", keep]].concat());
    assert!(text.contains("Restored fp16") && text.contains("qstore inspect"), "{text}");
    let keep = Path::new(keep);
    assert!(files(&keep.join("model")) == files(&keep.join("restored-fp16")));
    assert!(files(&keep.join("model-int8")) == files(&keep.join("restored-int8")));
    succeed(&["verify".as_ref(), keep.join("store").as_os_str()]);
}

#[test]
fn works_on_a_model_of_ones_own() {
    let pair = Pair::new();
    let text = succeed(&["demo", "--model", &pair.path("bf16"), "-q"]);
    assert!(text.contains("bf16") && text.contains("total") && !text.contains("Restored"), "{text}");
    let done = run(&["demo", "--model", &pair.path("none")]);
    assert_eq!(done.status, 2, "{done:?}");
    assert!(done.stderr.contains("no such folder"), "{done:?}");
}
