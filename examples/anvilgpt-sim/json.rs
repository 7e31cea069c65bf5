//! JSON text as each server writes it, and objects read without copying. Knows nothing of chats.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Which characters of a string are escaped beyond those that JSON demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// None
    Least,
    /// What some line readers take for a line's end: U+0085, U+2028, U+2029
    LineEnds,
    /// Everything that is not printable ASCII
    NonAscii,
}

/// Appends a string without its quotes.
pub fn string(out: &mut Vec<u8>, text: &str, escape: Escape) {
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if !needs_escape(c, escape) {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + c.len_utf8();
        escape_char(out, c);
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
}

fn needs_escape(c: char, escape: Escape) -> bool {
    match c {
        '"' | '\\' | '\0'..='\x1f' => true,
        ' '..='~' => false,
        _ => match escape {
            Escape::Least => false,
            Escape::LineEnds => matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}'),
            Escape::NonAscii => true,
        },
    }
}

fn escape_char(out: &mut Vec<u8>, c: char) {
    let short = match c {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        '\x08' => b"\\b",
        '\x0c' => b"\\f",
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("a Vec takes every write");
            }
            return;
        }
    };
    out.extend_from_slice(short);
}

/// A quoted string with the least escapes.
pub fn quoted(text: &str) -> Vec<u8> {
    let mut out = vec![b'"'];
    string(&mut out, text, Escape::Least);
    out.push(b'"');
    out
}

/// An object's members in their order, borrowed from the text. Of equal keys the last one counts, as in Python.
#[derive(Debug)]
pub struct Object<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The value of a key, if it is a string.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        self.get(key).and_then(text)
    }

    /// Reads a raw value, if it is an object.
    pub fn of(raw: &'a RawValue) -> Option<Object<'a>> {
        serde_json::from_str(raw.get()).ok()
    }
}

/// A raw value's text, if it is a string. Lone surrogates, which Python passes, stay escaped.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    Some(serde_json::from_str(raw.get()).map_or(Cow::Borrowed(inner), Cow::Owned))
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor).map(Object)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(4);
        while let Some(Key(key)) = map.next_key()? {
            members.push((key, map.next_value()?));
        }
        Ok(members)
    }
}

#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
