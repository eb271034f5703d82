//! Manifests that lie, their checksum made to fit.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{copy, scratch};
use crate::forge::write_manifest;
use crate::judge::{Report, Trust, Verdict, alone, judge};
use crate::stores::{self, Sample};

type Edit = Box<dyn Fn(&mut Value)>;

fn edit(edit: impl Fn(&mut Value) + 'static) -> Edit {
    Box::new(edit)
}

/// Judges a copy of `sample` whose manifest was edited.
fn judged(sample: &Sample, change: impl FnOnce(&Path)) -> Result<Verdict, String> {
    let dir = scratch();
    let (store, room) = (dir.path().join("store"), dir.path().join("room"));
    copy(&sample.store, &store);
    fs::create_dir(&room).unwrap();
    change(&store);
    judge(&store, &sample.originals, Trust::Nothing, &room)
}

fn noticed(verdict: Result<Verdict, String>) -> Result<(), String> {
    let verdict = verdict?;
    if verdict.is_noticed() { Ok(()) } else { Err(format!("nobody noticed: {verdict:?}")) }
}

fn edited(sample: &Sample, edit: &Edit) -> Result<Verdict, String> {
    judged(sample, |store| {
        let text = fs::read(store.join("qstore.json")).unwrap();
        let mut manifest: Value = serde_json::from_slice(&text).unwrap();
        edit(&mut manifest);
        write_manifest(store, manifest);
    })
}

#[test]
fn lies_in_every_field() {
    let _alone = alone();
    let mut report = Report::default();
    let mut cases: Vec<(String, Edit)> = Vec::new();

    let long = "x".repeat(10_000);
    let names = [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/mem",
        "a/b",
        "int8/../x",
        "x\0y",
        "C:x",
        "a\\b",
        "qstore.json",
        ".qstore-staging",
        "lock",
        "int8",
        " ",
        "nul",
        &long,
    ];
    for name in names {
        let name = name.to_owned();
        cases.push((
            format!("shard named {name:.20?}"),
            edit(move |m| m["variants"][0]["shards"][0]["name"] = json!(name)),
        ));
    }
    for name in ["", ".", "..", "../int8", "a/b", "-x", "int8\n", "qstore.json", "other", &long] {
        let name = name.to_owned();
        cases.push((
            format!("variant named {name:.20?}"),
            edit(move |m| m["variants"][0]["name"] = json!(name)),
        ));
    }
    let numbers = [
        json!(u64::MAX),
        json!(u64::MAX / 2 + 1),
        json!(-1),
        json!(1.5),
        json!("1"),
        json!(null),
        json!(0),
        json!(1e30),
    ];
    for field in ["tensors", "tensor_bytes", "files", "raw_bytes"] {
        for number in numbers.clone() {
            cases.push((
                format!("{field} of both {number}"),
                edit(move |m| (0..2).for_each(|i| m["variants"][i][field] = number.clone())),
            ));
        }
    }
    for number in numbers {
        cases.push((
            format!("shard bytes of both {number}"),
            edit(move |m| (0..2).for_each(|i| m["variants"][i]["shards"][0]["bytes"] = number.clone())),
        ));
    }
    for (what, value) in [
        ("none", json!([])),
        ("itself", json!([{"variant": "bf16", "content": "0".repeat(32)}])),
        ("nobody", json!([{"variant": "int4", "content": "0".repeat(32)}])),
        ("another int8", json!([{"variant": "int8", "content": "1".repeat(32)}])),
        ("no hash", json!([{"variant": "int8", "content": "zz"}])),
        ("no list", json!("int8")),
    ] {
        cases.push((format!("given {what}"), edit(move |m| m["variants"][1]["given"] = value.clone())));
    }
    cases.push((
        "a cycle".to_owned(),
        edit(|m| {
            m["variants"][0]["given"] = json!([{"variant": "bf16", "content": m["variants"][1]["content"]}])
        }),
    ));
    cases.push(("the upper first".to_owned(), edit(|m| m["variants"].as_array_mut().unwrap().reverse())));
    cases.push((
        "a variant twice".to_owned(),
        edit(|m| {
            let first = m["variants"][0].clone();
            m["variants"].as_array_mut().unwrap().push(first);
        }),
    ));
    cases.push((
        "one shard in two variants".to_owned(),
        edit(|m| {
            m["variants"][1]["shards"] = m["variants"][0]["shards"].clone();
        }),
    ));
    cases.push((
        "one shard twice".to_owned(),
        edit(|m| {
            let first = m["variants"][0]["shards"][0].clone();
            m["variants"][0]["shards"].as_array_mut().unwrap().push(first);
        }),
    ));
    cases.push((
        "shards swapped".to_owned(),
        edit(|m| {
            let shards = m["variants"][1]["shards"].take();
            m["variants"][1]["shards"] = m["variants"][0]["shards"].take();
            m["variants"][0]["shards"] = shards;
        }),
    ));
    cases.push(("no shards".to_owned(), edit(|m| m["variants"][0]["shards"] = json!([]))));
    cases.push((
        "another id".to_owned(),
        edit(|m| m["variants"][0]["shards"][0]["id"] = json!("0".repeat(32))),
    ));
    cases.push(("another content".to_owned(), edit(|m| m["variants"][1]["content"] = json!("0".repeat(32)))));
    cases.push(("kept, but not".to_owned(), edit(|m| m["variants"][0]["verbatim"] = json!(true))));
    cases.push(("an unknown field".to_owned(), edit(|m| m["variants"][0]["more"] = json!(1))));
    for version in [json!(2), json!(0), json!(-1), json!("1"), json!(u64::MAX), json!(null)] {
        cases.push((format!("version {version}"), edit(move |m| m["format_version"] = version.clone())));
    }
    cases.push(("another format".to_owned(), edit(|m| m["format"] = json!("zip"))));
    cases.push((
        "300 variants".to_owned(),
        edit(|m| {
            let first = m["variants"][0].clone();
            let variants = (0..300).map(|i| {
                let mut variant = first.clone();
                variant["name"] = json!(format!("v{i}"));
                variant["shards"][0]["name"] = json!(format!("v{i}-0123456789ab.safetensors"));
                variant
            });
            m["variants"] = variants.collect();
        }),
    ));
    for (label, edit) in &cases {
        report.add(label, noticed(edited(stores::small(), edit)));
    }
    report.add(
        "kept, but not so",
        noticed(edited(stores::kept(), &edit(|m| m["variants"][0]["verbatim"] = json!(false)))),
    );
    // What only describes decides nothing.
    for (field, value) in
        [("scheme", json!("")), ("dtype", json!("\u{1b}[2J")), ("scheme", json!("y".repeat(1 << 20)))]
    {
        let edit = edit(move |m| m["variants"][0][field] = value.clone());
        let result = edited(stores::small(), &edit).map(drop);
        report.add(&format!("another {field}"), result);
    }
    report.finish(90);
}

#[test]
fn text_that_is_no_manifest() {
    let _alone = alone();
    let mut report = Report::default();
    let honest = fs::read_to_string(stores::small().store.join("qstore.json")).unwrap();
    let mut texts: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("null", b"null".to_vec()),
        ("an array", b"[]".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("no UTF-8", vec![0xff; 100]),
        ("zeros", vec![0; 100]),
        ("17 MiB of space", vec![b' '; 17 << 20]),
        ("deep arrays", vec![b'['; 1 << 20]),
        ("deep objects", br#"{"format":"#.repeat(100_000)),
        ("no checksum", honest.replace("\"checksum\"", "\"sum\"").into_bytes()),
        ("text behind it", format!("{honest}x").into_bytes()),
        ("the same twice", honest.repeat(2).into_bytes()),
        ("a byte order mark", format!("\u{feff}{honest}").into_bytes()),
        (
            "a field twice",
            honest
                .replacen("\"format\": \"qstore\",", "\"format\": \"qstore\", \"format\": \"qstore\",", 1)
                .into_bytes(),
        ),
    ];
    let many = format!(
        r#"{{"format":"qstore","format_version":1,"variants":[{{"name":"a","scheme":"","dtype":"","given":[],"content":"{0}","tensors":0,"tensor_bytes":0,"files":0,"raw_bytes":0,"shards":[{1}]}}],"checksum":null}}"#,
        "0".repeat(32),
        vec![
            format!(
                r#"{{"name":"x","bytes":0,"tail":{{"tables":0,"chunks":0,"plan":0}},"id":"{}"}}"#,
                "0".repeat(32)
            );
            160_000
        ]
        .join(","),
    );
    texts.push(("as many shards as fit", many.into_bytes()));
    texts.push((
        "as many small values as fit",
        [b"{\"format\":[".to_vec(), b"0,".repeat(8_000_000), b"0]}".to_vec()].concat(),
    ));
    for (label, text) in texts {
        let verdict = judged(stores::small(), |store| fs::write(store.join("qstore.json"), text).unwrap());
        report.add(label, noticed(verdict));
    }
    report.finish(16);
}
