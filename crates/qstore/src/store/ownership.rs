//! Nothing that is not the store's is touched, whatever fails.
//!
//! The story: `add --verbatim` moved a variant's folder into place, found a folder of the user's under that name, and
//! deleted it, with exit status 0. Names were how leftovers were told from a user's files. Here every operation meets
//! files, folders and links of a user's at every name that it could use, with each of its calls to the disk failing in
//! turn, or being the last before the process is gone; and then runs again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use qstore_checkpoint::{Ability, Error, Fault, Result, Silent, WriteOptions, lacking, with_fault};
use tempfile::TempDir;

use super::{GivenRule, Store, VariantSpec, add, inspect, pack, remove, unpack, verify};

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{Tensors, copy, llm_int8, scratch, tree, weights, write_tensors};

/// What is done in a folder that has `bf16` and `int8`, and a `store` where there is something to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Pack,
    PackKept,
    Add,
    AddKept,
    Remove,
    RemoveKept,
    Unpack,
    UnpackIntoEmpty,
}

const TASKS: [Task; 8] = [
    Task::Pack,
    Task::PackKept,
    Task::Add,
    Task::AddKept,
    Task::Remove,
    Task::RemoveKept,
    Task::Unpack,
    Task::UnpackIntoEmpty,
];

impl Task {
    fn run(self, root: &Path) -> Result<()> {
        let options = WriteOptions { threads: 1, shard_size: 3000, ..WriteOptions::default() };
        let spec = |name: &str| VariantSpec::new(name.parse().unwrap(), root.join(name));
        let kept = VariantSpec { verbatim: true, ..spec("int8") };
        let (store, int8) = (root.join("store"), "int8".parse().unwrap());
        match self {
            Self::Pack => pack(&[spec("bf16"), spec("int8")], &store, &options, &Silent),
            Self::PackKept => pack(&[spec("bf16"), kept], &store, &options, &Silent),
            Self::Add => add(&store, &spec("int8"), &options, &Silent),
            Self::AddKept => add(&store, &kept, &options, &Silent),
            Self::Remove | Self::RemoveKept => remove(&store, &int8, &options, &Silent),
            Self::Unpack | Self::UnpackIntoEmpty => {
                unpack(&Store::open(&store)?, &int8, &root.join("out"), &options.machine(), &Silent)
            }
        }
    }

    /// The folder that it changes.
    fn home(self) -> &'static str {
        if matches!(self, Self::Unpack | Self::UnpackIntoEmpty) { "out" } else { "store" }
    }
}

/// Folders before each task, made once.
struct Scenes(TempDir);

impl Scenes {
    fn new() -> Self {
        let dir = scratch();
        let mut rng = rand::SeedableRng::seed_from_u64(5);
        let tensors: Tensors = (0..2)
            .map(|i| (format!("layers.{i}.up_proj.weight"), weights(&mut rng, crate::Dtype::BF16, 40, 32)))
            .collect();
        for (name, tensors) in [("bf16", tensors.clone()), ("int8", llm_int8(&tensors))] {
            let folder = dir.path().join("pair").join(name);
            fs::create_dir_all(folder.join("sub/empty")).unwrap();
            write_tensors(&folder.join("model.safetensors"), &tensors);
            fs::write(folder.join("config.json"), format!("{{\"of\": \"{name}\"}}")).unwrap();
            fs::write(folder.join("sub/tokenizer.json"), "tokens").unwrap();
        }
        for task in TASKS {
            let root = dir.path().join(format!("{task:?}"));
            copy(&dir.path().join("pair"), &root);
            match task {
                Task::Pack | Task::PackKept => {}
                Task::Add | Task::AddKept => {
                    let spec = VariantSpec::new("bf16".parse().unwrap(), root.join("bf16"));
                    let options = WriteOptions { threads: 1, ..WriteOptions::default() };
                    pack(&[spec], &root.join("store"), &options, &Silent).unwrap();
                }
                Task::Remove => Task::Pack.run(&root).unwrap(),
                Task::RemoveKept | Task::Unpack | Task::UnpackIntoEmpty => Task::PackKept.run(&root).unwrap(),
            }
            if task == Task::UnpackIntoEmpty {
                fs::create_dir(root.join("out")).unwrap();
            }
        }
        Self(dir)
    }

    fn of(&self, task: Task) -> TempDir {
        let dir = scratch();
        copy(&self.0.path().join(format!("{task:?}")), dir.path());
        dir
    }

    /// Every name that the task could use in its folder and beside it: those of all that is there after it, and of its
    /// own.
    fn names(&self, task: Task) -> Vec<String> {
        let done = self.of(task);
        task.run(done.path()).unwrap();
        let home = task.home();
        let mut names = vec![format!("{home}/.qstore-staging"), format!(".{home}.qstore-staging")];
        for entry in walkdir::WalkDir::new(done.path().join(home)).min_depth(1) {
            let path = entry.unwrap().path().strip_prefix(done.path()).unwrap().to_str().unwrap().to_owned();
            names.push(path);
        }
        for other in [
            "int8",
            "bf16",
            "qstore.json",
            "notes.txt",
            "lock",
            "new",
            "int8/notes.txt",
            "bf16-0123456789ab.safetensors",
        ] {
            names.push(format!("{home}/{other}"));
        }
        names.sort();
        names.dedup();
        names
    }
}

/// What a user has put somewhere.
#[derive(Debug, Clone, Copy)]
enum Thing {
    File,
    Folder,
    Link,
}

impl Thing {
    /// Puts it there, unless there is something of the store's.
    fn put(self, root: &Path, name: &str) -> Option<Mine> {
        let path = root.join(name);
        if path.symlink_metadata().is_ok() || fs::create_dir_all(path.parent()?).is_err() {
            return None;
        }
        match self {
            Self::File => fs::write(&path, "mine").ok()?,
            Self::Folder => {
                fs::create_dir_all(path.join("deep")).unwrap();
                fs::write(path.join("deep/file"), "mine").unwrap();
            }
            Self::Link => {
                fs::create_dir_all(root.join("elsewhere")).unwrap();
                fs::write(root.join("elsewhere/file"), "mine").unwrap();
                std::os::unix::fs::symlink(root.join("elsewhere"), &path).unwrap();
            }
        }
        Some(Mine { before: seen(&path), path })
    }
}

/// A thing of a user's, and what it was.
#[derive(Debug)]
struct Mine {
    path: PathBuf,
    before: (bool, BTreeMap<String, Option<Vec<u8>>>, Vec<u8>),
}

impl Mine {
    fn is_untouched(&self) -> bool {
        seen(&self.path) == self.before
    }
}

fn seen(path: &Path) -> (bool, BTreeMap<String, Option<Vec<u8>>>, Vec<u8>) {
    let all = if path.is_dir() { tree(path) } else { BTreeMap::new() };
    (path.is_symlink(), all, fs::read(path).unwrap_or_default())
}

/// After all: a whole store, or none, in which nothing is taken for a leftover, and folders whose files are whole.
fn check(root: &Path, task: Task, result: &Result<()>) {
    let options = WriteOptions { threads: 1, ..WriteOptions::default() };
    match Store::open(&root.join("store")) {
        Ok(store) => {
            let found = verify(&store, None, false, &options.machine(), &Silent).unwrap();
            assert!(
                found.variants.iter().all(|v| v.problems.iter().all(|p| p.text.contains("was not packed"))),
                "{found:?}"
            );
            let inspection = inspect(&store, false).unwrap();
            // What is refused beforehand tidies nothing up.
            assert!(result.is_err() || inspection.leftovers.is_empty(), "{:?}", inspection.leftovers);
        }
        Err(error) => assert!(matches!(task, Task::Pack | Task::PackKept), "the store is gone: {error}"),
    }
    if result.is_ok() && task.home() == "out" {
        let (want, found) = (tree(&root.join("int8")), tree(&root.join("out")));
        let lost: Vec<_> = want.iter().filter(|(name, bytes)| found.get(*name) != Some(bytes)).collect();
        assert!(
            lost.is_empty(),
            "{:?} of {:?}",
            lost.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            found.keys()
        );
    }
}

#[test]
fn nothing_of_a_users_is_touched() {
    let scenes = Scenes::new();
    let (mut cases, mut refused) = (0u32, 0u32);
    for task in TASKS {
        for name in scenes.names(task) {
            for thing in [Thing::File, Thing::Folder, Thing::Link] {
                // Once without a failure, to count the calls.
                let whole = scenes.of(task);
                let Some(mine) = thing.put(whole.path(), &name) else { continue };
                let (result, calls) =
                    with_fault(whole.path(), Fault::Fails, u64::MAX, || task.run(whole.path()));
                assert!(mine.is_untouched(), "{task:?} {thing:?} {name}: {result:?}");
                check(whole.path(), task, &result);
                if let Err(error) = &result {
                    refused += 1;
                    assert!(error.is_usage(), "{task:?} {thing:?} {name}: {error}");
                }
                cases += 1;
                // A thing that is no obstacle changes nothing about the calls: some of them will do.
                let step = if result.is_ok() { 7 } else { 1 };
                for nth in (0..calls).step_by(step) {
                    for fault in [Fault::Fails, Fault::Killed] {
                        let scene = scenes.of(task);
                        let mine = thing.put(scene.path(), &name).unwrap();
                        let (first, _) = with_fault(scene.path(), fault, nth, || task.run(scene.path()));
                        let case = format!("{task:?} {thing:?} {name} {fault:?} {nth}: {first:?}");
                        assert!(mine.is_untouched(), "{case}");
                        let again = task.run(scene.path());
                        assert!(mine.is_untouched(), "{case}, then {again:?}");
                        check(scene.path(), task, &again);
                        cases += 1;
                    }
                }
            }
        }
    }
    println!("{cases} cases, {refused} names refused");
    assert!(cases >= 1000 && refused > 50);
}

/// The process is gone, and then a user puts things where it would have put its own.
#[test]
fn nothing_is_touched_that_came_after_a_crash() {
    let scenes = Scenes::new();
    let mut cases = 0u32;
    for task in TASKS {
        let names = scenes.names(task);
        let whole = scenes.of(task);
        let (result, calls) = with_fault(whole.path(), Fault::Fails, u64::MAX, || task.run(whole.path()));
        result.unwrap();
        for nth in 0..calls {
            for thing in [Thing::File, Thing::Folder] {
                let scene = scenes.of(task);
                let (_, _) = with_fault(scene.path(), Fault::Killed, nth, || task.run(scene.path()));
                let mut mine: Vec<Mine> =
                    names.iter().filter_map(|name| thing.put(scene.path(), name)).collect();
                // Some lie in others.
                mine.iter_mut().for_each(|one| one.before = seen(&one.path));
                let again = task.run(scene.path());
                for one in &mine {
                    assert!(
                        one.is_untouched(),
                        "{task:?} killed at {nth}, then {again:?}: {}",
                        one.path.display()
                    );
                }
                if let Err(error) = &again {
                    assert!(error.is_usage(), "{task:?} killed at {nth}: {error}");
                }
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
    assert!(cases >= 300);
}

/// Without anything of a user's: a failure leaves what was there, and what a crash leaves is gone after the next run.
#[test]
fn every_failure_is_undone_and_every_crash_recovered_from() {
    let scenes = Scenes::new();
    for task in TASKS {
        let whole = scenes.of(task);
        let (result, calls) = with_fault(whole.path(), Fault::Fails, u64::MAX, || task.run(whole.path()));
        result.unwrap();
        let done = tree(whole.path());
        assert!(calls > 20, "{task:?}: {calls} calls");
        for nth in 0..calls {
            let scene = scenes.of(task);
            let before = tree(scene.path());
            let (first, _) = with_fault(scene.path(), Fault::Fails, nth, || task.run(scene.path()));
            let after = tree(scene.path());
            // What only tidies up may fail without harm; the next run does it.
            let undone = after == before || after == done || leftovers_only(&after, &before, &done);
            assert!(undone, "{task:?} {nth}: {first:?} leaves {:?}", after.keys());
            let again = if after == done { Ok(()) } else { task.run(scene.path()) };
            recovered(scene.path(), task, again, &done, &format!("{task:?} fails at {nth}: {first:?}"));

            let scene = scenes.of(task);
            let (first, _) = with_fault(scene.path(), Fault::Killed, nth, || task.run(scene.path()));
            let again = task.run(scene.path());
            recovered(scene.path(), task, again, &done, &format!("{task:?} killed at {nth}: {first:?}"));
        }
    }
}

/// Killed, and then the run that was to tidy up is killed as well: what the first one wrote down must not be taken for
/// what the second one left.
#[test]
fn crashes_that_follow_crashes_are_recovered_from() {
    let scenes = Scenes::new();
    let mut cases = 0;
    for task in TASKS {
        let whole = scenes.of(task);
        let (result, calls) = with_fault(whole.path(), Fault::Fails, u64::MAX, || task.run(whole.path()));
        result.unwrap();
        let done = tree(whole.path());
        for first in (0..calls).step_by(5) {
            // Another beginning each time, so that all pairs are near one that was tried.
            for second in (first % 7..60).step_by(7) {
                for fault in [Fault::Killed, Fault::Fails] {
                    let scene = scenes.of(task);
                    let (_, _) = with_fault(scene.path(), Fault::Killed, first, || task.run(scene.path()));
                    let (_, _) = with_fault(scene.path(), fault, second, || task.run(scene.path()));
                    let again = task.run(scene.path());
                    let case = format!("{task:?} killed at {first}, then {fault:?} at {second}");
                    recovered(scene.path(), task, again, &done, &case);
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} cases");
    assert!(cases > 500);
}

/// Links in the place of a kept variant's folder, or of a staging folder's, lead to what is a user's.
#[test]
fn what_links_lead_to_is_not_the_stores() {
    let scenes = Scenes::new();
    for linked in ["int8", "int8/sub"] {
        let scene = scenes.of(Task::PackKept);
        let spec = |name: &str| VariantSpec::new(name.parse().unwrap(), scene.path().join(name));
        let alone = VariantSpec { given: GivenRule::Only(Vec::new()), ..spec("bf16") };
        let specs = [alone, VariantSpec { verbatim: true, ..spec("int8") }];
        let options = WriteOptions { threads: 1, ..WriteOptions::default() };
        pack(&specs, &scene.path().join("store"), &options, &Silent).unwrap();
        let (kept, mine) = (scene.path().join("store").join(linked), scene.path().join("mine"));
        fs::rename(&kept, &mine).unwrap();
        std::os::unix::fs::symlink(&mine, &kept).unwrap();
        let before = tree(&mine);
        Task::RemoveKept.run(scene.path()).unwrap();
        assert!(tree(&mine) == before, "{linked}");
        // And the store takes changes.
        let other = VariantSpec::new("other".parse().unwrap(), scene.path().join("bf16"));
        add(&scene.path().join("store"), &other, &options, &Silent).unwrap();
    }
    // A file that a user has edited stays.
    let scene = scenes.of(Task::RemoveKept);
    let edited = scene.path().join("store/int8/config.json");
    fs::write(&edited, "mine").unwrap();
    let warnings = common::Warnings::default();
    let options = WriteOptions { threads: 1, ..WriteOptions::default() };
    remove(&scene.path().join("store"), &"int8".parse().unwrap(), &options, &warnings).unwrap();
    assert_eq!(tree(&scene.path().join("store/int8")).into_keys().collect::<Vec<_>>(), ["config.json"]);
    assert!(warnings.take().join("").contains("int8/config.json: it is not what was packed"));
}

/// Whether all that is there beside the old or the new state lies in a staging folder.
fn leftovers_only(
    after: &BTreeMap<String, Option<Vec<u8>>>,
    before: &BTreeMap<String, Option<Vec<u8>>>,
    done: &BTreeMap<String, Option<Vec<u8>>>,
) -> bool {
    [before, done].iter().any(|state| {
        let others = after.iter().filter(|(name, _)| !name.contains(".qstore-staging"));
        let mut rest: Vec<_> = others.filter(|(name, bytes)| state.get(*name) != Some(bytes)).collect();
        // A folder that is not empty any more is not listed as an empty one.
        let held = |folder: &str| {
            before.keys().chain(done.keys()).any(|name| name.starts_with(&format!("{folder}/")))
        };
        rest.retain(|(name, bytes)| {
            !before.contains_key(*name) && !done.contains_key(*name) && (bytes.is_some() || !held(name))
        });
        rest.is_empty()
    })
}

fn recovered(
    root: &Path,
    task: Task,
    again: Result<()>,
    done: &BTreeMap<String, Option<Vec<u8>>>,
    case: &str,
) {
    match again {
        Ok(()) => {}
        // It was done already.
        Err(refused @ (Error::Usage(_) | Error::UnknownName { .. })) => {
            let options = WriteOptions { threads: 1, ..WriteOptions::default() };
            if task.home() == "store" {
                // Any other change tidies up.
                let other = VariantSpec {
                    given: GivenRule::Only(Vec::new()),
                    ..VariantSpec::new("other".parse().unwrap(), root.join("bf16"))
                };
                let added = add(&root.join("store"), &other, &options, &Silent);
                assert!(added.is_ok(), "{case}, then {refused}, then {added:?}");
                remove(&root.join("store"), &other.name, &options, &Silent).unwrap();
            }
        }
        Err(error) => panic!("{case}: {error}"),
    }
    check(root, task, &Ok(()));
    let found = tree(root);
    let strange: Vec<_> =
        found.iter().filter(|(name, bytes)| done.get(*name) != Some(bytes)).map(|(name, _)| name).collect();
    assert!(found == *done, "{case}: other are {strange:?}");
}

/// File systems of object storage and of networks, which lack one thing or another.
#[test]
fn file_systems_that_lack_something() {
    use Ability::{Lock, RenameFiles, RenameFolders, SyncFolders};
    let scenes = Scenes::new();
    let poor: [&'static [Ability]; 5] = [
        &[Lock],
        &[RenameFolders],
        &[SyncFolders],
        &[Lock, RenameFolders, SyncFolders],
        &[RenameFiles, RenameFolders],
    ];
    for task in TASKS {
        let whole = scenes.of(task);
        task.run(whole.path()).unwrap();
        let done = tree(whole.path());
        for lack in poor {
            let scene = scenes.of(task);
            let before = tree(scene.path());
            let result = lacking(scene.path(), lack, || task.run(scene.path()));
            if lack.contains(&RenameFiles) {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("cannot rename files"), "{task:?}: {error}");
                assert!(tree(scene.path()) == before, "{task:?}");
                continue;
            }
            result.unwrap();
            assert!(tree(scene.path()) == done, "{task:?} without {lack:?}");
            // And killed there: what is left is gone after the next run, or named.
            for nth in (0..60).step_by(3) {
                let scene = scenes.of(task);
                let killed = || with_fault(scene.path(), Fault::Killed, nth, || task.run(scene.path()));
                let (first, _) = lacking(scene.path(), lack, killed);
                let case = format!("{task:?} without {lack:?} killed at {nth}: {first:?}");
                // A lock that holds by being there still does; whoever meets it is told where it is.
                let (home, beside) =
                    (format!("{}/.qstore-staging", task.home()), format!(".{}.qstore-staging", task.home()));
                for lock in [home, beside].map(|folder| scene.path().join(folder).join("lock")) {
                    if lack.contains(&Lock) && lock.exists() {
                        let met = lacking(scene.path(), lack, || task.run(scene.path())).unwrap_err();
                        let says = met.to_string();
                        let done = says.contains("already") || says.contains("not an empty folder");
                        assert!(done || says.ends_with(lock.to_str().unwrap()), "{case}, then {says}");
                        fs::remove_file(lock).unwrap();
                    }
                }
                let again = lacking(scene.path(), lack, || task.run(scene.path()));
                recovered(scene.path(), task, again, &done, &case);
            }
        }
    }
}
