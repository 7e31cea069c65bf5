//! One level of a JSON object: names and raw values, in order. Knows no field by name.
//!
//! Invariant: a value's bytes are never changed, however deep, large or odd the value is.

use std::borrow::Cow;

use super::json::Cursor;

/// The members of one object, in the order of the text, duplicates included: names decoded, values as they stand.
#[derive(Debug, Default)]
pub struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Fields<'a> {
    /// Reads one object; the error says where and why the text is none.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let mut fields = Vec::with_capacity(8);
        let mut cursor = Cursor::new(text);
        let walked = cursor.object(|cursor, name| {
            fields.push((decode_name(name), cursor.value()?));
            Ok(())
        });
        walked.and_then(|()| cursor.end()).map_err(|malformed| explain(text, malformed.at, malformed.expected))?;
        Ok(Self(fields))
    }

    /// The value of the first member of this name.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| *value)
    }

    /// The first of `names` (at most 64) that occurs more than once.
    pub fn duplicate_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        let mut seen = 0u64;
        self.0.iter().find_map(|(own, _)| {
            let index = names.iter().position(|name| own == name)?;
            let twice = seen & (1 << index) != 0;
            seen |= 1 << index;
            twice.then(|| names[index])
        })
    }
}

/// Decodes a member's name, which stands in its quotes.
pub fn decode_name(name: &str) -> Cow<'_, str> {
    let inside = &name[1..name.len() - 1];
    if memchr::memchr(b'\\', inside.as_bytes()).is_none() {
        return Cow::Borrowed(inside);
    }
    // A lone surrogate has no decoded form; its escaped one is a name that nobody asks for.
    serde_json::from_str(name).map_or(Cow::Borrowed(inside), Cow::Owned)
}

/// Decodes a JSON string; one without escapes is its own inside.
pub fn decode_string(value: &str) -> Option<Cow<'_, str>> {
    let inside = value.strip_prefix('"')?.strip_suffix('"')?;
    match memchr::memchr(b'\\', inside.as_bytes()) {
        None => Some(Cow::Borrowed(inside)),
        Some(_) => serde_json::from_str(value).ok().map(Cow::Owned),
    }
}

/// Says it in serde_json's words, which name line and column, where it agrees that something is wrong.
fn explain(text: &str, at: usize, expected: &str) -> String {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Err(error) if !error.to_string().starts_with("recursion limit") => error.to_string(),
        _ => format!("expected {expected} at column {}", at + 1),
    }
}

/// Appends `"name":` and the raw value, with a comma before it when the object already has a member.
pub fn push_field(json: &mut Vec<u8>, name: &str, value: &[u8]) {
    push_name(json, name);
    json.extend_from_slice(value);
}

/// Appends `"name":`, with a comma before it when the object already has a member.
pub fn push_name(json: &mut Vec<u8>, name: &str) {
    if json.last().is_some_and(|last| *last != b'{') {
        json.push(b',');
    }
    push_string(json, name);
    json.push(b':');
}

/// Appends `text` as a JSON string.
pub fn push_string(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("a string always serialises into memory");
}

/// Whether the raw JSON value is `null`.
pub fn is_null(value: &str) -> bool {
    value == "null"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_keep_their_bytes_and_order() {
        let text = r#"{"n":12345678901234567890123,"s":"\ud83d","a" : [ 1,2 ],"n\u0032":1e400}"#;
        let fields = Fields::parse(text).unwrap();
        let raw: Vec<&str> = fields.0.iter().map(|(_, value)| *value).collect();
        assert_eq!(raw, ["12345678901234567890123", r#""\ud83d""#, "[ 1,2 ]", "1e400"]);
        assert_eq!(fields.get("n2"), Some("1e400"));
    }

    #[test]
    fn errors_name_the_place() {
        assert!(Fields::parse(r#"{"a":1,}"#).unwrap_err().contains("column 8"));
        assert!(Fields::parse("[]").unwrap_err().contains("expected {"));
    }

    #[test]
    fn duplicates_are_found_only_where_asked() {
        let fields = Fields::parse(r#"{"a":1,"a":2,"b":1,"c":1,"c":1}"#).unwrap();
        assert_eq!(fields.duplicate_of(&["b", "c", "a"]), Some("a"));
        assert_eq!(fields.duplicate_of(&["b"]), None);
    }
}
