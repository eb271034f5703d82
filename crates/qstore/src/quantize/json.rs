//! JSON as Python reads and writes it.
//!
//! transformers writes `config.json` with `json.dumps(indent=2, sort_keys=True)` and reads it with `json.loads`, which differ from what Rust's
//! JSON libraries do: `Infinity` and `NaN` are values (Mamba's `time_step_limit` has one), floats are spelled `1e-05`, and what is not ASCII is
//! escaped. A configuration that passes through here comes out as it would from Python, to the byte.

use std::fmt::Write as _;

/// Values within values that are followed; Python's own limit is about 1000.
const MAX_DEPTH: usize = 128;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Json {
    /// `null`, `true`, `false` or a number, in Python's spelling.
    Literal(String),
    Text(String),
    List(Vec<Json>),
    /// Members in the order of the source; a key occurs once.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one value; the error says what is wrong and where.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(MAX_DEPTH)?;
        reader.skip_space();
        if reader.at < text.len() {
            return Err(reader.unexpected());
        }
        Ok(value)
    }

    pub(super) fn literal(value: impl ToString) -> Self {
        Self::Literal(value.to_string())
    }

    pub(super) fn text(value: impl Into<String>) -> Self {
        Self::Text(value.into())
    }

    /// The member `key` of an object. A `null` counts as absent, as transformers treats it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let (_, value) = members.iter().find(|(name, _)| name == key)?;
        Some(value).filter(|value| **value != Self::literal("null"))
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// Sets the member `key` of an object; anything else is left alone.
    pub(super) fn set(&mut self, key: &str, value: Self) {
        if let Self::Object(members) = self {
            match members.iter_mut().find(|(name, _)| name == key) {
                Some((_, old)) => *old = value,
                None => members.push((key.to_owned(), value)),
            }
        }
    }

    /// Removes the member `key` of an object, if there is one.
    pub(super) fn remove(&mut self, key: &str) {
        if let Self::Object(members) = self {
            members.retain(|(name, _)| name != key);
        }
    }

    /// As `json.dumps(value, indent=2, sort_keys=True)` and a newline.
    pub(super) fn to_python(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out.push('\n');
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        };
        match self {
            Self::Literal(text) => out.push_str(text),
            Self::Text(text) => write_text(out, text),
            Self::List(items) if items.is_empty() => out.push_str("[]"),
            Self::Object(members) if members.is_empty() => out.push_str("{}"),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    line(out, depth + 1);
                    item.write(out, depth + 1);
                }
                line(out, depth);
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                // Python sorts by code points, which is the order of UTF-8 bytes.
                let mut sorted: Vec<_> = members.iter().collect();
                sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
                for (index, (key, value)) in sorted.into_iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    line(out, depth + 1);
                    write_text(out, key);
                    out.push_str(": ");
                    value.write(out, depth + 1);
                }
                line(out, depth);
                out.push('}');
            }
        }
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }),
        }
    }
    out.push('"');
}

/// A number in Python's spelling: integers keep their digits, floats become the `repr` of the nearest double.
fn python_number(token: &str) -> Option<String> {
    if token.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return Some(if token == "-0" { "0" } else { token }.to_owned());
    }
    let value: f64 = token.parse().ok()?;
    if value.is_infinite() {
        return Some(if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned());
    }
    // Rust's digits are the shortest that read back as the same double, like Python's; only the layout differs.
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    Some(if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
    })
}

/// A place in a text.
struct Reader<'a> {
    text: &'a str,
    /// The next byte, at the boundary of a character.
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Passes over `symbol` and the space before it, if it comes next.
    fn take(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(symbol);
        self.at += if found { symbol.len() } else { 0 };
        found
    }

    fn unexpected(&self) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        match self.rest().chars().next() {
            Some(c) => format!("{c:?} is not expected in line {line}"),
            None => "it ends too early".to_owned(),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        let depth = depth.checked_sub(1).ok_or("its values are nested too deep")?;
        if self.take("{") {
            return self.object(depth);
        }
        if self.take("[") {
            return self.list(depth);
        }
        if self.rest().starts_with('"') {
            return Ok(Json::Text(self.string()?));
        }
        for word in ["null", "true", "false", "NaN", "Infinity", "-Infinity"] {
            if self.take(word) {
                return Ok(Json::literal(word));
            }
        }
        self.number()
    }

    fn object(&mut self, depth: usize) -> Result<Json, String> {
        let mut object = Json::Object(Vec::new());
        if self.take("}") {
            return Ok(object);
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            if !self.take(":") {
                return Err(self.unexpected());
            }
            // The last of several members with one key counts, as for Python.
            object.set(&key, self.value(depth)?);
            if self.take("}") {
                return Ok(object);
            }
            if !self.take(",") {
                return Err(self.unexpected());
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, String> {
        let mut items = Vec::new();
        if self.take("]") {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            if self.take("]") {
                return Ok(Json::List(items));
            }
            if !self.take(",") {
                return Err(self.unexpected());
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let rest = self.rest();
        if !rest.starts_with('"') {
            return Err(self.unexpected());
        }
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|b| {
            let ends = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            ends
        });
        let token = &rest[..end.ok_or("a text in it does not end")? + 2];
        let text = serde_json::from_str(token).map_err(|e| format!("the text {token} is not JSON: {e}"))?;
        self.at += token.len();
        Ok(text)
    }

    fn number(&mut self) -> Result<Json, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let token = &rest[..end.unwrap_or(rest.len())];
        // Which tokens are numbers is the JSON library's business; it is not asked for their values, which it may miss by a bit.
        let is_number = serde_json::from_str::<serde::de::IgnoredAny>(token).is_ok();
        let literal = is_number.then(|| python_number(token)).flatten().ok_or_else(|| self.unexpected())?;
        self.at += token.len();
        Ok(Json::Literal(literal))
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
                "[1e-5, 0.00001, 1E5, 1e15, 1e16, 123456789012345678, -0, -0.0]",
                "[\n  1e-05,\n  1e-05,\n  100000.0,\n  1000000000000000.0,\n  1e+16,\n  123456789012345678,\n  0,\n  -0.0\n]",
            ),
            (
                "[0.0001, 0.30000000000000004, 2.5e-310, 1e400, -1e400, 0.08838834764831845]",
                "[\n  0.0001,\n  0.30000000000000004,\n  2.5e-310,\n  Infinity,\n  -Infinity,\n  0.08838834764831845\n]",
            ),
            (
                "[NaN, Infinity, -Infinity, 1.7976931348623157e308, 5e-324]",
                "[\n  NaN,\n  Infinity,\n  -Infinity,\n  1.7976931348623157e+308,\n  5e-324\n]",
            ),
            ("\"é\\n\\u0007\\\"\\\\/😀\u{7f}\"", r#""\u00e9\n\u0007\"\\/\ud83d\ude00\u007f""#),
            (r#"{"a":1,"b":2,"a":3}"#, "{\n  \"a\": 3,\n  \"b\": 2\n}"),
        ];
        for (source, want) in cases {
            assert_eq!(Json::parse(source).unwrap().to_python(), format!("{want}\n"), "{source}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        let deep = "[".repeat(MAX_DEPTH + 1);
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
            &deep,
        ] {
            assert!(Json::parse(text).is_err(), "{text}");
        }
        assert!(Json::parse("{\n\"a\": x}").unwrap_err().contains("'x' is not expected in line 2"));
    }

    #[test]
    fn members_are_found_set_and_removed() {
        let mut object = Json::parse(r#"{"a":null,"b":"x","c":[1]}"#).unwrap();
        assert_eq!(object.get("a"), None);
        assert_eq!(object.get("b").and_then(Json::as_text), Some("x"));
        assert_eq!(object.get("c").and_then(Json::as_list).map(<[_]>::len), Some(1));
        object.set("b", Json::literal(2));
        object.set("d", Json::text("y"));
        object.remove("c");
        assert_eq!(object.to_python(), "{\n  \"a\": null,\n  \"b\": 2,\n  \"d\": \"y\"\n}\n");
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_is_stable(text in "[\\[\\]{}\",:0-9eE.+\\-naNIinfty \\\\é]{0,40}") {
            if let Ok(value) = Json::parse(&text) {
                let once = value.to_python();
                proptest::prop_assert_eq!(Json::parse(&once).unwrap().to_python(), once);
            }
        }
    }
}
