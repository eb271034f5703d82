//! `qstore.json`: which variants a store has and which files hold them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_FILES, MAX_GIVEN, MAX_MANIFEST_BYTES, MAX_NOTE_TEXT, MAX_NOTES, MAX_TAIL_BYTES, MAX_VARIANTS,
};
use crate::plan::all_distinct;
use crate::{FormatError, Given, Hash128, RelativePath, Tail, Unshared, VariantName};

/// The version of the format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// One shard of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardFile {
    /// Name in the store's folder.
    pub name: RelativePath,
    /// Size.
    pub bytes: u64,
    /// How much of it is the tail, which says where everything lies.
    pub tail: Tail,
    /// XXH3-128 of the tail.
    pub id: Hash128,
}

impl ShardFile {
    /// `VARIANT-ID.safetensors`, ID being the first 12 digits of its id.
    fn proper_name(&self, variant: &VariantEntry) -> String {
        format!("{}-{:.12}.safetensors", variant.name, self.id.to_string())
    }

    /// Where its tail lies.
    #[must_use]
    pub fn tail_range(&self) -> std::ops::Range<u64> {
        self.bytes.saturating_sub(self.tail.bytes())..self.bytes
    }
}

/// One variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantEntry {
    /// Name.
    pub name: VariantName,
    /// How its weights are quantised, or `none`.
    pub scheme: String,
    /// The element type that most of its weights have.
    pub dtype: String,
    /// The variants that its shards need, with what they held.
    pub given: Vec<Given>,
    /// XXH3-128 over its original files' paths, sizes and SHA-256: what the variant is, however it is stored.
    pub content: Hash128,
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Number of original files.
    pub files: u64,
    /// Bytes of all original files.
    pub raw_bytes: u64,
    /// Its shards.
    pub shards: Vec<ShardFile>,
    /// Whether the original files are kept as they are in a folder of the variant's name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verbatim: bool,
    /// The variants that it may be given, where whoever stored it wanted no others; they need not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_only: Option<Vec<VariantName>>,
    /// Whether it is archived: given variants of a higher precision, and given to none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
    /// Matrices that one of it is given at most, where whoever stored it wanted other than the usual number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<u8>,
    /// Patterns of the files of its folder that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// What of it shares less than one would expect, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unshared: Vec<Unshared>,
}

impl VariantEntry {
    /// The same without notes on another variant, which is not there any more.
    #[must_use]
    pub fn without_notes_on(&self, gone: &VariantName) -> Self {
        let mut entry = self.clone();
        entry.unshared.retain(|note| note.with.as_ref() != Some(gone));
        entry
    }
}

/// The manifest of a store: its variants, lower precision before higher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    format_version: u32,
    /// The variants; each is given only ones before it.
    pub variants: Vec<VariantEntry>,
    checksum: Option<Hash128>,
}

impl Manifest {
    /// Name of the manifest in the store's folder.
    pub const FILE_NAME: &'static str = "qstore.json";

    /// A manifest of `variants`.
    #[must_use]
    pub fn new(variants: Vec<VariantEntry>) -> Self {
        Self { format: "qstore".to_owned(), format_version: FORMAT_VERSION, variants, checksum: None }
    }

    /// The entry of a variant.
    #[must_use]
    pub fn variant(&self, name: &VariantName) -> Option<&VariantEntry> {
        self.variants.iter().find(|v| v.name == *name)
    }

    /// The stored form: indented JSON with a checksum over the same without one.
    ///
    /// # Errors
    /// JSON failed, or the variants contradict each other.
    pub fn write(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let failed = |e| FormatError::new(format!("the manifest cannot be written: {e}"));
        let bare = Self { checksum: None, ..self.clone() };
        let checksum = Hash128::of(&serde_json::to_vec(&bare).map_err(failed)?);
        let mut text =
            serde_json::to_vec_pretty(&Self { checksum: Some(checksum), ..bare }).map_err(failed)?;
        text.push(b'\n');
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(FormatError::new(
                "the manifest would be larger than a reader accepts; use larger shards or fewer variants",
            ));
        }
        Ok(text)
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// Not a manifest, one of another version, one that was changed, or one that contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Version {
            format: String,
            format_version: u32,
        }
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(FormatError::new("it is larger than any manifest"));
        }
        let bad = |e| FormatError::new(format!("it is not a QStore manifest: {e}"));
        let version: Version = serde_json::from_slice(bytes).map_err(bad)?;
        if version.format != "qstore" {
            return Err(FormatError::new("it is not a QStore manifest"));
        }
        if version.format_version != FORMAT_VERSION {
            return Err(FormatError::new(format!(
                "it has format version {}; this qstore reads version {FORMAT_VERSION}: use a newer one",
                version.format_version
            )));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(bad)?;
        let bare = Self { checksum: None, ..manifest.clone() };
        if Some(Hash128::of(&serde_json::to_vec(&bare).map_err(bad)?)) != manifest.checksum {
            return Err(FormatError::new("it is damaged or was edited: its checksum does not fit"));
        }
        bare.check()?;
        Ok(bare)
    }

    /// The variants of `names` among the first `count`, and all that they are given: a tensor of one may be kept in
    /// another.
    fn reach<'a>(&'a self, names: &'a [VariantName], count: usize) -> HashSet<&'a VariantName> {
        let mut reach: HashSet<&VariantName> = names.iter().collect();
        for variant in self.variants[..count].iter().rev().filter(|_| !names.is_empty()) {
            if reach.contains(&variant.name) {
                reach.extend(variant.given.iter().map(|given| &given.variant));
            }
        }
        reach
    }

    /// Whether its variants fit each other.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self) -> Result<(), FormatError> {
        if self.variants.is_empty() {
            return Err(FormatError::new("it has no variants"));
        }
        if self.variants.len() > MAX_VARIANTS {
            return Err(FormatError::new("it has more variants than a reader accepts"));
        }
        for (index, variant) in self.variants.iter().enumerate() {
            let bad = |what: &str| Err(FormatError::new(format!("variant {}: {what}", variant.name)));
            if variant.shards.is_empty() || variant.shards.len() > MAX_FILES {
                return bad("it has no shard");
            }
            // No other file of the store, nor one outside, can be taken for a shard.
            if let Some(file) =
                variant.shards.iter().find(|file| file.name.as_str() != file.proper_name(variant))
            {
                return bad(&format!("{} is no name for a shard of it", file.name));
            }
            if let Some(file) = variant
                .shards
                .iter()
                .find(|file| file.tail.bytes() > MAX_TAIL_BYTES || file.tail.bytes() > file.bytes)
            {
                return bad(&format!("{}: its tail is longer than it, or than a reader accepts", file.name));
            }
            let described = variant.excluded.iter().all(|pattern| pattern.len() <= MAX_NOTE_TEXT)
                && variant.unshared.iter().all(Unshared::is_within_limits)
                && variant.excluded.len().max(variant.unshared.len()) <= MAX_NOTES;
            if !described {
                return bad("it has more notes than a reader accepts");
            }
            if variant.levels.is_some_and(|levels| !(1..=MAX_GIVEN).contains(&levels.into())) {
                return bad("it asks for no levels, or for more than a reader accepts");
            }
            if let Some(only) = &variant.given_only {
                let reach = self.reach(only, index);
                if only.len() > MAX_VARIANTS || !variant.given.iter().all(|g| reach.contains(&&g.variant)) {
                    return bad("it is given others than it may be");
                }
            }
            for given in &variant.given {
                let lower = self.variants[..index].iter().find(|v| v.name == given.variant);
                match lower {
                    None => {
                        return bad(&format!("it needs variant {}, which is not below it", given.variant));
                    }
                    Some(lower) if lower.content != given.content => {
                        return bad(&format!("it was stored given another {} than this one", given.variant));
                    }
                    Some(_) => {}
                }
            }
        }
        all_distinct(self.variants.iter().map(|v| &v.name), "variant")?;
        all_distinct(self.variants.iter().flat_map(|v| &v.shards).map(|f| &f.name), "file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, given: &[(&str, u128)]) -> VariantEntry {
        let given = given.iter().map(|(n, c)| Given { variant: n.parse().unwrap(), content: Hash128(*c) });
        VariantEntry {
            name: name.parse().unwrap(),
            scheme: "none".to_owned(),
            dtype: "BF16".to_owned(),
            given: given.collect(),
            content: Hash128(name.len() as u128),
            tensors: 3,
            tensor_bytes: 100,
            files: 1,
            raw_bytes: 120,
            shards: vec![ShardFile {
                name: format!("{name}-000000000000.safetensors").parse().unwrap(),
                bytes: 9,
                tail: Tail { tables: 1, chunks: 2, plan: 3 },
                id: Hash128(7),
            }],
            verbatim: false,
            given_only: None,
            archived: false,
            levels: None,
            excluded: Vec::new(),
            unshared: Vec::new(),
        }
    }

    #[test]
    fn every_changed_character_is_noticed_or_means_nothing() {
        let manifest = Manifest::new(vec![entry("int8", &[]), entry("bf16", &[("int8", 4)])]);
        let text = manifest.write().unwrap();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
        for bit in 0..text.len() * 8 {
            let mut bad = text.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Manifest::parse(&bad) {
                assert_eq!(read, manifest, "bit {bit}");
            }
        }
        for cut in 0..text.len() - 1 {
            assert!(Manifest::parse(&text[..cut]).is_err());
        }
    }

    #[test]
    fn refuses_contradictions() {
        let outside = |name: &str| {
            format!(
                r#"{{"name":"{name}","bytes":1,"tail":{{"tables":0,"chunks":0,"plan":1}},"id":"{}"}}"#,
                Hash128(0)
            )
        };
        for name in [
            "../x",
            "/x",
            "a/b",
            "..",
            "",
            "lock",
            "a-000000000001.safetensors",
            "b-000000000000.safetensors",
        ] {
            let file: Result<ShardFile, _> = serde_json::from_str(&outside(name));
            let refused = file.map_or(true, |file| {
                let mut entry = entry("a", &[]);
                entry.shards = vec![file];
                Manifest::new(vec![entry]).write().is_err()
            });
            assert!(refused, "{name}");
        }
        let cases = [
            vec![entry("a", &[]), entry("a", &[])],
            vec![entry("b", &[("a", 1)]), entry("a", &[])],
            vec![entry("a", &[]), entry("bb", &[("a", 99)])],
            vec![entry("a", &[("a", 1)])],
        ];
        for variants in cases {
            assert!(Manifest::new(variants).write().is_err());
        }
        assert!(Manifest::new(Vec::new()).write().is_err());
        // What a reader would refuse is not written.
        let wordy = VariantEntry { scheme: "x".repeat(17 << 20), ..entry("a", &[]) };
        assert!(Manifest::new(vec![wordy]).write().is_err());
    }
}
