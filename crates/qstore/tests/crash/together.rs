//! Several processes, or threads, on one store.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use qstore::{Error, Silent, Store, VariantName, VariantSpec, add, inspect, load, pack, remove, verify};

use crate::child::{BUSY, Task, error_of};
use crate::common::{options, spec, write_options};
use crate::scene::Scene;

#[test]
fn of_two_changes_at_once_one_waits_its_turn() {
    for (first, second) in [(Task::Add, Task::AddKept), (Task::Add, Task::Add), (Task::AddKept, Task::Remove)]
    {
        for delay in [0, 5, 15, 40] {
            let scene = Scene::before(first);
            let one = first.command(scene.root()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(delay));
            let two = second.command(scene.root()).spawn().unwrap();
            let outcomes = [one, two].map(|child| child.wait_with_output().unwrap());
            let succeeded = outcomes.iter().filter(|output| output.status.success()).count();
            for output in outcomes.iter().filter(|output| !output.status.success()) {
                let error = error_of(output);
                let known = output.status.code() == Some(BUSY)
                    || error.contains("already")
                    || error.contains("no variant int8")
                    || error.contains("only variant");
                assert!(known, "{error}");
            }
            if second != Task::Remove {
                // Whoever comes first to remove what is not there yet fails, and may be in the way of whoever adds it.
                assert!(succeeded >= 1, "{first:?} and {second:?} after {delay} ms: neither succeeded");
                assert!(scene.check_interrupted());
            }
            let store = Store::open(&scene.store()).unwrap();
            assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
            assert_eq!(inspect(&store, false).unwrap().leftovers, [""; 0]);
        }
    }
}

#[test]
fn of_two_packs_into_one_folder_one_wins() {
    for delay in [0, 3, 10, 30] {
        let scene = Scene::before(Task::Pack);
        let one = Task::Pack.command(scene.root()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let two = Task::PackKept.command(scene.root()).spawn().unwrap();
        let outcomes = [one, two].map(|child| child.wait_with_output().unwrap());
        let errors: Vec<_> = outcomes.iter().map(error_of).collect();
        assert_eq!(outcomes.iter().filter(|output| output.status.success()).count(), 1, "{errors:?}");
        assert!(scene.check_interrupted());
        assert_eq!(inspect(&Store::open(&scene.store()).unwrap(), false).unwrap().leftovers, [""; 0]);
    }
}

/// Whoever is told that the store is busy tries again, and in the end all have had their turn.
#[test]
fn many_threads_add_and_remove_by_turns() {
    let scene = Scene::before(Task::Add);
    let names: Vec<VariantName> = (0..4).map(|i| format!("v{i}").parse().unwrap()).collect();
    let deadline = Instant::now() + Duration::from_secs(120);
    let insist = |change: &dyn Fn() -> qstore::Result<()>| {
        let mut refused = 0;
        loop {
            match change() {
                Ok(()) => return refused,
                Err(Error::Busy(_)) if Instant::now() < deadline => {
                    refused += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        for (index, name) in names.iter().enumerate() {
            let (scene, insist) = (&scene, &insist);
            scope.spawn(move || {
                let spec = VariantSpec {
                    verbatim: index == 2,
                    ..VariantSpec::new(
                        name.clone(),
                        scene.root().join(if index % 2 == 0 { "int8" } else { "bf16" }),
                    )
                };
                for _ in 0..3 {
                    insist(&|| add(&scene.store(), &spec, &write_options(), &Silent));
                    insist(&|| remove(&scene.store(), name, &write_options(), &Silent));
                }
                insist(&|| add(&scene.store(), &spec, &write_options(), &Silent));
            });
        }
    });
    let store = Store::open(&scene.store()).unwrap();
    assert_eq!(store.manifest().variants.len(), 5);
    assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
    assert_eq!(inspect(&store, false).unwrap().leftovers, [""; 0]);
}

/// A reader whose store changes under it reads what was there when it opened the variant, or is told that it changed;
/// never anything else.
#[test]
fn readers_of_a_store_that_changes() {
    let scene = Scene::before(Task::Add);
    let high: VariantName = "bf16".parse().unwrap();
    let want =
        load(&Store::open(&scene.store()).unwrap().variant(&high).unwrap(), &options(), &Silent).unwrap();
    let open = Store::open(&scene.store()).unwrap().variant(&high).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            let (mut read, mut refused) = (0, 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // The manifest is replaced as a whole: there is one at any time.
                let store = Store::open(&scene.store()).unwrap();
                match store.variant(&high).and_then(|variant| load(&variant, &options(), &Silent)) {
                    Ok(tensors) => {
                        // The order is that of storage.
                        assert!(tensors == want);
                        read += 1;
                    }
                    Err(Error::Changed(_)) => refused += 1,
                    Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(read > 0, "refused {refused} times");
        };
        scope.spawn(reader);
        for _ in 0..6 {
            add(&scene.store(), &spec(scene.root(), "int8"), &write_options(), &Silent).unwrap();
            remove(&scene.store(), &"int8".parse().unwrap(), &write_options(), &Silent).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // The files of a variant that is open stay readable although they were deleted long ago.
    assert!(load(&open, &options(), &Silent).unwrap() == want);
}

/// A lock that nobody holds is no obstacle: the process that made it is gone.
#[test]
fn a_lock_file_that_was_left_behind() {
    let scene = Scene::before(Task::Pack);
    let staging = scene.store().join(".qstore-staging");
    let has_begun = || fs::read_dir(staging.join("new")).is_ok_and(|entries| entries.count() > 0);
    for stop in (10..).step_by(5).take_while(|_| !has_begun()) {
        assert!(!Task::Pack.command_until(scene.root(), stop).output().unwrap().status.success());
    }
    assert!(staging.join("lock").exists());
    pack(
        &[spec(scene.root(), "bf16"), spec(scene.root(), "int8")],
        &scene.store(),
        &write_options(),
        &Silent,
    )
    .unwrap();
    assert!(scene.check_interrupted());
    assert!(!staging.exists());
}
