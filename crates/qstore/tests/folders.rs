//! Folders as people have them: two sets of weights, downloads that did not finish, clones, padded matrices, heads that
//! are tied. Each test is a public bug report about some store or quantiser, turned into a folder. All of it is
//! lossless; what it is about is that nothing is refused without need, dear without a word, or said that is not so.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{
    Gptq, Tensor, Tensors, Warnings, assert_same_tree, copy, gptq, llm_int8, model, options, spec, tree,
    write_options, write_tensors,
};
use qstore::{
    Dtype, Error, GivenRule, Inspection, Silent, Store, VariantSpec, inspect, pack, unpack, verify,
};
use tempfile::TempDir;

/// Folders in a temporary one, and what packing them said.
struct Room {
    dir: TempDir,
    warnings: Vec<String>,
}

impl Room {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), warnings: Vec::new() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Writes tensors into files of a folder, which gets a configuration of its own.
    fn folder(&self, name: &str, files: &[(&str, &Tensors)]) -> &Self {
        for (file, tensors) in files {
            let path = self.path(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_tensors(&path, tensors);
        }
        fs::create_dir_all(self.path(name)).unwrap();
        fs::write(self.path(name).join("config.json"), format!("{{\"of\": \"{name}\"}}")).unwrap();
        self
    }

    fn index(&self, name: &str, map: &[(&str, &str)]) -> &Self {
        let map: BTreeMap<&str, &str> = map.iter().copied().collect();
        let text = serde_json::json!({ "weight_map": map }).to_string();
        fs::write(self.path(name).join("model.safetensors.index.json"), text).unwrap();
        self
    }

    fn specs(&self, names: &[&str]) -> Vec<VariantSpec> {
        names.iter().map(|name| spec(self.dir.path(), name)).collect()
    }

    /// Packs, restores and compares all.
    fn pack(&mut self, names: &[&str]) -> Inspection {
        self.pack_specs(&self.specs(names))
    }

    fn pack_specs(&mut self, specs: &[VariantSpec]) -> Inspection {
        let (store, warnings) = (self.path("store"), Warnings::default());
        drop(fs::remove_dir_all(&store));
        pack(specs, &store, &write_options(), &warnings).unwrap();
        self.warnings = warnings.take();
        let store = Store::open(&store).unwrap();
        assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
        for spec in specs.iter().filter(|spec| spec.exclude.is_empty()) {
            let out = tempfile::tempdir().unwrap();
            unpack(&store, &spec.name, out.path(), &options(), &Silent).unwrap();
            assert_same_tree(&spec.folder, out.path());
        }
        let inspection = inspect(&store, true).unwrap();
        assert_accounts_for_all(&inspection, store.path());
        inspection
    }

    fn refused(&self, spec: &VariantSpec) -> String {
        let error =
            pack(std::slice::from_ref(spec), &self.path("refused"), &write_options(), &Silent).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error}");
        assert!(!self.path("refused").exists());
        error.to_string()
    }
}

/// Every byte of the store is of something that `inspect` lists.
fn assert_accounts_for_all(inspection: &Inspection, store: &Path) {
    let on_disk: u64 = tree(store).values().flatten().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(inspection.stored_bytes, on_disk);
    let of_variants: u64 = inspection.variants.iter().map(|variant| variant.stored_bytes).sum();
    assert_eq!(inspection.stored_bytes, inspection.manifest_bytes + of_variants);
    for variant in &inspection.variants {
        let tensors: u64 = variant.tensors.iter().flatten().map(|tensor| tensor.stored_bytes).sum();
        let files: u64 = variant.files.iter().map(|file| file.stored_bytes).sum();
        assert_eq!(
            tensors + files + variant.overhead_bytes.unwrap(),
            variant.stored_bytes,
            "{}",
            variant.name
        );
    }
    assert!(inspection.foreign.is_empty() && inspection.leftovers.is_empty());
}

/// The reasons told of a variant, each with the variant that it is about and how many matrices.
fn told<'a>(inspection: &'a Inspection, name: &str) -> Vec<(&'a str, &'a str, u64)> {
    let variant = inspection.variants.iter().find(|variant| variant.name == name).unwrap();
    let reason =
        |one: &'a qstore::UnsharedInspection| (one.reason, one.with.as_deref().unwrap_or("-"), one.matrices);
    variant.unshared.iter().map(reason).collect()
}

fn names(inspection: &Inspection) -> Vec<&str> {
    inspection.variants.iter().map(|variant| variant.name.as_str()).collect()
}

fn only(names: &[&str]) -> GivenRule {
    GivenRule::Only(names.iter().map(|name| name.parse().unwrap()).collect())
}

/// A model of two matrices, of which one is larger.
fn small() -> Tensors {
    model(1, Dtype::BF16, &[(256, 256), (512, 256)])
}

fn renamed(tensors: &Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// In two files, as shards.
fn halves(tensors: &Tensors) -> [Tensors; 2] {
    let mut first = tensors.clone();
    let second = first.split_off(tensors.keys().nth(tensors.len() / 2).unwrap());
    [first, second]
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// Mistral ships `consolidated.safetensors`, with names of its own, beside Hugging Face's shards; others the same names
/// twice.
#[test]
fn a_second_set_of_weights_costs_nothing() {
    let mut room = Room::new();
    let high = small();
    let [first, second] = halves(&high);
    let shards: [(&str, &Tensors); 2] = [(SHARDS[0], &first), (SHARDS[1], &second)];
    let consolidated =
        renamed(&high, |name| name.replace("model.", "").replace("mlp.up_proj", "feed_forward.w3"));
    let wide: Tensors = high
        .iter()
        .map(|(name, t)| (name.clone(), Tensor::float(Dtype::F32, &t.shape, &t.values())))
        .collect();
    room.folder("int8", &[("model.safetensors", &llm_int8(&high))]);
    room.folder("bf16", &shards);
    let one = room.pack(&["bf16", "int8"]).stored_bytes;
    for (file, second) in [
        ("consolidated.safetensors", &consolidated),
        ("model.safetensors", &high),
        ("original/model.safetensors", &high),
        ("zzz.safetensors", &consolidated),
        // Named as nothing is, as Git LFS and caches of hubs do.
        (".git/lfs/objects/ab/cd/abcd", &high),
    ] {
        fs::remove_dir_all(room.path("bf16")).unwrap();
        room.folder("bf16", &shards).folder("bf16", &[(file, second)]);
        let both = room.pack(&["bf16", "int8"]);
        assert!(both.stored_bytes * 100 <= one * 102, "{file}: {} after {one}", both.stored_bytes);
        assert_eq!(told(&both, "bf16"), [], "{file}");
    }
    // FP32 beside BF16, in the folder of each variant, and INT8 twice.
    fs::remove_dir_all(room.path("bf16")).unwrap();
    room.folder("bf16", &shards).folder("bf16", &[("fp32.safetensors", &wide)]);
    room.folder("int8", &[("again/model.safetensors", &llm_int8(&high))]);
    let inspection = room.pack(&["bf16", "int8"]);
    let residuals =
        inspection.variants[1].tensors.iter().flatten().filter(|tensor| tensor.encoding == "residual");
    assert_eq!(residuals.count(), 4, "both sets are given INT8");
}

/// An index that was carried over from the unquantised original names shards that are not there.
#[test]
fn a_stale_index_is_stored_and_told() {
    let mut room = Room::new();
    let high = small();
    let weights: Vec<&str> = high.keys().map(String::as_str).collect();
    let map: Vec<_> = weights.iter().enumerate().map(|(i, name)| (*name, SHARDS[i % 2])).collect();
    for tensors in [&high, &llm_int8(&high)] {
        room.folder("model", &[("model.safetensors", tensors)]).index("model", &map);
        room.pack(&["model"]);
        let said = room.warnings.join("\n");
        assert!(
            said.contains("index.json") && said.contains("2 of 2 shards") && said.contains("all its tensors"),
            "{said}"
        );
        let strict = VariantSpec { strict: true, ..spec(room.dir.path(), "model") };
        assert!(room.refused(&strict).contains("index.json"));
    }
}

/// Shards of which others are missing: with an index, and before it came, as it sorts last.
#[test]
fn missing_shards_are_told_and_refused_by_the_strict() {
    let mut room = Room::new();
    let [first, second] = halves(&small());
    let map: Vec<_> = first.keys().map(|name| (name.as_str(), SHARDS[0])).collect();
    let map: Vec<_> = map.into_iter().chain(second.keys().map(|name| (name.as_str(), SHARDS[1]))).collect();
    room.folder("model", &[(SHARDS[0], &first)]);
    for (with_index, says) in [(false, "1 of its 2 shards is not there"), (true, "nothing else has")] {
        if with_index {
            room.index("model", &map);
        }
        room.pack(&["model"]);
        let said = room.warnings.join("\n");
        assert!(said.contains(says) && said.contains("was the download complete?"), "{said}");
        let strict = VariantSpec { strict: true, ..spec(room.dir.path(), "model") };
        assert!(room.refused(&strict).contains(says));
    }
    // All there, but not their index: told, and no reason to refuse.
    fs::remove_file(room.path("model").join("model.safetensors.index.json")).unwrap();
    room.folder("model", &[(SHARDS[1], &second)]);
    room.pack_specs(&[VariantSpec { strict: true, ..spec(room.dir.path(), "model") }]);
    assert!(room.warnings.join("\n").contains("not their index"), "{:?}", room.warnings);
}

/// What downloads leave while they are under way.
#[test]
fn partial_downloads_are_told_and_refused_by_the_strict() {
    let mut room = Room::new();
    for name in [
        ".cache/huggingface/download/model.safetensors.d3adb33f.incomplete",
        "x.part",
        "y.aria2",
        "z.crdownload",
    ] {
        room.folder("model", &[("model.safetensors", &small())]);
        let path = room.path("model").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // The beginning of a safetensors file is none.
        fs::write(&path, &fs::read(room.path("model").join("model.safetensors")).unwrap()[..5000]).unwrap();
        room.pack(&["model"]);
        let said = room.warnings.join("\n");
        assert!(said.contains(name) && said.contains("still being fetched"), "{said}");
        let strict = VariantSpec { strict: true, ..spec(room.dir.path(), "model") };
        assert!(room.refused(&strict).contains(name));
        let exclude = name.rsplit('/').next().unwrap().to_owned();
        let without = VariantSpec { exclude: vec![exclude.clone()], ..strict };
        assert_eq!(room.pack_specs(&[without]).variants[0].excluded, [exclude]);
        assert!(room.warnings.is_empty(), "{:?}", room.warnings);
        fs::remove_dir_all(room.path("model")).unwrap();
    }
}

/// `git clone` without Git LFS leaves three lines of text in the place of each large file.
#[test]
fn pointers_are_called_what_they_are() {
    let mut room = Room::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 987654321\n";
    for name in ["model.safetensors", "pytorch_model.bin"] {
        room.folder("model", &[]);
        fs::write(room.path("model").join(name), pointer).unwrap();
        let error = room.refused(&spec(room.dir.path(), "model"));
        for part in [name, "Git LFS pointer", "987.65 MB", "git lfs pull"] {
            assert!(error.contains(part), "{error}");
        }
        fs::remove_dir_all(room.path("model")).unwrap();
    }
    // One that was left out on purpose, beside weights, an index, or a tokenizer.
    for name in ["consolidated.safetensors", "model.safetensors.index.json", "tokenizer.json"] {
        room.folder("model", &[("model.safetensors", &small())]);
        fs::write(room.path("model").join(name), pointer).unwrap();
        room.pack(&["model"]);
        let said = room.warnings.join("\n");
        assert!(said.contains(name) && said.contains("Git LFS pointer"), "{said}");
        let strict = VariantSpec { strict: true, ..spec(room.dir.path(), "model") };
        assert!(room.refused(&strict).contains(name));
        fs::remove_dir_all(room.path("model")).unwrap();
    }
}

/// A clone with Git LFS has every large file twice.
#[test]
fn a_clone_costs_what_its_files_do() {
    let mut room = Room::new();
    let high = model(2, Dtype::BF16, &[(512, 512), (512, 512)]);
    room.folder("bf16", &[("model.safetensors", &high)]);
    room.folder("int8", &[("model.safetensors", &llm_int8(&high))]);
    let plain = room.pack(&["bf16", "int8"]).stored_bytes;
    for name in ["bf16", "int8"] {
        let objects = room.path(name).join(".git/lfs/objects/12/34");
        fs::create_dir_all(&objects).unwrap();
        fs::copy(room.path(name).join("model.safetensors"), objects.join("1234abcd")).unwrap();
        fs::create_dir_all(room.path(name).join(".git/refs/heads")).unwrap();
        fs::write(room.path(name).join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    }
    let cloned = room.pack(&["bf16", "int8"]);
    assert!(cloned.stored_bytes * 100 <= plain * 101, "{} after {plain}", cloned.stored_bytes);
    assert!(room.warnings.iter().all(|text| text.contains("--exclude .git")) && room.warnings.len() == 2);
    let without =
        |name: &str| VariantSpec { exclude: vec![".git".to_owned()], ..spec(room.dir.path(), name) };
    let specs = [without("bf16"), without("int8")];
    let left = room.pack_specs(&specs);
    assert!(left.variants.iter().all(|variant| variant.excluded == [".git"] && variant.files.len() == 2));
    assert!(room.warnings.is_empty());
}

/// Which variant is lower is a matter of precision: a head twice, or embeddings in FP32, make INT8 larger than BF16 as
/// a folder.
#[test]
fn lower_is_what_has_fewer_bits() {
    let mut room = Room::new();
    let high = model(3, Dtype::BF16, &[(128, 64), (128, 64)]);
    let head = high["model.embed_tokens.weight"].clone();
    let mut low = llm_int8(&high);
    room.folder("bf16", &[("model.safetensors", &high)]).folder("int8", &[("model.safetensors", &low)]);
    let plain = room.pack(&["bf16", "int8"]).stored_bytes;
    for i in 0..3 {
        low.insert(format!("lm_head{i}.weight"), head.clone());
    }
    room.folder("int8", &[("model.safetensors", &low)]);
    // Files that are equal must not make the lower one need the higher one's.
    for name in ["bf16", "int8"] {
        fs::write(room.path(name).join("config.json"), "{\"tie_word_embeddings\": true}").unwrap();
        fs::write(room.path(name).join("tokenizer.json"), "token ".repeat(3000)).unwrap();
    }
    let size = |name: &str| tree(&room.path(name)).values().flatten().map(Vec::len).sum::<usize>();
    assert!(size("int8") > size("bf16"));
    for order in [["bf16", "int8"], ["int8", "bf16"]] {
        let inspection = room.pack(&order);
        assert_eq!(names(&inspection), ["int8", "bf16"]);
        assert!(inspection.variants[0].given.is_empty());
        assert!(
            inspection.stored_bytes * 100 <= (plain + 1500) * 102,
            "{} after {plain}",
            inspection.stored_bytes
        );
    }
    let store = room.path("store");
    for file in fs::read_dir(&store).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("bf16-") {
            fs::remove_file(path).unwrap();
        }
    }
    let out = room.path("out");
    unpack(&Store::open(&store).unwrap(), &"int8".parse().unwrap(), &out, &options(), &Silent).unwrap();
    assert_same_tree(&room.path("int8"), &out);
}

/// A user's word goes before precision, unless it makes a circle.
#[test]
fn given_may_be_whatever_is_no_circle() {
    let mut room = Room::new();
    let high = small();
    room.folder("bf16", &[("model.safetensors", &high)]);
    room.folder("int8", &[("model.safetensors", &llm_int8(&high))]);
    room.folder("gptq4", &[("model.safetensors", &gptq(&high, Gptq::of_bits(4)))]);
    let specs = |given: &[(&str, &[&str])]| -> Vec<VariantSpec> {
        let mut specs = room.specs(&["bf16", "int8", "gptq4"]);
        for (name, others) in given {
            specs.iter_mut().find(|spec| spec.name.as_str() == *name).unwrap().given = only(others);
        }
        specs
    };
    let cases: [(Vec<VariantSpec>, [&str; 3]); 4] = [
        (specs(&[]), ["gptq4", "int8", "bf16"]),
        (specs(&[("int8", &["bf16"])]), ["gptq4", "bf16", "int8"]),
        (specs(&[("gptq4", &["bf16"]), ("bf16", &["int8"])]), ["int8", "bf16", "gptq4"]),
        (specs(&[("bf16", &[]), ("int8", &[]), ("gptq4", &[])]), ["gptq4", "int8", "bf16"]),
    ];
    let circles = [
        specs(&[("int8", &["bf16"]), ("bf16", &["int8"])]),
        specs(&[("int8", &["int8"])]),
        specs(&[("int8", &["none"])]),
    ];
    for (specs, want) in cases {
        let inspection = room.pack_specs(&specs);
        assert_eq!(names(&inspection), want);
        // Bytes that one shares with what it is given may be kept lower; none that is to be alone is given anything.
        for variant in &inspection.variants {
            let spec = specs.iter().find(|spec| spec.name.as_str() == variant.name).unwrap();
            assert!(spec.given != only(&[]) || variant.given.is_empty());
        }
    }
    for specs in circles {
        let error = pack(&specs, &room.path("refused"), &write_options(), &Silent).unwrap_err();
        assert!(error.is_usage(), "{error}");
    }
    // The same when variants come one by one.
    let store = room.path("one-by-one");
    pack(&room.specs(&["bf16"]), &store, &write_options(), &Silent).unwrap();
    let int8 = VariantSpec { given: only(&["bf16"]), ..spec(room.dir.path(), "int8") };
    qstore::add(&store, &int8, &write_options(), &Silent).unwrap();
    qstore::add(&store, &spec(room.dir.path(), "gptq4"), &write_options(), &Silent).unwrap();
    assert_eq!(names(&inspect(&Store::open(&store).unwrap(), false).unwrap()), ["gptq4", "bf16", "int8"]);
}

/// Output heads that are tied to the embeddings are in quantised folders and not in others.
#[test]
fn a_tied_head_is_paired_with_the_embeddings() {
    let mut room = Room::new();
    let high = model(4, Dtype::BF16, &[(128, 64)]);
    let mut tied = Tensors::new();
    tied.insert("lm_head_proj.weight".to_owned(), high["model.embed_tokens.weight"].clone());
    let head = renamed(&llm_int8(&tied), |name| name.replace("lm_head_proj", "lm_head"));
    let mut low = llm_int8(&high);
    low.extend(head);
    low.insert("model.embed_tokens.weight".to_owned(), {
        let embeddings = &high["model.embed_tokens.weight"];
        Tensor::float(Dtype::F16, &embeddings.shape, &embeddings.values())
    });
    room.folder("bf16", &[("model.safetensors", &high)]).folder("int8", &[("model.safetensors", &low)]);
    let inspection = room.pack(&["bf16", "int8"]);
    assert_eq!(names(&inspection), ["int8", "bf16"]);
    let tensors = inspection.variants[1].tensors.as_ref().unwrap();
    let embeddings = tensors.iter().find(|tensor| tensor.name == "model.embed_tokens.weight").unwrap();
    assert_eq!((embeddings.encoding.as_str(), embeddings.given.as_deref()), ("residual", Some("int8")));
    assert_eq!(told(&inspection, "bf16"), []);
}

/// Matrices that a quantiser has padded, and groups of any size.
#[test]
fn padded_matrices_and_small_groups_are_paired() {
    let high = model(5, Dtype::BF16, &[(64, 256), (96, 192)]);
    let padded = |shape: [usize; 2]| {
        let mut padded = high.clone();
        let matrix = &high["model.layers.0.mlp.up_proj.weight"];
        let rows = matrix
            .values()
            .chunks(256)
            .flat_map(|row| {
                let mut row = row.to_vec();
                row.resize(shape[1], 0.0);
                row
            })
            .collect::<Vec<_>>();
        let mut values = rows;
        values.resize(shape[0] * shape[1], 0.0);
        padded.insert(
            "model.layers.0.mlp.up_proj.weight".to_owned(),
            Tensor::float(Dtype::BF16, &shape, &values),
        );
        padded
    };
    for (bits, group, shape) in
        [(8, 64, [96, 256]), (4, 64, [64, 320]), (4, 16, [96, 272]), (8, 40, [64, 256]), (3, 24, [64, 288])]
    {
        let mut room = Room::new();
        room.folder("bf16", &[("model.safetensors", &high)]);
        let low = gptq(&padded(shape), Gptq { group, ..Gptq::of_bits(bits) });
        room.folder("gptq", &[("model.safetensors", &low)]);
        let inspection = room.pack(&["bf16", "gptq"]);
        assert_eq!(told(&inspection, "bf16"), [], "{bits} {group} {shape:?}");
        let tensors = inspection.variants[1].tensors.as_ref().unwrap();
        let of_one = ["step-residual", "refine-floats"];
        let given = tensors.iter().filter(|tensor| of_one.contains(&&*tensor.encoding)).count();
        assert_eq!(given, 2, "{bits} {group} {shape:?}");
    }
    // The other way round: the weights are padded, and the codes are not.
    let mut room = Room::new();
    room.folder("bf16", &[("model.safetensors", &padded([68, 264]))]);
    room.folder("gptq", &[("model.safetensors", &gptq(&high, Gptq::of_bits(4)))]);
    let inspection = room.pack(&["bf16", "gptq"]);
    assert_eq!(told(&inspection, "bf16"), []);
}

/// What this version does not pair is stored alone, and said: other shapes, experts in one tensor, floats given floats,
/// other formats.
#[test]
fn what_cannot_be_paired_is_told() {
    let mut room = Room::new();
    let high = model(5, Dtype::BF16, &[(64, 256), (96, 256)]);
    let mut larger = high.clone();
    let matrix = &high["model.layers.0.mlp.up_proj.weight"];
    larger.insert(
        "model.layers.0.mlp.up_proj.weight".to_owned(),
        Tensor::float(Dtype::BF16, &[256, 256], &matrix.values().repeat(4)),
    );
    room.folder("bf16", &[("model.safetensors", &high)]);
    room.folder("gptq8", &[("model.safetensors", &gptq(&larger, Gptq::of_bits(8)))]);
    let inspection = room.pack(&["bf16", "gptq8"]);
    assert_eq!(told(&inspection, "bf16"), [("other-shape", "gptq8", 1)]);
    assert!(inspection.variants[1].unshared[0].text.contains("64 x 256 here, 256 x 256 there"));

    // FP32 of the same, and FP16.
    for dtype in [Dtype::F32, Dtype::F16] {
        let cast = high.iter().map(|(name, t)| (name.clone(), Tensor::float(dtype, &t.shape, &t.values())));
        room.folder("cast", &[("model.safetensors", &cast.collect())]);
        // The embedding as well.
        assert_eq!(told(&room.pack(&["bf16", "cast"]), "cast"), [("floats", "bf16", 3)], "{dtype}");
    }

    // Both in one folder.
    let wide: Tensors = high
        .iter()
        .map(|(name, t)| (name.clone(), Tensor::float(Dtype::F32, &t.shape, &t.values())))
        .collect();
    room.folder("both", &[("model.safetensors", &wide), ("model.bf16.safetensors", &high)]);
    assert_eq!(told(&room.pack(&["both"]), "both"), [("floats", "-", 6)]);

    // Experts apart here, in one tensor of some name there, both ways.
    let mut rng = rand::SeedableRng::seed_from_u64(6);
    let experts: Vec<Tensor> = (0..4).map(|_| common::weights(&mut rng, Dtype::BF16, 64, 128)).collect();
    let apart: Tensors = (0..4)
        .map(|i| (format!("model.layers.0.mlp.experts.{i}.up_proj.weight"), experts[i].clone()))
        .collect();
    let all = experts.iter().flat_map(|expert| expert.data.clone()).collect();
    let fused = Tensors::from([(
        "model.layers.0.mlp.experts.of_all.stacked".to_owned(),
        Tensor::new(Dtype::BF16, &[4, 64, 128], all),
    )]);
    room.folder("fused", &[("model.safetensors", &fused)]).folder("apart", &[("model.safetensors", &apart)]);
    room.folder("int8", &[("model.safetensors", &llm_int8(&apart))]);
    assert_eq!(told(&room.pack(&["fused", "int8"]), "fused"), [("fused-experts", "int8", 4)]);
    let mut mixed = llm_int8(&renamed(&high, str::to_owned));
    mixed.extend(fused.clone());
    let mut high_apart = high.clone();
    high_apart.extend(apart);
    room.folder("mixed", &[("model.safetensors", &mixed)])
        .folder("apart", &[("model.safetensors", &high_apart)]);
    assert_eq!(told(&room.pack(&["apart", "mixed"]), "apart"), [("fused-experts", "mixed", 4)]);

    // A format that is not known, and which the configuration names.
    let other = Tensors::from([
        (
            "model.layers.0.mlp.up_proj.weight".to_owned(),
            Tensor::new(Dtype::U8, &[64, 256], vec![3; 64 * 256]),
        ),
        (
            "model.layers.0.mlp.up_proj.weight_scale".to_owned(),
            Tensor::float(Dtype::BF16, &[64, 1], &[0.1; 64]),
        ),
    ]);
    room.folder("other", &[("model.safetensors", &other)]);
    fs::write(room.path("other/config.json"), r#"{"quantization_config": {"quant_method": "hqq"}}"#).unwrap();
    let inspection = room.pack(&["bf16", "other"]);
    assert_eq!(
        (names(&inspection), told(&inspection, "other")),
        (vec!["other", "bf16"], vec![("unknown-format", "-", 1)])
    );
    assert!(inspection.variants[0].unshared[0].text.contains("hqq"));
    // What is told of another variant goes with that.
    qstore::remove(&room.path("store"), &"other".parse().unwrap(), &write_options(), &Silent).unwrap();
    let mut store = room.pack(&["bf16", "gptq8"]);
    assert_eq!(told(&store, "bf16").len(), 1);
    room.folder("gptq4", &[("model.safetensors", &gptq(&high, Gptq::of_bits(4)))]);
    qstore::add(&room.path("store"), &spec(room.dir.path(), "gptq4"), &write_options(), &Silent).unwrap();
    qstore::remove(&room.path("store"), &"gptq8".parse().unwrap(), &write_options(), &Silent).unwrap();
    store = inspect(&Store::open(&room.path("store")).unwrap(), false).unwrap();
    assert_eq!(told(&store, "bf16"), []);
}

/// LLM.int8() scales in other shapes and types.
#[test]
fn scales_of_other_shapes_and_types_are_read() {
    let mut room = Room::new();
    let high = small();
    room.folder("bf16", &[("model.safetensors", &high)]);
    let low = llm_int8(&high);
    room.folder("int8", &[("model.safetensors", &low)]);
    let want = room.pack(&["bf16", "int8"]).variants[1].stored_bytes;
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for shape in [vec![], vec![1, 0], vec![0, 1]] {
            let of = |rows: usize| {
                if shape.is_empty() {
                    vec![rows]
                } else {
                    shape.iter().map(|d| (*d).max(1) * if *d == 0 { rows } else { 1 }).collect()
                }
            };
            let other = low.iter().map(|(name, t)| {
                let scale =
                    name.ends_with(".SCB").then(|| Tensor::float(dtype, &of(t.shape[0]), &t.values()));
                (name.clone(), scale.unwrap_or_else(|| t.clone()))
            });
            room.folder("int8", &[("model.safetensors", &other.collect())]);
            let inspection = room.pack(&["bf16", "int8"]);
            let given =
                inspection.variants[1].tensors.iter().flatten().filter(|t| t.encoding == "residual").count();
            // BF16 has too few digits for the bins of FP32's scale: weights near the edges are exceptions.
            let most = if dtype == Dtype::BF16 { want * 2 } else { want + 500 };
            assert!(given == 2 && inspection.variants[1].stored_bytes <= most, "{dtype} {shape:?}");
        }
    }
    // One scale too few, or of whole numbers, is told.
    for (wrong, says) in [
        (Tensor::float(Dtype::F32, &[255], &[0.1; 255]), "one scale for each row"),
        (Tensor::new(Dtype::I32, &[256], vec![1; 1024]), "no floats"),
    ] {
        let mut other = low.clone();
        other.insert("model.layers.0.mlp.up_proj.SCB".to_owned(), wrong);
        room.folder("int8", &[("model.safetensors", &other)]);
        let inspection = room.pack(&["bf16", "int8"]);
        let text = &inspection.variants[0].unshared[0].text;
        assert!(inspection.variants[0].unshared[0].reason == "malformed" && text.contains(says), "{text}");
    }
}

/// A tensor of a type that is not known yet is named, and so is the way out.
#[test]
fn an_unknown_dtype_names_its_tensor() {
    let mut room = Room::new();
    room.folder("model", &[("model.safetensors", &small())]);
    let header = r#"{"a.weight":{"dtype":"F3_E1M1","shape":[8],"data_offsets":[0,3]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 3]].concat();
    fs::write(room.path("model").join("odd.safetensors"), file).unwrap();
    let error = room.refused(&spec(room.dir.path(), "model"));
    for part in ["odd.safetensors", "a.weight", "F3_E1M1", "--exclude"] {
        assert!(error.contains(part), "{error}");
    }
    room.pack_specs(&[VariantSpec { exclude: vec!["odd.*".to_owned()], ..spec(room.dir.path(), "model") }]);
}

/// What lies in a store's folder and is not its own is listed as such, and counts for nothing.
#[test]
fn what_is_not_the_stores_is_told_apart() {
    let mut room = Room::new();
    let high = small();
    room.folder("bf16", &[("model.safetensors", &high)])
        .folder("int8", &[("model.safetensors", &llm_int8(&high))]);
    let specs =
        [spec(room.dir.path(), "bf16"), VariantSpec { verbatim: true, ..spec(room.dir.path(), "int8") }];
    fs::create_dir_all(room.path("int8").join("sub/empty")).unwrap();
    let before = room.pack_specs(&specs);
    let store = room.path("store");
    let mine = ["README.md", "bf16/model.safetensors", "int8/notes.txt", "bf16-0123456789ab.safetensors"];
    for name in mine {
        fs::create_dir_all(store.join(name).parent().unwrap()).unwrap();
        fs::write(store.join(name), "mine").unwrap();
    }
    let after = inspect(&Store::open(&store).unwrap(), true).unwrap();
    assert_eq!(after.stored_bytes, before.stored_bytes);
    assert_eq!(after.foreign, ["README.md", "bf16", "bf16-0123456789ab.safetensors", "int8/notes.txt"]);
    // A kept variant goes without them.
    qstore::remove(&store, &"int8".parse().unwrap(), &write_options(), &Silent).unwrap();
    assert!(mine.iter().all(|name| fs::read(store.join(name)).unwrap() == b"mine"));
    assert_eq!(fs::read_dir(store.join("int8")).unwrap().count(), 1, "of the store's nothing is left");
    // A shard that is missing is told as well.
    let copied = room.path("copied");
    copy(&store, &copied);
    let left = inspect(&Store::open(&store).unwrap(), false).unwrap();
    let files = &left.variants[0].stored_files;
    fs::remove_file(copied.join(&files[0])).unwrap();
    let partial = inspect(&Store::open(&copied).unwrap(), true).unwrap();
    assert_eq!(partial.variants[0].missing_files, *files);
    assert_eq!(partial.stored_bytes, partial.manifest_bytes);
}

/// A handle that was opened before the store changed says so.
#[test]
fn a_store_that_changed_under_its_reader_says_so() {
    let mut room = Room::new();
    let high = small();
    room.folder("bf16", &[("model.safetensors", &high)])
        .folder("int8", &[("model.safetensors", &llm_int8(&high))]);
    let kept =
        [spec(room.dir.path(), "bf16"), VariantSpec { verbatim: true, ..spec(room.dir.path(), "int8") }];
    room.pack_specs(&kept);
    let path = room.path("store");
    let store = Store::open(&path).unwrap();
    let open = store.variant(&"int8".parse().unwrap()).unwrap();
    let tensor = qstore::Tensor::open(&open, "model.embed_tokens.weight").unwrap();
    qstore::remove(&path, &"int8".parse().unwrap(), &write_options(), &Silent).unwrap();
    for error in [
        store.variant(&"int8".parse().unwrap()).unwrap_err(),
        store.variant(&"bf16".parse().unwrap()).unwrap_err(),
        qstore::load(&open, &options(), &Silent).unwrap_err(),
        tensor.read(&options()).unwrap_err(),
        tensor.read_block(0..3, 0..2, &options()).unwrap_err(),
        qstore::read_file(&open, "model.safetensors", &options()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Changed(_)), "{error}");
        assert!(error.to_string().contains("open it again"), "{error}");
    }
    assert!(Store::open(&path).unwrap().variant(&"bf16".parse().unwrap()).is_ok());
}

/// Equal files across variants: a variant that is stored anew was read by the name of what it refers to, and its own
/// file of that name was taken for that.
#[test]
fn files_that_equal_others_under_their_own_names() {
    let room = Room::new();
    for (folder, name, byte) in [("low", "b", 1), ("high", "a", 1), ("high", "b", 2)] {
        fs::create_dir_all(room.path(folder)).unwrap();
        let noise: Vec<u8> =
            (0..3000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ byte).collect();
        fs::write(room.path(folder).join(name), noise).unwrap();
    }
    let high = VariantSpec { given: only(&["low"]), ..spec(room.dir.path(), "high") };
    let store = room.path("store");
    pack(&[spec(room.dir.path(), "low"), high], &store, &write_options(), &Silent).unwrap();
    qstore::remove(&store, &"low".parse().unwrap(), &write_options(), &Silent).unwrap();
    let out = room.path("out");
    unpack(&Store::open(&store).unwrap(), &"high".parse().unwrap(), &out, &options(), &Silent).unwrap();
    assert_same_tree(&room.path("high"), &out);
}

/// A variant that is given one alone, all of which is kept in a third: without the one it must be stored anew.
#[test]
fn what_is_out_of_reach_is_stored_anew() {
    let room = Room::new();
    let names = ["a", "b", "c"];
    for name in names {
        room.folder(name, &[("model.safetensors", &small())]);
        fs::write(room.path(name).join("config.json"), "{}").unwrap();
    }
    let mut specs = room.specs(&names);
    specs[2].given = only(&["b"]);
    for gone in ["a", "b"] {
        let store = room.path("store");
        drop(fs::remove_dir_all(&store));
        pack(&specs, &store, &write_options(), &Silent).unwrap();
        qstore::remove(&store, &gone.parse().unwrap(), &write_options(), &Silent).unwrap();
        let store = Store::open(&store).unwrap();
        assert!(verify(&store, None, false, &options(), &Silent).unwrap().is_sound());
        assert_eq!(store.manifest().variants.len(), 2);
    }
}

/// Equal arrays of which some are paired, some not, and some say what codes stand for: none refers to what is itself a
/// reference.
#[test]
fn equal_arrays_of_every_kind() {
    let mut room = Room::new();
    let zeros = |shape: &[usize], dtype: Dtype| {
        Tensor::new(dtype, shape, vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8])
    };
    // All of 16 KiB: a paired matrix, one that is not, scales and codes.
    let high = Tensors::from([
        ("a.layers.0.up_proj.weight".to_owned(), zeros(&[4096, 2], Dtype::BF16)),
        ("z.other".to_owned(), zeros(&[8192], Dtype::BF16)),
        ("m.layers.0.up_proj.weight".to_owned(), zeros(&[4096, 4], Dtype::I8)),
        ("m.layers.0.up_proj.SCB".to_owned(), zeros(&[4096], Dtype::F32)),
    ]);
    let low = Tensors::from([
        ("a.layers.0.up_proj.weight".to_owned(), zeros(&[4096, 2], Dtype::I8)),
        ("a.layers.0.up_proj.SCB".to_owned(), zeros(&[4096], Dtype::F32)),
    ]);
    room.folder("high", &[("model.safetensors", &high)]).folder("low", &[("model.safetensors", &low)]);
    room.pack(&["high", "low"]);
    room.pack(&["high"]);
}

/// Numbers of shards that are beyond their set are no reason to say what is not so.
#[test]
fn shards_beyond_their_set() {
    let mut room = Room::new();
    for (names, says) in [
        (&["m-00001-of-00002", "m-00005-of-00002", "m-00006-of-00002"][..], Some("1 of its 2 shards")),
        (&["m-00001-of-00000"], None),
        (&["m-00000-of-00002", "m-00001-of-00002"], None),
    ] {
        let one = Tensors::from([("x".to_owned(), Tensor::new(Dtype::U8, &[1], vec![1]))]);
        let files: Vec<_> = names.iter().map(|name| format!("{name}.safetensors")).collect();
        let files: Vec<_> = files.iter().map(|name| (name.as_str(), &one)).collect();
        room.folder("model", &files);
        room.pack(&["model"]);
        let said = room.warnings.join("\n");
        assert!(
            says.map_or(!said.contains("not there, such as"), |says| said.contains(says)),
            "{names:?}: {said}"
        );
        fs::remove_dir_all(room.path("model")).unwrap();
    }
}

/// Very many matrices under another prefix, and of names that all end alike: found in time that grows with their number
/// alone.
#[test]
fn very_many_matrices_under_another_prefix() {
    let room = Room::new();
    let [high, low] = common::renamed_pair(16_000);
    room.folder("bf16", &[("model.safetensors", &high)]).folder("int8", &[("model.safetensors", &low)]);
    let alike = renamed(&low, |name| format!("{}.a.b.c", name.replace('.', "_")));
    room.folder("alike", &[("model.safetensors", &alike)]);
    let store = room.path("store");
    pack(&room.specs(&["bf16", "int8", "alike"]), &store, &write_options(), &Silent).unwrap();
    let inspection = inspect(&Store::open(&store).unwrap(), false).unwrap();
    assert_eq!(told(&inspection, "bf16"), []);
}

/// Names that have nothing in common, of many matrices of one shape: values tell which is which, also the other way
/// round.
#[test]
fn matrices_whose_names_say_nothing() {
    let mut room = Room::new();
    let high = model(12, Dtype::BF16, &[(96, 192); 12]);
    let number = |name: &str| name.split('.').nth(2).unwrap().parse::<usize>().unwrap();
    let is_matrix = |name: &&String| name.contains("up_proj");
    let other =
        |name: &str| format!("net.block_{}_x.lin{}_proj.weight", number(name) * 7 % 12, number(name) % 5);
    let unnamed: Tensors =
        high.iter().filter(|(name, _)| is_matrix(name)).map(|(name, t)| (other(name), t.clone())).collect();
    let turned: Tensors = high
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.values();
            let &[rows, cols] = &tensor.shape[..] else { return (name.clone(), tensor.clone()) };
            let columns = (0..cols).flat_map(|column| (0..rows).map(move |row| row * cols + column));
            let values: Vec<f32> = columns.map(|at| values[at]).collect();
            (name.clone(), Tensor::float(Dtype::BF16, &[cols, rows], &values))
        })
        .collect();
    room.folder("int8", &[("model.safetensors", &llm_int8(&unnamed))]);
    room.folder("gptq4", &[("model.safetensors", &gptq(&unnamed, Gptq::of_bits(4)))]);
    room.folder("gptq3", &[("model.safetensors", &gptq(&unnamed, Gptq::of_bits(3)))]);
    for (name, content) in [("bf16", &high), ("turned", &turned)] {
        room.folder(name, &[("model.safetensors", content)]);
        for low in ["int8", "gptq4", "gptq3"] {
            let inspection = room.pack(&[name, low]);
            assert_eq!(told(&inspection, name), [], "{name} {low}");
            let tensors = inspection.variants[1].tensors.iter().flatten();
            let given = tensors.filter(|tensor| tensor.given.is_some()).count();
            assert_eq!(given, 12, "{name} {low}");
        }
    }
}
