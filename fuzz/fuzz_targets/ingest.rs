//! A folder whose safetensors files are the fuzzer's: it is packed and restored byte for byte, or refused.
#![no_main]

use std::fs;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore::{Options, Silent, Store, VariantSpec, pack, unpack};

#[derive(Debug, Arbitrary)]
struct Input {
    /// The header's text, or the whole file.
    header: Result<String, Vec<u8>>,
    data: Vec<u8>,
    /// A second variant with another header over the same bytes.
    other: Option<String>,
    config: Option<Vec<u8>>,
}

fuzz_target!(|input: Input| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path();
    let file = |header: &str| {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(&input.data);
        file
    };
    let mut variants = vec![("a", input.header.as_ref().map_or_else(Clone::clone, |header| file(header)))];
    variants.extend(input.other.as_ref().map(|header| ("b", file(header))));
    let mut specs = Vec::new();
    for (name, bytes) in &variants {
        fs::create_dir(root.join(name)).expect("a folder");
        fs::write(root.join(name).join("model.safetensors"), bytes).expect("a file");
        if let Some(config) = &input.config {
            fs::write(root.join(name).join("config.json"), config).expect("a file");
        }
        specs.push(VariantSpec::new(name.parse().expect("a name"), root.join(name)));
    }
    let options = Options { threads: 1, ..Options::default() };
    if pack(&specs, &root.join("store"), &options.clone().into(), &Silent).is_err() {
        assert!(!root.join("store").exists(), "a refused folder leaves no store");
        return;
    }
    let store = Store::open(&root.join("store")).expect("a packed store opens");
    for (name, bytes) in &variants {
        let out = root.join(format!("out-{name}"));
        unpack(&store, &name.parse().expect("a name"), &out, &options, &Silent)
            .expect("a packed variant unpacks");
        assert_eq!(fs::read(out.join("model.safetensors")).expect("a file"), *bytes);
    }
});
