//! Small files that ask for much: memory in no proportion to them, or time without end.

use std::fs;

use qstore_container::ChunkForm;
use qstore_kernels::{Classifier, CodesCoder, Layout, Scratch, SymbolTable};
use serde_json::{Value, json};

use crate::common::scratch;
use crate::common::{options, write_options};
use crate::described::{gptq, gptq_layout, int8, int8_values};
use crate::forge::{ForgedShard, Forgery, Twist};
use crate::forged_plan::forged;
use crate::judge::{Report, Trust, alone, bounded, judge};
use crate::stores;

/// Bytes that reading a plan may take for each of its stored bytes, where it is written to take as many as can be: it
/// expands, and short strings and numbers take more room in memory than in JSON.
const PLAN_PROPORTION: u64 = 1024;

/// A plan with `filler`, and with text that does not compress, so that it is `stored` bytes long and may expand the
/// more.
fn plan_with(stored: usize, filler: &dyn Fn(&mut Value)) -> Vec<u8> {
    let mut plan = Forgery::of(&stores::small().store).last("bf16").plan.clone();
    let mut state = 1u64;
    let noise: String = (0..stored * 4 / 3)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + (state >> 58) as u8)
        })
        .collect();
    plan["files"][0]["content"]["header"] = json!(noise);
    filler(&mut plan);
    zstd::bulk::compress(&serde_json::to_vec(&plan).unwrap(), 3).unwrap()
}

#[test]
fn plans_that_expand() {
    let _alone = alone();
    let mut report = Report::default();
    for stored in [1_000, 100_000, 400_000usize] {
        // As much JSON as a reader may accept, to a few places.
        let room = (1 << 20) + stored * 50;
        let fillers: Vec<(&str, Box<dyn Fn(&mut Value)>)> = vec![
            ("names", Box::new(move |p| p["files"][0]["content"]["tensors"] = json!(vec![""; room / 3]))),
            ("dimensions", Box::new(move |p| p["arrays"][0]["shape"] = json!(vec![1; room / 2]))),
            ("folders", Box::new(move |p| p["empty_folders"] = json!(vec!["a"; room / 4]))),
            (
                "numbers in place of an encoding",
                Box::new(move |p| p["arrays"][0]["encoding"]["x"] = json!(vec![0; room / 2])),
            ),
            (
                "numbers in place of a content",
                Box::new(move |p| p["files"][0]["content"]["x"] = json!(vec![0; room / 2])),
            ),
            ("space", Box::new(move |p| p["files"][0]["content"]["header"] = json!(" ".repeat(200 << 20)))),
        ];
        for (what, filler) in fillers {
            let plan = plan_with(stored, &*filler);
            let most = (64 << 20) + PLAN_PROPORTION * plan.len() as u64;
            let label = format!("{what}, {} stored", plan.len());
            let result = bounded(most, move || qstore_container::ShardPlan::parse(&plan).is_err());
            report.add(
                &label,
                result.and_then(|refused| if refused { Ok(()) } else { Err("accepted".to_owned()) }),
            );
        }
    }
    let zeros = zstd::bulk::compress(&vec![0u8; 1 << 30], 1).unwrap();
    let result = forged(stores::small(), |f| f.last("bf16").twist = Twist::Plan(zeros));
    report.add("1 GiB of zeros", result.map(drop));
    report.finish(19);
}

/// zstd sets memory aside for the window that a frame announces, before it has seen any data. That memory is the C
/// library's, which no counter here sees, so the refusal is what is tested.
#[test]
fn a_plan_that_announces_a_large_window() {
    // Magic; no content size, window 2^31 or 2^27 bytes; an empty last block.
    for window in [0xa8u8, 0x88, 0x70] {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, window, 0x01, 0x00, 0x00];
        let error = qstore_container::ShardPlan::parse(&frame).unwrap_err().to_string();
        assert!(error.to_lowercase().contains("memory"), "{window:x}: {error}");
    }
}

/// Headers of the longest kind that are all numbers or all names.
fn headers() -> Vec<(&'static str, String)> {
    let many = 5_000_000;
    vec![
        ("an array of numbers", format!(r#"{{"a":[{}0]}}"#, "0,".repeat(many))),
        (
            "numbers in a tensor",
            format!(
                r#"{{"a":{{"dtype":"U8","x":[{}0],"shape":[0],"data_offsets":[0,0]}}}}"#,
                "0,".repeat(many)
            ),
        ),
        (
            "dimensions",
            format!(r#"{{"a":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#, "1,".repeat(many)),
        ),
        (
            "metadata",
            format!(
                r#"{{"__metadata__":{{{}"z":""}}}}"#,
                (0..many / 10).map(|i| format!(r#""{i:x}":"","#)).collect::<String>()
            ),
        ),
        (
            "empty tensors",
            format!(
                r#"{{{}"z":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#,
                (0..many / 40)
                    .map(|i| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#))
                    .collect::<String>()
            ),
        ),
        ("deep arrays", "[".repeat(many)),
    ]
}

#[test]
fn headers_that_expand() {
    let _alone = alone();
    let mut report = Report::default();
    for (what, header) in headers() {
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        let noticed = forged(stores::small(), |f| f.last("bf16").twist = Twist::File(file.clone()));
        report.add(&format!("shard: {what}"), noticed.map(drop));

        let dir = scratch();
        let (root, target) = (dir.path().join("in"), dir.path().join("store"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("model.safetensors"), &file).unwrap();
        let spec = qstore::VariantSpec::new("x".parse().unwrap(), root);
        let most = (64 << 20) + 16 * file.len() as u64;
        let result =
            bounded(most, move || drop(qstore::pack(&[spec], &target, &write_options(), &qstore::Silent)));
        report.add(&format!("checkpoint: {what}"), result);
    }
    report.finish(12);
}

/// The plan's entry of an array of one dimension that is all zeros, and its chunks.
fn zeros(
    key: &str,
    dtype: &str,
    shape: &[u64],
    bytes: u64,
    grid: [u64; 2],
    width: u64,
) -> (Value, crate::forge::Chunks) {
    let mut chunks = Vec::new();
    let chunk = grid[0] * grid[1] * width;
    let mut left = bytes;
    while left > 0 {
        let raw = vec![0; left.min(chunk) as usize];
        chunks.push((ChunkForm::Coded, zstd::bulk::compress(&raw, 1).unwrap()));
        left -= raw.len() as u64;
    }
    (array(key, dtype, shape, grid, json!({"kind": "zstd"})), chunks)
}

fn array(key: &str, dtype: &str, shape: &[u64], grid: [u64; 2], encoding: Value) -> Value {
    json!({
        "key": key, "dtype": dtype, "shape": shape, "hash": "0".repeat(32),
        "chunk": {"rows": grid[1], "cols": grid[0]}, "encoding": encoding,
    })
}

/// Adds an array to a variant, and a file that consists of it, so that nothing is left over.
fn add(f: &mut Forgery, variant: &str, entry: Value, chunks: crate::forge::Chunks) {
    let key = crate::forge::text(&entry["key"]);
    let name = key.strip_prefix("tensor:").unwrap().to_owned();
    let shape: Vec<u64> = entry["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
    let dtype: qstore::Dtype = serde_json::from_value(entry["dtype"].clone()).unwrap();
    let bytes = shape.iter().product::<u64>() * dtype.bitsize() as u64 / 8;
    let header = json!({name.clone(): {"dtype": entry["dtype"], "shape": shape, "data_offsets": [0, bytes]}})
        .to_string();
    let shard = f.last(variant);
    shard.plan["arrays"].as_array_mut().unwrap().push(entry);
    shard.chunks.push(chunks);
    let size = 8 + header.len() as u64 + bytes;
    shard.plan["files"].as_array_mut().unwrap().push(json!({
        "path": format!("{name}.safetensors"), "bytes": size, "sha256": "0".repeat(64),
        "content": {"kind": "safetensors", "header": header, "tensors": [name]},
    }));
    let entry = f.entry(variant);
    for (field, more) in [("tensors", 1), ("tensor_bytes", bytes), ("files", 1), ("raw_bytes", size)] {
        entry[field] = json!(entry[field].as_u64().unwrap() + more);
    }
}

/// Chunks of the most rows that their bytes allow: some working memory is by the row.
#[test]
fn rows_without_number() {
    let _alone = alone();
    let mut report = Report::default();
    let rows = 16u64 << 20;
    let mut histogram = [0; 256];
    histogram[0] = 1;
    let coder = CodesCoder::new(vec![SymbolTable::from_histogram(&histogram)], Layout::Narrow).unwrap();
    let chunk =
        coder.encode(&vec![0; rows as usize], 1, &Classifier::single(), &mut Scratch::default()).unwrap();
    let mut head = vec![1];
    coder.tables()[0].write(&mut head);
    // The decoded tensor itself, which loading must hold, and working memory of a few times its size.
    let most = (64 << 20) + 5 * rows;
    for cols in [1, 2, 3] {
        let result = forged_within(most, |f| {
            let entry = array(
                "tensor:rows",
                "U8",
                &[rows / cols, cols],
                [cols, rows / cols],
                json!({"kind": "codes"}),
            );
            let chunk = coder
                .encode(
                    &vec![0; (rows / cols * cols) as usize],
                    cols as usize,
                    &Classifier::single(),
                    &mut Scratch::default(),
                )
                .unwrap();
            add(f, "int8", entry, vec![(ChunkForm::Head, head.clone()), (ChunkForm::Coded, chunk)]);
        });
        report.add(&format!("codes in rows of {cols}"), result);
    }
    let result = forged_within(most, |f| {
        let entry =
            array("tensor:rows", "BF16", &[rows / 2, 1], [1, rows / 2], json!({"kind": "float-split"}));
        let split = [&[7, 1, 0][..], &head].concat();
        add(f, "int8", entry, vec![(ChunkForm::Head, split), (ChunkForm::Coded, chunk.clone())]);
    });
    report.add("floats in rows of 1", result);

    // Each row of another scale has bins of its own.
    let rows = 1u64 << 20;
    let result = forged_within(64 << 20, |f| {
        let (codes, codes_chunks) = zeros("tensor:narrow.weight", "I8", &[rows, 1], rows, [1, rows], 1);
        add(f, "int8", codes, codes_chunks);
        let scales: Vec<u32> = (0..rows as u32).map(|i| 0x3c00_0000 + i).collect();
        let planes: Vec<u8> =
            (0..4).flat_map(|place| scales.iter().map(move |s| s.to_le_bytes()[place])).collect();
        let scale = array("tensor:narrow.SCB", "F32", &[rows], [4096, rows / 4096], json!({"kind": "zstd"}));
        add(f, "int8", scale, vec![(ChunkForm::Coded, zstd::bulk::compress(&planes, 3).unwrap())]);
        add(f, "bf16", residual("narrow", &[rows, 1], [1, rows]), narrow_chunks());
    });
    report.add("residuals in rows of 1", result);

    let rows = 1u64 << 28;
    let result = forged_within(64 << 20, |f| {
        let (codes, chunks) = zeros("tensor:long.weight", "I8", &[rows, 1], rows, [1 << 14, 1 << 10], 1);
        add(f, "int8", codes, chunks);
        let (scale, chunks) = zeros("tensor:long.SCB", "F32", &[rows], rows * 4, [1 << 12, 1 << 10], 4);
        add(f, "int8", scale, chunks);
        let chunks = rows / (1 << 14);
        add(f, "bf16", residual("long", &[rows, 1], [1, 1 << 14]), {
            let mut all = narrow_chunks();
            let chunk = all.pop().unwrap();
            all.extend(vec![chunk; chunks as usize]);
            all
        });
    });
    report.add("a quarter of a billion scales", result);
    report.finish(6);
}

fn residual(name: &str, shape: &[u64], grid: [u64; 2]) -> Value {
    let given = int8("int8", name, [shape[0], shape[1]]);
    let encoding = json!({"kind": "residual", "given": given});
    array(&format!("tensor:{name}.weight"), "BF16", shape, grid, encoding)
}

/// Grids that are larger than any that fits, and chunks of more codes than they have bytes.
#[test]
fn grids_and_codes_without_measure() {
    let _alone = alone();
    let mut report = Report::default();
    let (cols, rows) = (256, 64);
    for large in ["scales", "qzeros", "g_idx"] {
        let result = forged_within(64 << 20, |f| {
            let huge = 1 << 22;
            let mut part = |name: &str, dtype: &str, shape: &[u64]| {
                let mut shape = shape.to_vec();
                if name == large {
                    shape[0] *= huge;
                }
                let width = if dtype == "F16" { 2 } else { 4 };
                let bytes = shape.iter().product::<u64>() * width;
                let key = format!("tensor:grid.{name}");
                let (entry, chunks) = zeros(&key, dtype, &shape, bytes, [1 << 12, 1 << 10], width);
                add(f, "int8", entry, chunks);
            };
            part("qweight", "I32", &[cols / 8, rows]);
            part("scales", "F16", &[1, rows]);
            part("qzeros", "I32", &[1, rows / 8]);
            part("g_idx", "I32", &[cols]);
            let encoding = json!({"kind": "step-residual", "given": gptq("int8", "grid", 4, [rows, cols], 1), "subdivisions": 0});
            let entry = array("tensor:grid.weight", "BF16", &[rows, cols], [cols, rows], encoding);
            let mut chunks = narrow_chunks();
            let zero = chunks[0].1.clone();
            chunks[0].1 = [&[1], &zero[..], &zero].concat();
            add(f, "bf16", entry, chunks);
        });
        report.add(&format!("large {large}"), result);
    }

    let (words, rows) = (256, 1u64 << 14);
    let cols = words * 16;
    let mut histogram = [0; 256];
    histogram[0] = 1;
    let coder = CodesCoder::new(vec![SymbolTable::from_histogram(&histogram)], Layout::Narrow).unwrap();
    let (codes, single) = (vec![0; (rows * cols) as usize], Classifier::single());
    let chunk = coder.encode(&codes, cols as usize, &single, &mut Scratch::default()).unwrap();
    drop(codes);
    let mut head = vec![1];
    coder.tables()[0].write(&mut head);
    // The chunk itself, and working memory of a few times its size.
    let result = forged_within((64 << 20) + 5 * words * 4 * rows, |f| {
        let mut part = |name: &str, dtype: &str, shape: &[u64], width: u64| {
            let bytes = shape.iter().product::<u64>() * width;
            let key = format!("tensor:grid.{name}");
            let (entry, chunks) = zeros(&key, dtype, shape, bytes, [1 << 12, 1 << 10], width);
            add(f, "int8", entry, chunks);
        };
        part("qweight", "I32", &[words, rows], 4);
        part("scales", "F16", &[1, rows], 2);
        part("qzeros", "I32", &[1, rows / 16], 4);
        part("g_idx", "I32", &[cols], 4);
        let given = gptq("int8", "grid", 2, [rows, cols], 1);
        let encoding = json!({"kind": "code-residual", "given": given, "own": given["values"], "layout": gptq_layout(2)});
        let entry = array("tensor:grid.qweight", "I32", &[words, rows], [words, rows], encoding);
        add(f, "bf16", entry, vec![(ChunkForm::Head, head.clone()), (ChunkForm::Coded, chunk.clone())]);
    });
    report.add("64 million codes in a chunk of 16 MiB", result);
    report.finish(4);
}

/// A head, and a chunk that is damaged wherever its rows end.
fn narrow_chunks() -> crate::forge::Chunks {
    let mut histogram = [0; 256];
    histogram[0] = 1;
    let mut head = Vec::new();
    SymbolTable::from_histogram(&histogram).write(&mut head);
    vec![(ChunkForm::Head, head), (ChunkForm::Coded, vec![1; 2000])]
}

/// As [`forged`], but only reading a few rows and checking, not loading: a tensor that is large must be held by who
/// wants it whole.
fn forged_within(most: u64, change: impl FnOnce(&mut Forgery)) -> Result<(), String> {
    let dir = scratch();
    let mut forgery = Forgery::of(&stores::small().store);
    change(&mut forgery);
    forgery.write(dir.path());
    let path = dir.path().to_owned();
    bounded(most, move || {
        let Ok(store) = qstore::Store::open(&path) else { return };
        drop(qstore::inspect(&store, true));
        for entry in &store.manifest().variants {
            let Ok(variant) = store.variant(&entry.name) else { continue };
            for tensor in variant.tensors() {
                let rows = tensor.shape.first().copied().unwrap_or(0);
                let Ok(tensor) = qstore::Tensor::open(&variant, &tensor.name) else { continue };
                drop(tensor.read_rows(0..rows.min(1), &options()));
                let cols = tensor.shape().last().copied().unwrap_or(0);
                drop(tensor.read_block(0..rows.min(1), 0..cols.min(1), &options()));
            }
        }
        drop(qstore::verify(&store, None, true, &options(), &qstore::Silent));
    })
}

/// Many small arrays that each ask for a large one: a few bytes of a plan would take a second each.
#[test]
fn arrays_that_ask_for_far_more_than_they_have() {
    let _alone = alone();
    let (side, long) = (1u64 << 13, 1u64 << 22);
    let (matrix, matrix_chunks) =
        zeros("tensor:z", "U8", &[side, side], side * side, [side, (16 << 20) / side], 1);
    let (codes, codes_chunks) = zeros("tensor:long.weight", "I8", &[long, 1], long, [1 << 12, 1 << 10], 1);
    let (scale, scale_chunks) = zeros("tensor:long.SCB", "F32", &[long], long * 4, [1 << 12, 1 << 10], 4);
    let (plain, plain_chunks) =
        zeros("tensor:codes", "I8", &[side, side], side * side, [side, (16 << 20) / side], 1);
    let (floats, floats_chunks) =
        zeros("tensor:floats", "BF16", &[side, side], side * side * 2, [side, (8 << 20) / side], 2);
    let (one, one_chunks) = zeros("tensor:one", "F32", &[1], 4, [1, 1], 4);
    let raw = |count: usize, bytes: u64| {
        let mut chunks = narrow_chunks();
        chunks.pop();
        chunks.extend(vec![(ChunkForm::Raw, vec![0; bytes as usize]); count]);
        chunks
    };
    let across = |index: u64| {
        let to = json!({"variant": "int8", "array": "tensor:z"});
        let view = json!({"transposed": true, "rows": [index, index + 1]});
        let encoding = json!({"kind": "reference", "to": to, "view": view});
        (array(&format!("tensor:r{index}"), "U8", &[1, side], [1, 1], encoding), Vec::new())
    };
    let given = |index: u64| {
        let encoding = json!({"kind": "residual", "given": int8("int8", "long", [long, 1])});
        (array(&format!("tensor:g{index}"), "BF16", &[1, 1], [1, 1], encoding), narrow_chunks())
    };
    // Its rows lie across one chunk, whose content is not looked at.
    let (turned, turned_chunks) = {
        let encoding = json!({"kind": "codes", "layout": gptq_layout(4)});
        let (words, rows) = (2048, 2048);
        let entry = array("tensor:turned", "I32", &[words, rows], [words, 512], encoding);
        let mut chunks = narrow_chunks();
        chunks[0].1.insert(0, 1);
        let chunk = chunks.pop().unwrap();
        chunks.extend(vec![chunk; 4]);
        (entry, chunks)
    };
    let turned_row = |index: u64| {
        let to = json!({"variant": "int8", "array": "tensor:turned"});
        let encoding = json!({"kind": "reference", "to": to, "view": {"slab": [index, index + 1]}});
        (array(&format!("tensor:t{index}"), "I32", &[1, 2048], [1, 1], encoding), Vec::new())
    };
    // Chunks of which each has a little, by turns.
    let by_turns = |index: u64| {
        let to = json!({"variant": "int8", "array": "tensor:z"});
        let line = index % 4 * (16 << 20) / side + index;
        let encoding = json!({"kind": "reference", "to": to, "view": {"slab": [line, line + 1]}});
        (array(&format!("tensor:b{index}"), "U8", &[1, side], [1, 1], encoding), Vec::new())
    };
    // Chunks of several matrices that are known, each of which has a little for each chunk.
    let known = |index: u64| {
        let mut z = int8("int8", "long", [side, side]);
        z["codes"]["array"]["array"] = json!("tensor:codes");
        let known: Vec<Value> = (0..2).map(|_| json!({"matrix": z, "ends": [-128, 128]})).collect();
        let encoding = json!({"kind": "refine-floats", "known": known});
        (array(&format!("tensor:k{index}"), "BF16", &[16, side], [side, 1], encoding), raw(16, 2 * side))
    };
    // Floats across a matrix of these.
    let rounded = |index: u64| {
        let view = json!({"transposed": true, "rows": [index, index + 1]});
        let floats = json!({"array": {"variant": "int8", "array": "tensor:floats"}, "view": view});
        let own = int8_values("int8", "tensor:one", side);
        let encoding = json!({"kind": "rounded", "floats": floats, "own": own});
        (array(&format!("tensor:f{index}"), "I8", &[1, side], [side, 1], encoding), raw(1, side))
    };
    type Small<'a> = &'a dyn Fn(u64) -> (Value, crate::forge::Chunks);
    for (what, small, few, many) in [
        ("rows of chunks by turns", &by_turns as Small, 20, 60),
        ("rows across a matrix", &across, 10, 20),
        ("residuals given scales", &given, 8, 40),
        ("rows of a matrix that is stored transposed", &turned_row, 40, 100),
        ("chunks of several that are known", &known, 2, 8),
        ("floats across a matrix", &rounded, 2, 40),
    ] {
        for (count, fits) in [(few, true), (many, false)] {
            let dir = scratch();
            let mut forgery = Forgery::of(&stores::small().store);
            for (entry, chunks) in [
                (&matrix, &matrix_chunks),
                (&codes, &codes_chunks),
                (&scale, &scale_chunks),
                (&turned, &turned_chunks),
                (&plain, &plain_chunks),
                (&floats, &floats_chunks),
                (&one, &one_chunks),
            ] {
                add(&mut forgery, "int8", entry.clone(), chunks.clone());
            }
            for index in 0..count {
                let (entry, chunks) = small(index);
                add(&mut forgery, "bf16", entry, chunks);
            }
            forgery.write(dir.path());
            let store = qstore::Store::open(dir.path()).unwrap();
            match store.variant(&"bf16".parse().unwrap()) {
                Ok(_) => assert!(fits, "{count} {what}"),
                Err(error) => {
                    assert!(!fits && error.to_string().contains("far more"), "{count} {what}: {error}");
                }
            }
        }
    }
}

/// Plans that are refused before anything is read: what they ask for has no end.
#[test]
fn arrays_without_measure() {
    let _alone = alone();
    let refused = |what: &str, change: &dyn Fn(&mut Forgery)| {
        let dir = scratch();
        let mut forgery = Forgery::of(&stores::small().store);
        change(&mut forgery);
        forgery.write(dir.path());
        let store = qstore::Store::open(dir.path()).unwrap();
        let error = store.variant(&"bf16".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    };
    refused("far more codes", &|f| {
        let (rows, cols) = (1 << 14, 1 << 16);
        let (codes, _) = zeros("tensor:wide.weight", "I8", &[rows, cols], 0, [cols, 256], 1);
        let chunk = (ChunkForm::Coded, vec![1; 9]);
        add(f, "int8", codes, vec![chunk; 64]);
        let (scale, chunks) = zeros("tensor:wide.SCB", "F32", &[rows], rows * 4, [1 << 12, 4], 4);
        add(f, "int8", scale, chunks);
        let encoding = json!({"kind": "residual", "given": int8("int8", "wide", [rows, 1])});
        add(f, "bf16", array("tensor:thin", "BF16", &[rows, 1], [1, rows], encoding), narrow_chunks());
    });
    refused("smaller chunks", &|f| {
        let entry = array("tensor:crumbs", "U8", &[5000], [1, 1], json!({"kind": "raw"}));
        add(f, "bf16", entry, vec![(ChunkForm::Raw, vec![0]); 5000]);
    });
    refused("rows of another length", &|f| {
        let mut layout = gptq_layout(4);
        layout.as_object_mut().unwrap().remove("transposed");
        let entry =
            array("tensor:cut", "I32", &[64, 64], [32, 64], json!({"kind": "codes", "layout": layout}));
        let mut chunks = narrow_chunks();
        chunks[0].1.insert(0, 1);
        add(f, "bf16", entry, chunks);
    });
}

/// A residual given codes and scales that refer to residuals, and so on: each level asks for the one below twice, so
/// that opening the top one would take 2^levels steps.
#[test]
fn towers_of_residuals_are_refused_at_the_first_floor() {
    let _alone = alone();
    let dir = scratch();
    let (store, room) = (dir.path().join("store"), dir.path().join("room"));
    fs::create_dir(&room).unwrap();
    let mut forgery = Forgery::of(&stores::small().store);
    let weight = "tensor:model.layers.0.mlp.up_proj.weight";
    assert_eq!(forgery.array("bf16", weight)["encoding"]["kind"], "residual");
    let shape: Vec<u64> = forgery.array("bf16", weight)["shape"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d.as_u64().unwrap())
        .collect();
    let codes = array(
        "tensor:tower.weight",
        "I8",
        &[2 * shape[0], shape[1]],
        [shape[1], 1],
        json!({"kind": "reference", "to": {"variant": "bf16", "array": weight}}),
    );
    let (scale, scale_chunks) = zeros("tensor:tower.SCB", "F32", &[2 * shape[0]], 8 * shape[0], [4096, 1], 4);
    let mut top = residual("tower", &[2 * shape[0], shape[1]], [shape[1], 1 << 10]);
    for field in ["codes", "scale"] {
        top["encoding"][field]["variant"] = json!("tower");
    }
    for (name, below, arrays, chunks) in [
        ("tower", "bf16", vec![codes, scale], vec![Vec::new(), scale_chunks]),
        ("top", "tower", vec![top], vec![narrow_chunks()]),
    ] {
        let given = json!([{"variant": below, "content": "0".repeat(32)}]);
        let mut entry = forgery.entry("int8").clone();
        entry["name"] = json!(name);
        entry["given"] = given.clone();
        forgery.manifest["variants"].as_array_mut().unwrap().push(entry);
        let plan = json!({"variant": name, "given": given, "arrays": [], "files": []});
        forgery
            .shards
            .insert(name.to_owned(), vec![ForgedShard { plan, chunks: Vec::new(), twist: Twist::None }]);
        for field in ["tensors", "tensor_bytes", "files", "raw_bytes"] {
            forgery.entry(name)[field] = json!(0);
        }
        for (array, chunks) in arrays.into_iter().zip(chunks) {
            add(&mut forgery, name, array, chunks);
        }
    }
    forgery.write(&store);
    let verdict = judge(&store, &stores::small().originals, Trust::Nothing, &room).unwrap();
    assert!(verdict.fates["bf16"].is_sound() && !verdict.fates["tower"].refused, "{verdict:?}");
    assert!(verdict.fates["top"].refused, "{verdict:?}");
}
