//! LLM.int8() twins, against a plain second implementation of the arithmetic.

use super::*;

/// Adds what LLM.int8() makes of a matrix [out, in].
fn add_quantised(tensors: &mut Tensors, module: &str, rows: usize, values: &[f32]) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in values.chunks(values.len() / rows) {
        let row: Vec<f32> = row.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        let scale = row.iter().fold(0f32, |most, v| most.max(v.abs()));
        let factor = (1.0 / scale) * 127.0;
        codes.extend(row.iter().map(|v| (v * factor).round_ties_even() as i8 as u8));
        scales.extend(scale.to_le_bytes());
    }
    let cols = values.len() / rows;
    tensors.insert(format!("{module}.weight"), (Dtype::I8, vec![rows, cols], codes));
    tensors.insert(format!("{module}.SCB"), (Dtype::F32, vec![rows], scales));
    tensors.insert(format!("{module}.weight_format"), (Dtype::U8, vec![], vec![0]));
}

/// The tensors of a small model, and those of its twin.
fn llama(dtype: Dtype) -> (Tensors, Tensors) {
    let mut source = Tensors::from([
        ("model.embed_tokens.weight".to_owned(), matrix(dtype, 50, 16, 1)),
        ("model.norm.weight".to_owned(), tensor(dtype, &[16], &weights(16, 2))),
        ("lm_head.weight".to_owned(), matrix(dtype, 50, 16, 3)),
    ]);
    let mut twin = source.clone();
    for (seed, (module, rows, cols)) in
        (4..).zip([("self_attn.q_proj", 16, 16), ("mlp.up_proj", 40, 16), ("mlp.down_proj", 16, 40)])
    {
        let module = format!("model.layers.0.{module}");
        let matrix = matrix(dtype, rows, cols, seed);
        add_quantised(&mut twin, &module, rows, &values(&matrix));
        source.insert(format!("{module}.weight"), matrix);
    }
    (source, twin)
}

#[test]
fn makes_the_twin_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    for (dtype, name) in [(Dtype::BF16, "bfloat16"), (Dtype::F16, "float16"), (Dtype::F32, "float32")] {
        let (source, target) = (dir.path().join(name), dir.path().join(format!("{name}-int8")));
        let (tensors, twin) = llama(dtype);
        write_model(&source, &LLAMA.replace("bfloat16", name), &tensors);
        let done = quantize(&source, &target, Precision::Int8, &Options::default(), &Silent).unwrap();
        let bytes = |tensors: &Tensors| tensors.values().map(|t| t.2.len() as u64).sum();
        let want = Quantized { quantized: 3, kept: 3, bytes_in: bytes(&tensors), bytes_out: bytes(&twin) };
        assert_eq!(done, want);
        assert!(fs::read(target.join("model.safetensors")).unwrap() == file_of(&twin), "{name}");
        let config = fs::read_to_string(target.join("config.json")).unwrap();
        assert!(
            config.contains("\"load_in_8bit\": true") && config.contains("skip_modules\": null"),
            "{config}"
        );
        assert_eq!(files_in(&target), ["config.json", "model.safetensors"]);
    }
}

#[test]
fn rows_at_the_edges() {
    let edge =
        [0.0, -0.0, 1e-40, 2.9e-8, 6e-8, 3e-5, 6.1e-5, 1.0, 127.0 / 254.0, 65280.0, 65536.0, f32::INFINITY];
    let rows: Vec<f32> = edge.iter().flat_map(|&most| [most, -most / 2.0, most / 254.0, 0.0]).collect();
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    let matrix = tensor(Dtype::BF16, &[edge.len(), 4], &rows);
    let mut twin = Tensors::new();
    add_quantised(&mut twin, "q_proj", edge.len(), &values(&matrix));
    write_model(&source, LLAMA, &[("q_proj.weight".to_owned(), matrix)].into());
    let warnings = Warnings::default();
    quantize(&source, &target, Precision::Int8, &Options::default(), &warnings).unwrap();
    assert_eq!(read_file(&target.join("model.safetensors")), twin);
    assert!(warnings.text().contains("2 rows have a weight beyond the range of FP16"), "{}", warnings.text());
}

#[test]
fn conv1d_weights_are_turned() {
    let config = r#"{"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","dtype":"float32"}"#;
    let dir = tempfile::tempdir().unwrap();
    // The larger is read in several blocks of columns.
    for (cols, rows) in [(7, 5), (1500, 2100)] {
        let (source, target) = (dir.path().join(format!("{rows}")), dir.path().join(format!("{rows}-int8")));
        let stored = weights(rows * cols, 9);
        let turned: Vec<f32> =
            (0..rows).flat_map(|row| stored.iter().skip(row).step_by(rows).copied()).collect();
        let mut twin = Tensors::new();
        add_quantised(&mut twin, "h.0.attn.c_attn", rows, &turned);
        let tensors = [("h.0.attn.c_attn.weight".to_owned(), tensor(Dtype::F32, &[cols, rows], &stored))];
        write_model(&source, config, &tensors.into());
        quantize(&source, &target, Precision::Int8, &Options::default(), &Silent).unwrap();
        assert!(read_file(&target.join("model.safetensors")) == twin, "{cols} {rows}");
    }
}

#[test]
fn weights_are_rounded_to_the_type_that_the_model_is_loaded_in() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    let fine = weights(16 * 16, 5);
    let coarse: Vec<f32> = fine.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    let norm = weights(16, 6);
    write_model(
        &source,
        LLAMA,
        &Tensors::from([
            ("q_proj.weight".to_owned(), tensor(Dtype::F32, &[16, 16], &fine)),
            ("norm.weight".to_owned(), tensor(Dtype::F32, &[16], &norm)),
            ("ids".to_owned(), (Dtype::I64, vec![1], vec![7; 8])),
        ]),
    );
    let warnings = Warnings::default();
    quantize(&source, &target, Precision::Int8, &Options::default(), &warnings).unwrap();
    let mut twin = Tensors::from([
        ("norm.weight".to_owned(), tensor(Dtype::BF16, &[16], &norm)),
        ("ids".to_owned(), (Dtype::I64, vec![1], vec![7; 8])),
    ]);
    add_quantised(&mut twin, "q_proj", 16, &coarse);
    assert_eq!(read_file(&target.join("model.safetensors")), twin);
    assert!(warnings.text().contains("converted from F32 to BF16"), "{}", warnings.text());
}

#[test]
fn the_same_bytes_whatever_the_threads_memory_and_shards() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    // Several blocks, the last of them short.
    let mut tensors = llama(Dtype::BF16).0;
    tensors.insert("model.layers.1.mlp.up_proj.weight".to_owned(), matrix(Dtype::BF16, 3001, 1001, 8));
    write_model(&source, LLAMA, &tensors);
    let run = |name: &str, shard_bytes, threads, memory| {
        let target = dir.path().join(name);
        let options = Options { threads, memory };
        quantize_in_shards(&source, &target, Precision::Int8, shard_bytes, &options, &Silent).unwrap();
        target
    };
    let one = run("one", u64::MAX, 1, 1);
    let same = |other: &Path| {
        files_in(other) == files_in(&one)
            && files_in(other)
                .iter()
                .all(|f| fs::read(other.join(f)).unwrap() == fs::read(one.join(f)).unwrap())
    };
    assert!(same(&run("many", u64::MAX, 3, 1 << 30)));

    let parts = run("parts", 2_000, 2, 1 << 30);
    let names = files_in(&parts);
    assert!(names.contains(&"model.safetensors.index.json".to_owned()), "{names:?}");
    let shards = names.iter().filter(|name| name.ends_with(".safetensors"));
    let together: Tensors = shards.flat_map(|name| read_file(&parts.join(name))).collect();
    assert!(together == read_file(&one.join("model.safetensors")));
}

#[test]
fn reads_shards_and_copies_what_belongs_to_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    let (tensors, twin) = llama(Dtype::BF16);
    write_model(&source, LLAMA, &tensors);
    fs::remove_file(source.join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        let shard = format!("part-{}.safetensors", index % 2);
        map.insert(name.clone(), shard.clone().into());
        let path = source.join(&shard);
        let mut there = if path.exists() { read_file(&path) } else { Tensors::new() };
        there.insert(name.clone(), tensor.clone());
        fs::write(path, file_of(&there)).unwrap();
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(source.join("model.safetensors.index.json"), index.to_string()).unwrap();
    // The same name elsewhere in the folder makes no difference.
    let other: Tensors = tensors.clone().into_iter().take(1).collect();
    fs::write(source.join("consolidated.safetensors"), file_of(&other)).unwrap();
    for (path, text) in [
        ("tokenizer.json", "{}"),
        ("1_Pooling/config.json", "{}"),
        ("2_Dense/pytorch_model.bin", "x"),
        ("pytorch_model.bin", "x"),
        ("pytorch_model.bin.index.json", "{}"),
        ("onnx/model.onnx", "x"),
        ("tokenizer.model", "x"),
    ] {
        fs::create_dir_all(source.join(path).parent().unwrap()).unwrap();
        fs::write(source.join(path), text).unwrap();
    }
    let warnings = Warnings::default();
    quantize(&source, &target, Precision::Int8, &Options::default(), &warnings).unwrap();
    assert!(read_file(&target.join("model.safetensors")) == twin);
    let want =
        ["1_Pooling", "2_Dense", "config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"];
    assert_eq!(files_in(&target), want);
    assert_eq!(files_in(&target.join("2_Dense")), ["pytorch_model.bin"]);
    let text = "not copied, being the weights in other files or left by training: consolidated.safetensors and 3 more";
    assert!(warnings.text().contains(text), "{}", warnings.text());
}

#[test]
fn a_tied_head_is_saved_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = llama(Dtype::BF16).0;
    let config = LLAMA.replace('{', "{\"tie_word_embeddings\":true,");
    let has_head = |name: &str, tensors: &Tensors| {
        let (source, target) = (dir.path().join(name), dir.path().join(format!("{name}-int8")));
        write_model(&source, &config, tensors);
        quantize(&source, &target, Precision::Int8, &Options::default(), &Silent).unwrap();
        read_file(&target.join("model.safetensors")).contains_key("lm_head.weight")
    };
    assert!(has_head("different", &tensors));
    tensors.insert("lm_head.weight".to_owned(), tensors["model.embed_tokens.weight"].clone());
    assert!(!has_head("equal", &tensors));
}

#[test]
fn says_what_a_user_may_not_expect() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    let mut tensors = llama(Dtype::BF16).0;
    tensors.insert("model.layers.0.mlp.experts.0.up_proj.weight".to_owned(), matrix(Dtype::BF16, 4, 4, 7));
    tensors.insert("model.layers.0.mlp.gate.weight".to_owned(), matrix(Dtype::BF16, 1, 4, 7));
    write_model(&source, &LLAMA.replace("Llama", "MyOwn"), &tensors);
    let warnings = Warnings::default();
    quantize(&source, &target, Precision::Int8, &Options::default(), &warnings).unwrap();
    for text in [
        "an expert, and transformers 5 loads experts in one piece: model.layers.0.mlp.experts.0.up_proj.weight",
        "a router of experts: model.layers.0.mlp.gate.weight",
        "config.json names MyOwnForCausalLM",
    ] {
        assert!(warnings.text().contains(text), "{}", warnings.text());
    }
    let config = fs::read_to_string(target.join("config.json")).unwrap();
    assert!(config.contains("[\n      \"lm_head\",\n      \"model.embed_tokens\",\n"), "{config}");
}

#[test]
fn refuses_what_it_cannot_do_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (tensors, twin) = llama(Dtype::BF16);
    let with = |name: &str, tensor: Tensor| {
        let mut tensors = tensors.clone();
        tensors.insert(name.to_owned(), tensor);
        tensors
    };
    let mut broken = weights(4, 1);
    broken[2] = f32::NAN;
    let only = |name: &str| {
        tensors.iter().filter(|(n, _)| *n == name).map(|(n, t)| (n.clone(), t.clone())).collect()
    };
    let cases: [(&str, Tensors, &str); 9] = [
        (LLAMA, twin, "quantized already"),
        (LLAMA, with("a.qweight", matrix(Dtype::F32, 1, 1, 1)), "quantized already"),
        (
            LLAMA,
            with("q.weight", tensor(Dtype::BF16, &[2, 2], &broken)),
            "q.weight has a weight that is no number (NaN) in row 1",
        ),
        (LLAMA, with("q.weight", (Dtype::F64, vec![1, 1], vec![0; 8])), "q.weight is F64"),
        (LLAMA, only("lm_head.weight"), "nothing would become INT8"),
        (r#"{"model_type":"falcon"}"#, tensors.clone(), "falcon"),
        (r#"{"dtype":"float8"}"#, tensors.clone(), "float8"),
        (r#"{"quantization_config":{"quant_method":"fp8"}}"#, tensors.clone(), "quantization_config: fp8"),
        ("{", tensors.clone(), "not JSON"),
    ];
    for (config, tensors, word) in cases {
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        write_model(&source, config, &tensors);
        let error = quantize(&source, &target, Precision::Int8, &Options::default(), &Silent).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert_eq!(files_in(dir.path()), ["source"], "{word}");
    }
}

#[test]
fn a_row_larger_than_the_memory_allowed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    let wide = (Dtype::BF16, vec![1, 3_000_000], vec![0; 6_000_000]);
    write_model(&source, LLAMA, &[("q_proj.weight".to_owned(), wide)].into());
    let with = |memory| {
        quantize(&source, &target, Precision::Int8, &Options { memory, ..Options::default() }, &Silent)
    };
    let error = with(1).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("21000000 bytes")), "{error}");
    with(1 << 30).unwrap();
}

#[test]
fn refuses_folders_that_are_no_model_or_not_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let refused =
        || quantize(&source, &target, Precision::Int8, &Options::default(), &Silent).unwrap_err().to_string();
    assert!(refused().contains("no such folder"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("adapter_config.json"), "{}").unwrap();
    assert!(refused().contains("adapter"));
    fs::write(source.join("config.json"), LLAMA).unwrap();
    assert!(refused().contains("neither model.safetensors nor"));
    let tensors = llama(Dtype::BF16).0;
    fs::write(source.join("x.safetensors"), file_of(&tensors)).unwrap();
    let index = |text: &str| fs::write(source.join("model.safetensors.index.json"), text).unwrap();
    index(r#"{"weight_map":{"lm_head.weight":"y.safetensors"}}"#);
    assert!(refused().contains("y.safetensors"));
    index(r#"{"weight_map":{"lm_head.weight":"x.safetensors","q":"x.safetensors"}}"#);
    assert!(refused().contains("the tensor q is not in x.safetensors"));
    fs::write(source.join("y.safetensors"), file_of(&tensors)).unwrap();
    index(r#"{"weight_map":{"lm_head.weight":"x.safetensors","model.norm.weight":"y.safetensors"}}"#);
    assert!(refused().contains("two of its shards have a tensor"));
    fs::write(source.join("model.safetensors"), file_of(&tensors)).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), "x").unwrap();
    assert!(refused().contains("not an empty folder"));
    assert_eq!(files_in(&target), ["precious"]);
}
