//! Notes: what a journal says that is not about a line, as JSON: one member whose name says what it is. Pure.
//!
//! The format is a contract: members may be added, none is renamed, and a version that changes the meaning of old ones
//! has another number.

use serde::{Deserialize, Serialize};

use super::lock::Holder;
use super::publish::Fingerprint;
use super::spent::Spent;

/// The version of the format that is written here, and the only one that is read.
pub const VERSION: u32 = 1;

/// Everything that is no line record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The first record of every journal.
    Journal {
        /// The version of the format.
        version: u32,
        /// Which program began it.
        program: String,
    },
    /// What lines got that did not say so themselves.
    Settings(Settings),
    /// A run opened the journal.
    Owner {
        /// The run.
        holder: Holder,
        /// When, as it saw the time (RFC 3339).
        at: String,
    },
    /// What was answered before this record is not used any more.
    Fresh {},
    /// Lines have no outcome any more: the input has changed.
    Void {
        /// The first one's number.
        line: u64,
        /// The last one's, when there are several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// The input is copied as it is read, into this file; or, before it is there, into one that is about to be made.
    Copy(Option<Copy>),
    /// Attempts were sent since the last such record: quotas count them in the next run, too.
    Spent(Spent),
    /// A result file is whole and about to get its name.
    Published(Fingerprint),
    /// A run ended.
    Closed(Closed),
}

/// What lines got that did not say so themselves, and who was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The service; recorded, never compared.
    pub base_url: String,
    /// The service's dialect, once it was found; recorded, never compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// The default model.
    pub model: Option<String>,
    /// The default system prompt.
    pub system: Option<String>,
    /// Default parameters: names and JSON values.
    pub params: Vec<(String, String)>,
    /// What a line is.
    pub input: String,
    /// Which lines are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
}

/// Which lines of the whole input a journal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1 to `count`.
    pub index: u64,
    /// How many shards there are.
    pub count: u64,
}

/// A copy of the input, by what tells it from other files of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Its inode number, which a later file may get again.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970, where the file system knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_ns: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Whether every line of the input is settled.
    pub complete: bool,
    /// Lines of the whole input, blank ones and those of other shards included; when it was read to its end.
    pub input_lines: Option<u64>,
    /// The SHA-256 of the whole input; when it was read to its end.
    pub input_sha256: Option<String>,
    /// Lines answered.
    pub answered: u64,
    /// Lines failed.
    pub failed: u64,
    /// How the result was rendered, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// The result file, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Fingerprint>,
}

impl Settings {
    /// Whether these have to be written down behind others: all but the dialect, which is known later.
    pub fn differ_from(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| Self { dialect: self.dialect.clone(), ..before.clone() } != *self)
    }

    /// What makes requests differ between two settings, in words: `model: "a" → "b"`. Empty when nothing does.
    pub fn difference(&self, now: &Self) -> Vec<String> {
        let show = |value: &Option<String>| value.as_ref().map_or("none".to_owned(), |text| format!("{text:?}"));
        let params = |settings: &Self| {
            let pairs: Vec<String> = settings.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if pairs.is_empty() { "none".to_owned() } else { pairs.join(" ") }
        };
        let rows = [
            ("model", show(&self.model), show(&now.model)),
            ("system prompt", show(&self.system), show(&now.system)),
            ("parameters", params(self), params(now)),
            ("input form", self.input.clone(), now.input.clone()),
        ];
        let differing = rows.into_iter().filter(|(_, before, after)| before != after);
        differing.map(|(name, before, after)| format!("{name}: {before} before, {after} now")).collect()
    }
}

impl Note {
    /// The first record of a new journal.
    pub fn header() -> Self {
        Self::Journal { version: VERSION, program: concat!("anvil-filter ", env!("CARGO_PKG_VERSION")).to_owned() }
    }

    /// Appends the note's payload.
    pub fn push(&self, record: &mut Vec<u8>) {
        serde_json::to_writer(record, self).expect("a note is plain data");
    }

    /// Reads a note. The error says what is wrong with it.
    pub fn parse(payload: &str) -> Result<Self, String> {
        serde_json::from_str(payload).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn notes_are_a_contract() {
        let settings = Settings {
            base_url: "http://h/api".into(),
            model: Some("m".into()),
            input: "json".into(),
            ..Settings::default()
        };
        let golden = [
            (Note::Void { line: 3, to: Some(9) }, r#"{"void":{"line":3,"to":9}}"#),
            (Note::Fresh {}, r#"{"fresh":{}}"#),
            (Note::Void { line: 3, to: None }, r#"{"void":{"line":3}}"#),
            (
                Note::Settings(settings),
                r#"{"settings":{"base_url":"http://h/api","model":"m","system":null,"params":[],"input":"json"}}"#,
            ),
            (
                Note::Closed(Closed {
                    complete: true,
                    input_lines: Some(3),
                    input_sha256: Some("aa".into()),
                    answered: 2,
                    failed: 1,
                    style: None,
                    result: None,
                }),
                r#"{"closed":{"complete":true,"input_lines":3,"input_sha256":"aa","answered":2,"failed":1}}"#,
            ),
        ];
        for (note, text) in golden {
            let mut record = Vec::new();
            note.push(&mut record);
            assert_eq!(String::from_utf8(record).unwrap(), text);
            assert_eq!(Note::parse(text).unwrap(), note);
        }
    }

    #[test]
    fn settings_tell_their_difference() {
        let before = Settings { model: Some("a".into()), base_url: "x".into(), ..Settings::default() };
        let now = Settings { params: vec![("temperature".into(), "0.2".into())], ..Settings::default() };
        assert_eq!(before.difference(&before), [] as [String; 0]);
        assert_eq!(
            before.difference(&now),
            ["model: \"a\" before, none now", "parameters: none before, temperature=0.2 now"]
        );
    }
}
