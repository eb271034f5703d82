//! What each command does when it is used rightly.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Pair, files, json, run, succeed};

fn names(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn a_store_gives_back_what_was_packed() {
    let pair = Pair::new();
    let store = pair.path("store");
    let packed = succeed(&["pack", &pair.named("bf16"), &pair.named("int8"), "-o", &store]);
    assert!(packed.contains("packed 2 variants") && packed.contains("total"), "{packed}");

    for name in ["bf16", "int8"] {
        let restored = pair.path(&format!("restored-{name}"));
        let said = succeed(&["unpack", &store, name, "-o", &restored]);
        assert!(said.contains(&format!("restored {name}")) && said.contains("SHA-256"), "{said}");
        assert!(files(restored.as_ref()) == files(pair.path(name).as_ref()), "{name} differs");
    }
    let said = succeed(&["verify", &store]);
    assert!(said.contains("the store is sound"), "{said}");
    assert!(succeed(&["verify", &store, "int8", "--quick"]).contains("int8"));
}

#[test]
fn inspect_describes_the_store() {
    let pair = Pair::new();
    let store = pair.pack();
    let report = json(&["inspect", &store, "--tensors", "--json"]);
    assert_eq!(report["format_version"], 1);
    let variants = report["variants"].as_array().unwrap();
    let [int8, bf16] = &variants[..] else { panic!("{report}") };
    assert_eq!((&int8["name"], &bf16["name"]), (&"int8".into(), &"bf16".into()));
    assert_eq!(names(&int8["given"]), [""; 0]);
    assert_eq!(names(&bf16["given"]), ["int8"]);
    for (variant, folder) in [(int8, pair.path("int8")), (bf16, pair.path("bf16"))] {
        let raw: usize = files(folder.as_ref()).values().map(Vec::len).sum();
        assert_eq!(variant["raw_bytes"], raw);
        assert!(variant["read_bytes"].as_u64().unwrap() > 0);
        for file in names(&variant["stored_files"]) {
            assert!(Path::new(&store).join(file).is_file(), "{file}");
        }
        assert_eq!(variant["tensor_count"], variant["tensors"].as_array().unwrap().len());
    }
    let stored: usize = files(store.as_ref()).values().map(Vec::len).sum();
    assert_eq!(report["stored_bytes"], stored);
    assert!(report["ratio"].as_f64().unwrap() < 0.7, "{report}");
    let matrix =
        bf16["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "model.layers.0.mlp.up_proj.weight");
    let matrix = matrix.unwrap();
    assert_eq!((&matrix["encoding"], &matrix["given"]), (&"residual".into(), &"int8".into()));

    let bare = json(&["inspect", &store, "--json"]);
    assert!(bare["variants"][0].get("tensors").is_none());
    let text = succeed(&["inspect", &store, "--tensors"]);
    assert!(
        text.contains("model.layers.1.self_attn.q_proj.weight") && text.contains("bits a weight"),
        "{text}"
    );
}

#[test]
fn archived_variants_are_told() {
    let pair = Pair::new();
    let (store, other) = (pair.path("archive"), pair.path("other"));
    let named = [pair.named("bf16"), pair.named("int8")];
    let pack = |store: &str, options: &[&str]| {
        let all = [&["pack", &named[0], &named[1], "-o", store][..], options].concat();
        run(&all)
    };
    assert!(pack(&store, &["--archive", "int8", "--levels", "1"]).status == 0);
    let text = succeed(&["inspect", &store]);
    assert_eq!(text.matches("int8 (archived)").count(), 2, "in the table and the tree: {text}");
    assert!(text.contains("of 2 variants"), "{text}");
    // Roles are changed by storing a variant anew.
    succeed(&["remove", &store, "int8"]);
    succeed(&["add", &store, &named[1]]);
    assert!(!succeed(&["inspect", &store]).contains("(archived)"));
    succeed(&["remove", &store, "int8"]);
    succeed(&["add", &store, &named[1], "--archive"]);
    let report = json(&["inspect", &store, "--json"]);
    assert_eq!(report["variants"][1]["archived"], true);
    assert!(pack(&other, &["--served", "bf16"]).status == 0);
    assert_eq!(json(&["inspect", &other, "--json"])["variants"][1]["archived"], true);
    let wrong = pair.path("wrong");
    for options in [
        &["--archive", "int4"][..],
        &["--served", "int4"],
        &["--archive", "int8", "--served", "bf16"],
        &["--archive", "int8", "--given", "bf16:int8"],
        &["--archive", "int8,bf16"],
        &["--archive", "int8", "--independent", "int8"],
        &["--archive", "int8", "--verbatim", "int8"],
        &["--levels", "0"],
        &["--levels", "17"],
    ] {
        assert!(pack(&wrong, options).status != 0, "{options:?}");
    }
    assert!(!Path::new(&wrong).exists());
}

#[test]
fn load_reports_what_it_took() {
    let pair = Pair::new();
    let store = pair.pack();
    let report = json(&["load", &store, "bf16", "--json", "--threads", "2"]);
    let keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["variant", "tensors", "tensor_bytes", "bytes_read", "seconds", "peak_rss_bytes"]);
    assert_eq!(report["tensors"], 2 * 9 + 3);
    let inspected = json(&["inspect", &store, "--json"]);
    let own = fs::metadata(pair.path("bf16/model.safetensors")).unwrap().len();
    let loaded = report["tensor_bytes"].as_u64().unwrap();
    assert!(loaded < own && loaded + 10_000 > own, "{report}");
    assert_eq!(report["bytes_read"], inspected["variants"][1]["read_bytes"]);
    assert_eq!(report["peak_rss_bytes"].is_u64(), cfg!(target_os = "linux"));
    let text = succeed(&["load", &store, "int8"]);
    assert!(text.contains("loaded int8") && text.contains("from the store"), "{text}");
}

#[test]
fn variants_come_and_go() {
    let pair = Pair::new();
    let store = pair.path("store");
    succeed(&["pack", &pair.named("bf16"), "-o", &store]);
    let alone = json(&["inspect", &store, "--json"])["stored_bytes"].as_u64().unwrap();
    let said = succeed(&["add", &store, &pair.named("int8")]);
    assert!(said.contains("added int8") && said.contains("bf16"), "{said}");
    succeed(&["verify", &store]);
    let both = json(&["inspect", &store, "--json"]);
    assert!(both["stored_bytes"].as_u64().unwrap() < alone + alone / 5, "{both}");

    let said = succeed(&["remove", &store, "int8"]);
    assert!(said.contains("removed int8"), "{said}");
    let restored = pair.path("restored");
    succeed(&["unpack", &store, "bf16", "-o", &restored]);
    assert!(files(restored.as_ref()) == files(pair.path("bf16").as_ref()));
}

#[test]
fn a_verbatim_variant_is_there_as_it_is() {
    let pair = Pair::new();
    let store = pair.path("store");
    succeed(&["pack", &pair.named("bf16"), &pair.named("int8"), "-o", &store, "--verbatim", "int8"]);
    let kept = files(&Path::new(&store).join("int8"));
    assert!(kept == files(pair.path("int8").as_ref()));
    assert!(succeed(&["inspect", &store]).contains("int8 (verbatim)"));
    succeed(&["verify", &store]);
}

#[test]
fn shards_are_split_as_asked() {
    let pair = Pair::new();
    let store = pair.path("store");
    succeed(&["pack", &pair.named("bf16"), "-o", &store, "--shard-size", "100kB", "--memory", "64MiB"]);
    let report = json(&["inspect", &store, "--json"]);
    assert!(names(&report["variants"][0]["stored_files"]).len() > 2, "{report}");
}

#[test]
fn quantize_writes_a_folder_that_transformers_knows() {
    let pair = Pair::new();
    let config: Value = serde_json::from_slice(&fs::read(pair.path("int8/config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["quant_method"], "bitsandbytes");
    let said = succeed(&["quantize", &pair.path("bf16"), "--to", "int8", "-o", &pair.path("again")]);
    assert!(said.contains("14 tensors quantized"), "{said}");
    let options = ["--to", "gptq4", "--group-size", "-1", "--asymmetric", "-o", &pair.path("gptq4")];
    let said = succeed(&[&["quantize", &pair.path("bf16")][..], &options].concat());
    assert!(said.contains("14 tensors quantized"), "{said}");
    let config: Value = serde_json::from_slice(&fs::read(pair.path("gptq4/config.json")).unwrap()).unwrap();
    let gptq = &config["quantization_config"];
    assert_eq!((&gptq["bits"], &gptq["group_size"], &gptq["sym"]), (&4.into(), &(-1).into(), &false.into()));
}

#[test]
fn a_variant_that_is_given_a_damaged_one_is_not_called_sound() {
    let pair = Pair::new();
    let store = pair.pack();
    let report = json(&["inspect", &store, "--json"]);
    let shard = Path::new(&store).join(names(&report["variants"][0]["stored_files"])[0]);
    let mut bytes = fs::read(&shard).unwrap();
    bytes[10_000] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let done = run(&["verify", &store, "--quick"]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.stdout.contains("bf16: 3 files") && done.stdout.contains("but given int8"), "{done:?}");
    let report: Value = serde_json::from_str(&run(&["verify", &store, "--quick", "--json"]).stdout).unwrap();
    assert_eq!(report["variants"][1]["given_damaged"], serde_json::json!(["int8"]));
    assert!(report["variants"][0].get("given_damaged").is_none(), "{report}");
}

#[test]
fn damage_is_found_and_located() {
    let pair = Pair::new();
    let store = pair.pack();
    let report = json(&["inspect", &store, "--json"]);
    let shard = Path::new(&store).join(names(&report["variants"][1]["stored_files"])[0]);
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();

    for quick in [&["--quick"][..], &[]] {
        let verify = [&["verify", &store, "--json"], quick].concat();
        let done = run(&verify);
        assert_eq!(done.status, 1, "{done:?}");
        let report: Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!((&report["sound"], &report["quick"]), (&false.into(), &(!quick.is_empty()).into()));
        let problems: Vec<_> = report["variants"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["problems"].as_array().unwrap().len())
            .collect();
        assert!(problems[0] == 0 && problems[1] > 0, "{report}");
        assert!(done.stderr.contains("damaged: bf16"), "{done:?}");
    }
    let done = run(&["verify", &store, "-q"]);
    assert_eq!(done.status, 1);
    assert!(done.stdout.contains("bf16") && !done.stdout.contains("int8"), "{done:?}");
    succeed(&["verify", &store, "int8"]);

    let target = pair.path("restored");
    let done = run(&["unpack", &store, "bf16", "-o", &target]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(!Path::new(&target).exists());
    succeed(&["unpack", &store, "int8", "-o", &target]);
}

#[test]
fn quiet_is_quiet() {
    let pair = Pair::new();
    let store = pair.path("store");
    let (bf16, int8, again) = (pair.named("bf16"), pair.named("int8"), pair.path("again"));
    let commands: [&[&str]; 6] = [
        &["pack", &bf16, "-o", &store],
        &["add", &store, &int8],
        &["verify", &store],
        &["unpack", &store, "bf16", "-o", &again],
        &["remove", &store, "int8"],
        &["quantize", &again, "--to", "int8", "-o", &pair.path("more")],
    ];
    for command in commands {
        let done = run(&[command, &["--quiet"]].concat());
        assert_eq!((done.status, &*done.stdout, &*done.stderr), (0, "", ""), "{command:?}");
    }
}
