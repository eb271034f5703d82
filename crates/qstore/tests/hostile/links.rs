//! Things in the place of files: links that lead out of the store, pipes that never end, devices. A store that was
//! fetched from somewhere can have any of them.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use qstore::{Silent, Store, add, inspect, remove};

use crate::common::{self, options, spec, write_checkpoint, write_options};
use crate::common::{copy, scratch};
use crate::judge::{Report, Trust, alone, bounded, judge};
use crate::stores;

fn shard_of(store: &Path, variant: &str) -> PathBuf {
    let store = Store::open(store).unwrap();
    let entry = store.manifest().variant(&variant.parse().unwrap()).unwrap().clone();
    store.path().join(entry.shards[0].name.as_str())
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn no_file_of_a_store_is_followed_out_of_it_or_waited_for() {
    let _alone = alone();
    let mut report = Report::default();
    for target in [
        "pipe",
        "link to the file",
        "link to /dev/zero",
        "link to nowhere",
        "link to itself",
        "link to a folder",
    ] {
        for victim in ["qstore.json", "int8", "bf16", "kept file"] {
            let sample = if victim == "kept file" { stores::kept() } else { stores::small() };
            let dir = scratch();
            let (store, room) = (dir.path().join("store"), dir.path().join("room"));
            copy(&sample.store, &store);
            fs::create_dir(&room).unwrap();
            let path = match victim {
                "qstore.json" => store.join("qstore.json"),
                "kept file" => store.join("int8/tokenizer.json"),
                variant => shard_of(&store, variant),
            };
            let away = dir.path().join("away");
            fs::rename(&path, &away).unwrap();
            match target {
                "pipe" => pipe(&path),
                "link to the file" => symlink(&away, &path).unwrap(),
                "link to /dev/zero" => symlink("/dev/zero", &path).unwrap(),
                "link to nowhere" => symlink(dir.path().join("none"), &path).unwrap(),
                "link to itself" => symlink(&path, &path).unwrap(),
                _ => symlink(&room, &path).unwrap(),
            }
            let result = judge(&store, &sample.originals, Trust::Checksums, &room).and_then(|verdict| {
                // A manifest may be a link to a file with the same text; it leads nowhere by itself.
                let harmless = victim == "qstore.json" && target == "link to the file";
                if verdict.is_noticed() || harmless { Ok(()) } else { Err(format!("{verdict:?}")) }
            });
            report.add(&format!("{victim}: {target}"), result);
        }
    }
    report.finish(24);
}

/// Found by reading: the staging folder is emptied when a change begins, so one that was a link emptied whatever it led
/// to.
#[test]
fn a_staging_folder_that_is_a_link_does_not_empty_what_it_leads_to() {
    let _alone = alone();
    let dir = scratch();
    let (store, treasure) = (dir.path().join("store"), dir.path().join("treasure"));
    copy(&stores::small().store, &store);
    fs::create_dir_all(treasure.join("deep")).unwrap();
    fs::write(treasure.join("deep/gold"), "gold").unwrap();
    fs::write(treasure.join("silver"), "silver").unwrap();
    symlink(&treasure, store.join(".qstore-staging")).unwrap();
    write_checkpoint(&dir.path().join("new"), &common::model(9, qstore::Dtype::BF16, &[(60, 256)]));
    let before = common::tree(&treasure);
    for attempt in 0..2 {
        let error = if attempt == 0 {
            add(&store, &spec(dir.path(), "new"), &write_options(), &Silent).unwrap_err()
        } else {
            remove(&store, &"bf16".parse().unwrap(), &write_options(), &Silent).unwrap_err()
        };
        assert!(error.to_string().contains(".qstore-staging"), "{error}");
        assert_eq!(common::tree(&treasure), before);
    }
    // Nor is a lock that is a pipe waited for.
    fs::remove_file(store.join(".qstore-staging")).unwrap();
    fs::create_dir(store.join(".qstore-staging")).unwrap();
    pipe(&store.join(".qstore-staging/lock"));
    let (path, new) = (store.clone(), spec(dir.path(), "new"));
    let result = bounded(1 << 30, move || add(&path, &new, &write_options(), &Silent));
    assert!(result.is_ok(), "{result:?}");
}

/// Sizes are those of files in the store, not of all that a link in it leads to.
#[test]
fn inspect_does_not_walk_out_of_the_store() {
    let _alone = alone();
    let dir = scratch();
    let store = dir.path().join("store");
    copy(&stores::small().store, &store);
    let before = inspect(&Store::open(&store).unwrap(), false).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/large"), vec![0; 1 << 20]).unwrap();
    symlink(dir.path().join("outside"), store.join("folder")).unwrap();
    symlink(&store, store.join("loop")).unwrap();
    symlink("nowhere", store.join("dangling")).unwrap();
    pipe(&store.join("pipe"));
    let after = inspect(&Store::open(&store).unwrap(), false).unwrap();
    assert_eq!(after.stored_bytes, before.stored_bytes);
    assert!(after.leftovers.is_empty());
}

/// Restoring into a folder that cannot be written, or over something, leaves all as it was.
#[test]
fn targets_of_unpack_that_are_in_the_way() {
    let _alone = alone();
    let dir = scratch();
    let store = Store::open(&stores::small().store).unwrap();
    let name = "int8".parse().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    symlink(dir.path().join("empty"), dir.path().join("link")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    for target in ["file", "file/below", "dangling", "dangling/below"] {
        let result = qstore::unpack(&store, &name, &dir.path().join(target), &options(), &Silent);
        assert!(result.is_err(), "{target}");
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["dangling", "empty", "file", "link"], "{target}");
    }
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"x");
    assert_eq!(fs::read_dir(dir.path().join("empty")).unwrap().count(), 0);
}
