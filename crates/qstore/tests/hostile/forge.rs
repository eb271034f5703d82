//! Takes a store apart, lets a test change anything in it, and puts it together again with every length, hash and
//! checksum made to fit. So a forgery gets past what notices accidents, and meets the checks behind it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use qstore_container::{ChunkForm, ChunkRecord, Hash128, RelativePath, parse_chunks, write_chunks};
use serde_json::{Map, Value, json};

/// An array's chunks as they are stored, with their forms.
pub type Chunks = Vec<(ChunkForm, Vec<u8>)>;

/// A store in parts.
#[derive(Debug, Clone)]
pub struct Forgery {
    /// `qstore.json`; sizes, ids and checksums are filled in by [`write`](Self::write).
    pub manifest: Value,
    /// The shards of each variant.
    pub shards: BTreeMap<String, Vec<ForgedShard>>,
    /// Every other file.
    pub others: BTreeMap<PathBuf, Vec<u8>>,
}

/// A shard in parts.
#[derive(Debug, Clone)]
pub struct ForgedShard {
    /// The plan.
    pub plan: Value,
    /// For each array of the plan its stored bytes. For a verbatim array the bytes stand in for those of the kept file.
    pub chunks: Vec<Chunks>,
    /// What is done to the file when all else fits.
    pub twist: Twist,
}

/// A lie about the parts that are derived from others.
#[derive(Debug, Clone, Default)]
pub enum Twist {
    #[default]
    None,
    /// The plan's stream is this.
    Plan(Vec<u8>),
    /// Each record is changed after its length and checksum were filled in.
    Records(fn(&mut Vec<ChunkRecord>)),
    /// The list of chunks is this.
    ChunkList(Vec<u8>),
    /// The header's JSON is changed.
    Header(fn(&mut Map<String, Value>)),
    /// The whole file is this.
    File(Vec<u8>),
}

impl Forgery {
    /// Takes the store in `folder` apart.
    pub fn of(folder: &Path) -> Self {
        let manifest: Value = serde_json::from_slice(&fs::read(folder.join("qstore.json")).unwrap()).unwrap();
        let mut shards = BTreeMap::new();
        let mut named = vec![PathBuf::from("qstore.json")];
        for variant in manifest["variants"].as_array().unwrap() {
            let name = text(&variant["name"]);
            let files: Vec<PathBuf> =
                variant["shards"].as_array().unwrap().iter().map(|f| text(&f["name"]).into()).collect();
            shards.insert(name, files.iter().map(|file| ForgedShard::of(&folder.join(file))).collect());
            named.extend(files);
        }
        let mut others = BTreeMap::new();
        for entry in walkdir::WalkDir::new(folder) {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(folder).unwrap().to_owned();
            if entry.file_type().is_file() && !named.contains(&name) {
                others.insert(name, fs::read(entry.path()).unwrap());
            }
        }
        Self { manifest, shards, others }
    }

    /// The manifest's entry of a variant.
    pub fn entry(&mut self, variant: &str) -> &mut Value {
        let all = self.manifest["variants"].as_array_mut().unwrap();
        all.iter_mut().find(|v| v["name"] == variant).unwrap()
    }

    /// The last shard of a variant, which lists its files.
    pub fn last(&mut self, variant: &str) -> &mut ForgedShard {
        self.shards.get_mut(variant).unwrap().last_mut().unwrap()
    }

    /// The shard and index of an array.
    pub fn find(&mut self, variant: &str, key: &str) -> (&mut ForgedShard, usize) {
        for shard in self.shards.get_mut(variant).unwrap() {
            let arrays = shard.plan["arrays"].as_array().unwrap();
            if let Some(index) = arrays.iter().position(|a| a["key"] == key) {
                return (shard, index);
            }
        }
        panic!("{variant} has no {key}")
    }

    /// The plan's entry of an array.
    pub fn array(&mut self, variant: &str, key: &str) -> &mut Value {
        let (shard, index) = self.find(variant, key);
        &mut shard.plan["arrays"][index]
    }

    /// The stored bytes of an array.
    pub fn chunks(&mut self, variant: &str, key: &str) -> &mut Chunks {
        let (shard, index) = self.find(variant, key);
        &mut shard.chunks[index]
    }

    /// Writes the store to `folder`. What is pinned by hash is pinned anew: contents of variants by those given them,
    /// headers by the manifest, plans and lists of chunks by headers, chunks by lists.
    pub fn write(mut self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let mut contents = Vec::new();
        for (name, shards) in &self.shards {
            if let Some(hash) = shards.last().and_then(|last| content_hash(&last.plan)) {
                contents.push((name.clone(), hash.to_string()));
            }
        }
        let repin = |given: &mut Value| {
            for given in given.as_array_mut().into_iter().flatten() {
                if let Some((_, hash)) = contents.iter().find(|(name, _)| given["variant"] == **name) {
                    given["content"] = json!(hash);
                }
            }
        };
        for shard in self.shards.values_mut().flatten() {
            if let Some(given) = shard.plan.get_mut("given") {
                repin(given);
            }
        }
        for variant in self.manifest["variants"].as_array_mut().into_iter().flatten() {
            repin(&mut variant["given"]);
            let name = variant["name"].as_str().unwrap_or_default().to_owned();
            if let Some((_, hash)) = contents.iter().find(|(known, _)| *known == name) {
                variant["content"] = json!(hash);
            }
            let Some(shards) = self.shards.get(&name) else { continue };
            let files = shards.iter().map(|shard| shard.write(folder, &name));
            variant["shards"] = Value::Array(files.collect());
        }
        for (name, bytes) in &self.others {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        write_manifest(folder, self.manifest);
    }
}

/// Writes a manifest with its checksum filled in.
pub fn write_manifest(folder: &Path, mut manifest: Value) {
    if manifest.get("checksum").is_some() {
        manifest["checksum"] = Value::Null;
        manifest["checksum"] = json!(Hash128::of(&serde_json::to_vec(&manifest).unwrap()).to_string());
    }
    fs::write(folder.join("qstore.json"), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
}

impl ForgedShard {
    fn of(path: &Path) -> Self {
        let parts = Parts::of(&fs::read(path).unwrap());
        let plan = zstd::decode_all(parts.stream("qstore.plan")).unwrap();
        let plan: Value = serde_json::from_slice(&plan).unwrap();
        let mut records = parse_chunks(parts.stream("qstore.chunks")).unwrap().into_iter().peekable();
        let mut tables = parts.stream("qstore.tables");
        let mut chunks = Vec::new();
        for array in plan["arrays"].as_array().unwrap() {
            let key = text(&array["key"]);
            let mut own = Vec::new();
            if let Some(mut stream) = parts.streams.iter().find(|(name, _)| *name == key).map(|(_, s)| &s[..])
            {
                if let Some(head) = records.next_if(|record| record.form == ChunkForm::Head) {
                    let (bytes, rest) = tables.split_at(head.length as usize);
                    own.push((head.form, bytes.to_vec()));
                    tables = rest;
                }
                while !stream.is_empty() {
                    let record = records.next().unwrap();
                    let (bytes, rest) = stream.split_at(record.length as usize);
                    own.push((record.form, bytes.to_vec()));
                    stream = rest;
                }
            } else if array["encoding"]["kind"] == "verbatim" {
                let store = path.parent().unwrap().join(text(&plan["variant"]));
                let kept = fs::read(store.join(text(&array["encoding"]["file"]))).unwrap();
                let mut at = array["encoding"]["offset"].as_u64().unwrap() as usize;
                let bytes = array_bytes(array);
                let end = at + bytes;
                while at < end {
                    let record = records.next().unwrap();
                    own.push((record.form, kept[at..at + record.length as usize].to_vec()));
                    at += record.length as usize;
                }
            }
            chunks.push(own);
        }
        assert!(records.next().is_none());
        Self { plan, chunks, twist: Twist::None }
    }

    /// Writes the file under its proper name, and returns its entry in the manifest.
    fn write(&self, folder: &Path, variant: &str) -> Value {
        let plan = match &self.twist {
            Twist::Plan(plan) => plan.clone(),
            _ => zstd::bulk::compress(&serde_json::to_vec(&self.plan).unwrap(), 3).unwrap(),
        };
        let mut records: Vec<ChunkRecord> = Vec::new();
        let mut streams: Vec<(String, Vec<u8>)> = Vec::new();
        let mut tables = Vec::new();
        let arrays = self.plan["arrays"].as_array().cloned().unwrap_or_default();
        for (array, chunks) in arrays.iter().zip(&self.chunks) {
            let kind = array["encoding"]["kind"].as_str().unwrap_or_default();
            if kind != "reference" {
                records.extend(chunks.iter().map(|(form, bytes)| ChunkRecord::of(*form, bytes).unwrap()));
            }
            if !matches!(kind, "reference" | "verbatim" | "slice" | "parts") {
                let of =
                    |head: bool| chunks.iter().filter(move |(form, _)| (*form == ChunkForm::Head) == head);
                tables.extend(of(true).flat_map(|(_, bytes)| bytes.iter().copied()));
                let stream = of(false).flat_map(|(_, bytes)| bytes.iter().copied()).collect();
                streams.push((array["key"].as_str().unwrap_or_default().to_owned(), stream));
            }
        }
        if let Twist::Records(twist) = self.twist {
            twist(&mut records);
        }
        let list = match &self.twist {
            Twist::ChunkList(list) => list.clone(),
            _ => write_chunks(&records),
        };
        let metadata = json!({
            "format": "qstore",
            "format_version": "1",
        });
        let tail = json!({"tables": tables.len(), "chunks": list.len(), "plan": plan.len()});
        let id = Hash128::of(&[&tables[..], &list[..], &plan[..]].concat());
        streams.push(("qstore.tables".to_owned(), tables));
        streams.push(("qstore.chunks".to_owned(), list));
        streams.push(("qstore.plan".to_owned(), plan));
        let mut header = Map::from_iter([("__metadata__".to_owned(), metadata)]);
        let mut at = 0;
        for (name, stream) in &streams {
            let span =
                json!({"dtype": "U8", "shape": [stream.len()], "data_offsets": [at, at + stream.len()]});
            header.insert(name.clone(), span);
            at += stream.len();
        }
        let header = if let Twist::Header(twist) = self.twist {
            twist(&mut header);
            serde_json::to_vec(&header).unwrap()
        } else {
            // As it follows from the rest: in the order of the file.
            let sections =
                streams.iter().map(|(name, _)| format!(",{}:{}", json!(name), Span(&header[name])));
            let metadata = r#"{"format":"qstore","format_version":"1"}"#;
            format!(r#"{{"__metadata__":{metadata}{}}}"#, sections.collect::<String>()).into_bytes()
        };
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(&header);
        streams.iter().for_each(|(_, stream)| file.extend(stream));
        if let Twist::File(bytes) = &self.twist {
            file.clone_from(bytes);
        }
        let name = format!("{variant}-{}.safetensors", &id.to_string()[..12]);
        fs::write(folder.join(&name), &file).unwrap();
        json!({"name": name, "bytes": file.len(), "tail": tail, "id": id.to_string()})
    }
}

/// A section of a header, as it is written.
struct Span<'a>(&'a Value);

impl std::fmt::Display for Span<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(span) = self;
        write!(f, r#"{{"dtype":"U8","shape":{},"data_offsets":{}}}"#, span["shape"], span["data_offsets"])
    }
}

/// A safetensors file cut at its boundaries.
#[derive(Debug)]
pub struct Parts {
    /// Where the header ends, the length field included.
    pub data: usize,
    /// Name and bytes of each tensor in the order of the file.
    pub streams: Vec<(String, Vec<u8>)>,
    /// Where each of them begins in the file.
    pub starts: Vec<usize>,
}

impl Parts {
    pub fn of(file: &[u8]) -> Self {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + length]).unwrap();
        let data = 8 + length;
        let mut spans: Vec<(usize, usize, String)> = header
            .into_iter()
            .filter(|(name, _)| name != "__metadata__")
            .map(|(name, span)| {
                let offset = |i: usize| span["data_offsets"][i].as_u64().unwrap() as usize;
                (data + offset(0), data + offset(1), name)
            })
            .collect();
        spans.sort();
        Self {
            data,
            starts: spans.iter().map(|s| s.0).collect(),
            streams: spans.into_iter().map(|(from, to, name)| (name, file[from..to].to_vec())).collect(),
        }
    }

    pub fn stream(&self, name: &str) -> &[u8] {
        &self.streams.iter().find(|(known, _)| known == name).unwrap().1
    }
}

/// What `docs/format.md` calls the content of a variant; `None` where a forged list makes no sense.
fn content_hash(plan: &Value) -> Option<Hash128> {
    let mut lines = String::new();
    for file in plan.get("files").into_iter().flat_map(|f| f.as_array().into_iter().flatten()) {
        lines +=
            &format!("{} {} {}\n", file["sha256"].as_str()?, file["bytes"].as_u64()?, file["path"].as_str()?);
    }
    for folder in plan.get("empty_folders").into_iter().flat_map(|f| f.as_array().into_iter().flatten()) {
        lines += &format!("{}/\n", folder.as_str()?.parse::<RelativePath>().ok()?);
    }
    Some(Hash128::of(lines.as_bytes()))
}

/// Bytes of an array of whole bytes in an honest plan.
fn array_bytes(array: &Value) -> usize {
    let dtype: qstore::Dtype = serde_json::from_value(array["dtype"].clone()).unwrap();
    let elements: u64 = array["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product();
    elements as usize * dtype.bitsize() / 8
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
