//! Where stores and folders are written: names that are taken, and file systems of their own.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Pair, files, run, succeed};

/// A script in namespaces of our own, in which it may mount what it likes; `None` where that cannot be had.
fn with_mounts(script: &str, folder: &Path) -> Option<Output> {
    let run = |script: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["-rm", "sh", "-euc", script]).env("QSTORE", env!("CARGO_BIN_EXE_qstore"));
        shell.current_dir(folder).output()
    };
    let probe = run("mount -t tmpfs tmpfs /mnt");
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: no file systems of our own here");
        return None;
    }
    Some(run(script).unwrap())
}

/// A name that is taken is refused with exit status 2, and whoever has it keeps it.
#[test]
fn names_that_are_taken() {
    let pair = Pair::new();
    let (store, mine) = (PathBuf::from(pair.path("store")), PathBuf::from(pair.path("mine")));
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("notes"), "mine").unwrap();
    succeed(&["pack", &pair.named("bf16"), "-o", &pair.path("store")]);
    let taken = store.join("int8");
    let kinds: [&dyn Fn(); 3] = [
        &|| fs::write(&taken, "mine").unwrap(),
        &|| {
            fs::create_dir(&taken).unwrap();
            fs::write(taken.join("notes"), "mine").unwrap();
        },
        &|| std::os::unix::fs::symlink(&mine, &taken).unwrap(),
    ];
    for put in kinds {
        put();
        let before = (files(&store), files(&mine), taken.is_symlink());
        let done = run(&["add", &pair.path("store"), &pair.named("int8"), "--verbatim", "int8"]);
        assert_eq!(done.status, 2, "{done:?}");
        assert!(done.stderr.contains("store/int8") && done.stderr.contains("move it elsewhere"), "{done:?}");
        assert!((files(&store), files(&mine), taken.is_symlink()) == before);
        if taken.is_dir() && !taken.is_symlink() {
            fs::remove_dir_all(&taken)
        } else {
            fs::remove_file(&taken)
        }
        .unwrap();
    }
    succeed(&["add", &pair.path("store"), &pair.named("int8"), "--verbatim", "int8"]);
}

/// An empty mounted file system is a target, were there no room beside it; one that is too small is refused before
/// anything is written.
#[test]
fn mount_points() {
    let pair = Pair::new();
    succeed(&["pack", &pair.named("bf16"), &pair.named("int8"), "-o", &pair.path("store")]);
    let script = r#"
        mkdir parent; mount -t tmpfs -o size=64k tmpfs parent; mkdir parent/target
        mount -t tmpfs -o size=4m tmpfs parent/target; mkdir parent/target/lost+found
        head -c 100000 /dev/zero > parent/full 2>/dev/null || true
        "$QSTORE" -q unpack store bf16 -o parent/target
        rmdir parent/target/lost+found; diff -r bf16 parent/target; rm -r parent/target/*
        "$QSTORE" -q quantize bf16 --to int8 -o parent/target; rm -r parent/target/*
        "$QSTORE" -q pack bf16=bf16 -o parent/target; "$QSTORE" -q verify parent/target
        umount parent/target; mount -t tmpfs -o size=100k tmpfs parent/target
        for command in "unpack store bf16" "quantize bf16 --to int8"; do
            if "$QSTORE" -q $command -o parent/target; then exit 3; fi
            test -z "$(ls -A parent/target)"
        done"#;
    let Some(output) = with_mounts(script, Path::new(&pair.path(""))) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("parent/target: not enough room").count(), 2, "{said}");
}

/// A folder in which nothing may be made is no obstacle to what lies in it.
#[test]
fn a_parent_that_cannot_be_written() {
    let pair = Pair::new();
    succeed(&["pack", &pair.named("bf16"), "-o", &pair.path("store")]);
    let script = r#"
        mkdir parent; mkdir parent/target; mount -t tmpfs tmpfs parent/target; mount --bind parent parent
        mount -o remount,ro,bind parent; mount -t tmpfs tmpfs parent/target
        if touch parent/x 2>/dev/null; then exit 3; fi
        "$QSTORE" -q unpack store bf16 -o parent/target; diff -r bf16 parent/target"#;
    let Some(output) = with_mounts(script, Path::new(&pair.path(""))) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
