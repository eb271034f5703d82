//! Plans that lie about what is known of weights, every hash made to fit.

use serde_json::json;

use crate::common;
use crate::damage::spread;
use crate::described::{lies_about, pointers, to};
use crate::forge::Forgery;
use crate::forged_plan::{Cases, Expect, forged};
use crate::judge::{Report, alone};
use crate::stores;

const WEIGHT: &str = "tensor:model.layers.0.mlp.up_proj.weight";
const OWN: &str = "tensor:model.layers.0.mlp.up_proj.scales";
const SCALES: &str = "tensor:model.layers.0.mlp.up_proj.weight_scale_inv";

#[test]
fn the_sample_is_what_the_attacks_take_it_for() {
    let _alone = alone();
    let mut forgery = Forgery::of(&stores::several().store);
    let mut known = |variant: &str, kind: &str| {
        let encoding = forgery.array(variant, WEIGHT)["encoding"].clone();
        assert_eq!(encoding["kind"], kind);
        encoding["known"].as_array().unwrap().len()
    };
    assert_eq!((known("int8", "refine"), known("bf16", "refine-floats")), (1, 2));
    assert_eq!(forged(stores::several(), |_| {}), Ok(false));
}

/// What codes that are given floats say of them.
#[test]
fn floats_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::archive());
    let honest = Forgery::of(&stores::archive().store).array("int8", WEIGHT)["encoding"].clone();
    assert_eq!(honest["kind"], "rounded");
    assert_eq!(honest["floats"]["array"], to("bf16", WEIGHT));
    for value in
        [to("int8", WEIGHT), to("fp8", WEIGHT), to("bf16", "tensor:none"), to("bf16", "file:x"), json!(0)]
    {
        cases.add(&format!("floats are {value}"), Expect::Notice, |f| {
            f.array("int8", WEIGHT)["encoding"]["floats"]["array"] = value;
        });
    }
    for view in
        [json!({"transposed": true}), json!({"rows": [0, 5]}), json!({"pitch": 7}), json!({"slab": [9, 1]})]
    {
        cases.add(&format!("floats seen as {view}"), Expect::Notice, |f| {
            f.array("int8", WEIGHT)["encoding"]["floats"]["view"] = view;
        });
    }
    cases.add("packed floats", Expect::Notice, |f| {
        let packing = json!({"bits": 8, "word": 16, "along": "rows"});
        f.array("int8", WEIGHT)["encoding"]["floats"]["packing"] = packing;
    });
    for place in pointers(&honest).into_iter().filter(|place| !place.starts_with("/floats")) {
        for value in lies_about(honest.pointer(&place).unwrap()) {
            cases.add(&format!("{place}: {value}"), Expect::Any, |f| {
                *f.array("int8", WEIGHT)["encoding"].pointer_mut(&place).unwrap() = value;
            });
        }
    }
    for (cols, rows) in [(512, 1), (512, 3), (256, 64), (512, 1 << 14)] {
        cases.add(&format!("{rows} rows of {cols} in a chunk"), Expect::Any, |f| {
            f.array("int8", WEIGHT)["chunk"] = json!({"rows": rows, "cols": cols});
        });
    }
    // Floats given codes that are given these floats.
    cases.add("a circle", Expect::Notice, |f| {
        let given = f.array("int8", WEIGHT)["encoding"]["own"].clone();
        let codes = json!({"array": to("int8", WEIGHT)});
        let matrix = json!({"shape": [64, 512], "codes": codes, "values": given});
        f.array("bf16", WEIGHT)["encoding"]["known"] = json!([{"matrix": matrix, "ends": [-128, 128]}]);
    });
    cases.report.finish(100);
}

/// What floats that are near others say of them.
#[test]
fn near_floats_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::near());
    let honest = Forgery::of(&stores::near().store).array("gptq8", OWN)["encoding"].clone();
    assert_eq!(honest["kind"], "near");
    assert_eq!(honest["floats"]["array"], to("gptq2", OWN));
    let codes = "tensor:model.layers.0.mlp.up_proj.qweight";
    for value in [
        to("gptq8", OWN),
        to("gptq2", codes),
        // What is itself near others.
        to("gptq4", OWN),
        to("gptq8", codes),
        to("gptq2", "tensor:none"),
        to("gptq2", "bundle:0"),
        json!(0),
    ] {
        cases.add(&format!("near {value}"), Expect::Notice, |f| {
            f.array("gptq8", OWN)["encoding"]["floats"]["array"] = value;
        });
    }
    for place in pointers(&honest) {
        for value in lies_about(honest.pointer(&place).unwrap()) {
            cases.add(&format!("{place}: {value}"), Expect::Any, |f| {
                *f.array("gptq8", OWN)["encoding"].pointer_mut(&place).unwrap() = value;
            });
        }
    }
    for value in [json!("1"), json!(null), json!(1e99), json!([1])] {
        cases.add(&format!("times {value}"), Expect::Notice, |f| {
            f.array("gptq8", OWN)["encoding"]["times"] = value;
        });
    }
    // Codes that are said to be near floats, and a missing field.
    cases.add("codes near floats", Expect::Notice, |f| {
        f.array("gptq8", codes)["encoding"] = honest.clone();
    });
    for field in ["floats", "times"] {
        cases.add(&format!("no {field}"), Expect::Notice, |f| {
            f.array("gptq8", OWN)["encoding"].as_object_mut().unwrap().remove(field);
        });
    }
    cases.report.finish(20);
}

/// What is near others is given nothing that is near others itself, else reading could go down a long way.
#[test]
fn what_is_near_is_one_step_away() {
    let _alone = alone();
    let dir = common::scratch();
    let mut forgery = Forgery::of(&stores::near().store);
    forgery.array("gptq8", OWN)["encoding"]["floats"]["array"] = to("gptq4", OWN);
    forgery.write(dir.path());
    let store = qstore::Store::open(dir.path()).unwrap();
    store.variant(&"gptq4".parse().unwrap()).unwrap();
    let error = store.variant(&"gptq8".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("what is itself given others"), "{error}");
}

/// Distances from the levels of codes that were moved.
#[test]
fn stretches_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::moved());
    let honest = Forgery::of(&stores::moved().store).array("bf16", WEIGHT)["encoding"].clone();
    let known = honest["known"].as_array().unwrap();
    let at = known.iter().position(|known| known["around"].is_array()).unwrap();
    for around in [
        json!([]),
        json!([0.5]),
        json!([-1, 1]),
        json!([1, 0, -1]),
        json!(vec![0; 18]),
        json!([-1e39, 0, 1]),
        json!("wide"),
    ] {
        cases.add(&format!("around {around}"), Expect::Notice, |f| {
            f.array("bf16", WEIGHT)["encoding"]["known"][at]["around"] = around;
        });
    }
    for around in [json!([0, 0, 0]), json!([-1e38, 0, 1e38]), json!([-3, -2, -1, 0, 1, 2, 3])] {
        cases.add(&format!("other stretches {around}"), Expect::Any, |f| {
            f.array("bf16", WEIGHT)["encoding"]["known"][at]["around"] = around;
        });
    }
    cases.add("ends as well", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["encoding"]["known"][at]["ends"] = json!([0, 1]);
    });
    cases.add("stretches of two", Expect::Notice, |f| {
        let known = f.array("bf16", WEIGHT)["encoding"]["known"].as_array_mut().unwrap();
        known.push(known[at].clone());
    });
    cases.add("without stretches", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["encoding"]["known"][at].as_object_mut().unwrap().remove("around");
    });
    cases.report.finish(12);
}

#[test]
fn fields_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::several());
    for (variant, kind) in [("int8", "refine"), ("bf16", "refine-floats")] {
        let honest = Forgery::of(&stores::several().store).array(variant, WEIGHT)["encoding"].clone();
        let is_ref =
            |place: &&String| honest.pointer(place).is_some_and(|value| value.get("variant").is_some());
        let places = pointers(&honest);
        let refs = [
            to("fp8", "tensor:none"),
            to(variant, WEIGHT),
            to("bf16", WEIGHT),
            to("fp8", "file:tokenizer.json"),
            to("fp8", "bundle:0"),
            json!(null),
        ];
        for place in places.iter().filter(is_ref) {
            for value in refs.iter().filter(|value| *value != honest.pointer(place).unwrap()) {
                cases.add(&format!("{variant} {place}: {value}"), Expect::Notice, |f| {
                    *f.array(variant, WEIGHT)["encoding"].pointer_mut(place).unwrap() = value.clone();
                });
            }
        }
        for place in places.iter().filter(|place| !is_ref(place)) {
            for value in lies_about(honest.pointer(place).unwrap()) {
                cases.add(&format!("{variant} {place}: {value}"), Expect::Any, |f| {
                    *f.array(variant, WEIGHT)["encoding"].pointer_mut(place).unwrap() = value;
                });
            }
        }
        for ends in [json!([0, -1]), json!([0]), json!([1e39, 1]), json!([-1e38, 1e38]), json!(null)] {
            let expect = if ends[0] == -1e38 { Expect::Any } else { Expect::Notice };
            cases.add(&format!("{variant}: ends {ends}"), expect, |f| {
                f.array(variant, WEIGHT)["encoding"]["known"][0]["ends"] = ends.clone();
            });
        }
        cases.add(&format!("{variant}: known from none"), Expect::Notice, |f| {
            f.array(variant, WEIGHT)["encoding"]["known"] = json!([]);
        });
        cases.add(&format!("{variant}: known from too many"), Expect::Notice, |f| {
            let known = honest["known"][0].clone();
            f.array(variant, WEIGHT)["encoding"]["known"] = json!(vec![known; 17]);
        });
        cases.add(&format!("{variant}: nothing says anything"), Expect::Notice, |f| {
            for known in f.array(variant, WEIGHT)["encoding"]["known"].as_array_mut().unwrap() {
                known.as_object_mut().unwrap().remove("ends");
            }
        });
        for other in ["residual", "refine", "refine-floats", "code-residual", "codes", "raw"] {
            let expect = if other == kind { Expect::Any } else { Expect::Notice };
            cases.add(&format!("{variant} as {other}"), expect, |f| {
                f.array(variant, WEIGHT)["encoding"]["kind"] = json!(other);
            });
        }
        for (cols, rows) in [(512, 1), (512, 3), (256, 64), (512, 1 << 14)] {
            cases.add(&format!("{variant}: {rows} rows of {cols} in a chunk"), Expect::Any, |f| {
                f.array(variant, WEIGHT)["chunk"] = json!({"rows": rows, "cols": cols});
            });
        }
    }
    // What the codes of INT8 are given must be known as well, and before them.
    cases.add("without what is needed", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["encoding"]["known"].as_array_mut().unwrap().remove(0);
    });
    cases.add("what is needed comes later", Expect::Notice, |f| {
        f.array("bf16", WEIGHT)["encoding"]["known"].as_array_mut().unwrap().reverse();
    });
    cases.add("the scales of a residual", Expect::Notice, |f| {
        f.array("fp8", SCALES)["encoding"] = json!({"kind": "reference", "to": to("fp8", WEIGHT)});
    });
    cases.report.finish(400);
}

/// Damage behind the checksums.
#[test]
fn flipped_bits_and_cuts_with_checksums_that_fit() {
    let _alone = alone();
    let mut report = Report::default();
    let noticed = |result: Result<bool, String>| {
        result.and_then(|noticed| noticed.then_some(()).ok_or_else(|| "nobody noticed".to_owned()))
    };
    for (sample, variant, array) in [
        (stores::several(), "int8", WEIGHT),
        (stores::several(), "bf16", WEIGHT),
        (stores::archive(), "int8", WEIGHT),
        (stores::moved(), "bf16", WEIGHT),
        (stores::near(), "gptq8", OWN),
    ] {
        let chunks = Forgery::of(&sample.store).chunks(variant, array).clone();
        for (index, (_, bytes)) in chunks.iter().enumerate() {
            for at in spread(0..bytes.len(), 60) {
                let flipped = forged(sample, |f| f.chunks(variant, array)[index].1[at] ^= 1 << (at * 5 % 8));
                report.add(&format!("{variant} chunk {index} byte {at}"), flipped.map(drop));
                let cut = forged(sample, |f| f.chunks(variant, array)[index].1.truncate(at));
                report.add(&format!("{variant} chunk {index} cut to {at}"), noticed(cut));
            }
            let longer = forged(sample, |f| f.chunks(variant, array)[index].1.extend([0, 0]));
            report.add(&format!("{variant} chunk {index} with more behind"), noticed(longer));
        }
    }
    report.finish(200);
}
