//! Plans that lie about what codes are given, every hash made to fit.

use qstore_container::ChunkForm;
use serde_json::{Value, json};

use crate::damage::spread;
use crate::forge::Forgery;
use crate::forged_plan::{Cases, Expect, forged, keys};
use crate::judge::{Report, alone};
use crate::stores;

/// Weights, given the codes of `gptq8`.
const WEIGHT: &str = "tensor:model.layers.0.mlp.up_proj.weight";
/// Codes: of `gptq8` given those of `int8`, of `int8` (where they are the weights) given those of `gptq4`, which are packed.
const CODES: &str = "tensor:model.layers.0.mlp.up_proj.qweight";
const SCALES: &str = "tensor:model.layers.0.mlp.up_proj.scales";
const ZEROS: &str = "tensor:model.layers.0.mlp.up_proj.qzeros";
const GROUPS: &str = "tensor:model.layers.0.mlp.up_proj.g_idx";

fn to(variant: &str, key: &str) -> Value {
    json!({"variant": variant, "array": key})
}

/// The kind of an array, and which variant it is given.
fn kind(variant: &str, key: &str) -> (String, String) {
    let mut forgery = Forgery::of(&stores::chain().store);
    let encoding = forgery.array(variant, key)["encoding"].clone();
    let given = encoding["given"]["codes"]["variant"].as_str().unwrap_or_default();
    (encoding["kind"].as_str().unwrap().to_owned(), given.to_owned())
}

#[test]
fn the_sample_is_what_the_attacks_take_it_for() {
    let _alone = alone();
    let named = |kind: &str, given: &str| (kind.to_owned(), given.to_owned());
    assert_eq!(kind("bf16", WEIGHT), named("step-residual", "gptq8"));
    assert_eq!(kind("int8", WEIGHT), named("code-residual", "gptq4"));
    assert_eq!(kind("gptq8", CODES), named("code-residual", "int8"));
    assert_eq!(kind("gptq4", CODES), named("packed", ""));
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
        let mut grids = vec!["/given/grid"];
        if kind == "code-residual" {
            grids.push("/own");
        }
        let mut places = vec![("/given".to_owned(), "codes")];
        for grid in &grids {
            for field in ["scale", "zeros", "groups"] {
                places.push(((*grid).to_owned(), field));
            }
        }
        let honest = Forgery::of(&stores::chain().store).array(variant, key)["encoding"].clone();
        for (place, field) in &places {
            let before = honest.pointer(&format!("{place}/{field}")).cloned().unwrap_or_default();
            for (what, value) in &refs {
                // Groups that do not lead anywhere, as before, are those that follow each other; some others say the same.
                let same = *value == before || *field == "groups" && *value == json!(null);
                let expect = if same { Expect::Any } else { Expect::Notice };
                let label = format!("{variant} {key} {place}/{field}: {what} of {}", value["variant"]);
                cases.add(&label, expect, |f| {
                    let encoding = &mut f.array(variant, key)["encoding"];
                    encoding.pointer_mut(place).unwrap()[*field] = value.clone();
                });
            }
            cases.add(
                &format!("{variant} {key} {place} without {field}"),
                if *field == "groups" || before.is_null() { Expect::Any } else { Expect::Notice },
                |f| {
                    let encoding = &mut f.array(variant, key)["encoding"];
                    encoding.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(*field);
                },
            );
        }
        for grid in &grids {
            for bits in [
                json!(0),
                json!(1),
                json!(2),
                json!(3),
                json!(4),
                json!(5),
                json!(7),
                json!(8),
                json!(9),
                json!(32),
                json!(255),
                json!(256),
                json!(-1),
                json!(null),
                json!("4"),
            ] {
                let expect =
                    if bits == honest.pointer(grid).unwrap()["bits"] { Expect::Any } else { Expect::Notice };
                cases.add(&format!("{variant} {key} {grid}: {bits} bits"), expect, |f| {
                    f.array(variant, key)["encoding"].pointer_mut(grid).unwrap()["bits"] = bits;
                });
            }
            for offset in [json!(0), json!(2), json!(255), json!(256), json!(-1), json!(null)] {
                // To be off by one everywhere may be as good: the same steps, if all are within reach of the codes.
                cases.add(
                    &format!("{variant} {key} {grid}: offset {offset}"),
                    if offset == json!(0) || offset == honest.pointer(grid).unwrap()["zero_offset"] {
                        Expect::Any
                    } else {
                        Expect::Notice
                    },
                    |f| {
                        f.array(variant, key)["encoding"].pointer_mut(grid).unwrap()["zero_offset"] = offset;
                    },
                );
            }
            for scheme in [json!("llm.int8"), json!("gptq"), json!("awq"), json!(null), json!(3)] {
                let expect = if scheme == honest.pointer(grid).unwrap()["scheme"] {
                    Expect::Any
                } else {
                    Expect::Notice
                };
                cases.add(&format!("{variant} {key} {grid}: scheme {scheme}"), expect, |f| {
                    f.array(variant, key)["encoding"].pointer_mut(grid).unwrap()["scheme"] = scheme;
                });
            }
            for (what, value) in [
                ("null", json!(null)),
                ("{}", json!({})),
                ("of LLM.int8()", json!({"scheme": "llm.int8", "scale": to("gptq4", SCALES)})),
            ] {
                cases.add(&format!("{variant} {key} {grid}: {what}"), Expect::Notice, |f| {
                    *f.array(variant, key)["encoding"].pointer_mut(grid).unwrap() = value;
                });
            }
        }
        for steps in [
            json!(0),
            json!(1),
            json!(2),
            json!(3),
            json!(4),
            json!(8),
            json!(16),
            json!(17),
            json!(32),
            json!(255),
            json!(256),
            json!(null),
        ] {
            let expect = if steps == honest["steps"] || kind != "step-residual" && steps.is_null() {
                Expect::Any
            } else {
                Expect::Notice
            };
            cases.add(&format!("{variant} {key}: {steps} steps"), expect, |f| {
                f.array(variant, key)["encoding"]["steps"] = steps;
            });
        }
        for turned in [true, false] {
            let expect = if turned || kind != "step-residual" { Expect::Notice } else { Expect::Any };
            cases.add(&format!("{variant} {key}: transposed is {turned}"), expect, |f| {
                f.array(variant, key)["encoding"]["transposed"] = json!(turned);
            });
        }
        for other in ["residual", "step-residual", "code-residual", "packed", "float-split", "codes"] {
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
        // All that makes a chunk: other rows in a chunk are other chunks, and of one chunk more rows make no difference.
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
                f.array(variant, key)["grid"] = json!({"cols": cols, "rows_per_chunk": rows});
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
    for bits in [
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(4),
        json!(5),
        json!(8),
        json!(16),
        json!(255),
        json!(null),
    ] {
        let expect = if bits == json!(4) { Expect::Any } else { Expect::Notice };
        // Codes of 2, 4 and 8 bits are coded as the same bytes.
        let expect = if [json!(2), json!(8)].contains(&bits) { Expect::Any } else { expect };
        cases.add(&format!("packed, {bits} bits"), expect, |f| {
            f.array("gptq4", CODES)["encoding"]["bits"] = bits
        });
    }
    cases.report.finish(400);
}

#[test]
fn cycles_and_towers() {
    let _alone = alone();
    let mut cases = Cases::on(stores::chain());
    let grid = |variant: &str| json!({"scheme": "gptq", "bits": 4, "scale": to(variant, SCALES), "zeros": to(variant, ZEROS), "zero_offset": 1});
    cases.add("codes given themselves", Expect::Notice, |f| {
        f.array("gptq4", CODES)["encoding"] =
            json!({"kind": "code-residual", "given": {"codes": to("gptq4", CODES), "grid": grid("gptq4")}, "own": grid("gptq4")});
    });
    cases.add("codes given those above, which are given them", Expect::Notice, |f| {
        f.array("gptq4", CODES)["encoding"] =
            json!({"kind": "code-residual", "given": {"codes": to("gptq8", CODES), "grid": grid("gptq8")}, "own": grid("gptq4")});
        f.last("gptq4").plan["given"] = json!([{"variant": "gptq8", "content": "0".repeat(32)}]);
        f.entry("gptq4")["given"] = json!([{"variant": "gptq8", "content": "0".repeat(32)}]);
    });
    for part in ["scale", "zeros", "groups"] {
        for key in [SCALES, ZEROS, GROUPS] {
            cases.add(&format!("{part} are the codes themselves, by way of {key}"), Expect::Notice, |f| {
                f.array("gptq8", key)["encoding"] = json!({"kind": "reference", "to": to("gptq8", CODES)});
                f.array("gptq8", CODES)["encoding"]["own"][part] = to("gptq8", key);
            });
        }
        cases.add(&format!("{part} are codes of another array of its own variant"), Expect::Notice, |f| {
            f.array("gptq8", CODES)["encoding"]["own"][part] = to("gptq8", "tensor:double_proj.qweight");
        });
    }
    cases.add("each array's grid is the other", Expect::Notice, |f| {
        f.array("gptq8", CODES)["encoding"]["own"]["zeros"] = to("gptq8", "tensor:double_proj.qweight");
        f.array("gptq8", "tensor:double_proj.qweight")["encoding"]["own"]["zeros"] = to("gptq8", CODES);
    });
    cases.add("packed bits that do not fill words", Expect::Notice, |f| {
        f.array("gptq4", CODES)["encoding"] = json!({"kind": "packed", "bits": 3});
    });
    cases.report.finish(14);
}

/// What grids are made of, in the variant that is given.
#[test]
fn grids_that_lie() {
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
                        // An array of its own, in place of one in a bundle, which then has a gap; the reader notices that first.
                        array["hash"] = json!("0".repeat(32));
                        array["grid"] = json!({"cols": 4096, "rows_per_chunk": 128});
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
            if !["packed", "step-residual", "code-residual"].contains(&kind.as_str()) {
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
