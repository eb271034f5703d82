//! Every step of a change on the disk: the process is killed right before its first, its second, and so on. Without a
//! tracer, the library's own tests (`store/ownership.rs`) have each call fail.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::child::Task;
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

/// Found by reading: a folder of the user's that happens to have a variant's name was taken for a leftover of that
/// variant, and deleted by the next change.
#[test]
fn what_the_user_keeps_in_the_store_stays() {
    let scene = Scene::before(Task::Remove);
    let own = ["int8/notes.txt", "bf16/notes.txt", "README.md", "int8-notes.safetensors", "lock"];
    own.iter().for_each(|name| put(&scene.store(), name, Some(&b"mine".to_vec())));
    scene.task.run(scene.root(), &qstore::Silent).unwrap();
    let other = qstore::VariantSpec::new("other".parse().unwrap(), scene.root().join("bf16"));
    qstore::add(&scene.store(), &other, &crate::common::write_options(), &qstore::Silent).unwrap();
    for name in own.iter().skip(1) {
        assert_eq!(fs::read(scene.store().join(name)).unwrap(), b"mine", "{name}");
    }
}
