//! Values on the command line that need more than a type to be understood: `NAME=DIR` and sizes.

use std::path::PathBuf;

use qstore::VariantName;

/// `NAME=DIR`: a variant's name and the folder that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedFolder {
    pub(crate) name: VariantName,
    pub(crate) folder: PathBuf,
}

/// Reads `NAME=DIR`.
pub(crate) fn named_folder(text: &str) -> Result<NamedFolder, String> {
    let example =
        "write NAME=DIR, a name that you choose and the model's folder, for example bf16=./Llama-3.1-8B";
    let Some((name, folder)) = text.split_once('=') else {
        return Err(format!("it has no '='; {example}"));
    };
    if name.is_empty() {
        return Err(format!("there is no name before the '='; {example}"));
    }
    if folder.is_empty() {
        return Err(format!("there is no folder after the '='; {example}"));
    }
    Ok(NamedFolder { name: name.parse().map_err(|e| format!("{e}"))?, folder: folder.into() })
}

/// What is analysed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Analyzed {
    /// A store's folder.
    Store(PathBuf),
    /// A variant's.
    Variant(NamedFolder),
}

/// Reads `NAME=DIR`, or else a store's folder.
pub(crate) fn analyzed(text: &str) -> Result<Analyzed, String> {
    match text.contains('=') {
        true => named_folder(text).map(Analyzed::Variant),
        false => Ok(Analyzed::Store(text.into())),
    }
}

/// Reads `NAME:LOWER`, two variants' names.
pub(crate) fn given_only(text: &str) -> Result<(VariantName, VariantName), String> {
    let example = "write NAME:LOWER, for example bf16:int8 to store bf16 given int8 alone";
    let (name, lower) = text.split_once(':').ok_or_else(|| format!("it has no ':'; {example}"))?;
    let parse = |name: &str| name.parse::<VariantName>().map_err(|e| format!("{e}; {example}"));
    Ok((parse(name)?, parse(lower)?))
}

/// Decimal units are 1000, as on a model hub; binary ones are 1024, as memory is sold.
const UNITS: [(&str, u64); 9] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Reads a size in bytes: `512MiB`, `2GB`, `1.5 GB`, `1000000`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim().to_ascii_lowercase());
    let bytes = match unit.as_str() {
        "" => 1,
        "k" | "m" | "g" | "t" => {
            let unit = unit.to_ascii_uppercase();
            let binary = if unit == "K" { "KiB" } else { &format!("{unit}iB") };
            return Err(format!(
                "{unit:?} can mean two things; write {number}{unit}B (1000s) or {number}{binary} (1024s)"
            ));
        }
        unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes).ok_or_else(|| {
            format!("{unit:?} is no unit of size; write a size such as 512MiB, 2GB or 1000000 (bytes)")
        })?,
    };
    parse_decimal(number, bytes)
        .filter(|&size| size > 0)
        .ok_or_else(|| "it is not a size; write one such as 512MiB, 2GB or 1000000 (bytes)".to_owned())
}

/// `number * unit`, rounded down; in integers, so that `0.1GB` is what it says.
fn parse_decimal(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from(digits.checked_mul(unit.into())? / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_what_they_say() {
        let good = [
            ("1000000", 1_000_000),
            ("512MiB", 512 << 20),
            ("512 mib", 512 << 20),
            ("2GB", 2_000_000_000),
            ("1.5GiB", 3 << 29),
            (".5kB", 500),
            ("0.1TB", 100_000_000_000),
            ("7B", 7),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "GB", "0", "0MB", "-1GB", "1.2.3GB", ".", "99999999999TB", "1e9", "5 bananas", "1_000"]
        {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(size("2G").unwrap_err().contains("2GB (1000s) or 2GiB (1024s)"));
        assert!(size("1Gb").is_ok(), "the case of units does not matter");
    }

    #[test]
    fn named_folders_say_what_is_wrong() {
        let good = named_folder("bf16=/models/a=b").unwrap();
        assert_eq!((good.name.as_str(), good.folder), ("bf16", PathBuf::from("/models/a=b")));
        assert_eq!(
            analyzed("bf16=/models/a=b"),
            Ok(Analyzed::Variant(named_folder("bf16=/models/a=b").unwrap()))
        );
        assert_eq!(analyzed("./store"), Ok(Analyzed::Store("./store".into())));
        let cases = [
            ("./Llama", "no '='"),
            ("=./Llama", "no name"),
            ("bf16=", "no folder"),
            ("my model=x", "cannot name a variant"),
            ("a/b=x", "cannot name a variant"),
        ];
        for (text, part) in cases {
            assert!(named_folder(text).unwrap_err().contains(part), "{text}");
        }
    }
}
