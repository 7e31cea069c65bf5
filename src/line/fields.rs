//! One level of a JSON object: names and raw values, in order. Knows no field by name.
//!
//! Invariant: a value's bytes are never changed, however deep, large or odd the value is.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object, in the order of the text, duplicates included.
#[derive(Debug, Default)]
pub struct Fields<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            fields.push((name, map.next_value::<&'de RawValue>()?));
        }
        Ok(Fields(fields))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl<'a> Fields<'a> {
    /// Reads one object; the error is serde_json's, with its column.
    pub fn parse(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The value of the first member of this name.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| *value)
    }

    /// The first of `names` that occurs more than once.
    pub fn duplicate_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        let count = |name: &str| self.0.iter().filter(|(own, _)| own == name).count();
        names.iter().copied().find(|name| count(name) > 1)
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
pub fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_keep_their_bytes_and_order() {
        let text = r#"{"n":12345678901234567890123,"s":"\ud83d","a" : [ 1,2 ],"n2":1e400}"#;
        let fields = Fields::parse(text).unwrap();
        let raw: Vec<&str> = fields.0.iter().map(|(_, value)| value.get()).collect();
        assert_eq!(raw, ["12345678901234567890123", r#""\ud83d""#, "[ 1,2 ]", "1e400"]);
    }

    #[test]
    fn depth_is_no_obstacle() {
        let text = format!(r#"{{"deep":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(Fields::parse(&text).unwrap().0.len(), 1);
    }

    #[test]
    fn duplicates_are_found_only_where_asked() {
        let fields = Fields::parse(r#"{"a":1,"a":2,"b":1}"#).unwrap();
        assert_eq!(fields.duplicate_of(&["b", "a"]), Some("a"));
        assert_eq!(fields.duplicate_of(&["b"]), None);
    }
}
