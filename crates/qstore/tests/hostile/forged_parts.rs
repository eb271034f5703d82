//! Parts and references to rows that lie, every hash and length made to fit.

use serde_json::{Value, json};

use crate::forge::Forgery;
use crate::forged_plan::{Cases, Expect};
use crate::judge::alone;
use crate::stores;

const FUSED: &str = "tensor:model.layers.0.mlp.experts.gate_up_proj";
const UNCUT: &str = "tensor:model.layers.1.mlp.experts.down_proj";
const TO_PART: &str = "tensor:model.layers.0.mlp.experts.1.down_proj.weight";
const TO_ROWS: &str = "tensor:model.layers.1.mlp.experts.1.down_proj.weight";

/// The key of a part of the fused tensor.
fn part(f: &mut Forgery, index: usize) -> String {
    f.array("bf16", FUSED)["encoding"]["parts"][index]["array"].as_str().unwrap().to_owned()
}

fn view(f: &mut Forgery, index: usize) -> &mut Value {
    &mut f.array("bf16", FUSED)["encoding"]["parts"][index]["view"]
}

#[test]
fn parts_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::experts());
    cases.add("nothing", Expect::Any, |f| {
        assert_eq!(f.array("bf16", FUSED)["encoding"]["kind"], "parts");
        assert_eq!(f.array("each", TO_PART)["encoding"]["to"]["variant"], "bf16");
        assert!(f.array("each", TO_ROWS)["encoding"]["view"]["slab"].is_array());
        let first = part(f, 0);
        assert_eq!(f.array("bf16", &first)["encoding"]["kind"], "residual");
    });
    for (field, value) in [
        ("slab", json!([0, 95])),
        ("slab", json!([1, 97])),
        ("slab", json!([0, 97])),
        ("slab", json!([96, 0])),
        ("slab", json!([0, u64::MAX])),
        ("slab", json!(null)),
        ("rows", json!([0, 161])),
        ("rows", json!([1, 161])),
        ("rows", json!([0, 0])),
        ("rows", json!([160, 320])),
        ("rows", json!([0, u64::MAX])),
        ("order", json!([0, 2])),
        ("order", json!([160, 0])),
        ("order", json!([7, 3])),
        ("order", json!([2, 160])),
        ("order", json!([u64::MAX, 2])),
        ("order", json!(null)),
        ("pitch", json!(0)),
        ("pitch", json!(1)),
        ("pitch", json!(u64::MAX)),
        ("transposed", json!(false)),
    ] {
        cases.add(&format!("the first part's {field} is {value}"), Expect::Notice, |f| {
            view(f, 0)[field] = value
        });
    }
    cases.add("the first two parts change places", Expect::Notice, |f| {
        let parts = f.array("bf16", FUSED)["encoding"]["parts"].as_array_mut().unwrap();
        parts.swap(0, 1);
    });
    cases.add("the views of the first two parts change places", Expect::Notice, |f| {
        let second = view(f, 1).clone();
        let first = std::mem::replace(view(f, 0), second);
        *view(f, 1) = first;
    });
    cases.add("no part", Expect::Notice, |f| f.array("bf16", FUSED)["encoding"]["parts"] = json!([]));
    cases.add("a part is left out", Expect::Notice, |f| {
        f.array("bf16", FUSED)["encoding"]["parts"].as_array_mut().unwrap().pop();
    });
    cases.add("a part twice", Expect::Notice, |f| {
        let first = f.array("bf16", FUSED)["encoding"]["parts"][0].clone();
        f.array("bf16", FUSED)["encoding"]["parts"][1] = first;
    });
    for array in ["part:99", "part:00", "bundle:0", UNCUT, FUSED] {
        cases.add(&format!("{array} for a part"), Expect::Notice, |f| {
            f.array("bf16", FUSED)["encoding"]["parts"][0]["array"] = json!(array);
        });
    }
    for (field, value) in [
        ("shape", json!([96, 160])),
        ("shape", json!([160, 95])),
        ("shape", json!([160])),
        ("dtype", json!("F16")),
        ("encoding", json!({"kind": "slice", "of": "bundle:0", "offset": 0})),
        ("encoding", json!({"kind": "parts", "parts": []})),
        ("encoding", json!({"kind": "verbatim", "file": "model.safetensors", "offset": 0})),
    ] {
        cases.add(&format!("a part with {field} {value}"), Expect::Notice, |f| {
            let first = part(f, 0);
            f.array("bf16", &first)[field] = value;
        });
    }
    cases.report.finish(36);
}

#[test]
fn references_to_rows_that_lie() {
    let _alone = alone();
    let mut cases = Cases::on(stores::experts());
    for value in [
        json!([0, 95]),
        json!([96, 193]),
        json!([193, 289]),
        json!([0, 96]),
        json!([192, 96]),
        json!([u64::MAX, 0]),
        json!([0, u64::MAX]),
        json!(null),
    ] {
        cases.add(&format!("rows {value}"), Expect::Notice, |f| {
            f.array("each", TO_ROWS)["encoding"]["view"]["slab"] = value;
        });
    }
    for view in [
        json!({"transposed": true}),
        json!({"pitch": 7}),
        json!({"pitch": 96 * 160, "slab": [1, 2], "order": [0, 1]}),
        json!({"slab": [0, 96], "rows": [0, 97]}),
        json!({"slab": [0, 96], "order": [u64::MAX, u64::MAX]}),
    ] {
        cases.add(&format!("a view {view}"), Expect::Notice, |f| {
            f.array("each", TO_ROWS)["encoding"]["view"] = view
        });
    }
    // Round and round.
    cases.add("a part that refers to what it is a part of", Expect::Notice, |f| {
        let first = part(f, 0);
        let to = json!({"variant": "bf16", "array": FUSED});
        let view = f.array("bf16", FUSED)["encoding"]["parts"][0]["view"].clone();
        refer(f, "bf16", &first, json!({"kind": "reference", "to": to, "view": view}));
    });
    cases.add("a part that refers to itself", Expect::Notice, |f| {
        let first = part(f, 0);
        let to = json!({"variant": "bf16", "array": first});
        refer(f, "bf16", &first, json!({"kind": "reference", "to": to}));
    });
    cases.add("a part that refers to the next one", Expect::Notice, |f| {
        let (first, second) = (part(f, 0), part(f, 1));
        let to = json!({"variant": "bf16", "array": second});
        refer(f, "bf16", &first, json!({"kind": "reference", "to": to}));
    });
    cases.add("a reference to rows of a reference", Expect::Notice, |f| {
        let to = json!({"variant": "each", "array": TO_PART});
        refer(f, "each", TO_ROWS, json!({"kind": "reference", "to": to, "view": {"slab": [0, 96]}}));
    });
    cases.add("a reference to a bundle", Expect::Notice, |f| {
        f.array("each", TO_PART)["encoding"]["to"]["array"] = json!("bundle:0");
    });
    cases.add("a reference to a part that there is not", Expect::Notice, |f| {
        f.array("each", TO_PART)["encoding"]["to"]["array"] = json!("part:999");
    });
    // What is given, or says what codes stand for, has chunks of its own.
    cases.add("codes that are rows of another tensor", Expect::Notice, |f| {
        let key = "tensor:model.layers.0.mlp.experts.0.gate_proj.weight";
        let to = json!({"variant": "int8", "array": "tensor:model.layers.0.mlp.experts.0.up_proj.weight"});
        refer(f, "int8", key, json!({"kind": "reference", "to": to, "view": {"slab": [0, 160]}}));
    });
    cases.add("a matrix given what is stored by parts", Expect::Notice, |f| {
        let first = part(f, 0);
        let codes = &mut f.array("bf16", &first)["encoding"]["given"]["codes"]["array"];
        *codes = json!({"variant": "bf16", "array": FUSED});
    });
    cases.report.finish(20);
}

/// Has an array refer to another, with no chunks of its own.
fn refer(f: &mut Forgery, variant: &str, key: &str, encoding: Value) {
    f.array(variant, key)["encoding"] = encoding;
    f.chunks(variant, key).clear();
}
