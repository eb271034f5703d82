//! Processes killed at moments spread over the whole of what they do.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use qstore::Silent;

use crate::child::Task;
use crate::common::assert_same_tree;
use crate::scene::Scene;

/// Moments tried for each task; more of them: `QSTORE_KILLS=1000 cargo test --test crash kills`.
fn moments() -> u32 {
    std::env::var("QSTORE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// How long a task takes in a process of its own, when nothing stops it.
fn duration(task: Task) -> Duration {
    let scene = Scene::before(task);
    let began = Instant::now();
    let output = task.command(scene.root()).output().unwrap();
    assert!(output.status.success(), "{}", crate::child::error_of(&output));
    let took = began.elapsed();
    if task != Task::Unpack {
        assert!(scene.check_interrupted());
    }
    took
}

/// Kills the task after `delay`.
fn kill_after(scene: &Scene, delay: Duration) {
    let mut child =
        scene.task.command(scene.root()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    // SIGKILL: nothing in the process gets to tidy up.
    child.kill().unwrap();
    child.wait().unwrap();
}

fn sweep(task: Task) {
    let (whole, moments) = (duration(task), moments());
    let mut done = 0;
    for moment in 0..moments {
        let scene = Scene::before(task);
        kill_after(&scene, whole * moment / moments * 11 / 10);
        done += u32::from(scene.check_interrupted());
        // A second kill, in what the first one left.
        if moment % 3 == 0 {
            kill_after(&scene, whole * (moment * 7 % moments) / moments);
            scene.check_interrupted();
        }
        scene.check_again();
    }
    println!("{task:?}: of {moments} kills within {whole:?}, {done} came too late");
}

#[test]
fn pack() {
    sweep(Task::Pack);
}

#[test]
fn pack_with_a_kept_variant() {
    sweep(Task::PackKept);
}

#[test]
fn add() {
    sweep(Task::Add);
}

#[test]
fn add_with_a_kept_variant() {
    sweep(Task::AddKept);
}

#[test]
fn remove() {
    sweep(Task::Remove);
}

/// A folder that is being restored is there whole, or not at all.
#[test]
fn unpack() {
    let whole = duration(Task::Unpack);
    for moment in 0..moments() {
        let scene = Scene::before(Task::Unpack);
        kill_after(&scene, whole * moment / moments() * 11 / 10);
        let out = scene.root().join("out");
        if !out.exists() {
            Task::Unpack.run(scene.root(), &Silent).unwrap();
        }
        assert_same_tree(&scene.root().join("bf16"), &out);
        // A process killed once the folder was in place may leave its staging folder beside, and nothing else.
        for entry in fs::read_dir(scene.root()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                ["bf16", "int8", "store", "out", ".out.qstore-staging"].contains(&name.as_str()),
                "{name}"
            );
        }
    }
}

/// The same moments in every run: the process ends itself at its first report of progress, at its second, and so on.
#[test]
fn at_every_report_of_progress() {
    for task in Task::CHANGES {
        let mut stops = 0;
        for stop in 0.. {
            let scene = Scene::before(task);
            let output = task.command_until(scene.root(), stop).output().unwrap();
            scene.check_interrupted();
            if output.status.success() {
                break;
            }
            assert_eq!(
                output.status.code(),
                None,
                "aborted, not failed: {}",
                crate::child::error_of(&output)
            );
            stops += 1;
            if stop % 4 == 0 {
                scene.check_again();
            }
        }
        assert!(stops >= 10, "{task:?} reports progress {stops} times");
    }
}
