//! Disks that are full, and folders that may not be written or read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use qstore::Silent;

use crate::child::{Task, error_of};
use crate::common::tree;
use crate::scene::Scene;

/// A write fails in the middle of a file, as on a full disk: files may have so many blocks. What was there is there,
/// what was not is not, and the error says where it happened.
#[test]
fn writes_that_fail() {
    for task in [&Task::CHANGES[..], &[Task::Unpack]].concat() {
        let (mut failed, mut succeeded) = (0, 0);
        for blocks in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 1000, 100_000] {
            let scene = Scene::before(task);
            let before = tree(scene.root());
            let mut shell = Command::new("sh");
            // The signal that comes with the limit is ignored, as on a full disk there is none.
            shell.args(["-c", &format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$@\""), "sh"]);
            task.wrapped(scene.root(), &mut shell);
            let output = shell.output().unwrap();
            if output.status.success() {
                succeeded += 1;
                assert!(task == Task::Unpack || scene.check_interrupted());
                continue;
            }
            failed += 1;
            let error = error_of(&output);
            assert!(output.status.code() == Some(1), "{blocks}: {:?} {error}", output.status);
            let target = if task == Task::Unpack { ".qstore-" } else { "store" };
            assert!(error.contains(target) && error.contains("too large"), "{blocks}: {error}");
            assert!(tree(scene.root()) == before, "{task:?} with {blocks} blocks leaves something behind");
            if task != Task::Unpack {
                scene.check_again();
            }
        }
        assert!(failed >= 3 && succeeded >= 1, "{task:?}: {failed} failed, {succeeded} succeeded");
    }
}

/// A file system with no room left, in namespaces of our own, where the machine lets us have some.
#[test]
fn disks_that_are_full() {
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: no file systems of our own here");
        return;
    }
    for task in Task::CHANGES {
        let (mut failed, mut succeeded) = (0, 0);
        for kilobytes in [4, 40, 80, 120, 160, 200, 240, 280, 320, 400, 500, 600, 800, 4000] {
            let scene = Scene::before(task);
            let small = scene.root().join("small");
            fs::create_dir(&small).unwrap();
            // The child works on the small disk; what it leaves there is copied back out for us to see.
            let script = format!(
                "mount -t tmpfs -o size={kilobytes}k tmpfs small || exit 77
                 if [ -e store ]; then cp -r store small/ || exit 77; fi
                 ln -s ../bf16 small/bf16; ln -s ../int8 small/int8
                 \"$@\"; status=$?
                 rm -rf store; if [ -e small/store ]; then cp -r small/store store; fi
                 exit $status"
            );
            let mut shell = Command::new("unshare");
            shell.args(["-rm", "sh", "-c", &script, "sh"]).current_dir(scene.root());
            task.wrapped(&small, &mut shell);
            let output = shell.output().unwrap();
            fs::remove_dir(&small).unwrap();
            match output.status.code() {
                // Not even the old store fits.
                Some(77) => continue,
                Some(0) => {
                    succeeded += 1;
                    assert!(scene.check_interrupted());
                }
                _ => {
                    failed += 1;
                    let error = error_of(&output);
                    assert!(
                        error.contains("store")
                            && (error.contains("No space left") || error.contains("not enough room")),
                        "{kilobytes}: {error}"
                    );
                    assert!(!scene.check_interrupted());
                    let fresh = matches!(task, Task::Pack | Task::PackKept);
                    assert!(
                        !fresh || !scene.store().exists(),
                        "{task:?} with {kilobytes} KB leaves a folder"
                    );
                    assert!(!scene.store().join(".qstore-staging").exists());
                    scene.check_again();
                }
            }
        }
        assert!(failed >= 2 && succeeded >= 1, "{task:?}: {failed} failed, {succeeded} succeeded");
    }
}

/// Runs a task as a user who may not do everything; `None` where that cannot be had.
fn as_someone_else(task: Task, root: &Path) -> Option<Output> {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    let probe = root.join("probe");
    fs::create_dir(&probe).unwrap();
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o555)).unwrap();
    let almighty = fs::write(probe.join("x"), "").is_ok();
    drop(fs::remove_file(probe.join("x")));
    fs::remove_dir(&probe).unwrap();
    let mut command = task.command(root);
    if almighty {
        command.uid(65_534).gid(65_534);
    }
    // Fails where the test's own program lies in a folder that only we may enter.
    command.output().ok()
}

fn protect(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn folders_that_may_not_be_written() {
    for task in [Task::Add, Task::Remove] {
        let scene = Scene::before(task);
        let before = tree(&scene.store());
        protect(&scene.store(), 0o555);
        let output = as_someone_else(task, scene.root());
        protect(&scene.store(), 0o755);
        let Some(output) = output else { return println!("skipped: no other user here") };
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(".qstore-staging") && error.contains("ermission denied"), "{error}");
        assert!(tree(&scene.store()) == before);
    }
    // What cannot be written can be read: unpacking needs to write the target alone.
    let scene = Scene::before(Task::Unpack);
    protect(&scene.store(), 0o555);
    protect(scene.root(), 0o755);
    for (mode, works) in [(0o777, true), (0o555, false)] {
        let place = scene.root().join("place");
        fs::create_dir(&place).unwrap();
        for name in ["bf16", "int8", "store"] {
            std::os::unix::fs::symlink(scene.root().join(name), place.join(name)).unwrap();
        }
        protect(&place, mode);
        let mut command = Task::Unpack.command(&place);
        if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            command.uid(65_534).gid(65_534);
        }
        let Ok(output) = command.output() else { return println!("skipped: no other user here") };
        assert_eq!(output.status.success(), works, "{}", error_of(&output));
        assert!(works || error_of(&output).contains("place"), "{}", error_of(&output));
        assert_eq!(place.join("out").exists(), works);
        protect(&place, 0o755);
        fs::remove_dir_all(&place).unwrap();
    }
    // A new store where nothing may be made.
    let scene = Scene::before(Task::Pack);
    protect(scene.root(), 0o555);
    if let Some(output) = as_someone_else_in(Task::Pack, scene.root()) {
        let error = error_of(&output);
        assert!(error.contains("store") && error.contains("ermission denied"), "{error}");
    }
    protect(scene.root(), 0o755);
    scene.check_again();
}

/// As [`as_someone_else`] in a folder whose permissions stay as they are.
fn as_someone_else_in(task: Task, root: &Path) -> Option<Output> {
    let mut command = task.command(root);
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        command.uid(65_534).gid(65_534);
    }
    command.output().ok()
}

#[test]
fn files_that_may_not_be_read() {
    for (victim, mode) in
        [("bf16/model.safetensors", 0o000), ("int8/tokenizer.json", 0o000), ("int8", 0o000), ("bf16", 0o444)]
    {
        let scene = Scene::before(Task::Pack);
        protect(scene.root(), 0o777);
        let path = scene.root().join(victim);
        let mode_before = fs::metadata(&path).unwrap().permissions().mode();
        protect(&path, mode);
        let output = as_someone_else_in(Task::Pack, scene.root());
        protect(&path, mode_before);
        let Some(output) = output else { return println!("skipped: no other user here") };
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(1), "{victim}: {error}");
        assert!(error.contains(victim) && error.contains("ermission denied"), "{victim}: {error}");
        assert!(!scene.store().exists());
        Task::Pack.run(scene.root(), &Silent).unwrap();
    }
}
