//! Folders and stores before a change, and what must be true after one that was interrupted.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use qstore::{Dtype, Silent, Store, inspect, unpack, verify};
use tempfile::TempDir;

use crate::child::Task;
use crate::common::{assert_same_tree, copy, model, options, scratch, write_options, write_pair};

/// A folder with `bf16`, `int8` and, if the task needs one, `store`.
#[derive(Debug)]
pub struct Scene {
    dir: TempDir,
    pub task: Task,
}

impl Scene {
    /// Before the task.
    pub fn before(task: Task) -> Self {
        static STORES: OnceLock<TempDir> = OnceLock::new();
        let stores = STORES.get_or_init(|| {
            let dir = scratch();
            write_pair(dir.path(), &model(31, Dtype::BF16, &[(96, 200), (64, 300), (200, 64)]));
            fs::create_dir_all(dir.path().join("int8/sub/empty")).unwrap();
            for first in [Task::Pack, Task::PackKept] {
                first.run(dir.path(), &Silent).unwrap();
                fs::rename(dir.path().join("store"), dir.path().join(format!("{first:?}"))).unwrap();
            }
            qstore::pack(
                &[crate::common::spec(dir.path(), "bf16")],
                &dir.path().join("High"),
                &crate::child::small_shards(),
                &Silent,
            )
            .unwrap();
            dir
        });
        let scene = Self { dir: scratch(), task };
        for name in ["bf16", "int8"] {
            copy(&stores.path().join(name), &scene.root().join(name));
        }
        let store = match task {
            Task::Pack | Task::PackKept => None,
            Task::Add | Task::AddKept => Some("High"),
            Task::Remove | Task::Unpack => Some("Pack"),
        };
        if let Some(store) = store {
            copy(&stores.path().join(store), &scene.store());
        }
        scene
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn store(&self) -> PathBuf {
        self.root().join("store")
    }

    /// Which variants the store has before and after the task.
    fn variants(&self) -> [&'static [&'static str]; 2] {
        match self.task {
            Task::Pack | Task::PackKept => [&[], &["int8", "bf16"]],
            Task::Add | Task::AddKept => [&["bf16"], &["int8", "bf16"]],
            Task::Remove => [&["int8", "bf16"], &["bf16"]],
            Task::Unpack => [&["int8", "bf16"], &["int8", "bf16"]],
        }
    }

    /// After an interruption: the old store or the new one, whole, and nothing in its folder that is neither its own
    /// nor known as a leftover. Returns whether it is the new one.
    pub fn check_interrupted(&self) -> bool {
        let path = self.store();
        let [before, after] = self.variants();
        let store = match Store::open(&path) {
            Ok(store) => store,
            Err(error) => {
                assert!(before.is_empty(), "the store is gone: {error}");
                assert!(matches!(error, qstore::Error::Missing { .. }), "{error:?}");
                return false;
            }
        };
        let names: Vec<_> = store.manifest().variants.iter().map(|v| v.name.to_string()).collect();
        assert!(names == before || names == after, "{names:?}");
        self.check_store(&store);
        let mut found: BTreeSet<String> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.remove("qstore.json");
        for variant in &store.manifest().variants {
            assert!(!variant.verbatim || found.remove(variant.name.as_str()));
            for file in &variant.shards {
                assert!(found.remove(file.name.as_str()), "{} is gone", file.name);
            }
        }
        let leftovers = inspect(&store, false).unwrap().leftovers;
        assert_eq!(found, leftovers.into_iter().collect());
        names == after
    }

    /// Every variant comes back as it was packed.
    fn check_store(&self, store: &Store) {
        let found = verify(store, None, false, &options(), &Silent).unwrap();
        assert!(found.is_sound(), "{found:?}");
        for variant in &store.manifest().variants {
            let out = self.root().join("checked");
            unpack(store, &variant.name, &out, &options(), &Silent).unwrap();
            assert_same_tree(&self.root().join(variant.name.as_str()), &out);
            fs::remove_dir_all(&out).unwrap();
        }
    }

    /// The same command again: it succeeds unless it had been done already, and after it, or else after any other
    /// change, nothing is left over.
    pub fn check_again(&self) {
        let done = self.check_interrupted();
        match self.task.run(self.root(), &Silent) {
            Ok(()) => assert!(!done),
            Err(error) => {
                assert!(done && error.is_usage(), "{error:?}");
                // Another change, there and back.
                let other = qstore::VariantSpec::new("other".parse().unwrap(), self.root().join("bf16"));
                qstore::add(&self.store(), &other, &write_options(), &Silent).unwrap();
                qstore::remove(&self.store(), &other.name, &write_options(), &Silent).unwrap();
            }
        }
        assert!(self.check_interrupted());
        let store = Store::open(&self.store()).unwrap();
        assert_eq!(inspect(&store, false).unwrap().leftovers, [""; 0]);
        // Nor beside the store.
        let mut beside: Vec<_> = fs::read_dir(self.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["bf16", "int8", "store"]);
    }
}
