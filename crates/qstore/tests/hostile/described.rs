//! Quantised matrices as plans describe them.

use serde_json::{Value, json};

/// What plans call an array.
pub fn to(variant: &str, key: &str) -> Value {
    json!({"variant": variant, "array": key})
}

/// What the codes of LLM.int8() stand for, of which rows have `cols`.
pub fn int8_values(variant: &str, scale: &str, cols: u64) -> Value {
    json!({
        "levels": "signed",
        "scales": [
            {"times": {"numbers": {"field": {"array": to(variant, scale), "view": {"pitch": 1}}, "number": "f32", "tile": [1, cols]}}},
            {"over": {"constant": 127.0}},
        ],
        "rule": {"weights": "f16", "inverse": "reciprocal"},
    })
}

/// A matrix of LLM.int8().
pub fn int8(variant: &str, base: &str, shape: [u64; 2]) -> Value {
    let values = int8_values(variant, &format!("tensor:{base}.SCB"), shape[1]);
    json!({"shape": shape, "codes": {"array": to(variant, &format!("tensor:{base}.weight"))}, "values": values})
}

/// A matrix of GPTQ with `g_idx`, in `groups` groups.
pub fn gptq(variant: &str, base: &str, bits: u8, shape: [u64; 2], groups: u64) -> Value {
    let part = |end: &str| to(variant, &format!("tensor:{base}.{end}"));
    let packing = |along: &str| json!({"bits": bits, "word": 32, "along": along});
    let tile = [1, shape[1].div_ceil(groups)];
    let transposed = json!({"transposed": true});
    json!({
        "shape": shape,
        "codes": {"array": part("qweight"), "view": transposed, "packing": packing("columns")},
        "values": {
            "levels": "unsigned",
            "scales": [{"times": {"numbers": {"field": {"array": part("scales"), "view": transposed}, "number": "f16", "tile": tile}}}],
            "zero": {"codes": {
                "field": {"array": part("qzeros"), "view": transposed, "packing": packing("rows")},
                "levels": "unsigned", "add": 1, "tile": tile,
            }},
            "column_groups": {"field": {"array": part("g_idx"), "view": {"pitch": 1}}, "count": groups},
        },
    })
}

/// How the words of GPTQ's codes lie.
pub fn gptq_layout(bits: u8) -> Value {
    json!({"transposed": true, "packing": {"bits": bits, "word": 32, "along": "columns"}})
}

/// Every value within `value`, by its JSON pointer.
pub fn pointers(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), field)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        all.push(format!("/{name}"));
        all.extend(pointers(child).into_iter().map(|below| format!("/{name}{below}")));
    }
    all
}

/// Values that may be lies in the place of another.
pub fn lies_about(value: &Value) -> Vec<Value> {
    let huge = 1u64 << 60;
    match value {
        Value::Number(_) => vec![
            json!(0),
            json!(1),
            json!(2),
            json!(3),
            json!(7),
            json!(9),
            json!(33),
            json!(127),
            json!(255),
            json!(256),
            json!(-1),
            json!(-9),
            json!(-300),
            json!(1.5),
            json!(huge),
            json!(u64::MAX),
            json!(null),
            json!("4"),
        ],
        Value::String(text) => {
            let words = [
                "unsigned",
                "signed",
                "offset",
                "f32",
                "bf16",
                "e8m0",
                "rows",
                "columns",
                "division",
                "reciprocal",
                "",
            ];
            let words = words.into_iter().filter(|word| word != text).map(|word| json!(word));
            words
                .chain([
                    json!(null),
                    json!(4),
                    json!({"float": "e4m3"}),
                    json!({"float": "e2m1"}),
                    json!({"table": [0.5]}),
                ])
                .collect()
        }
        Value::Bool(_) => vec![json!(true), json!(false), json!(null), json!(1)],
        Value::Array(_) => vec![
            json!([]),
            json!([0]),
            json!([0, 0]),
            json!([1, 1]),
            json!([2, 1]),
            json!([1, huge]),
            json!([huge, 1]),
            json!([u64::MAX, u64::MAX]),
            json!([-1, 1]),
            json!([1, 2, 3]),
            json!(null),
        ],
        Value::Object(_) => vec![json!({}), json!(null), json!([]), json!("none"), json!({"more": 1})],
        Value::Null => vec![json!(1)],
    }
}
