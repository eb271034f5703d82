//! What a variant says of its files: single ones read back, and what their headers say beside the tensors.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::fs;

use common::{model, options, spec, tree, write_checkpoint, write_options};
use qstore::{Dtype, Error, Silent, Store, pack, read_file};
use safetensors::tensor::TensorView;

#[test]
fn a_file_comes_back_alone_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("bf16");
    write_checkpoint(&folder, &model(5, Dtype::BF16, &[(300, 300)]));
    fs::create_dir(folder.join("onnx")).unwrap();
    fs::write(folder.join("onnx/empty.txt"), "").unwrap();
    pack(&[spec(dir.path(), "bf16")], &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let variant = Store::open(&dir.path().join("store")).unwrap().variant(&"bf16".parse().unwrap()).unwrap();
    let mut files = 0;
    for (path, want) in tree(&folder) {
        let Some(want) = want else { continue };
        assert!(read_file(&variant, &path, &options()).unwrap() == want, "{path}");
        files += 1;
    }
    assert_eq!(files, 4);
    for missing in ["config", "onnx", "../bf16/config.json"] {
        let error = read_file(&variant, missing, &options()).unwrap_err();
        assert!(matches!(&error, Error::UnknownName { what: text, .. } if text.contains(missing)), "{error}");
    }
}

#[test]
fn metadata_is_that_of_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("bf16");
    fs::create_dir(&folder).unwrap();
    let says = |entries: &[(&str, &str)]| -> HashMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    for (file, metadata) in [
        ("a.safetensors", Some(says(&[("format", "pt"), ("only-a", "1")]))),
        ("b.safetensors", Some(says(&[("format", "np"), ("only-b", "2")]))),
        ("c.safetensors", None),
    ] {
        fs::write(
            folder.join(file),
            safetensors::serialize(Vec::<(&str, TensorView)>::new(), metadata).unwrap(),
        )
        .unwrap();
    }
    let null = br#"{"__metadata__": null}"#;
    fs::write(folder.join("d.safetensors"), [&22u64.to_le_bytes()[..], null].concat()).unwrap();
    pack(&[spec(dir.path(), "bf16")], &dir.path().join("store"), &write_options(), &Silent).unwrap();
    let variant = Store::open(&dir.path().join("store")).unwrap().variant(&"bf16".parse().unwrap()).unwrap();
    let metadata: HashMap<_, _> = variant.metadata().unwrap().into_iter().collect();
    assert_eq!(metadata, says(&[("format", "pt"), ("only-a", "1"), ("only-b", "2")]));
}
