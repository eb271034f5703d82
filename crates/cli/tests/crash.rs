//! A change to a store is killed, again and again, a little later each time: the store is then the old one or the new one, what is left over is
//! known as such, and the same command succeeds afterwards.
//!
//! The binary is killed from outside, as a machine that loses power or a scheduler does it; nothing in it can prepare for that.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use qstore::{ModelSpec, Options, Silent, Store, VariantName, inspect, quantize, synthesise, unpack, verify};

/// Moments at which a change is killed, spread over somewhat more than its duration.
const KILLS: u32 = 24;

/// A pair of a few megabytes: a change takes long enough to be hit at every stage.
fn make_pair(root: &Path) {
    let spec = ModelSpec::llama(256, 768, 2, 1000);
    synthesise(&spec, &root.join("bf16"), &Options::default(), &Silent).unwrap();
    quantize(&root.join("bf16"), &root.join("int8"), &Options::default(), &Silent).unwrap();
}

fn qstore(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qstore"));
    command
        .current_dir(root)
        .args(["--threads", "2"])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn run(root: &Path, arguments: &[&str]) {
    let status = qstore(root, arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
}

/// Runs the command on a fresh state again and again, killing it after longer and longer times, and calls `check` after each.
fn kill_at_many_moments(root: &Path, arguments: &[&str], prepare: impl Fn(), check: impl Fn()) {
    prepare();
    let begun = Instant::now();
    run(root, arguments);
    let whole = begun.elapsed();
    let mut killed = 0;
    for moment in 0..KILLS {
        prepare();
        let mut child = qstore(root, arguments).spawn().unwrap();
        sleep(whole * moment / (KILLS - 4));
        // Fails if it is done already, which the last moments are for.
        drop(child.kill());
        killed += u32::from(!child.wait().unwrap().success());
        check();
    }
    assert!(killed >= KILLS / 4, "only {killed} of {KILLS} were hit: the test does not test");
}

fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Every variant of the store decodes to what was packed, and is the folder of its name in `root`.
fn assert_sound(root: &Path) -> Vec<String> {
    let store = Store::open(&root.join("store")).unwrap();
    let options = Options::default();
    let found = verify(&store, None, false, &options, &Silent).unwrap();
    assert!(found.is_sound(), "{found:?}");
    let names: Vec<VariantName> = store.manifest().variants.iter().map(|v| v.name.clone()).collect();
    for name in &names {
        let out = root.join("out");
        unpack(&store, name, &out, &options, &Silent).unwrap();
        for entry in fs::read_dir(root.join(name.as_str())).unwrap() {
            let entry = entry.unwrap();
            let same = fs::read(entry.path()).unwrap() == fs::read(out.join(entry.file_name())).unwrap();
            assert!(same, "{name}: {} differs", entry.path().display());
        }
        fs::remove_dir_all(out).unwrap();
    }
    names.iter().map(ToString::to_string).collect()
}

fn assert_tidy(root: &Path) {
    let store = Store::open(&root.join("store")).unwrap();
    let leftovers = inspect(&store, false).unwrap().leftovers;
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn a_killed_pack_leaves_a_whole_store_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    make_pair(root);
    let store = root.join("store");
    let arguments = ["pack", "bf16=bf16", "int8=int8", "-o", "store"];
    let prepare = || {
        if store.exists() {
            fs::remove_dir_all(&store).unwrap();
        }
    };
    kill_at_many_moments(root, &arguments, prepare, || {
        if !store.join("qstore.json").exists() {
            run(root, &arguments);
            assert_tidy(root);
        }
        assert_eq!(assert_sound(root), ["int8", "bf16"]);
    });
}

/// As above for a change of a store that holds `before`; `after` is what it is to hold.
fn change_survives_kills(before: &[&str], arguments: &[&str], after: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    make_pair(root);
    let folders: Vec<String> = before.iter().map(|name| format!("{name}={name}")).collect();
    let mut pack = vec!["pack", "-o", "original"];
    pack.extend(folders.iter().map(String::as_str));
    run(root, &pack);
    let prepare = || copy_folder(&root.join("original"), &root.join("store"));
    kill_at_many_moments(root, arguments, prepare, || {
        let found = assert_sound(root);
        if found != after {
            assert_eq!(found, before);
            run(root, arguments);
            assert_tidy(root);
            assert_eq!(assert_sound(root), after);
        }
    });
}

#[test]
fn a_killed_add_leaves_the_old_store_or_the_new() {
    change_survives_kills(&["int8"], &["add", "store", "bf16=bf16"], &["int8", "bf16"]);
}

#[test]
fn a_killed_add_that_stores_another_variant_anew_loses_neither() {
    change_survives_kills(&["bf16"], &["add", "store", "int8=int8"], &["int8", "bf16"]);
}

#[test]
fn a_killed_remove_loses_nothing_that_was_to_stay() {
    change_survives_kills(&["int8", "bf16"], &["remove", "store", "int8"], &["bf16"]);
}

/// One of two writers wins; the other is told, or comes after.
#[test]
fn two_adds_at_once_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    make_pair(root);
    for round in 0..6 {
        if round > 0 {
            fs::remove_dir_all(root.join("store")).unwrap();
        }
        run(root, &["pack", "int8=int8", "-o", "store"]);
        let arguments = ["add", "store", "bf16=bf16"];
        let mut both = [qstore(root, &arguments).spawn().unwrap(), qstore(root, &arguments).spawn().unwrap()];
        let done = both.iter_mut().filter_map(|child| child.wait().unwrap().success().then_some(())).count();
        // The loser was told that the store is busy, or, having come later, that the variant is there.
        assert_eq!(done, 1, "round {round}");
        assert_eq!(assert_sound(root), ["int8", "bf16"]);
        assert_tidy(root);
    }
}

/// Files may not grow beyond a limit, as on a full disk: the change fails, says where, and leaves nothing.
#[test]
fn a_full_disk_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    make_pair(root);
    run(root, &["pack", "int8=int8", "-o", "store"]);
    let limited = |arguments: &str| {
        // SIGXFSZ is ignored, so that writing fails as it does on a full disk. The limit is in blocks of 512 or 1024 bytes.
        let script = format!("trap '' XFSZ; ulimit -f 256; exec \"$0\" {arguments}");
        let binary = env!("CARGO_BIN_EXE_qstore");
        Command::new("sh").current_dir(root).args(["-c", &script, binary]).output().unwrap()
    };
    for (arguments, path) in [
        ("add store bf16=bf16", "store"),
        ("pack bf16=bf16 -o new", "new"),
        ("unpack store int8 -o out", "out"),
    ] {
        let output = limited(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        assert!(said.contains("cannot write"), "{arguments}: {said}");
        assert!(path == "store" || !root.join(path).exists(), "{arguments} left {path}");
        assert_eq!(assert_sound(root), ["int8"]);
        assert_tidy(root);
    }
    let entries: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(entries.len(), 3, "{entries:?}");
}
