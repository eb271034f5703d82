//! Every step of a change on the disk: the process is killed right before its first, its second, and so on. Where no tracer can do that, the states
//! that the last steps leave are made by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::child::Task;
use crate::common::tree;
use crate::scene::Scene;

/// The calls that change folders or make changes last.
const CALLS: [&str; 11] = [
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "fsync",
    "fdatasync",
    "flock",
];

/// Runs a task that is killed when it is about to make `call` for the `nth` time; whether it came to that.
fn kill_at(scene: &Scene, call: &str, nth: usize) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace=?{call}")]);
    strace.args(["-e", &format!("inject=?{call}:signal=KILL:when={nth}")]);
    scene.task.wrapped(scene.root(), &mut strace);
    let output = strace.output().unwrap();
    !output.status.success()
}

/// Whether there is a tracer, and it may trace.
fn can_trace() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    strace.status().is_ok_and(|status| status.success())
}

#[test]
fn killed_before_every_step_on_the_disk() {
    if !can_trace() {
        println!("skipped: there is no strace here");
        return;
    }
    for task in Task::CHANGES {
        let mut steps = 0;
        for call in CALLS {
            for nth in 1.. {
                let scene = Scene::before(task);
                if !kill_at(&scene, call, nth) {
                    break;
                }
                steps += 1;
                scene.check_again();
            }
        }
        println!("{task:?}: killed before each of {steps} steps");
        assert!(steps >= 15, "{task:?} takes {steps} steps");
    }
}

/// The states that the last part of a change goes through, made by hand from the store before and after it: new files come into place one by one,
/// then the manifest, then old files go one by one.
#[test]
fn every_state_of_a_commit() {
    for task in Task::CHANGES {
        let scene = Scene::before(task);
        let old = if scene.store().exists() { tree(&scene.store()) } else { BTreeMap::new() };
        task.run(scene.root(), &qstore::Silent).unwrap();
        let new = tree(&scene.store());
        let changed = |name: &&String| name.as_str() != "qstore.json" && old.get(*name) != new.get(*name);
        // A kept folder moves as a whole; its files are in one step here.
        let mut arriving: Vec<&String> = new.keys().filter(changed).collect();
        arriving.sort_by_key(|name| (name.contains('/'), *name));
        let leaving: Vec<&String> = old.keys().filter(|name| !new.contains_key(*name)).collect();
        let files = arriving.iter().filter(|name| !name.contains('/')).count();
        for moved in 0..=files {
            let state = Scene::before(task);
            let (here, staged) = (state.store(), state.store().join(".qstore-staging"));
            fs::create_dir_all(&staged).unwrap();
            fs::write(staged.join("lock"), "").unwrap();
            for (index, name) in arriving.iter().enumerate() {
                // The last state has the kept folder in place as well.
                let in_place = index < moved || moved == files;
                put(if in_place { &here } else { &staged }, name, new[*name].as_ref());
            }
            // A manifest that was being written.
            fs::write(staged.join("qstore.json"), "{\"format\": \"qst").unwrap();
            assert!(!state.check_interrupted());
            state.check_again();
        }
        for removed in 0..=leaving.len() {
            let state = Scene::before(task);
            for name in &arriving {
                put(&state.store(), name, new[*name].as_ref());
            }
            put(&state.store(), "qstore.json", new["qstore.json"].as_ref());
            for name in &leaving[..removed] {
                fs::remove_file(state.store().join(name)).unwrap();
            }
            fs::create_dir_all(state.store().join(".qstore-staging")).unwrap();
            assert!(state.check_interrupted());
            state.check_again();
        }
    }
}

fn put(folder: &Path, name: &str, bytes: Option<&Vec<u8>>) {
    let path = folder.join(name);
    match bytes {
        Some(bytes) => {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        None => fs::create_dir_all(path).unwrap(),
    }
}

/// Found by reading: a folder of the user's that happens to have a variant's name was taken for a leftover of that variant, and deleted by the
/// next change.
#[test]
fn what_the_user_keeps_in_the_store_stays() {
    let scene = Scene::before(Task::Remove);
    let own = ["int8/notes.txt", "bf16/notes.txt", "README.md", "int8-notes.safetensors", "lock"];
    own.iter().for_each(|name| put(&scene.store(), name, Some(&b"mine".to_vec())));
    scene.task.run(scene.root(), &qstore::Silent).unwrap();
    let other = qstore::VariantSpec {
        name: "other".parse().unwrap(),
        folder: scene.root().join("bf16"),
        verbatim: false,
        given: qstore::GivenRule::Any,
    };
    qstore::add(&scene.store(), &other, &crate::common::options(), &qstore::Silent).unwrap();
    for name in own.iter().skip(1) {
        assert_eq!(fs::read(scene.store().join(name)).unwrap(), b"mine", "{name}");
    }
}
