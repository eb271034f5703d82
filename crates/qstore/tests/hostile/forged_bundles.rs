//! Bundles and slices that lie, every hash and length made to fit.

use qstore_container::ChunkForm;
use serde_json::{Value, json};

use crate::forge::Forgery;
use crate::forged_plan::{Cases, Expect};
use crate::judge::alone;
use crate::stores;

const FIRST: &str = "tensor:double_proj.SCB";
const SECOND: &str = "tensor:model.layers.0.mlp.up_proj.SCB";

/// The bundle of a slice.
fn bundle_of(f: &mut Forgery, key: &str) -> String {
    let encoding = &f.array("int8", key)["encoding"];
    assert_eq!(encoding["kind"], "slice");
    encoding["of"].as_str().unwrap().to_owned()
}

/// Makes an array of its own of a slice; its bundle is left with bytes of no tensor.
fn stand_alone(f: &mut Forgery, key: &str) {
    let array = f.array("int8", key);
    array["encoding"] = json!({"kind": "raw"});
    array["hash"] = json!("0".repeat(32));
    array["chunk"] = json!({"rows": 128, "cols": 4096});
    let bytes = 4 * array["shape"][0].as_u64().unwrap() as usize;
    f.chunks("int8", key).push((ChunkForm::Raw, vec![0; bytes]));
}

#[test]
fn slices_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    for offset in [json!(1), json!(4), json!(96), json!(1u64 << 20), json!(u64::MAX), json!(-1), json!("0")] {
        for key in [FIRST, SECOND] {
            // Both begin where they begin in the sample: at 0 and at 96.
            let expect = if key == SECOND && offset == 96 { Expect::Any } else { Expect::Notice };
            let offset = offset.clone();
            cases.add(&format!("{key} at {offset}"), expect, |f| {
                f.array("int8", key)["encoding"]["offset"] = offset
            });
        }
    }
    let targets = [
        "bundle:99",
        "bundle:00",
        "bundle:-1",
        "bundle:4294967296",
        "bundle:",
        "",
        "tensor:embed.weight",
        FIRST,
        "file:config.json",
    ];
    for target in targets {
        cases.add(&format!("a slice of {target}"), Expect::Notice, |f| {
            f.array("int8", FIRST)["encoding"]["of"] = json!(target);
        });
    }
    cases.add("a slice of another type's bundle", Expect::Notice, |f| {
        let other = bundle_of(f, "tensor:model.layers.0.mlp.up_proj.weight_format");
        f.array("int8", FIRST)["encoding"]["of"] = json!(other);
    });
    cases.add("a slice of the upper variant's bundle", Expect::Notice, |f| {
        f.array("bf16", "tensor:noise")["encoding"]["of"] = json!("bundle:77");
    });
    for (field, value) in [
        ("hash", json!("0".repeat(32))),
        ("hash", json!(null)),
        ("chunk", json!({"cols": 1, "rows": 1})),
        ("chunk", json!({"cols": 0, "rows": 0})),
        ("chunk", json!(null)),
        ("shape", json!([23])),
        ("shape", json!([25])),
        ("shape", json!([0])),
        ("dtype", json!("I32")),
        ("dtype", json!("BF16")),
    ] {
        cases.add(&format!("a slice with {field} {value}"), Expect::Notice, |f| {
            f.array("int8", FIRST)[field] = value
        });
    }
    cases.add("slices in another order", Expect::Notice, |f| {
        let (first, second) = (f.find("int8", FIRST).1, f.find("int8", SECOND).1);
        f.last("int8").plan["arrays"].as_array_mut().unwrap().swap(first, second);
        f.last("int8").chunks.swap(first, second);
    });
    cases.add("two slices of the same bytes", Expect::Notice, |f| {
        let shape = f.array("int8", FIRST)["shape"].clone();
        f.array("int8", SECOND)["shape"] = shape;
        f.array("int8", SECOND)["encoding"]["offset"] = json!(0);
    });
    cases.add("a file as a slice", Expect::Notice, |f| {
        let array = f.array("int8", "file:config.json");
        array["encoding"] = json!({"kind": "slice", "of": "bundle:0", "offset": 0});
        for field in ["hash", "chunk"] {
            array.as_object_mut().unwrap().remove(field);
        }
    });
    cases.add("an array without a hash", Expect::Notice, |f| {
        f.array("int8", "tensor:embed.weight").as_object_mut().unwrap().remove("hash");
    });
    cases.add("an array without a grid", Expect::Notice, |f| {
        f.array("int8", "tensor:embed.weight").as_object_mut().unwrap().remove("chunk");
    });
    cases.report.finish(35);
}

#[test]
fn bundles_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::small());
    let mut add = |what: &str, change: &dyn Fn(&mut Forgery, &str)| {
        cases.add(what, Expect::Notice, |f| {
            let key = bundle_of(f, FIRST);
            change(f, &key);
        });
    };
    for key in ["bundle:07", "bundle:4294967296", "tensor:bundle", "file:bundle", "bundle"] {
        add(&format!("a bundle named {key}"), &|f, bundle| f.array("int8", bundle)["key"] = json!(key));
    }
    let kinds = [
        json!({"kind": "slice", "of": "bundle:0", "offset": 0}),
        json!({"kind": "reference", "to": {"variant": "int8", "array": SECOND}}),
        json!({"kind": "verbatim", "file": "config.json", "offset": 0}),
        json!({"kind": "magic"}),
    ];
    for kind in kinds {
        add(&format!("a bundle of kind {kind}"), &|f, bundle| {
            f.array("int8", bundle)["encoding"] = kind.clone();
            f.chunks("int8", bundle).clear();
        });
        add(&format!("a bundle of kind {kind} without hash and grid"), &|f, bundle| {
            let array = f.array("int8", bundle);
            array["encoding"] = kind.clone();
            for field in ["hash", "chunk"] {
                array.as_object_mut().unwrap().remove(field);
            }
            f.chunks("int8", bundle).clear();
        });
    }
    for shape in [json!([]), json!([0]), json!([84, 1]), json!([83]), json!([85]), json!([1u64 << 40])] {
        add(&format!("a bundle of shape {shape}"), &|f, bundle| {
            f.array("int8", bundle)["shape"] = shape.clone()
        });
    }
    for dtype in ["I32", "BF16", "U8"] {
        add(&format!("a bundle of {dtype}"), &|f, bundle| f.array("int8", bundle)["dtype"] = json!(dtype));
    }
    add("a bundle that no slice uses", &|f, bundle| {
        let (shard, index) = f.find("int8", bundle);
        let (mut array, chunks) = (shard.plan["arrays"][index].clone(), shard.chunks[index].clone());
        array["key"] = json!("bundle:1000");
        shard.plan["arrays"].as_array_mut().unwrap().push(array);
        shard.chunks.push(chunks);
    });
    add("an empty bundle that no slice uses", &|f, bundle| {
        let mut array = f.array("int8", bundle).clone();
        (array["key"], array["shape"]) = (json!("bundle:1000"), json!([0]));
        array["encoding"] = json!({"kind": "raw"});
        let shard = f.last("int8");
        shard.plan["arrays"].as_array_mut().unwrap().push(array);
        shard.chunks.push(Vec::new());
    });
    add("a bundle used in part", &|f, _| stand_alone(f, SECOND));
    add("a bundle that is missing", &|f, bundle| {
        let (shard, index) = f.find("int8", bundle);
        shard.plan["arrays"].as_array_mut().unwrap().remove(index);
        shard.chunks.remove(index);
    });
    // 2 MiB of zeros, which the header of the file does have.
    add("a bundle larger than a reader accepts", &|f, bundle| {
        let zeros = zstd::bulk::compress(&[0; 2 << 20], 3).unwrap();
        let array = f.array("int8", bundle);
        array["shape"] = json!([1 << 19]);
        array["encoding"] = json!({"kind": "zstd"});
        *f.chunks("int8", bundle) = vec![(ChunkForm::Coded, zeros)];
        f.array("int8", SECOND)["shape"] = json!([(1 << 19) - 24]);
    });
    for (what, at) in [("codes", "codes"), ("scales", "scale")] {
        add(&format!("a residual given a bundle as {what}"), &|f, bundle| {
            let weight = "tensor:model.layers.0.mlp.up_proj.weight";
            f.array("bf16", weight)["encoding"][at]["array"] = json!(bundle);
        });
    }
    add("a reference to a bundle", &|f, bundle| {
        let to = json!({"variant": "int8", "array": bundle});
        f.array("bf16", "tensor:embed.weight")["encoding"] = json!({"kind": "reference", "to": to});
    });
    add("a file that has a bundle", &|f, bundle| {
        let files: &mut Vec<Value> = f.last("int8").plan["files"].as_array_mut().unwrap();
        let file = files.iter_mut().find(|file| file["path"] == "model.safetensors").unwrap();
        file["content"]["tensors"][0] = json!(bundle);
    });
    cases.report.finish(25);
}

/// A verbatim variant has no bundles: its files are there as they are.
#[test]
fn slices_of_kept_files() {
    let _alone = alone();
    let mut cases = Cases::on(stores::kept());
    cases.add("a slice and its bundle in a verbatim variant", Expect::Notice, |f| {
        let mut bundle = f.array("int8", FIRST).clone();
        bundle["key"] = json!("bundle:0");
        bundle["encoding"] = json!({"kind": "raw"});
        let bytes = 4 * bundle["shape"][0].as_u64().unwrap() as usize;
        let slice = f.array("int8", FIRST);
        slice["encoding"] = json!({"kind": "slice", "of": "bundle:0", "offset": 0});
        for field in ["hash", "chunk"] {
            slice.as_object_mut().unwrap().remove(field);
        }
        f.chunks("int8", FIRST).clear();
        let shard = f.last("int8");
        shard.plan["arrays"].as_array_mut().unwrap().push(bundle);
        shard.chunks.push(vec![(ChunkForm::Raw, vec![0; bytes])]);
    });
    cases.report.finish(1);
}
