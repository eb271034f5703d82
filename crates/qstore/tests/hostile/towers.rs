//! Codes given codes given codes, whose chunks do not align: each chunk would ask for two of the level below, and
//! reading the top one take 2^levels steps.

use qstore_container::ChunkForm;
use qstore_kernels::SymbolTable;
use serde_json::{Value, json};

use crate::common::{options, scratch};
use crate::described::{int8, int8_values};
use crate::forge::{Chunks, ForgedShard, Forgery, Twist};
use crate::stores;

/// The codes of every level: how many, and how many rows of them are in a chunk.
#[derive(Clone, Copy)]
struct Floor {
    rows: usize,
    cols: usize,
    rows_per_chunk: usize,
}

fn name(level: usize) -> String {
    format!("level{level}")
}

/// The codes of a level, given those of the level below, all of them 1; or nothing that can be decoded.
fn codes(level: usize, floor: Floor, is_sound: bool) -> (Value, Chunks) {
    let Floor { rows, cols, rows_per_chunk } = floor;
    let mut histogram = [0; 256];
    histogram[0] = 1;
    let mut head = vec![1];
    SymbolTable::from_histogram(&histogram).write(&mut head);
    let mut chunks = vec![(ChunkForm::Head, head)];
    let encoding = if level == 0 {
        chunks.clear();
        json!({"kind": if is_sound { "raw" } else { "zstd" }})
    } else {
        let given = int8(&name(level - 1), "m", [rows as u64, cols as u64]);
        let own = int8_values(&name(level), "tensor:m.SCB", cols as u64);
        json!({"kind": "code-residual", "given": given, "own": own})
    };
    let of_each = (0..rows).step_by(rows_per_chunk).map(|start| rows_per_chunk.min(rows - start));
    chunks.extend(of_each.map(|rows| match is_sound {
        true => (ChunkForm::Raw, vec![1; rows * cols]),
        false => (ChunkForm::Coded, vec![1; 9]),
    }));
    let array = json!({
        "key": "tensor:m.weight", "dtype": "I8", "shape": [rows, cols], "hash": "0".repeat(32),
        "chunk": {"rows": rows_per_chunk, "cols": cols}, "encoding": encoding,
    });
    (array, chunks)
}

fn add_level(f: &mut Forgery, level: usize, floor: Floor, is_sound: bool) {
    let (Floor { rows, cols, .. }, (array, chunks)) = (floor, codes(level, floor, is_sound));
    let scale = json!({
        "key": "tensor:m.SCB", "dtype": "F32", "shape": [rows], "hash": "0".repeat(32),
        "chunk": {"rows": 1, "cols": rows}, "encoding": {"kind": "raw"},
    });
    let (scale_bytes, bytes) = (4 * rows, 4 * rows + rows * cols);
    let header = json!({
        "m.SCB": {"dtype": "F32", "shape": [rows], "data_offsets": [0, scale_bytes]},
        "m.weight": {"dtype": "I8", "shape": [rows, cols], "data_offsets": [scale_bytes, bytes]},
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
            add_level(&mut forgery, level, Floor { rows: 12, cols: 64, rows_per_chunk: *rows }, true);
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

/// Each level takes as long as the matrix itself, and there may be as many as there are variants.
#[test]
fn a_tower_has_so_many_floors_and_no_more() {
    let dir = scratch();
    let mut forgery = Forgery::of(&stores::small().store);
    let floor = Floor { rows: 1 << 12, cols: 1 << 12, rows_per_chunk: 1 << 12 };
    (0..250).for_each(|level| add_level(&mut forgery, level, floor, false));
    forgery.write(dir.path());
    let store = qstore::Store::open(dir.path()).unwrap();
    store.variant(&name(100).parse().unwrap()).unwrap();
    let error = store.variant(&name(249).parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("far more"), "{error}");
}
