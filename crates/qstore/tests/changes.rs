//! Adding, removing, keeping files as they are: after each change every variant is still what it was, and each read
//! opens only what it needs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use common::{assert_same_tree, llm_int8, model, options, spec, write_checkpoint, write_options, write_pair};
use qstore::{
    Dtype, Error, Inspection, Silent, Store, VariantSpec, add, inspect, load, pack, remove, unpack, verify,
};
use tempfile::TempDir;

/// A folder with `bf16`, `int8` and room for a store.
fn pair() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), &model(11, Dtype::BF16, &[(512, 512), (300, 1024)]));
    let store = dir.path().join("store");
    (dir, store)
}

fn pack_these(root: &Path, names: &[&str]) {
    let specs: Vec<_> = names.iter().map(|name| spec(root, name)).collect();
    pack(&specs, &root.join("store"), &write_options(), &Silent).unwrap();
}

fn check(root: &Path, names: &[&str]) -> Inspection {
    let store = Store::open(&root.join("store")).unwrap();
    for name in names {
        let out = root.join("out");
        unpack(&store, &name.parse().unwrap(), &out, &options(), &Silent).unwrap();
        assert_same_tree(&root.join(name), &out);
        fs::remove_dir_all(&out).unwrap();
    }
    assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
    let inspection = inspect(&store, true).unwrap();
    assert_eq!(inspection.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), names);
    assert!(inspection.leftovers.is_empty(), "{:?}", inspection.leftovers);
    inspection
}

/// Also where a matrix is so large that only some of its rows are looked at.
#[test]
fn the_order_of_adding_does_not_matter() {
    let pair = || {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path(), &model(14, Dtype::BF16, &[(512, 512), (3000, 500)]));
        let store = dir.path().join("store");
        (dir, store)
    };
    let (together, store) = pair();
    pack_these(together.path(), &["bf16", "int8"]);
    let want = common::tree(&store);
    for (first, second) in [("int8", "bf16"), ("bf16", "int8")] {
        let (dir, store) = pair();
        pack_these(dir.path(), &[first]);
        add(&store, &spec(dir.path(), second), &write_options(), &Silent).unwrap();
        check(dir.path(), &["int8", "bf16"]);
        assert!(common::tree(&store) == want, "{first} then {second}");
    }
}

#[test]
fn removing_frees_space_and_keeps_the_rest() {
    let (dir, store) = pair();
    pack_these(dir.path(), &["bf16", "int8"]);
    let both = check(dir.path(), &["int8", "bf16"]).stored_bytes;
    remove(&store, &"int8".parse().unwrap(), &write_options(), &Silent).unwrap();
    let high = check(dir.path(), &["bf16"]);
    assert!(high.variants[0].given.is_empty());
    assert!(high.stored_bytes < both + 10_000);

    add(&store, &spec(dir.path(), "int8"), &write_options(), &Silent).unwrap();
    remove(&store, &"bf16".parse().unwrap(), &write_options(), &Silent).unwrap();
    assert!(check(dir.path(), &["int8"]).stored_bytes < both * 4 / 5);
    let error = remove(&store, &"int8".parse().unwrap(), &write_options(), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("only variant")), "{error}");
    check(dir.path(), &["int8"]);
}

#[test]
fn the_low_variant_needs_nothing_of_the_high_one() {
    let (dir, path) = pair();
    pack_these(dir.path(), &["bf16", "int8"]);
    let store = Store::open(&path).unwrap();
    let high = &inspect(&store, false).unwrap().variants[1];
    for file in &high.stored_files {
        fs::remove_file(path.join(file)).unwrap();
    }
    let low = "int8".parse().unwrap();
    let variant = store.variant(&low).unwrap();
    let tensors = load(&variant, &options(), &Silent).unwrap();
    assert_eq!(tensors.len() as u64, variant.entry().tensors);
    let expected = inspect(&store, false).unwrap().variants[0].read_bytes;
    assert_eq!(Some(variant.bytes_read()), expected);
    unpack(&store, &low, &dir.path().join("out"), &options(), &Silent).unwrap();
    assert_same_tree(&dir.path().join("int8"), &dir.path().join("out"));
    assert!(verify(&store, Some(&low), false, &options(), &Silent).unwrap().is_sound());

    let all = verify(&store, None, true, &options(), &Silent).unwrap();
    assert!(all.variants[0].problems.is_empty());
    assert!(all.variants[1].problems[0].text.contains("missing"), "{:?}", all.variants[1].problems);
    let error =
        unpack(&store, &"bf16".parse().unwrap(), &dir.path().join("no"), &options(), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound));
    assert!(!dir.path().join("no").exists());
}

#[test]
fn a_verbatim_variant_is_a_folder_that_any_tool_loads() {
    let (dir, path) = pair();
    fs::create_dir(dir.path().join("int8/empty")).unwrap();
    let kept = VariantSpec { verbatim: true, ..spec(dir.path(), "int8") };
    pack(&[spec(dir.path(), "bf16"), kept.clone()], &path, &write_options(), &Silent).unwrap();
    assert_same_tree(&dir.path().join("int8"), &path.join("int8"));
    let inspection = check(dir.path(), &["int8", "bf16"]);
    assert!(inspection.variants[1].tensors.iter().flatten().any(|t| t.encoding == "residual"));
    assert!(inspection.variants[0].tensors.iter().flatten().all(|t| t.encoding == "verbatim"));

    // Damage in the kept files is noticed by whoever is given them.
    let file = path.join("int8/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1000;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let store = Store::open(&path).unwrap();
    let found = verify(&store, None, false, &options(), &Silent).unwrap();
    assert!(!found.variants[0].problems.is_empty() && !found.variants[1].problems.is_empty(), "{found:?}");
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();

    // So is what only the tools that load them would read: a header, a byte at the end, a file more.
    let problems = || {
        verify(&store, Some(&"int8".parse().unwrap()), true, &options(), &Silent).unwrap().variants[0]
            .problems
            .clone()
    };
    bytes[20] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert!(problems()[0].text.contains("model.safetensors"), "{:?}", problems());
    bytes[20] ^= 1;
    let told = || qstore::inspect(&store, false).unwrap().variants[0].problem.clone();
    assert_eq!(told(), None);
    bytes.push(0);
    fs::write(&file, &bytes).unwrap();
    assert!(problems()[0].text.contains("SHA-256"), "{:?}", problems());
    // Sizes are what inspecting looks at.
    assert!(told().is_some_and(|text| text.contains("model.safetensors")), "{:?}", told());
    fs::remove_file(&file).unwrap();
    assert!(told().is_some_and(|text| text.contains("missing")), "{:?}", told());
    bytes.pop();
    fs::write(&file, &bytes).unwrap();
    fs::write(path.join("int8/more.txt"), "").unwrap();
    assert!(problems()[0].text.contains("not packed"), "{:?}", problems());
    fs::remove_file(path.join("int8/more.txt")).unwrap();
    assert!(problems().is_empty(), "{:?}", problems());

    remove(&path, &"int8".parse().unwrap(), &write_options(), &Silent).unwrap();
    check(dir.path(), &["bf16"]);
    assert!(!path.join("int8").exists());
    add(&path, &kept, &write_options(), &Silent).unwrap();
    check(dir.path(), &["int8", "bf16"]);
}

#[test]
fn three_variants_share_what_is_equal() {
    let (dir, store) = pair();
    let mut other = model(11, Dtype::BF16, &[(512, 512), (300, 1024)]);
    let fine_tuned =
        model(12, Dtype::BF16, &[(512, 512)]).remove("model.layers.0.mlp.up_proj.weight").unwrap();
    other.insert("model.layers.0.mlp.up_proj.weight".to_owned(), fine_tuned);
    write_checkpoint(&dir.path().join("tuned"), &other);
    pack_these(dir.path(), &["int8", "bf16", "tuned"]);
    let inspection = check(dir.path(), &["int8", "bf16", "tuned"]);
    let tuned = inspection.variants[2].tensors.as_ref().unwrap();
    let encoding = |name: &str| tuned.iter().find(|t| t.name == name).unwrap().encoding.as_str();
    assert_eq!(encoding("model.layers.0.mlp.up_proj.weight"), "float-split");
    assert_eq!(encoding("model.layers.1.mlp.up_proj.weight"), "reference");
    remove(&store, &"bf16".parse().unwrap(), &write_options(), &Silent).unwrap();
    check(dir.path(), &["int8", "tuned"]);
}

#[test]
fn wrong_use_changes_nothing() {
    let (dir, path) = pair();
    pack_these(dir.path(), &["bf16"]);
    let before = common::tree(&path);
    let usage = |result: Result<(), Error>, word: &str| {
        let error = result.unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(word), "{error}");
        assert!(common::tree(&path) == before);
    };
    usage(add(&path, &spec(dir.path(), "bf16"), &write_options(), &Silent), "already");
    usage(add(&path, &spec(dir.path(), "none"), &write_options(), &Silent), "no such folder");
    usage(add(dir.path(), &spec(dir.path(), "int8"), &write_options(), &Silent), "no store");
    usage(remove(&path, &"int8".parse().unwrap(), &write_options(), &Silent), "no variant int8");
    usage(pack(&[spec(dir.path(), "int8")], &path, &write_options(), &Silent), "already");
    usage(pack(&[], &dir.path().join("x"), &write_options(), &Silent), "no variant");
    let twice = [spec(dir.path(), "int8"), spec(dir.path(), "int8")];
    usage(pack(&twice, &dir.path().join("x"), &write_options(), &Silent), "names must differ");
    usage(
        pack(&[spec(dir.path(), "int8")], &dir.path().join("bf16"), &write_options(), &Silent),
        "not an empty",
    );
    usage(
        pack(&[spec(dir.path(), "int8")], &dir.path().join("bf16/config.json"), &write_options(), &Silent),
        "not a folder",
    );
    let store = Store::open(&path).unwrap();
    let name = "bf16".parse().unwrap();
    usage(unpack(&store, &name, &dir.path().join("int8"), &options(), &Silent), "not an empty folder");
    usage(unpack(&store, &"x".parse().unwrap(), &dir.path().join("y"), &options(), &Silent), "no variant x");
    // A store is no checkpoint, and no place for one.
    let own = VariantSpec::new("again".parse().unwrap(), path.clone());
    usage(add(&path, &own, &write_options(), &Silent), "only read");
    let error = pack(&[own], &dir.path().join("x"), &write_options(), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Input { what, .. } if what.contains("itself a store")), "{error}");
    // An empty target is as good as none.
    fs::create_dir(dir.path().join("empty")).unwrap();
    unpack(&store, &name, &dir.path().join("empty"), &options(), &Silent).unwrap();
    assert_same_tree(&dir.path().join("bf16"), &dir.path().join("empty"));
}

#[test]
fn prefixes_of_names_may_differ_between_classes() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = model(13, Dtype::BF16, &[(128, 256), (128, 256)]);
    let twin = llm_int8(&tensors).into_iter();
    let twin = twin.map(|(name, t)| (name.strip_prefix("model.").unwrap_or(&name).to_owned(), t)).collect();
    write_checkpoint(&dir.path().join("bf16"), &tensors);
    write_checkpoint(&dir.path().join("int8"), &twin);
    pack_these(dir.path(), &["bf16", "int8"]);
    let inspection = check(dir.path(), &["int8", "bf16"]);
    let residuals =
        inspection.variants[1].tensors.iter().flatten().filter(|t| t.encoding == "residual").count();
    assert_eq!(residuals, 2);
}

#[test]
fn variants_are_given_what_they_may_be() {
    let only =
        |names: &[&str]| qstore::GivenRule::Only(names.iter().map(|name| name.parse().unwrap()).collect());
    let given = |store: &Path, name: &str| {
        let entry = Store::open(store).unwrap().manifest().variant(&name.parse().unwrap()).unwrap().clone();
        entry.given.iter().map(|given| given.variant.to_string()).collect::<Vec<_>>()
    };
    let independent = |root: &Path| VariantSpec { given: only(&[]), ..spec(root, "bf16") };

    let (dir, store) = pair();
    pack(&[independent(dir.path()), spec(dir.path(), "int8")], &store, &write_options(), &Silent).unwrap();
    assert_eq!(given(&store, "bf16"), [""; 0]);
    check(dir.path(), &["int8", "bf16"]);

    // What was asked for once holds for what comes later.
    let (dir, store) = pair();
    pack(&[independent(dir.path())], &store, &write_options(), &Silent).unwrap();
    add(&store, &spec(dir.path(), "int8"), &write_options(), &Silent).unwrap();
    assert_eq!(given(&store, "bf16"), [""; 0]);
    check(dir.path(), &["int8", "bf16"]);

    // Of two lower ones the one that may be given, were it the worse.
    let (dir, store) = pair();
    write_checkpoint(
        &dir.path().join("another"),
        &llm_int8(&model(12, Dtype::BF16, &[(512, 512), (300, 1024)])),
    );
    let other = VariantSpec { given: only(&["another"]), ..spec(dir.path(), "bf16") };
    let lower = ["another", "int8"].map(|name| spec(dir.path(), name));
    pack(&[&[other][..], &lower].concat(), &store, &write_options(), &Silent).unwrap();
    assert!(!given(&store, "bf16").contains(&"int8".to_owned()));

    let (dir, store) = pair();
    let unknown = VariantSpec { given: only(&["int4"]), ..spec(dir.path(), "bf16") };
    let error = pack(&[unknown, spec(dir.path(), "int8")], &store, &write_options(), &Silent).unwrap_err();
    assert!(matches!(error, Error::Usage(_)) && error.to_string().contains("int4"), "{error}");
    assert!(!store.exists());
}

#[test]
fn what_one_variant_keeps_in_another_comes_along() {
    let (dir, store) = pair();
    // Its norms and embeddings are those of the lower one.
    write_checkpoint(&dir.path().join("wide"), &model(11, Dtype::F32, &[(512, 512), (300, 1024)]));
    let specs = [
        spec(dir.path(), "int8"),
        VariantSpec {
            given: qstore::GivenRule::Only(vec!["int8".parse().unwrap()]),
            ..spec(dir.path(), "bf16")
        },
        VariantSpec {
            given: qstore::GivenRule::Only(vec!["bf16".parse().unwrap()]),
            ..spec(dir.path(), "wide")
        },
    ];
    pack(&specs, &store, &write_options(), &Silent).unwrap();
    check(dir.path(), &["int8", "bf16", "wide"]);
    // The same model once more: all of it is kept in what the first one is given.
    write_checkpoint(&dir.path().join("again"), &model(11, Dtype::BF16, &[(512, 512), (300, 1024)]));
    let again = VariantSpec {
        given: qstore::GivenRule::Only(vec!["bf16".parse().unwrap()]),
        ..spec(dir.path(), "again")
    };
    add(&store, &again, &write_options(), &Silent).unwrap();
    check(dir.path(), &["int8", "bf16", "again", "wide"]);
}
