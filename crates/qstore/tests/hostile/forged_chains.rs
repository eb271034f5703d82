//! Plans that lie about what codes are given, every hash made to fit.

use qstore_container::ChunkForm;
use serde_json::{Value, json};

use crate::damage::spread;
use crate::described::{gptq, gptq_layout, lies_about, pointers, to};
use crate::forge::Forgery;
use crate::forged_plan::{Cases, Expect, forged, keys};
use crate::judge::{Report, alone};
use crate::stores;

/// Weights, given the codes of `gptq8`.
const WEIGHT: &str = "tensor:model.layers.0.mlp.up_proj.weight";
/// Codes: of `gptq8` given those of `int8`, of `int8` (where they are the weights) given those of `gptq4`, which are
/// packed.
const CODES: &str = "tensor:model.layers.0.mlp.up_proj.qweight";
const SCALES: &str = "tensor:model.layers.0.mlp.up_proj.scales";
const ZEROS: &str = "tensor:model.layers.0.mlp.up_proj.qzeros";
const GROUPS: &str = "tensor:model.layers.0.mlp.up_proj.g_idx";

/// The kind of an array, and which variant it is given, the last of several.
fn kind(variant: &str, key: &str) -> (String, String) {
    let mut forgery = Forgery::of(&stores::chain().store);
    let encoding = forgery.array(variant, key)["encoding"].clone();
    let last = encoding["known"].as_array().and_then(|known| Some(&known.last()?["matrix"]));
    let given = last.unwrap_or(&encoding["given"])["codes"]["array"]["variant"].as_str().unwrap_or_default();
    (encoding["kind"].as_str().unwrap().to_owned(), given.to_owned())
}

#[test]
fn the_sample_is_what_the_attacks_take_it_for() {
    let _alone = alone();
    let named = |kind: &str, given: &str| (kind.to_owned(), given.to_owned());
    assert_eq!(kind("bf16", WEIGHT), named("refine-floats", "int8"));
    assert_eq!(kind("int8", WEIGHT), named("code-residual", "gptq4"));
    assert_eq!(kind("gptq8", CODES), named("code-residual", "int8"));
    assert_eq!(kind("gptq4", CODES), named("codes", ""));
    assert_eq!(forged(stores::chain(), |_| {}), Ok(false));
}

#[test]
fn fields_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::chain());
    let residuals = [("bf16", WEIGHT), ("int8", WEIGHT), ("gptq8", CODES)];
    let double = |part: &str| format!("tensor:double_proj.{part}");
    for (variant, key) in residuals {
        let (kind, given) = kind(variant, key);
        let mut refs = vec![
            ("nothing", to(&given, "tensor:none")),
            ("nobody", to("int4", CODES)),
            ("another shape", to(&given, &double("qweight"))),
            ("its own variant", to(variant, key)),
            ("its own scales", to(variant, SCALES)),
            ("a float residual", to("bf16", WEIGHT)),
            ("a file", to(&given, "file:tokenizer.json")),
            ("a bundle", to(&given, "bundle:0")),
            ("an empty tensor", to(&given, "tensor:empty")),
            ("a path out", to(&given, "file:../../etc/passwd")),
            ("no object", json!(7)),
            ("null", json!(null)),
        ];
        for (part, of) in [("codes", CODES), ("scales", SCALES), ("zeros", ZEROS), ("groups", GROUPS)] {
            refs.push((part, to(&given, of)));
            refs.push((part, to("gptq4", of)));
        }
        let honest = Forgery::of(&stores::chain().store).array(variant, key)["encoding"].clone();
        let is_ref =
            |place: &&String| honest.pointer(place).is_some_and(|value| value.get("variant").is_some());
        let places: Vec<String> = pointers(&honest);
        // Of what says nothing only the codes are read, for those above it.
        let is_read = |place: &str| {
            let mut parts = place.split('/').skip(1);
            let number =
                (parts.next() == Some("known")).then(|| parts.next()?.parse::<usize>().ok()).flatten();
            let known = number.map(|number| &honest["known"][number]);
            known.is_none_or(|known| known.get("around").is_some() || place.contains("/codes/array"))
        };
        for place in places.iter().filter(is_ref).filter(|place| is_read(place)) {
            let before = honest.pointer(place).unwrap();
            for (what, value) in &refs {
                let expect = if value == before { Expect::Any } else { Expect::Notice };
                let label = format!("{variant} {key} {place}: {what} of {}", value["variant"]);
                cases.add(&label, expect, |f| {
                    *f.array(variant, key)["encoding"].pointer_mut(place).unwrap() = value.clone();
                });
            }
        }
        // Whatever else a plan says is true, or nobody is told otherwise.
        for place in places.iter().filter(|place| !is_ref(place)) {
            for value in lies_about(honest.pointer(place).unwrap()) {
                cases.add(&format!("{variant} {key} {place}: {value}"), Expect::Any, |f| {
                    *f.array(variant, key)["encoding"].pointer_mut(place).unwrap() = value;
                });
            }
            let (parent, field) = place.rsplit_once('/').unwrap();
            cases.add(&format!("{variant} {key} {parent} without {field}"), Expect::Any, |f| {
                if let Some(Value::Object(fields)) = f.array(variant, key)["encoding"].pointer_mut(parent) {
                    fields.remove(field);
                }
            });
        }
        for place in places.iter().filter(|place| honest.pointer(place).unwrap().is_object()) {
            // What follows could be some other field, if it were not refused.
            cases.add(&format!("{variant} {key} {place} with more"), Expect::Notice, |f| {
                f.array(variant, key)["encoding"].pointer_mut(place).unwrap()["more"] = json!(1);
            });
        }
        for view in [
            json!({"pitch": 0}),
            json!({"pitch": 7}),
            json!({"slab": [0, 1u64 << 40]}),
            json!({"slab": [1, 0]}),
            json!({"rows": [0, 1u64 << 40], "transposed": true}),
            json!({"rows": [5, 3]}),
            json!({"order": [0, 0]}),
            json!({"order": [1u64 << 40, 1u64 << 40]}),
            json!({"order": [7, 1], "transposed": true}),
        ] {
            for place in places.iter().filter(|place| place.ends_with("/field") || place.ends_with("/codes"))
            {
                if honest.pointer(place).unwrap().get("array").is_none() {
                    continue;
                }
                cases.add(&format!("{variant} {key} {place} seen as {view}"), Expect::Notice, |f| {
                    f.array(variant, key)["encoding"].pointer_mut(place).unwrap()["view"] = view.clone();
                });
            }
        }
        for transposed in [true, false] {
            let expect = if transposed || !kind.ends_with("floats") { Expect::Notice } else { Expect::Any };
            cases.add(&format!("{variant} {key}: transposed is {transposed}"), expect, |f| {
                f.array(variant, key)["encoding"]["transposed"] = json!(transposed);
            });
        }
        for other in ["residual", "refine-floats", "step-residual", "code-residual", "float-split", "codes"] {
            let expect = if other == kind { Expect::Any } else { Expect::Notice };
            cases.add(&format!("{variant} {key} as {other}"), expect, |f| {
                f.array(variant, key)["encoding"]["kind"] = json!(other);
            });
        }
        for shape in [
            json!([1]),
            json!([16, 64, 1]),
            json!([256, 64]),
            json!([64, 16]),
            json!([8, 128]),
            json!([0, 256]),
            json!([1u64 << 40, 256]),
        ] {
            cases.add(&format!("{variant} {key}: shape {shape}"), Expect::Any, |f| {
                f.array(variant, key)["shape"] = shape;
            });
        }
        // All that makes a chunk: other rows in a chunk are other chunks, and of one chunk more rows make no
        // difference.
        for (cols, rows) in [
            (512, 1),
            (512, 3),
            (128, 1),
            (128, 3),
            (64, 1),
            (1, 1),
            (512, 1 << 14),
            (128, 1 << 14),
            (512, 1 << 15),
        ] {
            cases.add(&format!("{variant} {key}: {rows} rows of {cols} in a chunk"), Expect::Any, |f| {
                f.array(variant, key)["chunk"] = json!({"rows": rows, "cols": cols});
            });
        }
        for dtype in ["BF16", "F16", "F32", "I8", "I32", "U8", "F64", "U32"] {
            let same = Forgery::of(&stores::chain().store).array(variant, key)["dtype"] == dtype;
            let expect = if same { Expect::Any } else { Expect::Notice };
            cases.add(&format!("{variant} {key}: dtype {dtype}"), expect, |f| {
                f.array(variant, key)["dtype"] = json!(dtype);
            });
        }
    }
    let layout = gptq_layout(4);
    for place in pointers(&layout) {
        for value in lies_about(layout.pointer(&place).unwrap()) {
            cases.add(&format!("packed codes, {place}: {value}"), Expect::Any, |f| {
                *f.array("gptq4", CODES)["encoding"]["layout"].pointer_mut(&place).unwrap() = value;
            });
        }
    }
    cases.report.finish(2000);
}

#[test]
fn cycles_and_towers() {
    let _alone = alone();
    let mut cases = Cases::on(stores::chain());
    let matrix = |variant: &str| gptq(variant, "model.layers.0.mlp.up_proj", 4, [64, 256], 4);
    let given = |variant: &str| {
        let own = matrix("gptq4")["values"].clone();
        json!({"kind": "code-residual", "given": matrix(variant), "own": own, "layout": gptq_layout(4)})
    };
    cases.add("codes given themselves", Expect::Notice, |f| {
        f.array("gptq4", CODES)["encoding"] = given("gptq4");
    });
    cases.add("codes given those above, which are given them", Expect::Notice, |f| {
        f.array("gptq4", CODES)["encoding"] = given("gptq8");
        f.last("gptq4").plan["given"] = json!([{"variant": "gptq8", "content": "0".repeat(32)}]);
        f.entry("gptq4")["given"] = json!([{"variant": "gptq8", "content": "0".repeat(32)}]);
    });
    for part in [
        "/own/scales/0/times/numbers/field/array",
        "/own/zero/codes/field/array",
        "/own/column_groups/field/array",
    ] {
        for key in [SCALES, ZEROS, GROUPS] {
            cases.add(&format!("{part} are the codes themselves, by way of {key}"), Expect::Notice, |f| {
                f.array("gptq8", key)["encoding"] = json!({"kind": "reference", "to": to("gptq8", CODES)});
                *f.array("gptq8", CODES)["encoding"].pointer_mut(part).unwrap() = to("gptq8", key);
            });
        }
        cases.add(&format!("{part} are codes of another array of its own variant"), Expect::Notice, |f| {
            let other = to("gptq8", "tensor:double_proj.qweight");
            *f.array("gptq8", CODES)["encoding"].pointer_mut(part).unwrap() = other;
        });
    }
    cases.add("each array's zero-points are the other", Expect::Notice, |f| {
        for (key, other) in [(CODES, "tensor:double_proj.qweight"), ("tensor:double_proj.qweight", CODES)] {
            let own = f.array("gptq8", key)["encoding"].pointer_mut("/own/zero/codes/field/array");
            *own.unwrap() = to("gptq8", other);
        }
    });
    cases.add("packed bits that do not fill words", Expect::Notice, |f| {
        f.array("gptq4", CODES)["encoding"]["layout"] = gptq_layout(3);
    });
    cases.report.finish(14);
}

/// Scales, zero-points and groups of the variant that is given.
#[test]
fn scales_that_lie() {
    let _alone = alone();
    let mut report = Report::default();
    let values: [(&str, &[u8]); 7] = [
        ("zeros", &[0]),
        ("ones", &[0xff]),
        ("halves that are no numbers", &[0, 0x7e]),
        ("infinities", &[0, 0x7c]),
        ("large", &[0xff, 0x7b]),
        ("small", &[1, 0]),
        ("negative", &[0, 0xc0]),
    ];
    for variant in ["gptq4", "gptq8"] {
        for key in [SCALES, ZEROS, GROUPS] {
            for (what, value) in values {
                let result = forged(stores::chain(), |f| {
                    let shape = f.array(variant, key)["shape"].clone();
                    let elements: u64 =
                        shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product();
                    let width = if key == SCALES { 2 } else { 4 };
                    let raw = value.iter().copied().cycle().take(elements as usize * width).collect();
                    let array = f.array(variant, key);
                    if array["encoding"]["kind"] == "slice" {
                        // An array of its own, in place of one in a bundle, which then has a gap; the reader notices
                        // that first.
                        array["hash"] = json!("0".repeat(32));
                        array["chunk"] = json!({"rows": 128, "cols": 4096});
                    }
                    array["encoding"] = json!({"kind": "raw"});
                    *f.chunks(variant, key) = vec![(ChunkForm::Raw, raw)];
                });
                let result = result
                    .and_then(|noticed| if noticed { Ok(()) } else { Err("nobody noticed".to_owned()) });
                report.add(&format!("{variant} {key}: {what}"), result);
            }
        }
    }
    report.finish(40);
}

/// Damage behind the checksums in what chains are made of.
#[test]
fn flipped_bits_and_cuts_with_checksums_that_fit() {
    let _alone = alone();
    let mut report = Report::default();
    for variant in ["gptq4", "gptq8", "int8", "bf16"] {
        for (key, kind) in keys(stores::chain(), variant) {
            let is_packed = kind == "codes" && key.ends_with("qweight");
            if !is_packed && !["refine-floats", "code-residual"].contains(&kind.as_str()) {
                continue;
            }
            let chunks = Forgery::of(&stores::chain().store).chunks(variant, &key).clone();
            for (index, (_, bytes)) in chunks.iter().enumerate() {
                for at in spread(0..bytes.len(), 24) {
                    let result = forged(stores::chain(), |f| {
                        f.chunks(variant, &key)[index].1[at] ^= 1 << (at * 5 % 8)
                    });
                    report
                        .add(&format!("{variant} {key} ({kind}) chunk {index} byte {at}"), result.map(drop));
                    let result = forged(stores::chain(), |f| f.chunks(variant, &key)[index].1.truncate(at));
                    let result = result
                        .and_then(|noticed| if noticed { Ok(()) } else { Err("nobody noticed".to_owned()) });
                    report.add(&format!("{variant} {key} ({kind}) chunk {index} cut to {at}"), result);
                }
                let longer = forged(stores::chain(), |f| f.chunks(variant, &key)[index].1.extend([0, 0]));
                let longer = longer
                    .and_then(|noticed| if noticed { Ok(()) } else { Err("nobody noticed".to_owned()) });
                report.add(&format!("{variant} {key} ({kind}) chunk {index} with more behind"), longer);
            }
        }
    }
    report.finish(300);
}
