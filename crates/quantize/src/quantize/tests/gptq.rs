//! GPTQ twins, read back by the definition of the format.

use super::*;

const GPTQ4: Gptq =
    Gptq { bits: GptqBits::Four, group_size: GroupSize::ROW, zero_point: ZeroPoint::Symmetric };

fn groups_of(columns: u16) -> GroupSize {
    columns.to_string().parse().unwrap()
}

fn words(tensor: &Tensor) -> Vec<u32> {
    tensor.2.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The weights that `module` stands for, and the scale of each: row by row, from the formula `scale * (code - (stored
/// zero-point + 1))`.
fn dequantised(tensors: &Tensors, module: &str, bits: usize) -> Vec<(f32, f32)> {
    let of = |name: &str| &tensors[&format!("{module}.{name}")];
    let (codes, zeros, groups) = (words(of("qweight")), words(of("qzeros")), words(of("g_idx")));
    let scales = values(of("scales"));
    let (rows, cols, each) = (of("scales").1[1], groups.len(), 32 / bits);
    let field = |word: u32, at: usize| f64::from(word >> (at * bits) & ((1 << bits) - 1));
    let weight = |row: usize, col: usize| {
        let group = groups[col] as usize;
        let code = field(codes[col / each * rows + row], col % each);
        let zero = field(zeros[group * (rows / each) + row / each], row % each) + 1.0;
        let scale = scales[group * rows + row];
        ((f64::from(scale) * (code - zero)) as f32, scale)
    };
    (0..rows).flat_map(|row| (0..cols).map(move |col| weight(row, col))).collect()
}

/// A Llama with two quantised matrices.
fn llama(dtype: Dtype) -> Tensors {
    Tensors::from([
        ("model.embed_tokens.weight".to_owned(), matrix(dtype, 50, 64, 1)),
        ("model.layers.0.mlp.down_proj.weight".to_owned(), matrix(dtype, 64, 256, 2)),
        ("model.layers.0.mlp.up_proj.bias".to_owned(), tensor(dtype, &[256], &weights(256, 3))),
        ("model.layers.0.mlp.up_proj.weight".to_owned(), matrix(dtype, 256, 64, 4)),
        ("lm_head.weight".to_owned(), matrix(dtype, 50, 64, 5)),
    ])
}

fn gptq(source: &Path, target: &Path, gptq: Gptq) -> Result<Quantized> {
    quantize(source, target, Precision::Gptq(gptq), &Options::default(), &Silent)
}

#[test]
fn makes_the_tensors_that_readers_expect() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = 0;
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let source = dir.path().join(format!("{dtype:?}"));
        let tensors = llama(dtype);
        // What is not quantised stays in its type, whatever the configuration says.
        write_model(&source, LLAMA, &tensors);
        for bits in [GptqBits::Four, GptqBits::Eight] {
            for zero_point in [ZeroPoint::Symmetric, ZeroPoint::MinMax] {
                for (group_size, columns) in
                    [(GroupSize::ROW, None), (groups_of(16), Some(16)), (groups_of(64), Some(64))]
                {
                    made += 1;
                    let target = dir.path().join(made.to_string());
                    let done = gptq(&source, &target, Gptq { bits, group_size, zero_point }).unwrap();
                    assert_eq!((done.quantized, done.kept), (2, 3));
                    let twin = read_file(&target.join("model.safetensors"));
                    assert_eq!(twin.len(), 3 + 2 * 4);
                    let count = bits.count() as usize;
                    for (name, tensor) in &tensors {
                        let module = name.strip_suffix("_proj.weight").map(|m| format!("{m}_proj"));
                        let Some(module) = module else {
                            assert_eq!(&twin[name], tensor);
                            continue;
                        };
                        let [rows, cols] = tensor.1[..] else { panic!() };
                        let groups = cols / columns.unwrap_or(cols);
                        for (part, dtype, shape) in [
                            ("qweight", Dtype::I32, vec![cols * count / 32, rows]),
                            ("qzeros", Dtype::I32, vec![groups, rows * count / 32]),
                            ("scales", Dtype::F16, vec![groups, rows]),
                            ("g_idx", Dtype::I32, vec![cols]),
                        ] {
                            let tensor = &twin[&format!("{module}.{part}")];
                            assert_eq!((tensor.0, &tensor.1), (dtype, &shape), "{module}.{part}");
                        }
                        // Half a step, and how many steps a group's codes may span less where its scale was rounded
                        // down.
                        let most = 0.501 + f32::from(1u16 << count) / 2048.0;
                        let weights = values(tensor);
                        for (weight, (back, scale)) in weights.iter().zip(dequantised(&twin, &module, count))
                        {
                            assert!(
                                (weight - back).abs() <= most * scale,
                                "{module} {weight} {back} {scale}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn says_how_it_was_quantised() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    write_model(&source, LLAMA, &llama(Dtype::BF16));
    fs::write(source.join("quantize_config.json"), "of another").unwrap();
    gptq(&source, &target, GPTQ4).unwrap();
    assert_eq!(files_in(&target), ["config.json", "model.safetensors", "quantize_config.json"]);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(target.join(name)).unwrap()).unwrap()
    };
    assert_eq!(read("config.json")["quantization_config"], read("quantize_config.json"));
    assert_eq!(read("config.json")["dtype"], "bfloat16");
    let again = gptq(&target, &dir.path().join("c"), GPTQ4).unwrap_err().to_string();
    assert!(again.contains("quantized already"), "{again}");
}

#[test]
fn conv1d_weights_are_turned() {
    let config = r#"{"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","dtype":"float32"}"#;
    let dir = tempfile::tempdir().unwrap();
    let (conv, linear) = (dir.path().join("conv"), dir.path().join("linear"));
    let (rows, cols) = (96, 64);
    let stored = weights(rows * cols, 9);
    let turned: Vec<f32> = (0..rows).flat_map(|row| stored.iter().skip(row).step_by(rows).copied()).collect();
    let name = "transformer.h.0.attn.c_attn.weight".to_owned();
    write_model(&conv, config, &[(name.clone(), tensor(Dtype::F32, &[cols, rows], &stored))].into());
    let plain = config.replace("\"gpt2\"", "\"gpt_bigcode\"");
    write_model(&linear, &plain, &[(name, tensor(Dtype::F32, &[rows, cols], &turned))].into());
    let [a, b] = [&conv, &linear].map(|source| {
        let target = source.with_extension("gptq");
        gptq(source, &target, Gptq { group_size: groups_of(32), ..GPTQ4 }).unwrap();
        read_file(&target.join("model.safetensors"))
    });
    assert!(a == b && a["transformer.h.0.attn.c_attn.scales"].1 == [2, 96]);
}

#[test]
fn the_same_bytes_whatever_the_threads_memory_and_shards() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let mut tensors = llama(Dtype::BF16);
    // Several blocks, the last of them short.
    tensors.insert("model.layers.1.mlp.up_proj.weight".to_owned(), matrix(Dtype::BF16, 3008, 1024, 8));
    write_model(&source, LLAMA, &tensors);
    let run = |name: &str, shard_bytes, threads, memory| {
        let target = dir.path().join(name);
        let options = Options { threads, memory };
        let gptq = Gptq { zero_point: ZeroPoint::MinMax, group_size: groups_of(64), ..GPTQ4 };
        let precision = Precision::Gptq(gptq);
        quantize_in_shards(&source, &target, precision, shard_bytes, &options, &Silent).unwrap();
        let names = files_in(&target).into_iter().filter(|name| name.ends_with(".safetensors"));
        names.flat_map(|name| read_file(&target.join(name))).collect::<Tensors>()
    };
    let one = run("one", u64::MAX, 1, 1);
    assert!(one == run("many", u64::MAX, 3, 1 << 30));
    assert!(one == run("parts", 20_000, 2, 1 << 30));
    let large = values(&tensors["model.layers.1.mlp.up_proj.weight"]);
    for (weight, (back, scale)) in large.iter().zip(dequantised(&one, "model.layers.1.mlp.up_proj", 4)) {
        assert!((weight - back).abs() <= 0.51 * scale);
    }
}

#[test]
fn refuses_what_readers_could_not_load() {
    let dir = tempfile::tempdir().unwrap();
    let layer = "model.layers.0.q_proj.weight";
    let spoilt = |value: f32| {
        let mut weights = weights(64 * 64, 1);
        weights[70] = value;
        tensor(Dtype::BF16, &[64, 64], &weights)
    };
    for (matrix, group_size, want) in [
        (
            matrix(Dtype::BF16, 64, 96, 1),
            groups_of(64),
            "has 96 input features, which groups of 64 do not divide",
        ),
        (matrix(Dtype::BF16, 64, 64, 1), GroupSize::default(), "which groups of 128 do not divide"),
        (matrix(Dtype::BF16, 64, 48, 1), groups_of(16), "64 output and 48 input features"),
        (matrix(Dtype::BF16, 40, 64, 1), GroupSize::ROW, "40 output and 64 input features"),
        (spoilt(f32::NAN), GroupSize::ROW, "has a weight that is no number (NaN) in row 1,"),
        (spoilt(f32::INFINITY), GroupSize::ROW, "has an infinite weight in row 1,"),
        (
            spoilt(-3e38),
            GroupSize::ROW,
            "has a weight that is too large in row 1, for which FP16 has no scale",
        ),
    ] {
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        write_model(&source, LLAMA, &[(layer.to_owned(), matrix)].into());
        let error = gptq(&source, &target, Gptq { group_size, ..GPTQ4 }).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(layer) && text.contains(want), "{text}");
        assert_eq!(files_in(dir.path()), ["source"]);
    }
    for text in ["0", "-2", "48", "2048", "x", ""] {
        assert!(text.parse::<GroupSize>().unwrap_err().to_string().contains("16, 32, 64"), "{text}");
    }
    assert_eq!("-1".parse::<GroupSize>().unwrap(), GroupSize::ROW);
}

#[test]
fn layers_outside_the_blocks_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("b"));
    let mut tensors = llama(Dtype::BF16);
    // Of no size that GPTQ could pack, which does not matter where no reader looks.
    tensors.insert("visual.blocks.0.qkv.weight".to_owned(), matrix(Dtype::BF16, 7, 5, 7));
    tensors.insert("model.layers.0.mlp.experts.0.up_proj.weight".to_owned(), matrix(Dtype::BF16, 4, 4, 7));
    write_model(&source, LLAMA, &tensors);
    let warnings = Warnings::default();
    quantize(&source, &target, Precision::Gptq(GPTQ4), &Options::default(), &warnings).unwrap();
    let twin = read_file(&target.join("model.safetensors"));
    assert_eq!(twin["visual.blocks.0.qkv.weight"], tensors["visual.blocks.0.qkv.weight"]);
    let text = "being outside the blocks in which readers of GPTQ look for quantized layers: visual.blocks.0.qkv.weight";
    assert!(warnings.text().contains(text), "{}", warnings.text());
    let config = fs::read_to_string(target.join("config.json")).unwrap();
    assert!(config.contains(r#""-:^model\\.layers\\.0\\.mlp\\.experts(\\.|$)": {}"#), "{config}");

    let (source, target) = (dir.path().join("c"), dir.path().join("d"));
    write_model(&source, LLAMA, &[("q_proj.weight".to_owned(), matrix(Dtype::BF16, 32, 32, 1))].into());
    let warnings = Warnings::default();
    quantize(&source, &target, Precision::Gptq(GPTQ4), &Options::default(), &warnings).unwrap();
    assert!(
        warnings.text().contains("no layer has the name of one in a list of blocks"),
        "{}",
        warnings.text()
    );
}
