//! Accidents: files cut short, bits flipped, files mixed up or gone. Every one is noticed, by name, and what does not
//! need the damaged file still works.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{copy, scratch};
use crate::forge::{Parts, text};
use crate::judge::{Report, Trust, Verdict, alone, judge};
use crate::stores::{self, Sample};

/// A copy of a sample to damage.
struct Patient {
    dir: tempfile::TempDir,
    sample: &'static Sample,
}

impl Patient {
    fn of(sample: &'static Sample) -> Self {
        let dir = scratch();
        copy(&sample.store, &dir.path().join("store"));
        fs::create_dir(dir.path().join("room")).unwrap();
        Self { dir, sample }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("store").join(file)
    }

    fn judge(&self) -> Result<Verdict, String> {
        let (store, room) = (self.dir.path().join("store"), self.dir.path().join("room"));
        judge(&store, &self.sample.originals, Trust::Checksums, &room)
    }

    /// Puts `bytes` in the place of a file, judges, and puts the original back.
    fn with(&self, file: &str, bytes: &[u8]) -> Result<Verdict, String> {
        let path = self.path(file);
        let original = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let verdict = self.judge();
        fs::write(&path, original).unwrap();
        verdict
    }
}

/// The files of a store with the variants that need each, the manifest included.
fn files(sample: &Sample) -> Vec<(String, Vec<&'static str>)> {
    let manifest: Value =
        serde_json::from_slice(&fs::read(sample.store.join("qstore.json")).unwrap()).unwrap();
    let mut files = vec![("qstore.json".to_owned(), vec!["int8", "bf16"])];
    for variant in manifest["variants"].as_array().unwrap() {
        let needs = if variant["name"] == "int8" { vec!["int8", "bf16"] } else { vec!["bf16"] };
        let shards = variant["shards"].as_array().unwrap();
        files.extend(shards.iter().map(|file| (text(&file["name"]), needs.clone())));
    }
    files
}

/// Damage in `file` was noticed in the variants that need it and in no other.
fn check(verdict: Result<Verdict, String>, needs: &[&str]) -> Result<(), String> {
    let verdict = verdict?;
    if verdict.error.is_some() {
        return if needs.len() == 2 { Ok(()) } else { Err("the other variant is lost as well".to_owned()) };
    }
    for (name, fate) in &verdict.fates {
        let hit = needs.contains(&name.as_str());
        if !hit && !fate.is_sound() {
            return Err(format!("{name} suffers as well: {fate:?}"));
        }
        // A variant above may need another part of the file than the one that is damaged.
        if hit && name == needs[0] && !(fate.full && fate.unpack) {
            return Err(format!("nobody noticed that of {name}: {fate:?}"));
        }
    }
    Ok(())
}

/// A check of the store notices damage that reading does not depend on.
fn check_verified(verdict: Result<Verdict, String>, needs: &[&str]) -> Result<(), String> {
    let verdict = verdict?;
    match verdict.fates.get(needs[0]) {
        Some(fate) if fate.full && fate.quick && !fate.load && !fate.unpack => Ok(()),
        fate => Err(format!("a check of {} finds nothing, or reading fails: {fate:?}", needs[0])),
    }
}

#[test]
fn untouched_stores_are_sound() {
    let _alone = alone();
    for sample in [stores::sharded(), stores::small(), stores::other(), stores::kept()] {
        let verdict = Patient::of(sample).judge().unwrap();
        assert!(verdict.error.is_none() && verdict.fates.len() == 2, "{verdict:?}");
        assert!(verdict.fates.values().all(crate::judge::Fate::is_sound), "{verdict:?}");
    }
    // The samples are what the attacks take them for.
    let store = qstore::Store::open(&stores::sharded().store).unwrap();
    assert!(store.manifest().variants.iter().all(|v| v.shards.len() > 2), "{:?}", store.manifest());
    let inspection = qstore::inspect(&store, true).unwrap();
    let encodings: Vec<_> = inspection
        .variants
        .iter()
        .flat_map(|v| v.tensors.iter().flatten())
        .map(|t| t.encoding.as_str())
        .collect();
    for encoding in ["reference", "slice", "residual", "float-split", "codes", "zstd", "raw"] {
        assert!(encodings.contains(&encoding), "{encoding} in {encodings:?}");
    }
}

/// Every place where a part of the file begins or ends, and one byte to either side.
fn boundaries(file: &str, bytes: &[u8]) -> Vec<usize> {
    let mut cuts = vec![0, 1, bytes.len() / 2, bytes.len()];
    if Path::new(file).extension().is_some_and(|e| e == "safetensors") {
        let parts = Parts::of(bytes);
        cuts.extend([7, 8, 9, parts.data / 2, parts.data]);
        for (start, (_, stream)) in parts.starts.iter().zip(&parts.streams) {
            cuts.extend([*start, start + stream.len() / 3, start + stream.len()]);
        }
        cuts.extend(chunk_starts(&parts));
    }
    let mut cuts: Vec<usize> = cuts
        .into_iter()
        .flat_map(|cut| [cut.saturating_sub(1), cut, cut + 1])
        .filter(|c| *c < bytes.len())
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Where the chunks of a shard begin.
fn chunk_starts(parts: &Parts) -> Vec<usize> {
    let Some((_, list)) = parts.streams.iter().find(|(name, _)| name == "qstore.chunks") else {
        return Vec::new();
    };
    let records = qstore_container::parse_chunks(list).unwrap();
    let data = records.iter().filter(|record| record.form != qstore_container::ChunkForm::Head);
    let lengths = data.map(|record| record.length as usize);
    let starts = lengths.scan(parts.data, |at, length| {
        *at += length;
        Some(*at)
    });
    starts.collect()
}

#[test]
fn cut_short_at_every_boundary() {
    let _alone = alone();
    let mut report = Report::default();
    for sample in [stores::sharded(), stores::small()] {
        let patient = Patient::of(sample);
        for (file, needs) in files(sample) {
            let bytes = fs::read(patient.path(&file)).unwrap();
            let mut cuts = boundaries(&file, &bytes);
            if file == "qstore.json" {
                // Without its last line break it still says the same.
                cuts.retain(|cut| *cut < bytes.len() - 1);
            }
            for cut in cuts {
                let result = check(patient.with(&file, &bytes[..cut]), &needs);
                report.add(&format!("{file} cut to {cut} of {}", bytes.len()), result);
            }
            for more in [1, 8, 5000] {
                let longer = [&bytes[..], &vec![b' '; more]].concat();
                if file != "qstore.json" {
                    report.add(
                        &format!("{file} with {more} more"),
                        check(patient.with(&file, &longer), &needs),
                    );
                }
            }
        }
    }
    report.finish(200);
}

#[test]
fn flipped_bits_in_every_kind_of_byte() {
    let _alone = alone();
    let mut report = Report::default();
    for (sample, each) in [(stores::small(), 24), (stores::sharded(), 3)] {
        let patient = Patient::of(sample);
        for (file, needs) in files(sample) {
            let bytes = fs::read(patient.path(&file)).unwrap();
            let mut regions: Vec<(String, std::ops::Range<usize>)> = Vec::new();
            if file == "qstore.json" {
                regions.push(("text".to_owned(), 0..bytes.len() - 1));
            } else {
                let parts = Parts::of(&bytes);
                let padding = bytes[..parts.data].iter().rposition(|b| *b != b' ').unwrap() + 1;
                regions.push(("length field".to_owned(), 0..8));
                regions.push(("header".to_owned(), 8..padding));
                regions.push(("padding".to_owned(), padding..parts.data));
                let mut starts: Vec<usize> = parts.starts.clone();
                starts.extend(chunk_starts(&parts));
                starts.push(bytes.len());
                starts.sort_unstable();
                starts.dedup();
                regions
                    .extend(starts.windows(2).map(|pair| ("chunk or stream".to_owned(), pair[0]..pair[1])));
            }
            for (what, region) in regions {
                for at in spread(region.clone(), each) {
                    let mut bad = bytes.clone();
                    bad[at] ^= 1 << (at * 7 % 8);
                    let label = format!("{file}: a bit of byte {at}, {what} {region:?}");
                    // Reading needs no header: it is for other tools, and a check of the store compares it.
                    let is_header = ["length field", "header", "padding"].contains(&what.as_str());
                    let check = if is_header { check_verified } else { check };
                    report.add(&label, check(patient.with(&file, &bad), &needs));
                }
            }
        }
    }
    report.finish(700);
}

/// `count` places spread over a range, its ends among them.
pub fn spread(range: std::ops::Range<usize>, count: usize) -> Vec<usize> {
    let length = range.len();
    let mut places: Vec<usize> = (0..count.min(length))
        .map(|i| range.start + i * (length - 1) / (count.min(length) - 1).max(1))
        .collect();
    places.dedup();
    places
}

#[test]
fn files_mixed_up_or_gone() {
    let _alone = alone();
    let mut report = Report::default();
    let (sample, other) = (stores::small(), stores::other());
    let patient = Patient::of(sample);
    let (ours, theirs) = (files(sample), files(other));
    for (file, needs) in &ours {
        let path = patient.path(file);
        let bytes = fs::read(&path).unwrap();
        for (from, (swapped, _)) in ours.iter().map(|f| (sample, f)).chain(theirs.iter().map(|f| (other, f)))
        {
            // The other store's manifest names files that are not here: the store is lost.
            let with = fs::read(from.store.join(swapped)).unwrap();
            if with == bytes {
                continue;
            }
            report.add(&format!("{swapped} in place of {file}"), check(patient.with(file, &with), needs));
        }
        fs::remove_file(&path).unwrap();
        report.add(&format!("{file} is gone"), check(patient.judge(), needs));
        fs::create_dir(&path).unwrap();
        report.add(&format!("{file} is a folder"), check(patient.judge(), needs));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let shards = Patient::of(stores::sharded());
    let all = files(stores::sharded());
    for (file, needs) in &all {
        for (swapped, _) in all.iter().filter(|(other, _)| other != file) {
            let with = fs::read(shards.path(swapped)).unwrap();
            report
                .add(&format!("shard {swapped} in place of {file}"), check(shards.with(file, &with), needs));
        }
    }
    report.finish(40);
}

#[test]
fn kept_files_damaged() {
    let _alone = alone();
    let mut report = Report::default();
    let patient = Patient::of(stores::kept());
    for name in ["model.safetensors", "config.json", "tokenizer.json", "nothing.txt", "sub/notes.txt"] {
        let file = format!("int8/{name}");
        let bytes = fs::read(patient.path(&file)).unwrap();
        let needs = ["int8", "bf16"];
        for cut in boundaries(&file, &bytes) {
            report.add(&format!("{file} cut to {cut}"), noticed(patient.with(&file, &bytes[..cut])));
        }
        for at in spread(0..bytes.len(), 300) {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            report.add(&format!("{file}: a bit of byte {at}"), noticed(patient.with(&file, &bad)));
        }
        let longer = [&bytes[..], b"x"].concat();
        report.add(&format!("{file} with one more"), noticed(patient.with(&file, &longer)));
        fs::remove_file(patient.path(&file)).unwrap();
        report.add(&format!("{file} is gone"), check(patient.judge(), &needs));
        fs::write(patient.path(&file), &bytes).unwrap();
    }
    report.finish(500);
}

/// Other tools read kept files without us, so damage anywhere in them counts, even where our own reading does not
/// depend on it.
fn noticed(verdict: Result<Verdict, String>) -> Result<(), String> {
    let fate = &verdict?.fates["int8"];
    if fate.full { Ok(()) } else { Err(format!("nobody noticed: {fate:?}")) }
}
