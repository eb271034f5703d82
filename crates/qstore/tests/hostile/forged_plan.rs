//! Plans that lie, every hash and length made to fit.

use std::fs;

use serde_json::{Value, json};

use crate::common::scratch;
use crate::described::to;
use crate::forge::{Forgery, Twist};
use crate::judge::{Report, Trust, alone, judge};
use crate::stores::{self, Sample};

/// What is expected of a forgery beside what is expected of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A full check finds it, at the latest.
    Notice,
    /// Nothing: it may be harmless, as long as all comes back.
    Any,
}

/// Forges a store and judges it; whether a full check finds the forgery.
pub fn forged(sample: &Sample, change: impl FnOnce(&mut Forgery)) -> Result<bool, String> {
    forged_by(Trust::Nothing, sample, change)
}

fn forged_by(trust: Trust, sample: &Sample, change: impl FnOnce(&mut Forgery)) -> Result<bool, String> {
    let dir = scratch();
    let (store, room) = (dir.path().join("store"), dir.path().join("room"));
    fs::create_dir(&room).unwrap();
    let mut forgery = Forgery::of(&sample.store);
    change(&mut forgery);
    forgery.write(&store);
    let verdict = judge(&store, &sample.originals, trust, &room)?;
    Ok(verdict.is_noticed())
}

pub struct Cases {
    pub report: Report,
    sample: &'static Sample,
}

impl Cases {
    pub fn on(sample: &'static Sample) -> Self {
        Self { report: Report::default(), sample }
    }

    pub fn add(&mut self, label: &str, expect: Expect, change: impl FnOnce(&mut Forgery)) {
        let result = forged(self.sample, change).and_then(|noticed| {
            if noticed || expect == Expect::Any { Ok(()) } else { Err("nobody noticed".to_owned()) }
        });
        self.report.add(label, result);
    }
}

const WEIGHT: &str = "tensor:model.layers.0.mlp.up_proj.weight";
const SCALE: &str = "tensor:model.layers.0.mlp.up_proj.SCB";

/// Keys of all arrays of a variant, with their kinds.
pub fn keys(sample: &Sample, variant: &str) -> Vec<(String, String)> {
    let forgery = Forgery::of(&sample.store);
    let arrays =
        forgery.shards[variant].iter().flat_map(|shard| shard.plan["arrays"].as_array().unwrap().clone());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    arrays.map(|array| (text(&array["key"]), text(&array["encoding"]["kind"]))).collect()
}

#[test]
fn taking_apart_and_putting_together_changes_nothing() {
    let _alone = alone();
    for sample in [stores::small(), stores::kept(), stores::sharded()] {
        assert_eq!(forged(sample, |_| {}), Ok(false));
    }
}

#[test]
fn arrays_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    let huge = 1u64 << 60;
    let shapes = [
        json!([huge]),
        json!([1u64 << 32, 1u64 << 32]),
        json!([u64::MAX]),
        json!([u64::MAX, u64::MAX, 2]),
        json!([1u64 << 63, 2]),
        json!([-1]),
        json!([1.5]),
        json!("x"),
        json!(null),
        json!([[]]),
        json!({"a": 1}),
        json!(vec![1; 100_000]),
        json!([0]),
        json!([1]),
        json!([0, huge]),
        json!([huge, 0]),
        json!([]),
    ];
    let grids = [
        json!({"cols": 0, "rows": 1}),
        json!({"cols": 1, "rows": 0}),
        json!({"cols": 0, "rows": 0}),
        json!({"cols": huge, "rows": 1}),
        json!({"cols": 256, "rows": huge}),
        json!({"cols": u64::MAX, "rows": u64::MAX}),
        json!({"cols": 1u64 << 32, "rows": 1u64 << 32}),
        json!({"cols": 256, "rows": -1}),
        json!({"cols": 96}),
        json!(null),
    ];
    for variant in ["int8", "bf16"] {
        for (key, kind) in keys(stores::small(), variant) {
            for shape in shapes.clone() {
                // An array without elements stays one whatever its other dimensions are, until its header is compared.
                let label = format!("{variant} {key} ({kind}) shape {shape:.40}");
                cases.add(&label, Expect::Any, |f| f.array(variant, &key)["shape"] = shape);
            }
            for grid in grids.clone() {
                let expect = if kind == "reference" { Expect::Any } else { Expect::Notice };
                let label = format!("{variant} {key} ({kind}) chunk {grid}");
                // In an empty array a large chunk is as empty as a small one.
                let expect =
                    if key == "tensor:empty" || key == "file:nothing.txt" { Expect::Any } else { expect };
                cases.add(&label, expect, |f| f.array(variant, &key)["chunk"] = grid);
            }
            for cols in [1, 2, 255, 257, 64, 1000] {
                let label = format!("{variant} {key} ({kind}) cols {cols}");
                cases.add(&label, Expect::Any, |f| f.array(variant, &key)["chunk"]["cols"] = json!(cols));
            }
            for dtype in ["BF16", "F16", "F32", "I8", "U8", "F4", "F64", "C64", "Q1", ""] {
                let label = format!("{variant} {key} ({kind}) dtype {dtype}");
                cases.add(&label, Expect::Any, |f| f.array(variant, &key)["dtype"] = json!(dtype));
            }
            for mantissa in [json!(7), json!(10), json!(null)] {
                let label = format!("{variant} {key} ({kind}) mantissa {mantissa}");
                cases.add(&label, Expect::Notice, |f| f.array(variant, &key)["mantissa"] = mantissa);
            }
            for other in ["float-split", "codes", "zstd", "raw", "magic"] {
                let expect = if kind == other || key.contains("empty") || key.contains("nothing") {
                    Expect::Any
                } else {
                    Expect::Notice
                };
                // A coded array without chunks of its form is as good as raw, and the other way round.
                let expect = if other == "raw" || other == "zstd" { Expect::Any } else { expect };
                let label = format!("{variant} {key} ({kind}) as {other}");
                cases.add(&label, expect, |f| f.array(variant, &key)["encoding"] = json!({"kind": other}));
            }
        }
    }
    cases.report.finish(1000);
}

#[test]
fn names_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    for key in [
        "tensor:",
        "file:",
        "file:../x",
        "file:/etc/passwd",
        "other:x",
        "",
        "qstore.plan",
        "tensor:\0",
        SCALE,
    ] {
        cases.add(&format!("an array named {key:?}"), Expect::Notice, |f| {
            f.array("bf16", WEIGHT)["key"] = json!(key)
        });
    }
    cases.add("an array twice", Expect::Notice, |f| {
        let (shard, index) = f.find("bf16", WEIGHT);
        let (array, chunks) = (shard.plan["arrays"][index].clone(), shard.chunks[index].clone());
        shard.plan["arrays"].as_array_mut().unwrap().push(array);
        shard.chunks.push(chunks);
    });
    cases.add("an array that no file has", Expect::Notice, |f| {
        let (shard, index) = f.find("bf16", WEIGHT);
        let (mut array, chunks) = (shard.plan["arrays"][index].clone(), shard.chunks[index].clone());
        array["key"] = json!("tensor:extra");
        shard.plan["arrays"].as_array_mut().unwrap().push(array);
        shard.chunks.push(chunks);
    });
    cases.add("an array less", Expect::Notice, |f| {
        let (shard, index) = f.find("bf16", WEIGHT);
        shard.plan["arrays"].as_array_mut().unwrap().remove(index);
        shard.chunks.remove(index);
    });
    cases.add("no arrays", Expect::Notice, |f| {
        f.last("bf16").plan["arrays"] = json!([]);
        f.last("bf16").chunks.clear();
    });
    cases.add("arrays in another order than their streams' lengths", Expect::Any, |f| {
        f.last("bf16").plan["arrays"].as_array_mut().unwrap().reverse();
    });
    cases.add("the plan of another variant", Expect::Notice, |f| {
        f.last("bf16").plan["variant"] = json!("int8")
    });
    cases.add("no given", Expect::Notice, |f| f.last("bf16").plan["given"] = json!([]));
    cases.add("given itself", Expect::Notice, |f| f.last("bf16").plan["given"][0]["variant"] = json!("bf16"));
    cases.add("given nobody", Expect::Notice, |f| f.last("bf16").plan["given"][0]["variant"] = json!("int4"));
    cases.add("given twice", Expect::Notice, |f| {
        let given = f.last("bf16").plan["given"][0].clone();
        f.last("bf16").plan["given"].as_array_mut().unwrap().push(given);
    });
    cases.add("an unknown field", Expect::Notice, |f| f.last("bf16").plan["more"] = json!(1));
    cases.add("a hash of nothing", Expect::Any, |f| f.array("bf16", WEIGHT)["hash"] = json!("0".repeat(32)));
    cases.add("a hash that is none", Expect::Notice, |f| f.array("bf16", WEIGHT)["hash"] = json!("x"));
    cases.report.finish(20);
}

#[test]
fn references_that_lead_astray() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    let reference = |variant: &str, key: &str| json!({"kind": "reference", "to": to(variant, key)});
    let targets = [
        ("itself", reference("bf16", WEIGHT)),
        ("nothing", reference("int8", "tensor:none")),
        ("nobody", reference("int4", WEIGHT)),
        ("codes", reference("int8", WEIGHT)),
        ("a scalar", reference("int8", "tensor:model.layers.0.mlp.up_proj.weight_format")),
        ("a reference", reference("bf16", "tensor:embed.weight")),
        ("an empty array", reference("int8", "tensor:empty")),
        ("a file", reference("int8", "file:tokenizer.json")),
        ("no array", json!({"kind": "reference"})),
        ("a path out", reference("int8", "file:../../etc/passwd")),
        ("more", json!({"kind": "reference", "to": to("int8", WEIGHT), "x": 1})),
    ];
    for (what, encoding) in targets {
        for key in [WEIGHT, "tensor:embed.weight", "tensor:double_proj.weight"] {
            let encoding = encoding.clone();
            cases.add(&format!("{key} refers to {what}"), Expect::Notice, |f| {
                f.array("bf16", key)["encoding"] = encoding;
            });
        }
    }
    cases.add("a cycle of two", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["encoding"] = reference("bf16", "tensor:embed.weight");
        f.array("bf16", "tensor:embed.weight")["encoding"] = reference("bf16", WEIGHT);
    });
    cases.add("the lower refers to the upper", Expect::Notice, |f| {
        f.array("int8", WEIGHT)["encoding"] = reference("bf16", WEIGHT);
        f.last("int8").plan["given"] = json!([{"variant": "bf16", "content": "0".repeat(32)}]);
        f.entry("int8")["given"] = json!([{"variant": "bf16", "content": "0".repeat(32)}]);
    });
    let codes = "/given/codes/array";
    let scale = "/given/values/scales/0/times/numbers/field/array";
    let refs = [
        (codes, to("int8", SCALE)),
        (codes, to("int8", "tensor:none")),
        (codes, to("bf16", WEIGHT)),
        (codes, to("int4", WEIGHT)),
        (codes, to("int8", "tensor:double_proj.weight")),
        (codes, to("int8", "file:config.json")),
        (codes, to("bf16", "tensor:noise")),
        (codes, json!(null)),
        (scale, to("int8", WEIGHT)),
        (scale, to("int8", "tensor:none")),
        (scale, to("int8", "tensor:double_proj.SCB")),
        (scale, to("bf16", "tensor:single.weight")),
        (scale, json!(null)),
    ];
    for (place, value) in refs {
        for key in [WEIGHT, "tensor:double_proj.weight"] {
            let own = key.contains("double")
                && value["array"].as_str().is_some_and(|array| array.contains("double"));
            let value = value.clone();
            let expect = if own { Expect::Any } else { Expect::Notice };
            cases.add(&format!("{key} given {place} {value}"), expect, |f| {
                *f.array("bf16", key)["encoding"].pointer_mut(place).unwrap() = value;
            });
        }
    }
    for inverse in [json!("up"), json!("quotient"), json!("division"), json!("reciprocal-down"), json!(null)]
    {
        // Another rule may put every weight into the same bin.
        let expect = if inverse.is_null() || inverse == "up" { Expect::Notice } else { Expect::Any };
        cases.add(&format!("by {inverse}"), expect, |f| {
            f.array("bf16", WEIGHT)["encoding"]["given"]["values"]["rule"]["inverse"] = inverse;
        });
    }
    cases.add("by no rule", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["encoding"]["given"]["values"].as_object_mut().unwrap().remove("rule");
    });
    for place in ["", "/given", "/given/codes", "/given/values", "/given/values/rule"] {
        cases.add(&format!("an unknown field in encoding{place}"), Expect::Notice, |f| {
            f.array("bf16", WEIGHT)["encoding"].pointer_mut(place).unwrap()["more"] = json!(1);
        });
    }
    cases.add("a residual in rows that are not its own", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["shape"] = json!([256, 60])
    });
    cases.add("a residual of three dimensions", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["shape"] = json!([60, 256, 1])
    });
    cases.add("a residual among float splits", Expect::Notice, |f| {
        let encoding = f.array("bf16", WEIGHT)["encoding"].clone();
        f.array("int8", "tensor:embed.weight")["encoding"] = encoding;
    });
    cases.report.finish(70);
}

#[test]
fn files_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    let files = Forgery::of(&stores::small().store).last("bf16").plan["files"].clone();
    let at = |path: &str| files.as_array().unwrap().iter().position(|f| f["path"] == path).unwrap();
    let (model, config, notes) = (at("model.safetensors"), at("config.json"), at("sub/notes.txt"));
    let long = format!("{}x", "d/".repeat(2500));
    let paths = [
        "",
        ".",
        "..",
        "../x",
        "../../../../tmp/x",
        "/tmp/x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "./a",
        "C:x",
        "a\\b",
        "x\0y",
        "tokenizer.json",
        "sub",
        "config.json/x",
        "tokenizer.json/x",
        "model.safetensors/..",
        &long,
        "other.json",
        "new\nline",
    ];
    for path in paths {
        // These list another set of files, and nobody can tell that it is not the one that was packed. All of it must
        // be inside the target.
        let mut by_author = |label: String, change: &dyn Fn(&mut Forgery)| {
            let result = forged_by(Trust::Author, stores::small(), change);
            cases.report.add(&label, result.map(drop));
        };
        by_author(format!("a file at {path:.30?}"), &|f| {
            f.array("bf16", "file:config.json")["key"] = json!(format!("file:{path}"));
            f.last("bf16").plan["files"][config]["path"] = json!(path);
        });
        by_author(format!("an empty folder at {path:.30?}"), &|f| {
            f.last("bf16").plan["empty_folders"] = json!([path]);
        });
        cases.add(&format!("a file at {path:.30?} with another's array"), Expect::Notice, |f| {
            f.last("bf16").plan["files"][config]["path"] = json!(path);
        });
    }
    for path in
        [".", "..", "../x", "../../x", "/tmp/x", "a/../../x", "sub", "tokenizer.json", "tokenizer.json/x"]
    {
        for folder in [false, true] {
            let result = forged_by(Trust::Author, stores::small(), |f| {
                if folder {
                    f.last("bf16").plan["empty_folders"] = json!([path]);
                } else {
                    f.array("bf16", "file:config.json")["key"] = json!(format!("file:{path}"));
                    f.last("bf16").plan["files"][config]["path"] = json!(path);
                }
            });
            let result = result.and_then(|noticed| if noticed { Ok(()) } else { Err("accepted".to_owned()) });
            cases.report.add(&format!("{path} as a folder: {folder}"), result);
        }
    }
    cases.add("no files", Expect::Notice, |f| f.last("bf16").plan["files"] = json!([]));
    cases.add("a file twice", Expect::Notice, |f| {
        let file = f.last("bf16").plan["files"][config].clone();
        f.last("bf16").plan["files"].as_array_mut().unwrap().push(file);
    });
    cases.add("a file less", Expect::Notice, |f| {
        f.last("bf16").plan["files"].as_array_mut().unwrap().remove(notes);
    });
    for bytes in [json!(0), json!(1), json!(u64::MAX), json!(-1), json!("x"), json!(1u64 << 62)] {
        for index in [model, config] {
            let bytes = bytes.clone();
            cases.add(&format!("file {index} of {bytes} bytes"), Expect::Notice, |f| {
                f.last("bf16").plan["files"][index]["bytes"] = bytes;
            });
        }
    }
    for sha in [
        json!("0".repeat(64)),
        json!("0".repeat(63)),
        json!("A".repeat(64)),
        json!(null),
        json!("é".repeat(32)),
    ] {
        cases.add(&format!("SHA-256 {sha}"), Expect::Notice, |f| {
            f.last("bf16").plan["files"][model]["sha256"] = sha
        });
    }
    let header = files[model]["content"]["header"].as_str().unwrap().to_owned();
    let headers = [
        String::new(),
        format!("{header} "),
        header[..header.len() - 1].to_owned(),
        " ".repeat(header.len()),
        header.replace("BF16", "F16 "),
        header.replace("[60,256]", "[256,60]"),
        "x".repeat(1 << 20),
        "\u{0}".repeat(header.len()),
    ];
    for (index, header) in headers.into_iter().enumerate() {
        let expect = if files[model]["content"]["header"] == header { Expect::Any } else { Expect::Notice };
        cases.add(&format!("header {index}"), expect, |f| {
            f.last("bf16").plan["files"][model]["content"]["header"] = json!(header);
        });
    }
    for (what, change) in [
        ("reversed", (|t: &mut Vec<Value>| t.reverse()) as fn(&mut Vec<Value>)),
        ("without one", |t| drop(t.pop())),
        ("with one twice", |t| t.push(t[0].clone())),
        ("with an unknown one", |t| t.push(json!("unknown"))),
        ("none", Vec::clear),
        ("of numbers", |t| t.push(json!(1))),
    ] {
        cases.add(&format!("tensors {what}"), Expect::Notice, |f| {
            change(f.last("bf16").plan["files"][model]["content"]["tensors"].as_array_mut().unwrap());
        });
    }
    for content in [
        json!({"kind": "opaque"}),
        json!({"kind": "zip"}),
        json!({}),
        json!(null),
        json!({"kind": "opaque", "x": 1}),
    ] {
        for index in [model, config] {
            let expect = if index == config && content == json!({"kind": "opaque"}) {
                Expect::Any
            } else {
                Expect::Notice
            };
            let content = content.clone();
            cases.add(&format!("file {index} is {content}"), expect, |f| {
                f.last("bf16").plan["files"][index]["content"] = content
            });
        }
    }
    cases.add("a config that is safetensors", Expect::Notice, |f| {
        f.last("bf16").plan["files"][config]["content"] =
            json!({"kind": "safetensors", "header": "{}", "tensors": []});
    });
    cases.report.finish(100);
}

/// The type and shape of a tensor are in its file's header as well. Bytes come back whatever the plan says, but loading
/// would hand out a tensor of another kind.
#[test]
fn types_and_shapes_that_are_not_those_of_the_file() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    for (key, field, value) in [
        ("tensor:noise", "dtype", json!("I8")),
        ("tensor:noise", "dtype", json!("BOOL")),
        ("tensor:noise", "shape", json!([600])),
        ("tensor:noise", "shape", json!([30, 20])),
        ("tensor:numbers", "dtype", json!("U32")),
        ("tensor:numbers", "shape", json!([500])),
        ("tensor:empty", "shape", json!([0])),
        ("tensor:empty", "shape", json!([7, 0])),
        ("tensor:empty", "dtype", json!("F64")),
    ] {
        cases.add(&format!("{key} {field} {value}"), Expect::Notice, |f| f.array("bf16", key)[field] = value);
    }
    cases.report.finish(9);
}

#[test]
fn kept_files_elsewhere() {
    let _alone = alone();
    let mut cases = Cases::on(stores::kept());
    for file in
        ["config.json", "../qstore.json", "/etc/passwd", "none", "sub", "..", "sub/../config.json", ""]
    {
        for key in [WEIGHT, "file:tokenizer.json", "tensor:noise"] {
            if key == "tensor:noise" {
                cases.add(&format!("{key} of the upper variant in {file}"), Expect::Notice, |f| {
                    f.array("bf16", key)["encoding"] = json!({"kind": "verbatim", "file": file, "offset": 0});
                });
            } else {
                cases.add(&format!("{key} in {file}"), Expect::Notice, |f| {
                    f.array("int8", key)["encoding"]["file"] = json!(file);
                });
            }
        }
    }
    for offset in [
        json!(u64::MAX),
        json!(u64::MAX - 5000),
        json!(1u64 << 63),
        json!(0),
        json!(1),
        json!(1u64 << 40),
        json!(-1),
    ] {
        cases.add(&format!("offset {offset}"), Expect::Notice, |f| {
            f.array("int8", WEIGHT)["encoding"]["offset"] = offset
        });
    }
    let lengths: [fn(&mut Vec<qstore_container::ChunkRecord>); 6] = [
        |records| records.iter_mut().for_each(|r| r.length = u32::MAX),
        |records| records.iter_mut().for_each(|r| r.length = 0),
        |records| records.iter_mut().for_each(|r| r.length += 1),
        |records| records.iter_mut().for_each(|r| r.form = qstore_container::ChunkForm::Coded),
        |records| records.iter_mut().for_each(|r| r.form = qstore_container::ChunkForm::Head),
        |records| {
            records.iter_mut().for_each(|r| {
                r.form = qstore_container::ChunkForm::Coded;
                r.length = u32::MAX;
            })
        },
    ];
    for (index, change) in lengths.into_iter().enumerate() {
        cases.add(&format!("records {index}"), Expect::Notice, |f| {
            f.last("int8").twist = Twist::Records(change)
        });
        cases.add(&format!("records {index} far out"), Expect::Notice, |f| {
            f.last("int8").twist = Twist::Records(change);
            f.array("int8", WEIGHT)["encoding"]["offset"] = json!(u64::MAX - 4000);
        });
    }
    cases.report.finish(35);
}

#[test]
fn plans_that_are_none() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    let plan = serde_json::to_vec(&Forgery::of(&stores::small().store).last("bf16").plan).unwrap();
    let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let good = pack(&plan);
    let plans = [
        ("empty", Vec::new()),
        ("no frame", plan.clone()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("zeros", vec![0; 1000]),
        ("of an empty frame", pack(b"")),
        ("null", pack(b"null")),
        ("deep", pack(&vec![b'['; 1 << 20])),
        ("no UTF-8", pack(&[0xff; 1000])),
        ("with text behind", pack(&[&plan[..], b"x"].concat())),
        ("twice", pack(&plan.repeat(2))),
        ("in two frames, twice", good.repeat(2)),
        ("in two frames", [pack(&plan[..100]), pack(&plan[100..])].concat()),
        ("with an empty frame behind", [&good[..], &pack(b"")].concat()),
        ("with a broken frame behind", [&good[..], &[1, 2, 3, 4, 5]].concat()),
        ("a magic number", good[..4].to_vec()),
    ];
    for (what, bytes) in plans {
        cases.add(what, Expect::Notice, |f| f.last("bf16").twist = Twist::Plan(bytes));
    }
    let headers: [(&str, fn(&mut serde_json::Map<String, Value>)); 12] = [
        ("without metadata", |h| drop(h.remove("__metadata__"))),
        ("of another format", |h| h["__metadata__"]["format"] = json!("pt")),
        ("of version 2", |h| h["__metadata__"]["format_version"] = json!("2")),
        ("with another plan", |h| h["__metadata__"]["plan_xxh3"] = json!("0".repeat(32))),
        ("with another list", |h| h["__metadata__"]["chunks_xxh3"] = json!("0".repeat(32))),
        ("with no hash", |h| h["__metadata__"]["plan_xxh3"] = json!("?")),
        ("with a number", |h| h["__metadata__"]["format"] = json!(1)),
        ("without plan", |h| h["qstore.plan"] = Value::Null),
        ("with streams of the wrong size", |h| h["qstore.plan"]["shape"] = json!([1])),
        ("with a plan of no bytes", |h| {
            let end = h["qstore.plan"]["data_offsets"][1].clone();
            h["qstore.plan"] = json!({"dtype": "U8", "shape": [0], "data_offsets": [end, end]});
        }),
        ("with plan and list swapped", |h| {
            let plan = h["qstore.plan"].take();
            h["qstore.plan"] = h["qstore.chunks"].take();
            h["qstore.chunks"] = plan;
        }),
        ("with overlapping streams", |h| {
            let span = h["qstore.plan"].clone();
            h.insert("tensor:more".to_owned(), span);
        }),
    ];
    for (what, change) in headers {
        cases.add(&format!("a header {what}"), Expect::Notice, |f| {
            f.last("bf16").twist = Twist::Header(change)
        });
    }
    for bytes in [
        Vec::new(),
        vec![0; 8],
        vec![0xff; 8],
        vec![0xff; 5000],
        [&200u64.to_le_bytes()[..], &[b'{'; 200]].concat(),
    ] {
        cases.add(&format!("a file of {} other bytes", bytes.len()), Expect::Notice, |f| {
            f.last("bf16").twist = Twist::File(bytes)
        });
    }
    cases.report.finish(30);
}
