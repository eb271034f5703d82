//! JSON as Python reads and writes it.
//!
//! transformers writes `config.json` with `json.dumps(indent=2, sort_keys=True)` and reads it with `json.loads`, which
//! differ from what `serde_json` does: `Infinity` and `NaN` are values (Mamba's `time_step_limit` has one), integers
//! have any length, floats are spelled `1e-05`, and what is not ASCII is escaped. A configuration that passes through
//! here comes out as it would from Python, to the byte.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Number, Value};

/// Begins a text that stands for a token which `serde_json` does not keep. Files that have this character in a text of
/// their own are refused.
const MARK: &str = "\\u0000";

/// Reads one value; the error says what is wrong and where.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    if text.contains(MARK) {
        return Err("a text in it has a NUL character".to_owned());
    }
    serde_json::from_str(&mark(text)).map_err(|e| e.to_string())
}

/// As `json.dumps(value, indent=2, sort_keys=True)` and a newline.
pub(crate) fn print(mut value: Value) -> String {
    // Python sorts by code points, which is the order of UTF-8 bytes.
    value.sort_all_objects();
    let mut out = Vec::new();
    // Writing to memory does not fail, nor are there keys that are no texts.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut out, Python(PrettyFormatter::new())));
    out.push(b'\n');
    unmark(&String::from_utf8_lossy(&out))
}

/// Turns `Infinity`, `NaN` and integers of more than 64 bits, where they are values, into marked texts.
fn mark(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let length = match first {
            '"' => string_length(rest),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        let is_key = rest.trim_start().starts_with(':');
        out.push_str(&if is_lost(token) && !is_key {
            Cow::Owned(format!("\"{MARK}{token}\""))
        } else {
            Cow::Borrowed(token)
        });
    }
    out
}

/// Whether `serde_json` would refuse a token that Python takes, or make a float of its integer.
fn is_lost(token: &str) -> bool {
    let is_integer = token.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    matches!(token, "NaN" | "Infinity" | "-Infinity")
        || (is_integer && serde_json::from_str(token).is_ok_and(|number: Number| number.is_f64()))
}

/// Bytes of the text, quotes included, that `rest` begins with.
fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.bytes().skip(1).position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |end| end + 2)
}

/// Turns marked texts back into the tokens that they stand for.
fn unmark(text: &str) -> String {
    let opening = format!("\"{MARK}");
    let mut parts = text.split(&opening);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // The token has no quote, so the next one ends the text.
        out.push_str(&part.replacen('"', "", 1));
    }
    out
}

/// The layout of Python's `indent=2`, its floats and its escapes.
struct Python(PrettyFormatter<'static>);

impl Formatter for Python {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Rust's digits are the shortest that read back as the same double, like Python's; only the layout differs.
        let scientific = format!("{value:e}");
        match scientific.split_once('e').and_then(|(digits, e)| Some((digits, e.parse::<i32>().ok()?))) {
            Some((digits, exponent)) if !(-4..16).contains(&exponent) => {
                let sign = if exponent < 0 { '-' } else { '+' };
                write!(writer, "{digits}e{sign}{:02}", exponent.unsigned_abs())
            }
            // At least one digit behind the point.
            _ => write!(writer, "{value:?}"),
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        for c in text.chars() {
            match c {
                ' '..='~' => write!(writer, "{c}")?,
                _ => {
                    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?
                }
            }
        }
        Ok(())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_python_writes() {
        // The right side is `json.dumps(json.loads(left), indent=2, sort_keys=True)` of Python 3.12.
        let cases = [
            (
                r#"{"b":[],"a":{},"C":[1,[true,null]]}"#,
                "{\n  \"C\": [\n    1,\n    [\n      true,\n      null\n    ]\n  ],\n  \"a\": {},\n  \"b\": []\n}",
            ),
            (
                "[1e-5, 0.00001, 1E5, 1e15, 1e16, 123456789012345678, -0.0, 123456789012345678901234567890]",
                "[\n  1e-05,\n  1e-05,\n  100000.0,\n  1000000000000000.0,\n  1e+16,\n  123456789012345678,\n  -0.0,\n  123456789012345678901234567890\n]",
            ),
            (
                "[0.0001, 0.30000000000000004, 2.5e-310, 0.08838834764831845]",
                "[\n  0.0001,\n  0.30000000000000004,\n  2.5e-310,\n  0.08838834764831845\n]",
            ),
            (
                "[NaN, Infinity, -Infinity, 1.7976931348623157e308, 5e-324]",
                "[\n  NaN,\n  Infinity,\n  -Infinity,\n  1.7976931348623157e+308,\n  5e-324\n]",
            ),
            ("\"é\\n\\u0007\\\"\\\\/😀\u{7f}\"", r#""\u00e9\n\u0007\"\\/\ud83d\ude00\u007f""#),
            (r#"{"a":1,"b":2,"a":3}"#, "{\n  \"a\": 3,\n  \"b\": 2\n}"),
        ];
        for (source, want) in cases {
            assert_eq!(print(parse(source).unwrap()), format!("{want}\n"), "{source}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        let deep = "[".repeat(1000);
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "01",
            "1.",
            "+1",
            "--1",
            "1e",
            "nul",
            "\"",
            "\"\\\"",
            "\"\n\"",
            "[1] 2",
            "\"\\ud800\"",
            "é",
            "1e400",
            "{NaN: 1}",
            "\"\\u0000NaN\"",
            &deep,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("{\n\"a\": x}").unwrap_err().contains("line 2"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_is_stable(text in "[\\[\\]{}\",:0-9eE.+\\-naNIinfty \\\\é]{0,40}") {
            if let Ok(value) = parse(&text) {
                let once = print(value);
                proptest::prop_assert_eq!(print(parse(&once).unwrap()), once);
            }
        }
    }
}
