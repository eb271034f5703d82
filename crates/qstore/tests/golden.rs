//! Stores that earlier versions wrote are read for ever. Each folder in `golden/VERSION` has a store and the SHA-256 of
//! every file that was packed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{options, tree};
use qstore::{Silent, Store, inspect, load, unpack, verify};
use sha2::{Digest as _, Sha256};

#[test]
fn golden_stores_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut encodings = BTreeMap::new();
    for version in fs::read_dir(root).unwrap() {
        let version = version.unwrap().path();
        for case in fs::read_dir(version).into_iter().flatten() {
            check(&case.unwrap().path(), &mut encodings);
        }
    }
    // Every encoding of version 1 occurs.
    let all = ["reference", "verbatim", "slice", "residual", "step-residual", "code-residual", "codes"];
    for encoding in all.into_iter().chain(["float-split", "codes", "zstd", "raw"]) {
        assert!(encodings.contains_key(encoding), "no golden store has {encoding}");
    }
}

fn check(case: &Path, encodings: &mut BTreeMap<String, u32>) {
    let store = Store::open(&case.join("store")).unwrap();
    assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound(), "{}", case.display());
    let mut found = String::new();
    for entry in &store.manifest().variants {
        let out = tempfile::tempdir().unwrap();
        unpack(&store, &entry.name, out.path(), &options(), &Silent).unwrap();
        for (path, bytes) in tree(out.path()) {
            let Some(bytes) = bytes else { continue };
            let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            found += &format!("{digest}  {}/{path}\n", entry.name);
        }
        load(&store.variant(&entry.name).unwrap(), &options(), &Silent).unwrap();
    }
    let expected = fs::read_to_string(case.join("expected.sha256")).unwrap();
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(sorted(&found), sorted(&expected), "{}", case.display());
    for variant in inspect(&store, true).unwrap().variants {
        for tensor in variant.tensors.into_iter().flatten() {
            *encodings.entry(tensor.encoding).or_default() += 1;
        }
    }
}
