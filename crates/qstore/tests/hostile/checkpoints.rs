//! The writer's input: checkpoints that are cut short, lie about themselves, have odd names, or change under its hands.
//! Each is refused, and then nothing is left, or stored so that it comes back byte for byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use qstore::{Error, Progress, Silent, Stop, Store, VariantSpec, add, pack, unpack, verify};
use qstore_container::Dtype;

use crate::common::{
    self, Tensor, Tensors, assert_same_tree, options, write_checkpoint, write_options, write_tensors,
};
use crate::common::{copy, scratch};
use crate::judge::{ALLOWANCE, PROPORTION, Report, alone, bounded};
use crate::stores;

/// Room for a checkpoint and a store.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        let dir = scratch();
        fs::create_dir(dir.path().join("in")).unwrap();
        Self(dir)
    }

    fn input(&self) -> PathBuf {
        self.0.path().join("in")
    }

    fn spec(&self, verbatim: bool) -> VariantSpec {
        VariantSpec { verbatim, ..VariantSpec::new("new".parse().unwrap(), self.input()) }
    }

    /// Packs the checkpoint alone, kept as it is, and on top of a store; whether it was stored.
    fn pack(&self) -> Result<bool, String> {
        let size: u64 = common::tree(&self.input()).values().flatten().map(|b| b.len() as u64).sum();
        let most = 2 * ALLOWANCE + 2 * PROPORTION * size;
        let mut stored = Vec::new();
        for verbatim in [false, true] {
            let (spec, target) = (self.spec(verbatim), self.0.path().join("store"));
            let to = target.clone();
            let result = bounded(most, move || pack(&[spec], &to, &write_options(), &Silent))?;
            stored.push(self.judge(&target, result)?);
            if target.exists() {
                fs::remove_dir_all(&target).unwrap();
            }
        }
        let target = self.0.path().join("grown");
        copy(&stores::small().store, &target);
        let before = common::tree(&target);
        let (spec, to) = (self.spec(false), target.clone());
        let result = bounded(most, move || add(&to, &spec, &write_options(), &Silent))?;
        let refused = result.is_err();
        if refused && common::tree(&target) != before {
            return Err("a refused addition changed the store".to_owned());
        }
        stored.push(self.judge(&target, result)?);
        let sound =
            verify(&Store::open(&target).unwrap(), None, false, &options(), &Silent).unwrap().is_sound();
        if !sound {
            return Err("the store suffers".to_owned());
        }
        fs::remove_dir_all(&target).unwrap();
        // What is stored in one way is stored in all, unless it contradicts what is in the store already.
        if stored[0] != stored[1] {
            Err(format!("stored in one way alone: {stored:?}"))
        } else {
            Ok(stored[0])
        }
    }

    fn judge(&self, target: &Path, result: qstore::Result<()>) -> Result<bool, String> {
        match result {
            Err(Error::Damaged { path, what, .. }) => {
                Err(format!("the input is to blame, not {}: {what}", path.display()))
            }
            Err(error) => {
                let text = error.to_string();
                if text.contains("bug of qstore") {
                    return Err(text);
                }
                if !target.join("qstore.json").exists() && target.exists() {
                    return Err(format!("left a folder behind: {text}"));
                }
                Ok(false)
            }
            Ok(()) => {
                let store = Store::open(target).map_err(|e| format!("stored what cannot be opened: {e}"))?;
                let out = self.0.path().join("out");
                unpack(&store, &"new".parse().unwrap(), &out, &options(), &Silent)
                    .map_err(|e| e.to_string())?;
                let same = common::tree(&self.input()) == common::tree(&out);
                fs::remove_dir_all(&out).unwrap();
                let sound = verify(&store, None, false, &options(), &Silent).unwrap().is_sound();
                if same && sound { Ok(true) } else { Err(format!("same: {same}, sound: {sound}")) }
            }
        }
    }
}

/// A safetensors file of this header and so many bytes.
fn file(header: &[u8], data: usize) -> Vec<u8> {
    let data = (0..data).map(|i| (i * 7) as u8);
    (header.len() as u64).to_le_bytes().into_iter().chain(header.iter().copied()).chain(data).collect()
}

const REFUSE: bool = false;
const STORE: bool = true;

#[test]
fn files_that_are_hardly_safetensors() {
    let _alone = alone();
    let one = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    let two = |b: &str| format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},{b}}}"#);
    let shaped = |shape: &str| format!(r#"{{"a":{{"dtype":"U8","shape":{shape},"data_offsets":[0,4]}}}}"#);
    let at = |offsets: &str| format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}}}"#);
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("nothing", Vec::new(), REFUSE),
        ("7 bytes", vec![0; 7], REFUSE),
        ("a header of length 0", vec![0; 8], REFUSE),
        ("a header of 2^64 - 1", vec![0xff; 8], REFUSE),
        ("a header of 2^64 - 1 and some", vec![0xff; 4000], REFUSE),
        ("a header of 2^63", [&(1u64 << 63).to_le_bytes()[..], &[b' '; 100]].concat(), REFUSE),
        ("a header of 100,000,001", [&100_000_001u64.to_le_bytes()[..], &[b' '; 100]].concat(), REFUSE),
        ("a header one longer than the file", [&101u64.to_le_bytes()[..], &[b' '; 100]].concat(), REFUSE),
        (
            "a pointer of git LFS",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec(),
            REFUSE,
        ),
        ("a web page", b"<!DOCTYPE html><html><body>404</body></html>".to_vec(), REFUSE),
        ("no UTF-8", file(&[0xff; 20], 0), REFUSE),
        ("UTF-8 cut in a name", file("{\"ä\":{}}".as_bytes().split_at(3).0, 0), REFUSE),
        ("an array", file(b"[]", 0), REFUSE),
        ("a number", file(b"1", 0), REFUSE),
        ("spaces", file(b"        ", 0), REFUSE),
        ("no tensor", file(b"{}", 0), STORE),
        ("no tensor and spaces", file(b"{}      ", 0), STORE),
        ("spaces in front", file(format!("  {one}").as_bytes(), 4), STORE),
        ("line breaks", file(one.replace(',', ",\n\t").as_bytes(), 4), STORE),
        ("a NUL behind", file(format!("{one}\0").as_bytes(), 4), REFUSE),
        ("a byte order mark", file(format!("\u{feff}{one}").as_bytes(), 4), REFUSE),
        ("text behind the header", file(format!("{one}{one}").as_bytes(), 4), REFUSE),
        ("100,000 brackets", file(&[b'['; 100_000], 0), REFUSE),
        ("100,000 objects", file(br#"{"a":"#.repeat(100_000).as_slice(), 0), REFUSE),
        ("a byte less", file(one.as_bytes(), 3), REFUSE),
        ("a byte more", file(one.as_bytes(), 5), REFUSE),
        (
            "a name twice",
            file(two(r#""a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#).as_bytes(), 8),
            REFUSE,
        ),
        (
            "a name twice, once escaped",
            file(two(r#""\u0061":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#).as_bytes(), 8),
            REFUSE,
        ),
        (
            "a field twice",
            file(one.replace(r#""dtype":"U8""#, r#""dtype":"U8","dtype":"I8""#).as_bytes(), 4),
            REFUSE,
        ),
        ("metadata twice", file(two(r#""__metadata__":{},"__metadata__":{}"#).as_bytes(), 4), REFUSE),
        (
            "overlap",
            file(two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}"#).as_bytes(), 6),
            REFUSE,
        ),
        (
            "the same bytes twice",
            file(two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#).as_bytes(), 4),
            REFUSE,
        ),
        ("a hole", file(two(r#""b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}"#).as_bytes(), 9), REFUSE),
        ("a hole in front", file(at("[1,5]").as_bytes(), 5), REFUSE),
        ("offsets reversed", file(at("[4,0]").as_bytes(), 4), REFUSE),
        ("offsets far out", file(at("[18446744073709551611,18446744073709551615]").as_bytes(), 4), REFUSE),
        ("a negative offset", file(at("[-4,0]").as_bytes(), 4), REFUSE),
        ("three offsets", file(at("[0,4,8]").as_bytes(), 4), REFUSE),
        ("a negative dimension", file(shaped("[-4]").as_bytes(), 4), REFUSE),
        ("two negative dimensions", file(shaped("[-2,-2]").as_bytes(), 4), REFUSE),
        ("half a dimension", file(shaped("[8,0.5]").as_bytes(), 4), REFUSE),
        ("4.0", file(shaped("[4.0]").as_bytes(), 4), REFUSE),
        ("4e0", file(shaped("[4e0]").as_bytes(), 4), REFUSE),
        ("a dimension in quotes", file(shaped(r#"["4"]"#).as_bytes(), 4), REFUSE),
        ("no dimensions", file(shaped("null").as_bytes(), 4), REFUSE),
        ("2^64 elements and 4", file(shaped("[4611686018427387905,4]").as_bytes(), 4), REFUSE),
        ("2^65", file(shaped("[36893488147419103232]").as_bytes(), 4), REFUSE),
        ("300 dimensions", file(shaped(&format!("[{}4]", "1,".repeat(300))).as_bytes(), 4), STORE),
        ("an unknown type", file(one.replace("U8", "Q4").as_bytes(), 4), REFUSE),
        ("no type", file(one.replace(r#""dtype":"U8","#, "").as_bytes(), 4), REFUSE),
        ("half a byte", file(br#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2), REFUSE),
        ("metadata of numbers", file(two(r#""__metadata__":{"a":1}"#).as_bytes(), 4), REFUSE),
        (
            "metadata that is a tensor",
            file(br#"{"__metadata__":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4),
            REFUSE,
        ),
        ("metadata that is null", file(two(r#""__metadata__":null"#).as_bytes(), 4), STORE),
        ("metadata with a name twice", file(two(r#""__metadata__":{"a":"1","a":"2"}"#).as_bytes(), 4), STORE),
        (
            "our own metadata",
            file(
                two(r#""__metadata__":{"format":"qstore","format_version":"1","plan_xxh3":""}"#).as_bytes(),
                4,
            ),
            STORE,
        ),
        (
            "a field more",
            file(one.replace(r#""dtype""#, r#""extra":[1,{"x":null}],"dtype""#).as_bytes(), 4),
            STORE,
        ),
        ("a lone surrogate", file(one.replace("\"a\"", r#""\ud800""#).as_bytes(), 4), REFUSE),
        ("1 MB of padding", file(format!("{one}{}", " ".repeat(1_000_000)).as_bytes(), 4), STORE),
    ];
    let mut report = Report::default();
    for (what, bytes, want) in cases {
        let room = Room::new();
        fs::write(room.input().join("model.safetensors"), bytes).unwrap();
        fs::write(room.input().join("config.json"), "{}").unwrap();
        report.add(what, expect(&room, want));
    }
    // More padding than a plan may expand: either answer will do, if it is honest.
    let room = Room::new();
    fs::write(
        room.input().join("model.safetensors"),
        file(format!("{one}{}", " ".repeat(9_000_000)).as_bytes(), 4),
    )
    .unwrap();
    report.add("9 MB of padding", room.pack().map(drop));
    report.finish(58);
}

fn expect(room: &Room, want: bool) -> Result<(), String> {
    let got = room.pack()?;
    if got == want { Ok(()) } else { Err(if got { "stored" } else { "refused" }.to_owned()) }
}

#[test]
fn names_of_tensors() {
    let _alone = alone();
    let long = "n".repeat(2_000_000);
    let noise: String = (0..2_000_000u64)
        .map(|i| char::from(b'a' + (i.wrapping_mul(i).wrapping_mul(2_654_435_761) >> 29) as u8 % 26))
        .collect();
    let names = [
        "",
        " ",
        ".",
        "..",
        "/",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a:b",
        ":",
        "tensor:a",
        "file:a",
        "file:config.json",
        "qstore.plan",
        "qstore.chunks",
        "tensor:qstore.plan",
        "__metadata__ ",
        "__metadata",
        "line\nbreak",
        "nul\0",
        "\u{1b}[2J\u{7}",
        "\u{202e}abc",
        "\u{feff}",
        "ä",
        "a\u{308}",
        "模型",
        "\u{10ffff}",
        "\"quoted\"",
        "a.SCB",
        ".SCB",
        "SCB",
        ".weight",
        "config.json",
        "model.safetensors:a",
        &noise,
    ];
    let mut report = Report::default();
    let tensor = |i: usize| Tensor::new(Dtype::U8, &[3, 2], vec![i as u8, 1, 2, 3, 4, 5]);
    for (i, name) in names.iter().enumerate() {
        let room = Room::new();
        write_tensors(
            &room.input().join("model.safetensors"),
            &Tensors::from([((*name).to_owned(), tensor(i))]),
        );
        report.add(&format!("a tensor named {name:.40?}"), expect(&room, STORE));
    }
    let room = Room::new();
    let all = names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), tensor(i)));
    write_tensors(&room.input().join("model.safetensors"), &all.collect());
    report.add("all these names at once", expect(&room, STORE));

    // Compresses too well to be told from a bomb: either answer will do.
    let room = Room::new();
    write_tensors(
        &room.input().join("model.safetensors"),
        &Tensors::from([(long.clone(), tensor(1)), (format!("{long}x"), tensor(2))]),
    );
    report.add("two names of 2 MB of one letter", room.pack().map(drop));

    // One name in two files is told apart by the files' names, which another tensor may have as its name.
    let room = Room::new();
    write_tensors(
        &room.input().join("a.safetensors"),
        &Tensors::from([("x".to_owned(), tensor(1)), ("b.safetensors:x".to_owned(), tensor(2))]),
    );
    write_tensors(
        &room.input().join("b.safetensors"),
        &Tensors::from([("x".to_owned(), tensor(3)), ("a.safetensors:x".to_owned(), tensor(4))]),
    );
    report.add("names that look like told apart", room.pack().map(drop));
    report.finish(38);
}

#[test]
fn names_of_files() {
    let _alone = alone();
    let mut report = Report::default();
    let (longest, deep) = ("n".repeat(255), format!("{}x", "deep/".repeat(700)));
    let bytes = fs::read(stores::small().store.join("qstore.json")).unwrap();
    let cases = [
        ("new\nline", STORE),
        ("tab\t", STORE),
        (" ", STORE),
        ("...", STORE),
        ("-rf", STORE),
        ("\u{1b}[2J", STORE),
        ("ä", STORE),
        ("a\u{308}", STORE),
        ("lock", STORE),
        (".qstore-staging/lock", STORE),
        ("sub/qstore.json", STORE),
        ("qstore.json/x", STORE),
        ("int8/config.json", STORE),
        ("int8-0123456789ab.safetensors.txt", STORE),
        ("arrays-from-0.tmp", STORE),
        (".hidden", STORE),
        (&longest, STORE),
        (&deep, STORE),
        ("README", STORE),
        ("back\\slash", REFUSE),
        ("C:drive", REFUSE),
        ("qstore.json", REFUSE),
    ];
    for (name, want) in cases {
        let room = Room::new();
        let path = room.input().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &bytes).unwrap();
        report.add(&format!("a file named {name:.40?}"), expect(&room, want));
    }
    // A tensor file named like a shard of ours, and what it could be taken for.
    let room = Room::new();
    let tensors = Tensors::from([("x".to_owned(), Tensor::new(Dtype::U8, &[1], vec![1]))]);
    for name in
        ["int8-0123456789ab.safetensors", "new-0123456789ab.safetensors", "new/new-0123456789ab.safetensors"]
    {
        fs::create_dir_all(room.input().join("new")).unwrap();
        write_tensors(&room.input().join(name), &tensors);
    }
    report.add("files named like shards", expect(&room, STORE));
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        use std::os::unix::fs::symlink;
        let room = Room::new();
        fs::write(room.input().join("a"), "1").unwrap();
        fs::write(room.input().join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "1").unwrap();
        report.add("a name that is no UTF-8", refuse_alone(&room));
        let room = Room::new();
        fs::write(room.input().join("a"), "1").unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(room.input().join("pipe.json"))
                .status()
                .unwrap()
                .success()
        );
        report.add("a pipe", refuse_alone(&room));
        let room = Room::new();
        fs::write(room.input().join("a"), "1").unwrap();
        symlink("/dev/zero", room.input().join("model.safetensors")).unwrap();
        report.add("a device", refuse_alone(&room));
    }
    report.finish(20);
}

/// For folders that the tests themselves cannot list or read.
fn refuse_alone(room: &Room) -> Result<(), String> {
    let (spec, target) = (room.spec(false), room.0.path().join("store"));
    let to = target.clone();
    let result = bounded(ALLOWANCE, move || pack(&[spec], &to, &write_options(), &Silent))?;
    match result {
        Err(Error::Input { .. }) if !target.exists() => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn indices_of_shards() {
    let _alone = alone();
    let mut report = Report::default();
    // Refused by whoever is strict, else told.
    let cases: [(&str, Vec<u8>, bool); 12] = [
        ("whole", br#"{"weight_map":{"x":"model.safetensors"}}"#.to_vec(), STORE),
        ("empty", b"{}".to_vec(), REFUSE),
        ("with a list", br#"{"weight_map":[]}"#.to_vec(), REFUSE),
        ("with an empty map", br#"{"weight_map":{}}"#.to_vec(), STORE),
        ("of a missing shard", br#"{"weight_map":{"x":"other.safetensors"}}"#.to_vec(), REFUSE),
        ("of a shard elsewhere", br#"{"weight_map":{"x":"../in/model.safetensors"}}"#.to_vec(), REFUSE),
        ("of an absolute shard", br#"{"weight_map":{"x":"/etc/passwd"}}"#.to_vec(), REFUSE),
        ("of numbers", br#"{"weight_map":{"x":1}}"#.to_vec(), STORE),
        ("no JSON", b"weight_map".to_vec(), REFUSE),
        ("no UTF-8", vec![0xff; 10], REFUSE),
        ("of nothing", Vec::new(), REFUSE),
        ("deep", vec![b'['; 1 << 20], REFUSE),
    ];
    for (what, text, want) in cases {
        let room = Room::new();
        write_tensors(
            &room.input().join("model.safetensors"),
            &Tensors::from([("x".to_owned(), Tensor::new(Dtype::U8, &[1], vec![1]))]),
        );
        fs::write(room.input().join("model.safetensors.index.json"), text).unwrap();
        report.add(&format!("an index {what}"), expect(&room, STORE));
        let strict = VariantSpec { strict: true, ..room.spec(false) };
        let (warnings, target) = (common::Warnings::default(), room.0.path().join("strict"));
        let stored = match pack(&[strict], &target, &write_options(), &Silent) {
            Ok(()) => true,
            Err(Error::Input { path, .. }) if path.ends_with("model.safetensors.index.json") => false,
            Err(error) => panic!("{error}"),
        };
        pack(&[room.spec(false)], &room.0.path().join("told"), &write_options(), &warnings).unwrap();
        assert!(stored == want && want == warnings.take().is_empty(), "an index {what}");
    }
    report.finish(12);
}

#[test]
fn very_many_very_small_things() {
    let _alone = alone();
    let mut report = Report::default();
    let room = Room::new();
    let tensor = |i: usize| {
        Tensor::new([Dtype::U8, Dtype::BF16][i % 2], &[i % 3, 2], vec![i as u8; i % 3 * 2 * (1 + i % 2)])
    };
    let tensors = (0..10_000).map(|i| (format!("model.layers.{}.t{i}.weight", i / 100), tensor(i)));
    write_tensors(&room.input().join("model.safetensors"), &tensors.collect());
    report.add("10,000 tensors", expect(&room, STORE));
    let room = Room::new();
    for i in 0..1500 {
        let folder = room.input().join(format!("{}", i % 40));
        fs::create_dir_all(folder.join(format!("empty{i}"))).unwrap();
        fs::write(folder.join(format!("{i}.txt")), vec![b'x'; i % 7]).unwrap();
    }
    report.add("1500 files and as many empty folders", expect(&room, STORE));
    report.finish(2);
}

/// What a `config.json` says about itself ends up in the manifest, which has a limit.
#[test]
fn configs_that_say_too_much() {
    let _alone = alone();
    let mut report = Report::default();
    let say = |method: &str| format!(r#"{{"quantization_config":{{"quant_method":{method}}}}}"#);
    let cases = [
        say(&format!("\"{}\"", "q".repeat((1 << 24) - 100))),
        say(&format!("\"{}\"", "\\u0001".repeat(2_700_000))),
        say("\"\\u001b[2J\""),
        say("1"),
        say("null"),
        "[".repeat(1 << 20),
        "{".repeat(1 << 20),
        String::new(),
    ];
    for (index, config) in cases.into_iter().enumerate() {
        let room = Room::new();
        fs::write(room.input().join("config.json"), config).unwrap();
        report.add(&format!("config {index}"), expect(&room, STORE));
    }
    report.finish(8);
}

/// Does something once, when a stage begins or after some bytes of it.
struct Meddler<F: FnOnce()> {
    after: u64,
    done: Mutex<(u64, Option<F>)>,
}

impl<F: FnOnce() + Send> Progress for Meddler<F> {
    fn begin(&self, _: &str, _: u64) -> Result<(), Stop> {
        self.count(0)
    }

    fn advance(&self, bytes: u64) -> Result<(), Stop> {
        if bytes > 0 { self.count(bytes) } else { Ok(()) }
    }

    fn warn(&self, _: &str) -> Result<(), Stop> {
        Ok(())
    }
}

impl<F: FnOnce() + Send> Meddler<F> {
    fn count(&self, bytes: u64) -> Result<(), Stop> {
        let mut done = self.done.lock().unwrap();
        done.0 += bytes;
        if done.0 >= self.after
            && let Some(meddle) = done.1.take()
        {
            meddle();
        }
        Ok(())
    }
}

/// What is stored is one state of a file, never a part of one and a part of another.
#[test]
fn a_folder_that_changes_while_it_is_packed() {
    let _alone = alone();
    let mut report = Report::default();
    let tensors = common::model(5, Dtype::BF16, &[(4000, 1000)]);
    // As few chunks in flight as can be.
    let options = qstore::WriteOptions { memory: 0, ..write_options() };
    type Change = fn(&Path);
    let changes: [(&str, Change); 12] = [
        ("the model grows", |p| append(&p.join("model.safetensors"), b"more")),
        ("the model shrinks", |p| cut(&p.join("model.safetensors"), 100)),
        ("the model is emptied", |p| cut(&p.join("model.safetensors"), u64::MAX)),
        ("the model's end is written over", |p| over(&p.join("model.safetensors"), 2000)),
        ("the model's front is written over", |p| over(&p.join("model.safetensors"), 7_900_000)),
        ("both its ends are written over", |p| {
            over(&p.join("model.safetensors"), 7_900_000);
            over(&p.join("model.safetensors"), 2000);
        }),
        ("the model is replaced", |p| {
            let other = common::model(6, Dtype::BF16, &[(4000, 1000)]);
            fs::remove_file(p.join("model.safetensors")).unwrap();
            write_tensors(&p.join("model.safetensors"), &other);
        }),
        ("the model is gone", |p| fs::remove_file(p.join("model.safetensors")).unwrap()),
        ("the tokenizer grows", |p| append(&p.join("tokenizer.json"), b"more")),
        ("the tokenizer shrinks", |p| cut(&p.join("tokenizer.json"), 1)),
        ("the tokenizer is written over", |p| over(&p.join("tokenizer.json"), 10)),
        ("the folder is gone", |p| fs::remove_dir_all(p).unwrap()),
    ];
    for verbatim in [false, true] {
        for after in [0, 100_000, 3_000_000] {
            for (what, change) in changes {
                let room = Room::new();
                write_checkpoint(&room.input(), &tensors);
                let before = common::tree(&room.input());
                let path = room.input();
                let meddler = Meddler { after, done: Mutex::new((0, Some(move || change(&path)))) };
                let target = room.0.path().join("store");
                let result = pack(&[room.spec(verbatim)], &target, &options, &meddler);
                let label = format!("{what} after {after} bytes, verbatim: {verbatim}");
                report.add(&label, changed(result, &target, &before, &room));
            }
        }
    }
    report.finish(72);
}

/// After a change under way: refused, or one of the two states.
fn changed(
    result: qstore::Result<()>,
    target: &Path,
    before: &std::collections::BTreeMap<String, Option<Vec<u8>>>,
    room: &Room,
) -> Result<(), String> {
    match result {
        Err(Error::Input { .. } | Error::Io { .. }) if !target.exists() => Ok(()),
        Err(error) => Err(format!("{error:?}, target there: {}", target.exists())),
        Ok(()) => {
            let out = room.0.path().join("out");
            unpack(&Store::open(target).unwrap(), &"new".parse().unwrap(), &out, &options(), &Silent)
                .unwrap();
            let found = common::tree(&out);
            let after = if room.input().exists() { common::tree(&room.input()) } else { Default::default() };
            let one_state =
                |name: &String, bytes| before.get(name) == Some(bytes) || after.get(name) == Some(bytes);
            let mixed = found.iter().find(|(name, bytes)| !one_state(name, bytes));
            mixed.map_or(Ok(()), |(name, _)| Err(format!("{name} is neither what it was nor what it is")))
        }
    }
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    fs::File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn cut(path: &Path, bytes: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len().saturating_sub(bytes)).unwrap();
}

/// Writes 500 other bytes `from_end` bytes before the end.
fn over(path: &Path, from_end: u64) {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let mut file = fs::File::options().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length - from_end.min(length))).unwrap();
    file.write_all(&vec![0xa5; 500.min(from_end as usize)]).unwrap();
}

/// Folders that were made for a store that did not come to be are gone again; those that were there stay.
#[test]
fn a_refused_folder_leaves_no_folders() {
    let _alone = alone();
    let room = Room::new();
    fs::write(
        room.input().join("model.safetensors"),
        file(br#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4),
    )
    .unwrap();
    let path = room.input();
    fs::create_dir(room.0.path().join("there")).unwrap();
    for target in ["store", "a/b/store", "there/store", "there"] {
        // Written over while it is being stored, so that it is refused late.
        let (over, before) = (path.clone(), common::tree(room.0.path()));
        let meddle = move || append(&over.join("model.safetensors"), b"more");
        let meddler = Meddler { after: 0, done: Mutex::new((0, Some(meddle))) };
        let error =
            pack(&[room.spec(false)], &room.0.path().join(target), &write_options(), &meddler).unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
        cut(&path.join("model.safetensors"), 4);
        assert_eq!(common::tree(room.0.path()), before, "{target}");
    }
}

/// Storing is by name and shape, so two variants of one name must not be taken for one another.
#[test]
fn the_same_folder_again_and_again() {
    let _alone = alone();
    let room = Room::new();
    write_checkpoint(&room.input(), &common::model(7, Dtype::BF16, &[(64, 64)]));
    let target = room.0.path().join("store");
    let specs: Vec<VariantSpec> = (0..40)
        .map(|i| VariantSpec {
            verbatim: i % 7 == 3,
            ..VariantSpec::new(format!("v{i}").parse().unwrap(), room.input())
        })
        .collect();
    pack(&specs, &target, &write_options(), &Silent).unwrap();
    let store = Store::open(&target).unwrap();
    for i in [0, 3, 39] {
        let out = room.0.path().join("out");
        unpack(&store, &format!("v{i}").parse().unwrap(), &out, &options(), &Silent).unwrap();
        assert_same_tree(&room.input(), &out);
        fs::remove_dir_all(out).unwrap();
    }
}
