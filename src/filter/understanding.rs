//! What the reader makes of records: requests, or the reason why there is none.

use serde_json::value::RawValue;

use super::reader::Found;
use crate::journal::{Settings, key};
use crate::line::{BadLine, Defaults, ErrorCode, Failure, InputForm, Request};

/// How records are understood.
#[derive(Clone, Debug)]
pub struct Understanding {
    /// How records are to be read.
    pub form: InputForm,
    /// What lines get that do not say so themselves.
    pub defaults: Defaults,
    /// The longest record, for the error message.
    pub line_bytes_max: usize,
    /// Whether records are kept until their lines have left.
    pub keeps_records: bool,
    /// Whether requests are hashed, for a journal.
    pub hashes: bool,
}

/// One record, understood.
#[derive(Debug)]
pub struct Understood {
    /// The line's number in the whole input.
    pub line: u64,
    /// The length of the record.
    pub weight_bytes: usize,
    /// The record, when it is kept.
    pub record: Option<Box<[u8]>>,
    /// The hash of the request, or of a bad record, when a journal wants it.
    pub hash: key::Hash,
    /// What is asked.
    pub request: Result<Request, BadLine>,
}

impl Understanding {
    /// The same under other settings, as far as those are known.
    pub fn under(mut self, settings: &Settings) -> Self {
        self.form = if settings.input == "text" { InputForm::Text } else { InputForm::Json };
        let raw = |(name, value): &(String, String)| Some((name.clone(), RawValue::from_string(value.clone()).ok()?));
        self.defaults = Defaults {
            model: settings.model.clone(),
            system: settings.system.clone(),
            params: settings.params.iter().filter_map(raw).collect(),
        };
        self
    }

    /// The hash of the request that a record makes, if it makes one.
    pub fn hash_of(&self, record: &[u8]) -> Option<key::Hash> {
        let request = Request::parse(record, self.form, &self.defaults).ok()?;
        Some(key::of_request(request.chat.json()))
    }

    /// Makes a request of one record, or says why there is none.
    pub fn of(&self, line: u64, found: Found<'_>) -> Understood {
        match found {
            Found::Record(content) => {
                let request = Request::parse(content, self.form, &self.defaults);
                let hash = match &request {
                    _ if !self.hashes => key::Hash::default(),
                    Ok(request) => key::of_request(request.chat.json()),
                    Err(_) => key::of_bad_record(content),
                };
                let record = self.keeps_records.then(|| content.into());
                Understood { line, weight_bytes: content.len(), record, hash, request }
            }
            Found::TooLong(length) => {
                let failure = too_long(length, self.line_bytes_max);
                let hash = key::of_bad_record(failure.message.as_bytes());
                let request = Err(BadLine { form: None, correlation: None, failure, looks_like_text: false });
                Understood { line, weight_bytes: 0, record: None, hash, request }
            }
        }
    }
}

fn too_long(length: u64, line_bytes_max: usize) -> Failure {
    Failure::new(
        ErrorCode::LineTooLong,
        format!("the line has {length} bytes, more than --max-line-bytes {line_bytes_max}"),
    )
}

/// A first line that is no JSON at all may be meant as text.
pub fn with_hint(mut bad: BadLine) -> BadLine {
    if bad.looks_like_text {
        bad.failure.message.push_str("; if every line is a prompt, use --input text");
    }
    bad
}
