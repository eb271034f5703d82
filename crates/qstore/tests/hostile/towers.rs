//! Codes given codes given codes, whose chunks do not align: each chunk would ask for two of the level below, and
//! reading the top one take 2^levels steps.

use qstore_container::ChunkForm;
use qstore_kernels::SymbolTable;
use serde_json::{Value, json};

use crate::common::{options, scratch};
use crate::described::{int8, int8_values};
use crate::forge::{Chunks, ForgedShard, Forgery, Twist};
use crate::stores;

const ROWS: usize = 12;
const COLS: usize = 64;

fn name(level: usize) -> String {
    format!("level{level}")
}

/// The codes of a level, given those of the level below.
fn codes(level: usize, rows_per_chunk: usize) -> (Value, Chunks) {
    let (rows, cols) = (ROWS as u64, COLS as u64);
    let mut histogram = [0; 256];
    histogram[0] = 1;
    let mut head = vec![1];
    SymbolTable::from_histogram(&histogram).write(&mut head);
    let mut chunks = vec![(ChunkForm::Head, head)];
    let encoding = if level == 0 {
        chunks.clear();
        json!({"kind": "raw"})
    } else {
        let given = int8(&name(level - 1), "m", [rows, cols]);
        json!({"kind": "code-residual", "given": given, "own": int8_values(&name(level), "tensor:m.SCB", cols)})
    };
    let rows = (0..ROWS).step_by(rows_per_chunk).map(|start| rows_per_chunk.min(ROWS - start));
    chunks.extend(rows.map(|rows| (ChunkForm::Raw, vec![1; rows * COLS])));
    let array = json!({
        "key": "tensor:m.weight", "dtype": "I8", "shape": [ROWS, COLS], "hash": "0".repeat(32),
        "chunk": {"rows": rows_per_chunk, "cols": COLS}, "encoding": encoding,
    });
    (array, chunks)
}

fn add_level(f: &mut Forgery, level: usize, rows_per_chunk: usize) {
    let (array, chunks) = codes(level, rows_per_chunk);
    let scale = json!({
        "key": "tensor:m.SCB", "dtype": "F32", "shape": [ROWS], "hash": "0".repeat(32),
        "chunk": {"rows": 1, "cols": ROWS}, "encoding": {"kind": "raw"},
    });
    let (scale_bytes, bytes) = (4 * ROWS, 4 * ROWS + ROWS * COLS);
    let header = json!({
        "m.SCB": {"dtype": "F32", "shape": [ROWS], "data_offsets": [0, scale_bytes]},
        "m.weight": {"dtype": "I8", "shape": [ROWS, COLS], "data_offsets": [scale_bytes, bytes]},
    })
    .to_string();
    let file = json!({
        "path": "model.safetensors", "bytes": 8 + header.len() + bytes, "sha256": "0".repeat(64),
        "content": {"kind": "safetensors", "header": header, "tensors": ["m.SCB", "m.weight"]},
    });
    let below =
        if level == 0 { json!([]) } else { json!([{"variant": name(level - 1), "content": "0".repeat(32)}]) };
    let mut entry = f.entry("int8").clone();
    for (field, value) in [
        ("name", json!(name(level))),
        ("given", below.clone()),
        ("tensors", json!(2)),
        ("tensor_bytes", json!(bytes)),
        ("files", json!(1)),
        ("raw_bytes", file["bytes"].clone()),
    ] {
        entry[field] = value;
    }
    f.manifest["variants"].as_array_mut().unwrap().push(entry);
    let plan = json!({"variant": name(level), "given": below, "arrays": [scale, array], "files": [file]});
    let chunks = vec![vec![(ChunkForm::Raw, vec![0; scale_bytes])], chunks];
    f.shards.insert(name(level), vec![ForgedShard { plan, chunks, twist: Twist::None }]);
}

#[test]
fn chunks_of_codes_align() {
    for (rows_per_chunk, fits) in [
        (&[2, 2, 2, 2][..], true),
        // The lowest is given nothing.
        (&[3, 2, 2], true),
        (&[2, 2, 3], false),
        (&[2, 2, 4], false),
        (&[2, 4, 2], false),
        // One chunk is one chunk.
        (&[2, 12, 100], true),
    ] {
        let dir = scratch();
        let mut forgery = Forgery::of(&stores::small().store);
        for (level, rows) in rows_per_chunk.iter().enumerate() {
            add_level(&mut forgery, level, *rows);
        }
        forgery.write(dir.path());
        let store = qstore::Store::open(dir.path()).unwrap();
        let top = store.variant(&name(rows_per_chunk.len() - 1).parse().unwrap());
        match top {
            Ok(variant) => {
                assert!(fits, "{rows_per_chunk:?}");
                assert!(
                    qstore::Tensor::open(&variant, "m.weight")
                        .unwrap()
                        .read_rows(0..5, &options())
                        .unwrap()
                        .iter()
                        .all(|code| *code == 1)
                );
            }
            Err(error) => {
                assert!(!fits && error.to_string().contains("chunks"), "{rows_per_chunk:?}: {error}")
            }
        }
    }
}
